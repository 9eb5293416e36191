"""Several rows in one request, if requests are scarcer than tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from bulk_parts import WaitingClock, prompts

import arche_magic
from arche_magic.bulk import Job, Replies, file_job
from arche_magic.bulk.estimate import pack_size
from arche_magic.bulk.packing import PackingWarning, ids_of, packed, unpacked
from arche_magic.bulk.whole_job import jobs_since
from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.types import Usage

if TYPE_CHECKING:
    from provider_parts import Clock, Start

SCARCE = {
    "requests_per_day": 20,
    "requests_per_minute": None,
    "input_tokens_per_minute": 250_000,
}
PLENTY = {"requests_per_minute": 10_000, "requests_per_day": 100_000}
TEXTS = [f"Row {n}" for n in range(400)]
SCHEMA = "mood good|bad, points int"
Entries = list[dict[str, Any]]


def answering(change: Callable[[Entries], Any]) -> Any:
    """Make a sandbox's `reply`: `change` changes the list of prompts; a single prompt is echoed."""

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        text = messages[-1]["content"]
        start = text.find('[{"id": "', text.find("copied exactly"))
        if start < 0:
            return f"echo {text}"
        entries = json.JSONDecoder().raw_decode(text, start)[0]
        found = change(entries)
        return found if isinstance(found, str) else json.dumps({"replies": found})

    return reply


