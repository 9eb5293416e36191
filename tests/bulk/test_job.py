"""One prompt per row: the results, their order, and failures."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
from bulk_parts import WaitingClock, prompts
from pydantic import BaseModel

import arche_magic
from arche_magic.bulk import Job, JobStopped, Replies, Row
from arche_magic.llm_providers import (
    InvalidRequest,
    LLMProviderError,
    Reply,
    Tool,
    get_llm_provider,
)
from arche_magic.llm_providers.config import (
    Choices,
    get_configuration,
    use_choices,
    use_configuration,
)
from arche_magic.llm_providers.errors import NoKeys, NoRouteAvailable
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import Hold

if TYPE_CHECKING:
    from provider_parts import Clock, Start

    from arche_magic.sandbox import Sandbox

REVIEWS = pd.DataFrame(
    {"text": ["Fine.", "Broken.", "Loud."], "stars": [5, 1, 2]}, index=["a", "b", "a"]
)


# --- what comes back


def test_each_row_is_asked_and_gets_its_reply(sandbox: Sandbox) -> None:
    """The result has the data's columns, index and order; the data itself is not changed."""
    before = REVIEWS.copy()
    before.attrs["source"] = "a survey"
    result = arche_magic.map(before, "{{stars}} stars: {{text}}")
    assert prompts(sandbox) == ["1 stars: Broken.", "2 stars: Loud.", "5 stars: Fine."]
    assert list(result.columns) == [
        "text",
        "stars",
        "reply",
        "provider",
        "model",
        "tokens",
        "error",
    ]
    assert list(result.index) == ["a", "b", "a"]
    assert result.text.tolist() == before.text.tolist()
    for text, reply in zip(result.text, result.reply, strict=True):
        assert text in reply
    assert set(result.provider) <= {"groq", "mistral", "google"}
    assert (result.tokens > 10).all()
    assert result.error.isna().all()
    assert set(result.attrs) == {"source", "arche_magic"}
    assert before.attrs == {"source": "a survey"}
    pd.testing.assert_frame_equal(REVIEWS, before)


def test_a_schema_gives_a_column_per_field(sandbox: Sandbox) -> None:
    """Columns are in the schema's order, with the types of the fields."""

    class Verdict(BaseModel):
        mood: Literal["good", "bad"]
        points: int

    result = arche_magic.map(REVIEWS, "{{text}}", schema=Verdict)
    assert list(result.columns)[2:4] == ["mood", "points"]
    assert "reply" not in result
    assert set(result.mood) <= {"good", "bad"}
    assert pd.api.types.is_integer_dtype(result.points)


@pytest.mark.parametrize("data", [["One", "Two"], ("One", "Two"), pd.Series(["One", "Two"])])
def test_texts_without_a_template_are_the_prompts(sandbox: Sandbox, data: Any) -> None:
    """A list or a Series needs no template, and its braces are sent as text."""
    result = arche_magic.map(data)
    assert result.prompt.tolist() == ["One", "Two"]
    assert prompts(sandbox) == ["One", "Two"]
    arche_magic.map(["{{One}}"])
    assert "{{One}}" in prompts(sandbox)


def test_a_series_is_a_column_of_its_name(sandbox: Sandbox) -> None:
    """The template and the result use that name."""
    result = arche_magic.map(pd.Series(["Hm"], name="note", index=[7]), "Say: {{note}}")
    assert prompts(sandbox) == ["Say: Hm"]
    assert result.note.tolist() == ["Hm"]
    assert result.index.tolist() == [7]


def test_a_template_reaches_into_values(sandbox: Sandbox) -> None:
    """It uses attributes, positions and keys, as in a cell; a name with a space is one column."""
    frame = pd.DataFrame({"a b": ["x"], "d": [{"k": [1, 2]}], "at": [pd.Timestamp("2026-01-02")]})
    arche_magic.map(frame, '{{a b}} {{d["k"][1]}} {{at.year}} \\{{d}} {d}')
    assert prompts(sandbox) == ["x 2 2026 {{d}} {d}"]


def test_options_are_those_of_generate(sandbox: Sandbox) -> None:
    """Model, provider, system and other options are sent with each row."""
    result = arche_magic.map(["Hi"], provider="mistral", system="Be brief.", max_tokens=5)
    assert result.provider.tolist() == ["mistral"]
    assert sandbox.requests[0].provider == "mistral"


def test_rows_are_yielded_as_they_finish(sandbox: Sandbox) -> None:
    """`imap` yields each row once, with its position, label, prompt and reply."""
    rows = sorted(arche_magic.imap(REVIEWS, "{{text}}"), key=lambda row: row.position)
    assert [row.label for row in rows] == ["a", "b", "a"]
    assert [row.prompt for row in rows] == REVIEWS.text.tolist()
    assert all(row.reply and row.error is None and not row.resumed for row in rows)
    assert rows[0].tokens == rows[0].reply.usage.total_tokens


def test_on_done_is_called_with_each_row(sandbox: Sandbox) -> None:
    """It is called as the row finishes."""
    seen: list[Row] = []
    arche_magic.map(REVIEWS, "{{text}}", on_done=seen.append)
    assert sorted(row.position for row in seen) == [0, 1, 2]


def test_equal_prompts_are_asked_once(sandbox: Sandbox) -> None:
    """All rows with that prompt get the reply, and it is paid for once."""
    job = Job(["Same"] * 2500 + ["Other"])
    rows = list(job)
    assert prompts(sandbox) == ["Other", "Same"]
    assert len(rows) == 2501
    assert sum(not row.resumed for row in rows) == 2
    assert job.progress().tokens == sum(row.tokens for row in rows if not row.resumed)


def test_an_empty_frame_needs_nothing() -> None:
    """It needs no key, and the result has all columns."""
    result = arche_magic.map(pd.DataFrame({"text": []}), "{{text}}", schema="mood good|bad")
    assert result.empty
    assert list(result.columns) == ["text", "mood", "provider", "model", "tokens", "error"]
    assert arche_magic.map([]).empty


def test_progress_adds_up(sandbox: Sandbox) -> None:
    """Its counts are right while the job runs and at its end."""
    job = Job([f"Row {n}" for n in range(40)])
    seen = [job.progress().done for _ in job]
    assert seen == sorted(seen)
    progress = job.progress()
    assert (progress.done, progress.total, progress.errors, progress.resumed) == (40, 40, 0, 0)
    assert progress.cost_usd == 0
    assert progress.tokens > 0
    assert progress.waiting is None


# --- bad input


@pytest.mark.parametrize(
    ("data", "template", "options", "said"),
    [
        (REVIEWS, "Good?", {}, r"names no column.*\{\{column\}\}.*text, stars"),
        (REVIEWS, "{{txt}}", {}, r"no column 'txt'; did you mean 'text'"),
        (REVIEWS.rename(columns={"text": "ID"}), "{{id}}", {}, "no column 'id'; did you mean 'ID'"),
        (REVIEWS, None, {}, "a frame needs a template"),
        (REVIEWS, 5, {}, "the template is of type int"),
        (5, "{{text}}", {}, "the data is of type int"),
        ("text", None, {}, "'text' is a str; pass a table"),
        ("in.txt", "{{text}}", {}, r"'in.txt' is a str; pass .* whose name ends with \.parquet,"),
        (REVIEWS.set_index("text"), "{{text}}", {}, r"no column 'text', .*reset_index\('text'\)"),
        ("in.txt", "{{text}}", {"to": "out.csv"}, r"'in.txt' is a str; pass .* the path of a file"),
        ([1, 2], None, {}, "the list holds a value of type int"),
        (["a", 0], None, {}, "the list holds a value of type int"),
        (["a", b""], None, {}, "the list holds a value of type bytes"),
        ([np.array([1, 2])], None, {}, "the list holds a value of type ndarray"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "{{a}}", {}, "two columns have the name 'a'"),
        (REVIEWS, "{{text}}", {"schema": 5}, "schema is of type int"),
        (REVIEWS, "{{text}}", {"schema": "stars int"}, "already has a column 'stars'"),
        (REVIEWS, "{{text}}", {"reserve": 2}, "reserve is 2"),
        (REVIEWS, "{{text}}", {"pack": 0}, "pack is 0; it must be 'auto', or .* from 1 on"),
        (REVIEWS, "{{text}}", {"pack": pd.NA}, "pack is <NA>"),
        (REVIEWS, "{{text}}", {"tools": [Tool("f")]}, "tools: jobs do not run tools"),
        (REVIEWS, "{{text}}", {"tools": [prompts]}, "tools: jobs do not run tools"),
        (REVIEWS, "{{text}}", {"pack": "some"}, "pack is 'some'"),
        (REVIEWS, "{{text}}", {"pack": 5, "stop": "x"}, "stop cannot be combined with packing"),
        (REVIEWS, "{{text}}", {"stop_after": 0}, "stop_after is 0"),
        (REVIEWS, "{{text}}", {"max_cost": "all"}, "max_cost is 'all'"),
        (REVIEWS, "{{text}}", {"allow_paid": "no"}, "allow_paid is 'no'; it must be True or False"),
        (REVIEWS, "{{text}}", {"retry_errors": pd.NA}, "retry_errors is <NA>; it must be True"),
        (REVIEWS, "{{text}}", {"fresh": "no"}, "fresh is 'no'; it must be True or False"),
        (REVIEWS, "{{text}}", {"details": 1}, "details is 1; it must be True or False"),
        (REVIEWS, "{{text}}", {"prefix": "\ud800"}, r"prefix is '\\ud800'; it must be a text"),
        (REVIEWS, "{{text}}", {"patience": -1}, "patience is -1"),
        (REVIEWS, "{{text}}", {"on_done": 5}, "on_done is 5; it must be a function"),
        (REVIEWS, "{{text}}", {"llm": 5}, "llm is 5; it must come from get_llm_provider"),
        (REVIEWS, "{{text}}", {"client": "x"}, "client is 'x'; it must be a Client"),
        (REVIEWS, "{{text}}", {"temprature": 0}, "did you mean 'temperature'"),
        (REVIEWS, "{{text}}", {"provider": "openai"}, "only paid routes .* allow_paid=True"),
    ],
)
def test_mistakes_are_reported_before_anything_is_spent(
    start: Start, data: Any, template: Any, options: dict[str, Any], said: str
) -> None:
    """The message is one line that says what to do."""
    sandbox = start(keys={"groq": 1, "openai": 1})
    with pytest.raises(InvalidRequest, match=said):
        arche_magic.map(data, template, **options)
    assert not sandbox.requests