def echoes(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": e["id"], "reply": f"echo {e['prompt']}"} for e in entries]


def test_many_rows_are_sent_in_few_requests(start: Start, clock: Clock) -> None:
    """Each row gets the reply that it would have got alone."""
    sandbox = start(keys={"google": 1}, clock=clock, limits={"google": SCARCE})
    job = Job(TEXTS, schema=SCHEMA)
    rows = {row.position: row for row in job}
    assert len(rows) == 400
    assert not any(row.error for row in rows.values())
    assert len(sandbox.requests) < 20
    progress = job.progress()
    assert progress.packed > 380
    assert 0 < progress.checked == progress.agreed
    alone = start(keys={"google": 1})
    for position in (0, 123, 399):
        again = arche_magic.map([TEXTS[position]], schema=SCHEMA, fresh=True, pack=1)
        assert json.loads(str(rows[position].reply)) == again[["mood", "points"]].iloc[0].to_dict()
    assert len(alone.requests) == 3


def test_a_packed_reply_is_found_again(start: Start) -> None:
    """It is kept at the address of the row's own request."""
    sandbox = start(keys={"google": 1}, limits={"google": SCARCE})
    arche_magic.map(TEXTS[:100], pack=20)
    sent = len(sandbox.requests)
    assert sent <= 10
    result = arche_magic.map(TEXTS[:100], pack=1)
    assert result.error.isna().all()
    assert len(sandbox.requests) == sent


def test_what_a_request_spent_is_shared_out_exactly(start: Start) -> None:
    """Tokens of the rows add up to those the provider counted."""
    start(keys={"google": 1}, limits={"google": SCARCE})
    job = Job(TEXTS[:90], pack=30)
    tokens = sum(row.tokens for row in job)
    (used,) = [
        row.used
        for row in get_quota_tracker(get_configuration()).standings("google")
        if row.limit == "requests_per_day"
    ]
    assert used <= 10
    attempts = (get_configuration().replies.parent / "llm_calls.jsonl").read_text().splitlines()
    spent = [a["input_tokens"] + a["output_tokens"] for a in map(json.loads, attempts)]
    assert job.progress().tokens == sum(spent)
    # Requests for rows that were also asked alone, for comparison, are small.
    assert sum(count for count in spent if count > 500) == tokens


def test_a_short_job_is_not_packed(start: Start) -> None:
    """Packing gains nothing for a job that takes less than a minute."""
    sandbox = start(keys={"google": 1}, limits={"google": {**SCARCE, "requests_per_day": 500}})
    arche_magic.map(TEXTS[:12])
    assert len(sandbox.requests) == 12


def test_packing_can_be_turned_off(start: Start) -> None:
    """Without packing, a small limit per day is soon used up."""
    sandbox = start(keys={"google": 1}, limits={"google": SCARCE})
    result = arche_magic.map(TEXTS, pack=1, patience=30)
    assert result.error.isna().sum() == len(sandbox.requests) == 18


def lost(entries: Entries) -> Any:
    return echoes(entries)[:-1]


def doubled(entries: Entries) -> Any:
    return [*echoes(entries), {"id": entries[0]["id"], "reply": "another"}]


def unasked(entries: Entries) -> Any:
    return [*echoes(entries), {"id": "zzzz", "reply": "nobody asked"}]


def shuffled(entries: Entries) -> Any:
    return echoes(entries)[::-1]


def numbered_from_0(entries: Entries) -> Any:
    return [{**entry, "id": number} for number, entry in enumerate(echoes(entries))]


def numbered_as_texts(entries: Entries) -> Any:
    return [{**entry, "id": str(number)} for number, entry in enumerate(echoes(entries))]


def without_ids(entries: Entries) -> Any:
    return [{"reply": entry["reply"]} for entry in echoes(entries)]


def one_skipped_and_counted_on(entries: Entries) -> Any:
    ids = [entry["id"] for entry in entries]
    return [{**e, "id": id_} for e, id_ in zip(echoes(entries)[1:], ids[1:], strict=True)]


def empty(entries: Entries) -> Any:
    return [
        {**entry, "reply": " " if not n else entry["reply"]}
        for n, entry in enumerate(echoes(entries))
    ]


def cut(entries: Entries) -> Any:
    whole = json.dumps({"replies": echoes(entries)})
    return whole[: len(whole) // 2]


def prose(entries: Entries) -> Any:
    return "I would rather not write JSON today."


@pytest.mark.parametrize(
    "change",
    [
        echoes, lost, doubled, unasked, shuffled, numbered_from_0, numbered_as_texts, without_ids,
        one_skipped_and_counted_on, empty, cut, prose,
    ],
)  # fmt: skip
def test_every_row_gets_its_own_reply_whatever_arrives(
    start: Start, change: Callable[[Entries], Any]
) -> None:
    """Missing, doubled or broken entries are asked again; no row gets another's reply."""
    start(keys={"google": 1, "groq": 1}, reply=answering(change), clock=WaitingClock())
    result = arche_magic.map(TEXTS[:24], pack=8)
    assert result.error.isna().all()
    assert result.reply.tolist() == [f"echo {text}" for text in TEXTS[:24]]


def test_a_refused_row_does_not_fail_the_others(start: Start) -> None:
    """The list is halved until the row is alone."""
    sandbox = start(keys={"google": 1}, limits={"google": {**SCARCE, "requests_per_day": 200}})
    arche_magic.map(["Warm up"])
    sandbox.fail("google", "content_filter", times=4)
    result = arche_magic.map(TEXTS[:8], pack=8)
    assert result.error.notna().sum() <= 1


def test_a_packed_request_has_the_options_of_the_job(start: Start) -> None:
    """The job's options also hold for the packed request."""
    sandbox = start(keys={"groq": 1})
    arche_magic.map(TEXTS[:6], pack=6, system="Be brief.", max_tokens=100, temperature=0)
    body = sandbox.requests[0].body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["temperature"] == 0
    assert 600 <= body["max_completion_tokens"] <= 700
    assert prompts(sandbox)[0].count('"prompt"') == 6


@pytest.mark.parametrize(
    ("limits", "tokens", "size"),
    [
        # 20 requests a day and unlimited tokens: as many rows as one request may have.
        ({"requests_per_day": 20, "input_tokens_per_minute": 250_000}, 40, 50),
        # Groq's free tier: long rows spend tokens as fast as requests, short ones do not.
        ({"requests_per_day": 1000, "tokens_per_day": 200_000}, 300, 1),
        ({"requests_per_day": 1000, "tokens_per_day": 200_000}, 10, 3),
        # Without a limit on requests there is nothing to save.
        ({"tokens_per_minute": 8000}, 10, 1),
        # One request takes no more than half of a limit on tokens.
        ({"requests_per_day": 20, "tokens_per_minute": 2000}, 50, 7),
    ],
)
def test_the_size_follows_from_the_limits(
    start: Start, limits: dict[str, int], tokens: int, size: int
) -> None:
    """Tokens per row against requests, over all limits of a model."""
    start()
    configuration = get_configuration()
    tracker = get_quota_tracker(configuration)
    tracker.set_limits(
        "groq",
        **dict.fromkeys(("requests_per_minute", "tokens_per_minute")),
    )
    rows = [row for row in tracker.standings("groq") if row.limit == "requests_per_day"]
    standings = [
        type(rows[0])(**{**rows[0].__dict__, "limit": limit.name, "amount": limit.amount})
        for limit in parse_limits(limits, "bucket")
    ]
    assert pack_size(standings, Usage(tokens, tokens), float("inf"), 50) == size


def test_a_packed_request_has_ids_and_a_schema() -> None:
    """Ids come from the texts of the prompts; the schema contains that of the rows."""
    configuration = get_configuration()
    requests = [
        build_request(text, configuration, schema=SCHEMA, max_tokens=50) for text in ("A", "B")
    ]
    request = packed(requests, 20)
    one, two = ids_of(["A", "B"])
    assert ids_of(["B", "C", "A"])[::2] == [two, one]
    listed = json.dumps([{"id": one, "prompt": "A"}, {"id": two, "prompt": "B"}])
    assert listed in request.messages[-1].content
    assert request.schema is not None
    assert request.schema.strict
    entry = request.schema.definition["properties"]["replies"]["items"]
    assert set(entry["properties"]["reply"]["properties"]) == {"mood", "points"}
    replies = [{"id": two, "reply": {"mood": "good", "points": 3}}, {"id": one, "reply": {}}]
    text = json.dumps({"replies": replies})
    whole = Reply(text, usage=Usage(100, 31), parsed=request.schema.read(text), cost=0.5)
    first, second = unpacked(whole, requests)
    assert first is None
    assert second is not None
    assert second.parsed == {"mood": "good", "points": 3}
    assert (second.usage, second.cost) == (Usage(100, 31), 0.5)


def test_rows_with_images_are_asked_alone(start: Start) -> None:
    """A list has no place for images."""
    sandbox = start(keys={"google": 1})
    png = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000")
    frame = pd.DataFrame({"picture": [png + bytes([n]) for n in range(4)]})
    arche_magic.map(frame, "What is it? {{picture}}", pack=4)
    assert len(sandbox.requests) == 4


def read(text: str, schema: Any = None) -> list[Any]:
    """Read the entries of two rows from the text of a packed reply."""
    configuration = get_configuration()
    requests = [build_request(f"Row {n}", configuration, schema=schema) for n in (1, 2)]
    inner = packed(requests, 10).schema
    assert inner is not None
    replies = unpacked(Reply(text, parsed=inner.read(text)), requests)
    return [reply and (reply.parsed if schema else str(reply)) for reply in replies]


ONE, TWO = ids_of(["Row 1", "Row 2"])
LISTED = json.dumps({"replies": [{"id": ONE, "reply": "a"}, {"id": TWO, "reply": "b"}]})
ANALYSIS = "<|channel|>analysis<|message|>[{}]<|end|><|channel|>final<|message|>"
GOOD, BAD = {"mood": "good"}, {"mood": "bad"}


@pytest.mark.parametrize(
    ("text", "replies"),
    [
        (f'[{{"id": "{ONE}", "reply": "a"}}, {{"id": "{TWO}", "reply": "b"}}]', ["a", "b"]),
        (f'{{"{ONE}": "a", "{TWO}": "b"}}', ["a", "b"]),
        (f'{{"replies": {{"{ONE}": "a", "{TWO}": "b"}}}}', ["a", "b"]),
        (f'{{"id": "{ONE}", "reply": "a"}}\n{{"id": "{TWO}", "reply": "b"}}', ["a", "b"]),
        (f'{{"id": "{ONE}", "answer": "a"}} {{"id": " {TWO} ", "reply": "b"}}', ["a", "b"]),
        (f'[{{"id": "{ONE}", "reply": 7}}, {{"id": "{TWO}", "reply": true}}]', ["7", "true"]),
        (f'[{{"id": "{ONE}", "reply": ["x"]}}, {{"id": "{TWO}", "reply": null}}]', ['["x"]', None]),
        (f"Here are the answers [as asked], each {{with}} its id: {LISTED}", ["a", "b"]),
        (f"Rows [1] and [2]:\n```json\n{LISTED}\n```\nDone [1].", ["a", "b"]),
        (f"<think>First [1], then {LISTED}</think>{LISTED}", ["a", "b"]),
        (f"<think>{LISTED}</think>", ["a", "b"]),
        (f"{ANALYSIS}{LISTED}<|return|>", ["a", "b"]),
        (f"{LISTED}</s>", ["a", "b"]),
        (f'{{"replies": [{{"id": "{ONE}", "reply": "a"}}, {{"id": "{TWO}", "rep', ["a", None]),
    ],
)
def test_replies_are_read_in_any_shape(text: str, replies: list[str | None]) -> None:
    """The id of an entry says which row it belongs to; its form and other text do not matter."""
    assert read(text) == replies


@pytest.mark.parametrize(
    "listed",
    [
        [{"id": ONE, "reply": GOOD}, {"id": TWO, "reply": BAD}],
        [{"id": ONE, **GOOD}, {"id": TWO, **BAD}],
        [{"id": ONE, "reply": "good"}, {"id": TWO, "reply": "bad"}],
        {ONE: GOOD, TWO: BAD},
        [{"id": ONE, "reply": json.dumps(GOOD)}, {"id": TWO, **BAD}],
    ],
)
def test_fields_are_read_with_or_without_their_level(listed: Any) -> None:
    """They may be flat, the only value, or JSON in a text."""
    assert read(json.dumps(listed), "mood good|bad") == [GOOD, BAD]


def rotated(entries: Entries) -> Any:
    """Keep the ids in place, each with the reply to the next prompt."""
    replies = [entry["reply"] for entry in echoes(entries)]
    turned = [*replies[1:], replies[0]]
    return [{"id": e["id"], "reply": reply} for e, reply in zip(entries, turned, strict=True)]


WORDS = ["apple", "bridge", "castle", "desert", "engine", "forest", "garden", "harbour"]
DISTINCT = [f"the {one} by the {other}" for one in WORDS for other in reversed(WORDS)]


@pytest.mark.parametrize("rows", [8, 64])
def test_swapped_replies_are_detected(start: Start, rows: int) -> None:
    """Rows at random positions are asked alone; then all packed rows are asked again.

    With few rows, the replies to those asked alone often come before the packed ones are saved.
    """
    start(keys={"google": 1}, limits={"google": PLENTY}, reply=answering(rotated))
    texts = DISTINCT[:rows]
    with pytest.warns(PackingWarning, match=r"google/.*got a different answer") as warned:
        result = arche_magic.map(texts, pack=8)
    assert [warning.filename for warning in warned] == ["arche_magic"]
    assert result.reply.tolist() == [f"echo {text}" for text in texts]
    figures = result.attrs["arche_magic"]
    assert figures["packed"] == figures["discarded"] >= 8
    assert figures["agreed"] < figures["checked"]
    # Nothing wrong is kept either.
    assert arche_magic.map(texts, pack=8).reply.tolist() == result.reply.tolist()


def labels(entries: Entries) -> Any:
    """Give every row but the last the label of the next one."""
    moods = [mood(entry["prompt"]) for entry in entries]
    return [
        {"id": e["id"], "reply": {"mood": m}}
        for e, m in zip(entries, [*moods[1:], moods[-1]], strict=True)
    ]


def mood(prompt: str) -> str:
    return ("good", "bad", "calm", "loud")[sum(map(ord, prompt)) % 4]


def labelling(model: str, messages: list[dict[str, str]]) -> str:
    text = messages[-1]["content"]
    start = text.find('[{"id": "', text.find("copied exactly"))
    if start < 0:
        return json.dumps({"mood": mood(text)})
    return json.dumps({"replies": labels(json.JSONDecoder().raw_decode(text, start)[0])})


def test_labels_of_neighbours_are_corrected(start: Start) -> None:
    """Choices must be equal; duplicates of a discarded row are corrected too."""
    start(keys={"google": 1}, limits={"google": PLENTY}, reply=labelling)
    texts = [*DISTINCT, *DISTINCT[:10]]
    with pytest.warns(PackingWarning):
        result = arche_magic.map(texts, pack=8, schema="mood good|bad|calm|loud")
    assert result.mood.tolist() == [mood(text) for text in texts]


def test_a_job_stopped_after_a_disagreement_shows_no_discarded_replies(start: Start) -> None:
    """Its rows are asked again, so they are not finished."""
    is_first_written = threading.Event()

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        if len(sandbox.requests) > 1:
            is_first_written.wait(10)
        if job.progress().discarded:
            job.cancel()
        return labelling(model, messages)

    sandbox = start(keys={"google": 1}, limits={"google": PLENTY}, reply=reply)
    job = Job(DISTINCT, pack=8, schema="mood good|bad|calm|loud")
    replies = Replies(job)

    def collect() -> None:
        for row in job:
            replies.add(row)
            is_first_written.set()

    with pytest.warns(PackingWarning):
        collect()
    frame = replies.frame()
    assert job.progress().discarded >= 8
    assert job.progress().done == len(frame) < len(DISTINCT)
    assert frame.mood.tolist() == [mood(text) for text in frame.prompt]


def test_a_file_has_no_discarded_replies(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that were written before the disagreement are corrected too, and count once."""
    monkeypatch.setattr(file_job, "ROWS", 16)
    asked = 0

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        nonlocal asked
        asked += "copied exactly" in messages[-1]["content"]
        # Right at first, so that the first chunk is written.
        return answering(rotated if asked > 3 else echoes)(model, messages)

    start(keys={"google": 1, "groq": 1}, limits={"google": PLENTY}, reply=reply)
    pd.DataFrame({"text": DISTINCT}).to_csv("in.csv", index=False)
    google = {"model": "google/gemini-3.5-flash-lite", "pack": 4, "twice": 0.25}
    job = file_job.FileJob("in.csv", "out.csv", "{{text}}", **google)
    with pytest.warns(PackingWarning):
        list(job)
    progress = job.progress()
    assert (progress.done, progress.total) == (64, 64)
    assert (progress.twice, progress.to_ask_twice) == (16, 16)
    (record,) = jobs_since(get_configuration().store, 0)
    assert (record.rows, record.done, record.errors) == (64, 64, 0)
    assert (record.requests, record.discarded) == (progress.requests, progress.discarded)
    written = pd.read_csv("out.csv")
    assert written.reply.tolist() == [f"echo {text}" for text in DISTINCT]


def test_rows_at_random_positions_are_asked_alone(start: Start) -> None:
    """There are more of them at the start, and later one in every tenth request."""
    positions = set()
    for run in range(3):
        sandbox = start(keys={"google": 1}, limits={"google": PLENTY}, reply=answering(echoes))
        texts = [f"{run} {text}" for text in DISTINCT]
        result = arche_magic.map(texts, pack=4)
        figures = result.attrs["arche_magic"]
        assert figures["packed"] == len(texts)
        assert figures["checked"] == figures["agreed"] == 2 + 3 + 1
        assert figures["requests"] == len(sandbox.requests) == 16 + 6
        alone = [text for text in prompts(sandbox) if "copied exactly" not in text]
        positions |= {texts.index(text) % 4 for text in alone}
    assert len(positions) > 1


def test_unlike_texts_are_not_compared(start: Start) -> None:
    """Two replies that are both unlike the packed ones say nothing about places."""

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        if "copied exactly" in messages[-1]["content"]:
            return answering(lambda entries: [{"id": e["id"], "reply": "Ja."} for e in entries])(
                model, messages
            )
        return "something else altogether"

    start(keys={"google": 1}, limits={"google": PLENTY}, reply=reply)
    figures = arche_magic.map(DISTINCT[:16], pack=8).attrs["arche_magic"]
    assert (figures["checked"], figures["discarded"]) == (0, 0)
    assert figures["not_compared"] == 3


def test_rows_that_cannot_be_compared_are_counted(start: Start) -> None:
    """There is no other reply in the request, or none came when the row was asked alone."""

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        if "copied exactly" in messages[-1]["content"]:
            return answering(lambda entries: echoes(entries)[:1])(model, messages)
        return "something else altogether"

    start(keys={"google": 1}, limits={"google": PLENTY}, reply=reply)
    figures = arche_magic.map(DISTINCT[:2], pack=2).attrs["arche_magic"]
    assert figures["packed"] == 1
    assert (figures["checked"], figures["agreed"], figures["not_compared"]) == (0, 0, 1)

    def numbers(model: str, messages: list[dict[str, str]]) -> str:
        if "copied exactly" in messages[-1]["content"]:
            return answering(lambda entries: [{"id": e["id"], "n": 1} for e in entries])(
                model, messages
            )
        return "no number"

    start(keys={"google": 1}, limits={"google": PLENTY}, reply=numbers)
    figures = arche_magic.map(DISTINCT[:4], pack=4, schema="n int").attrs["arche_magic"]
    assert (figures["packed"], figures["checked"], figures["not_compared"]) == (4, 0, 2)