def test_an_error_about_a_cluster_names_the_missing_package(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to install it."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InvalidRequest, match=r"distributed: pip install 'arche_magic\[dask\]'"):
        arche_magic.map(REVIEWS, "{{text}}", client="x")
    assert not sandbox.requests


LEVELS = pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["one", "two"])
DAYS = [pd.Timestamp("2026-11-29"), pd.NaT]


@pytest.mark.parametrize(
    ("data", "template", "asked"),
    [
        (pd.DataFrame({"t": ["a", "b"]}, index=[1, 1]), "{{t}}", ["a", "b"]),
        (pd.DataFrame({"t": ["a", "b"]}, index=LEVELS), "{{t}}", ["a", "b"]),
        (pd.DataFrame([["a", "b"]], columns=LEVELS), "{{x.1}} {{y.2}}", ["a b"]),
        (pd.DataFrame({"t": pd.Categorical(["a", None])}), "{{t}}", ["a"]),
        (pd.DataFrame({"t": pd.array([1, None], "Int64")}), "{{t}}", ["1"]),
        (pd.DataFrame({"t": pd.array([True, None], "boolean")}), "{{t}}", ["True"]),
        (pd.DataFrame({"t": [0.5, float("nan")]}), "{{t}}", ["0.5"]),
        (pd.DataFrame({"t": DAYS}), "{{t}}", ["2026-11-29 00:00:00"]),
        (pd.DataFrame({"t": pd.array(["a", None], "string[pyarrow]")}), "{{t}}", ["a"]),
        (pd.DataFrame({"t": [{"k": [1]}, ["b"]]}), "{{t}}", ['["b"]', '{"k": [1]}']),
        (pd.DataFrame({"t": pd.Series(["👩‍👩‍👧 🇩🇪"], dtype=object)}), "{{t}}", ["👩‍👩‍👧 🇩🇪"]),
        (pd.DataFrame({"t": pd.Series(["\ud83d"], dtype=object)}), "{{t}}", ["�"]),
        (pd.DataFrame({"t": []}), "{{t}}", []),
        (np.array(["a", "b"]), None, ["a", "b"]),
        (["a", None, float("nan"), pd.NA], None, ["a"]),
    ],
)  # fmt: skip
def test_unusual_data_is_asked_and_returned_unchanged(
    sandbox: Sandbox, data: Any, template: str | None, asked: list[str]
) -> None:
    """Its own columns, types and labels stay, and each row without a value says so."""
    result = arche_magic.map(data, template)
    assert prompts(sandbox) == sorted(asked)
    missing = result[result.reply.isna()].error
    assert len(missing) == len(result) - len(asked)
    name = "prompt" if template is None else "t"
    assert (missing == f"{name!r} has no value in this row (fill it to ask anyway)").all()
    if isinstance(data, pd.DataFrame):
        pd.testing.assert_frame_equal(result[data.columns], data, check_column_type=False)


def test_a_field_of_a_nested_value_is_written_in_brackets(sandbox: Sandbox) -> None:
    """Parquet, polars and JSON lines give dicts, which have keys."""
    nested = pd.DataFrame({"who": [{"name": "Ada"}]})
    arche_magic.map(nested, "{{who['name']}}")
    assert prompts(sandbox) == ["Ada"]
    result = arche_magic.map(nested, "{{who.name}}")
    assert result.error[0] == "{{who.name}}: who has no 'name'; write {{who['name']}}"


def test_an_empty_prompt_is_an_error_of_its_row(sandbox: Sandbox) -> None:
    """The other rows are asked."""
    result = arche_magic.map(["", "Hi"])
    assert result.error.tolist()[0] == "the prompt is empty"
    assert prompts(sandbox) == ["Hi"]


def test_a_key_in_a_row_is_not_sent(sandbox: Sandbox) -> None:
    """It is neither kept nor shown."""
    key = sandbox.environment()["GROQ_API_KEY"]
    result = arche_magic.map([f"My key is {key}", "Hi"])
    assert "contains the key groq_key_1" in result.error[0]
    assert key not in result.error[0]
    assert prompts(sandbox) == ["Hi"]


def test_a_row_too_long_for_every_model_fails_alone(start: Start) -> None:
    """Its error has both sizes; it is not sent, and the other rows are answered."""
    sandbox = start(limits={"groq": {"tokens_per_minute": 5000}})
    result = arche_magic.map(["Hi", "word " * 20_000])
    assert result.error.isna().tolist() == [True, False]
    assert "too large" in result.error[1]
    assert len(sandbox.requests) == 1


def test_a_refused_row_fails_alone(start: Start) -> None:
    """The other rows are answered, and the frame has the reason."""
    sandbox = start()
    sandbox.fail("groq", "content_filter", times=1)
    result = arche_magic.map([f"Row {n}" for n in range(10)])
    assert result.error.notna().sum() == 1
    assert "refused to answer" in result.error.dropna().iloc[0]


def test_rows_that_are_all_refused_stop_the_job(sandbox: Sandbox) -> None:
    """The rows are then not the cause, so the job does not send thousands more."""
    sandbox.fail("*", "invalid_request", times=None)
    with pytest.raises(JobStopped, match="every row so far was refused"):
        arche_magic.map([f"Row {n}" for n in range(200)])
    assert len(sandbox.requests) < 50


def test_without_a_key_nothing_is_asked() -> None:
    """The usual error says what to set."""
    with pytest.raises(NoKeys, match="GROQ_API_KEY"):
        arche_magic.map(["Hi"])


@pytest.mark.parametrize("asked", [{"provider": "openai"}, {"model": "gpt-4.1-mini"}])
def test_a_paid_provider_without_a_key_asks_for_one(start: Start, asked: dict[str, str]) -> None:
    """As `generate` does, although there is a key of another provider."""
    start(keys={"groq": 1})
    with pytest.raises(NoKeys, match=r"no API key for openai is configured\. Set OPENAI_API_KEY"):
        arche_magic.map(["One"], **asked)


def test_refused_keys_end_the_job(start: Start) -> None:
    """Waiting does not open them."""
    sandbox = start()
    sandbox.fail("groq", "unauthorized", times=None)
    with pytest.raises(LLMProviderError, match="groq"):
        arche_magic.map(["Hi", "Ho"])


# --- bounds


def test_a_number_of_failed_rows_stops_the_job(start: Start) -> None:
    """The bound is `stop_after`; the error has a frame with the finished rows."""
    sandbox = start(settings={})
    arche_magic.map(["Row 0"])
    sandbox.fail("groq", "content_filter", times=None)
    with pytest.raises(JobStopped, match=r"stopped after .* failed row") as caught:
        arche_magic.map([f"Row {n}" for n in range(500)], stop_after=2)
    frame = caught.value.frame
    assert frame is not None
    assert frame.reply.notna().sum() == 1
    assert 2 <= frame.error.notna().sum() < 100


def test_tokens_are_bounded(sandbox: Sandbox) -> None:
    """One reply at most exceeds the bound, and the same call continues later."""
    texts = [f"Row {n}" for n in range(60)]
    with pytest.raises(JobStopped, match="max_tokens_total of 2,000") as caught:
        arche_magic.map(texts, max_tokens_total=2000)
    frame = caught.value.frame
    assert frame is not None
    assert 1000 < frame.tokens.sum() <= 2000 + frame.tokens.max()
    assert len(arche_magic.map(texts)) == 60
    assert len(sandbox.requests) == 60


def test_no_thread_of_a_job_sleeps_for_long(start: Start) -> None:
    """A job that waits for a route therefore ends immediately when it is interrupted."""
    naps: list[float] = []

    class Recorder(WaitingClock):
        def sleep(self, seconds: float) -> None:
            naps.append(seconds)
            super().sleep(seconds)

    start(keys={"groq": 1}, limits={"groq": {"requests_per_minute": 30}}, clock=Recorder())
    list(Job([f"Row {number}" for number in range(32)], reserve=0.0))
    assert 0 < max(naps) <= 0.1


def test_bounds_can_be_numbers_of_numpy(sandbox: Sandbox) -> None:
    """Values of a column have such types."""
    frame = arche_magic.map(
        ["One", "Two"], max_cost=np.float32(1), max_tokens_total=np.int64(9000), pack=np.int64(1),
        stop_after=np.int32(3), reserve=np.float32(0.5),
    )  # fmt: skip
    assert list(frame.error.isna()) == [True, True]


def test_paid_routes_are_asked_if_allowed(start: Start) -> None:
    """`max_cost` bounds what they cost."""
    sandbox = start(keys={"openai": 1})
    texts = [f"Row {n}" for n in range(300)]
    with pytest.raises(JobStopped, match=r"max_cost \(USD\) of 0\.005") as caught:
        arche_magic.map(texts, allow_paid=True, max_cost=0.005)
    assert caught.value.frame is not None
    assert 10 < len(caught.value.frame) < 300
    job = Job(texts[: len(caught.value.frame) // 2], allow_paid=True)
    list(job)
    assert job.progress().cost_usd <= 0.005
    assert all(request.provider == "openai" for request in sandbox.requests)


# --- waiting and leaving


def test_patience_bounds_the_waiting(start: Start, clock: Clock) -> None:
    """The errors of the remaining rows say what opens when; the next run asks them."""
    sandbox = start(clock=clock, limits={"groq": {"requests_per_minute": 4}})
    result = arche_magic.map([f"Row {n}" for n in range(10)], patience=5, reserve=0.0)
    assert result.error.isna().sum() == 4
    assert result.error.dropna().str.contains("not asked: .*opens in").all()
    clock.now += 3600
    assert arche_magic.map([f"Row {n}" for n in range(10)], reserve=0.0).error.isna().all()
    assert len(sandbox.requests) == 10


@pytest.mark.parametrize(
    ("options", "done"), [({}, 0), ({"model": "mistral-small-latest", "twice": 1.0}, 2)]
)
def test_a_job_says_what_it_waits_for(start: Start, options: dict[str, Any], done: int) -> None:
    """It says so as long as it waits, even for a day, and when it asks rows again."""
    providers = ["groq", "mistral"] if options else ["groq"]
    start(dict.fromkeys(providers, 1), {"groq": {"requests_per_day": 1}})
    arche_magic.map(["Zero"], provider="groq", reserve=0.0)
    job = Job(["One", "Two"], reserve=0.0, **options)
    run = threading.Thread(target=lambda: list(job))
    run.start()
    try:
        until = time.monotonic() + 10
        # Mistral waits a second between two requests.
        while (waiting := job.progress().waiting) is None or waiting.route.provider != "groq":
            assert time.monotonic() < until, "it does not say so"
            time.sleep(0.01)
        assert waiting.seconds == pytest.approx(86_400, abs=60)
        assert job.progress().done == done
    finally:
        job.cancel()
        run.join()
    while job.progress().waiting is not None:
        assert time.monotonic() < until, "it still says so"
        time.sleep(0.01)


def test_patience_counts_once_per_job(start: Start, clock: Clock) -> None:
    """Rows share it, whether they wait one after the other or side by side."""
    start(clock=clock, limits={"groq": {"requests_per_minute": 6}})
    get_llm_provider().generate("Hi")
    began = clock.now
    # The bucket refills by one request every ten seconds.
    job = Job([f"Row {n}" for n in range(40)], patience=45, reserve=0.0)
    rows = list(job)
    assert 35 <= clock.now - began <= 55
    assert job.whole.patience.left < 10
    assert 5 <= sum(row.reply is not None for row in rows) <= 10
    assert all("not asked: " in (row.error or "") for row in rows if row.reply is None)


def test_a_lost_call_uses_up_the_patience_of_a_job_once(start: Start, clock: Clock) -> None:
    """A hold of a dead kernel on another machine delays the job by at most that time."""
    start(clock=clock, limits={"groq": {"requests_per_minute": 6}})
    llm = get_llm_provider()
    llm.generate("Hi")
    request = build_request("Hi", llm.configuration, timeout=600)
    for _ in range(5):
        assert isinstance(llm.quota_tracker.hold(llm.routes(request)[0], request), Hold)
    began = clock.now
    result = arche_magic.map([f"Row {n}" for n in range(40)], patience=3, reserve=0.0)
    assert result.error.str.contains("not asked: ").all()
    assert clock.now - began < 6


def test_leaving_ends_the_job_at_once(start: Start) -> None:
    """Waiting threads end, claims are given up, and finished rows are kept."""
    sandbox = start(limits={"groq": {"requests_per_minute": 5}})
    before = set(threading.enumerate())
    rows = arche_magic.imap([f"Row {n}" for n in range(100)], reserve=0.0)
    first = next(iter(rows))
    began = time.monotonic()
    rows.close()
    assert time.monotonic() - began < 0.5
    until = time.monotonic() + 2
    while any(new.name == "arche-job" for new in set(threading.enumerate()) - before):
        assert time.monotonic() < until, "threads are left"
        time.sleep(0.01)
    asked = len(sandbox.requests)
    assert asked <= 5
    again = arche_magic.map([first.prompt])
    assert again.reply.tolist() == [str(first.reply)]
    assert len(sandbox.requests) == asked


def test_a_stopped_job_counts_the_rows_of_its_frame(sandbox: Sandbox) -> None:
    """Rows that are finished, but not taken yet, are neither lost nor counted too early."""
    job = Job(list(map(str, range(60))), pack=1)
    replies, go_on = Replies(job), threading.Event()

    def collect() -> None:
        for row in job:
            replies.add(row)
            go_on.wait(10)

    collector = threading.Thread(target=collect)
    collector.start()
    while len(sandbox.requests) < 60:
        time.sleep(0.01)
    assert job.progress().done == 1
    job.cancel()
    go_on.set()
    collector.join()
    assert job.progress().done == len(replies.frame()) > 1


def test_a_frame_of_a_running_job_has_only_whole_rows(sandbox: Sandbox) -> None:
    """Rows that finish while it is made may be missing, and every row in it has its reply."""
    count = 30_000
    replies = Replies(Job([str(number) for number in range(count)]))

    def add() -> None:
        for number in range(count):
            replies.add(Row(number, number, "", Reply("yes", provider="groq", model="m")))

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        frame = replies.frame()
        assert frame[["reply", "provider", "model"]].notna().all(axis=None)
    assert len(replies.frame()) == count


def test_the_reply_to_a_running_call_is_kept(start: Start) -> None:
    """The job does not wait for it, and the next run does not pay for it again."""
    sandbox = start()
    arche_magic.map(["Warm up"])
    sandbox.latency = 0.6
    job = Job(["Slow"])
    threading.Timer(0.3, job.cancel).start()
    assert list(job) == []
    sandbox.latency = 0
    assert arche_magic.map(["Slow"]).error.isna().all()
    assert prompts(sandbox) == ["Slow", "Warm up"]


def test_the_configuration_may_name_a_model(sandbox: Sandbox) -> None:
    """`map` and `generate` keep a reply at the same address, with either way to name a model."""
    llm = get_llm_provider()
    kept = llm.generate("Hi", keep=True, temperature=0)
    assert arche_magic.map(["Hi"], temperature=0).reply.tolist() == [str(kept)]
    arche_magic.map(["Ho"], temperature=0)
    assert llm.generate("Ho", keep=True, temperature=0).from_memory
    assert len(sandbox.requests) == 2


def test_kept_replies_need_no_key(sandbox: Sandbox) -> None:
    """Rows without a kept reply have an error."""
    arche_magic.map(["Hi"])
    use_configuration(replace(get_configuration(), keys=(), replay="only"))
    assert arche_magic.map(["Hi"]).error.isna().all()
    assert len(sandbox.requests) == 1


def test_a_slow_reader_slows_the_job_down(sandbox: Sandbox) -> None:
    """The job asks only a few more rows than were read."""
    rows = arche_magic.imap([f"Row {n}" for n in range(3000)])
    for _ in range(10):
        next(rows)
    until = time.monotonic() + 20
    asked = -1
    while asked != len(sandbox.requests):
        assert time.monotonic() < until
        asked = len(sandbox.requests)
        time.sleep(0.5)
    assert asked < 1500
    rows.close()


def test_two_columns_of_the_same_name_stay(sandbox: Sandbox) -> None:
    """This works if the template uses neither of them."""
    frame = pd.DataFrame([["Hi", 1, 2]], columns=["text", "n", "n"])
    result = arche_magic.map(frame, "{{text}}")
    assert list(result.columns)[:4] == ["text", "n", "n", "reply"]


def test_rows_go_to_every_provider_that_has_room(start: Start, clock: Clock) -> None:
    """Each limit is used, none is exceeded, and nothing is refused."""
    sandbox = start(
        keys={"groq": 2, "mistral": 1},
        clock=clock,
        limits={
            "groq": {"requests_per_minute": 6},
            "mistral": {"requests_per_minute": 10},
        },
    )
    result = arche_magic.map([f"Row {n}" for n in range(30)], reserve=0.0, pack=1)
    assert result.error.isna().all()
    assert set(result.provider) == {"groq", "mistral"}
    assert not any(request.status == 429 for request in sandbox.requests)
    assert len(sandbox.requests) == 30


def test_equal_rows_fail_alike(start: Start) -> None:
    """They are asked only once."""
    sandbox = start()
    arche_magic.map(["Warm up"])
    sandbox.fail("groq", "content_filter")
    result = arche_magic.map(["Hi", "Hi"])
    assert result.error.notna().all()
    assert len(sandbox.requests) == 2


def test_slow_replies_are_awaited_by_more_threads(sandbox: Sandbox) -> None:
    """If no limit slows the job down, the duration of calls does not either."""
    sandbox.latency = 0.4
    result = arche_magic.map([f"Row {n}" for n in range(240)], provider="groq")
    assert result.error.isna().all()
    arrived = sorted(request.at for request in sandbox.requests)
    under_way = max(sum(at <= other < at + 0.4 for other in arrived) for at in arrived)
    assert under_way > 20


@pytest.mark.parametrize("is_all", [False, True])
def test_a_running_job_stops_using_what_is_switched_off(start: Start, is_all: bool) -> None:
    """Requests in progress end normally. The job ends if no route is left."""
    plenty = dict.fromkeys(("requests_per_minute", "tokens_per_minute"), 10_000_000)
    sandbox = start(keys={"groq": 2}, limits={"groq": plenty})
    sandbox.latency = 0.05
    off = {"groq_key_1", "groq_key_2"} if is_all else {"groq_key_1"}
    keys = []

    def switch_off(row: Row) -> None:
        keys.append(row.reply and row.reply.key)
        use_choices(Choices(off=frozenset(off)))

    texts = [f"Row {number}" for number in range(300)]
    if is_all:
        with pytest.raises(NoRouteAvailable, match="switched off"):
            arche_magic.map(texts, on_done=switch_off)
        assert len(sandbox.requests) < 300
    else:
        arche_magic.map(texts, on_done=switch_off)
        assert "groq_key_1" in keys
        assert set(keys[-50:]) == {"groq_key_2"}


def test_a_frame_of_many_rows_keeps_its_order(sandbox: Sandbox) -> None:
    """Rows may finish in any order; the frame of an unfinished job has only finished rows."""
    texts = [f"Row {number % 50}" for number in range(9000)]
    job = Job(texts)
    replies = Replies(job)
    rows = list(job)
    for row in rows[1:]:
        replies.add(row)
    assert len(replies.frame()) == 8999
    replies.add(rows[0])
    frame = replies.frame()
    assert frame.prompt.tolist() == texts
    assert all(f"“{text}”" in reply for text, reply in zip(texts, frame.reply, strict=True))
    assert len(sandbox.requests) == 50
