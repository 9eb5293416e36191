"""`%llm_why` explains a choice, and the lines below `%llm_quota` are a forecast."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

import arche_magic
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.routing import Considered, Decision
from arche_magic.llm_providers.types import RouteId
from arche_magic.notebook.why import Reason, reasons, why_bundle, why_frame

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_kernel import Kernel


def test_why_names_every_route_and_what_would_change_it(kernel: Kernel, sandboxed) -> None:
    """It lists the waiting route, the route that answered, and those that were not needed."""
    sandboxed(keys={"groq": 2, "mistral": 1}, left={"groq_key_1": {"requests_per_day": 1}})
    kernel.run("%llm -q one")
    kernel.run("%llm -q two")
    cell = kernel.run("w = %llm_why")
    text = cell.displays[0]["data"]["text/plain"]
    assert "0 of 1,000 requests per day left" in text
    assert "asking 87 s later" in text or "asking 86 s later" in text
    rows = json.loads(
        kernel.run("print(w.drop(columns='opens_at').to_json(orient='records'))").printed
    )
    verdicts = {row["key"]: row["verdict"] for row in rows}
    assert verdicts == {
        "groq_key_1": "waiting",
        "groq_key_2": "answered",
        "mistral_key_1": "not needed",
    }


def test_why_explains_a_reply_by_its_name(kernel: Kernel, sandboxed) -> None:
    """It shows the state at that time. A variable without a reply is refused in one line."""
    sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("%llm -q -p mistral -o first one")
    kernel.run("%llm -q two")
    text = kernel.run("%llm_why first").displays[0]["data"]["text/plain"]
    assert "mistral · key 1 · mistral-small-latest  answered" in text
    refused = kernel.run("%llm_why text")
    assert refused.status == "error"
    assert "is not a reply" in refused.message
    kernel.run("from arche_magic.llm_providers import Reply\nmade = Reply('by hand')")
    assert kernel.run("%llm_why made").data() == ["the reply has no record of its routes"]


def explained(kernel: Kernel, line: str = "%llm_why") -> tuple[str, dict[str, dict[str, str]]]:
    """The note below the table, and the rows by key."""
    cell = kernel.run(f"w = {line}")
    assert cell.status == "ok", cell.error
    printed = kernel.run("print(w.drop(columns='opens_at').to_json(orient='records'))").printed
    rows = {row["key"]: row for row in json.loads(printed)}
    return cell.displays[0]["data"]["text/plain"].splitlines()[-1], rows


def test_why_explains_a_failed_request(kernel: Kernel, sandboxed) -> None:
    """What failed, what was closed, and what opens first."""
    sandbox = sandboxed(keys={"groq": 2, "mistral": 1}, left={"groq": {"requests_per_day": 0}})
    sandbox.fail("mistral", "unauthorized")
    assert kernel.run("%llm --patience 5 hi").status == "error"
    note, rows = explained(kernel)
    assert "no route answered. The first to open was groq · key 1" in note
    assert "the request could wait for another 5 s" in note
    assert {key: row["verdict"] for key, row in rows.items()} == {
        "groq_key_1": "refused",
        "groq_key_2": "refused",
        "mistral_key_1": "failed",
    }
    assert rows["groq_key_1"]["would_change"] in ("asking 86 s later", "asking 87 s later")
    assert "key refused" in rows["mistral_key_1"]["why"]
    assert rows["mistral_key_1"]["would_change"] == "fixing that; waiting does not help"


@pytest.mark.parametrize(
    ("less", "more", "shown"),
    [
        (0.4, 1.0, ": 40 % against 100 %"),
        (0.999, 1.0, ": 99.9 % against 100 %"),
        (0.4, 0.997, ": 40 % against 99.7 %"),
        (0.421, 0.424, ": 42.1 % against 42.4 %"),
        (0.42421, 0.42422, ""),
        (0.999999, 1.0, ": over 99.99 % against 100 %"),
    ],
)
def test_why_distinguishes_close_shares(less: float, more: float, shown: str) -> None:
    """With as many decimals as that takes, up to two; "100 % against 100 %" explains nothing."""
    states = {
        "groq_key_1": RouteState(0, headroom=less),
        "groq_key_2": RouteState(0, headroom=more),
    }
    considered = [Considered("groq", key, "gpt-oss-120b", state) for key, state in states.items()]
    first, _ = reasons([Decision(0, 30, None, considered)], [], [], ())
    assert first.why == f"had less left{shown}"


@pytest.mark.parametrize(
    ("headroom", "shown"),
    [
        (1.0, "100 %"),
        (0.999, "99.9 %"),
        (0.99999, "over 99.99 %"),
        (1 - 1e-9, "over 99.99 %"),
        (0.42, "42 %"),
        (0.004, "0.4 %"),
        (0.00001, "under 0.01 %"),
        (1e-9, "under 0.01 %"),
        (0.0, "0 %"),
    ],
)
def test_only_full_is_100_percent_and_only_empty_is_0(headroom: float, shown: str) -> None:
    """Near 0 and 100 %, the table has more decimals. The column of the frame is not rounded."""
    route = Reason(RouteId("groq", "groq_key_1", "gpt-oss-120b"), "open", headroom)
    row = why_bundle([route], "note")["text/plain"].splitlines()[1]
    assert re.split("  +", row)[2].strip() == shown
    assert list(why_frame([route])["headroom_percent"]) == [pytest.approx(100 * headroom, abs=1e-9)]
    column = list(why_frame([route])["headroom_percent"])
    assert column == [pytest.approx(100 * headroom, rel=1e-12)]


def test_why_says_what_leads_to_a_later_route(kernel: Kernel, sandboxed) -> None:
    """It is -p for another provider, but not for another key of the same model."""
    sandboxed(keys={"groq": 2, "mistral": 1})
    kernel.run("%llm -q hi")
    _, rows = explained(kernel)
    changes = {key: row["would_change"] for key, row in rows.items()}
    assert changes["groq_key_2"] == "groq · key 1 · gpt-oss-120b having less left"
    assert changes["mistral_key_1"] == "-p mistral uses only this provider"


def test_why_explains_an_interrupted_wait(kernel: Kernel, sandboxed) -> None:
    """It names the route for which the request waited."""
    sandboxed(keys={"groq": 1, "openai": 1}, left={"groq": {"requests_per_day": 0}})
    kernel.run(
        "%llm --patience 100 hi",
        interrupt_when=lambda cell: any("waiting" in text for text in cell.data()),
    )
    note, rows = explained(kernel)
    assert "interrupted while it waited for groq · key 1 · gpt-oss-120b" in note
    assert rows["groq_key_1"]["verdict"] == "refused"
    assert rows["openai_key_1"]["verdict"] == "open"
    assert "costs money, and groq · key 1 · gpt-oss-120b opened in 8" in rows["openai_key_1"]["why"]
    assert rows["openai_key_1"]["would_change"] in ("--patience 85", "--patience 86")


def test_why_explains_that_a_paid_route_was_not_used(kernel: Kernel, sandboxed) -> None:
    """After a wait, a free route answered; the paid one was open all the time."""
    sandboxed(keys={"groq": 1, "openai": 1}, left={"groq": {"requests_per_minute": 0}})
    assert kernel.run("%llm -q hi").status == "ok"
    note, rows = explained(kernel)
    assert "groq · key 1 · gpt-oss-120b answered after 2 s of waiting" in note
    assert rows["groq_key_1"]["why"].startswith("answered after 1 failed: ")
    assert rows["openai_key_1"]["would_change"] == "--patience 1"
    # This is true.
    kernel.run("%llm -q hi")
    cell = kernel.run("r = %llm --patience 0 -q hi")
    assert cell.status == "ok", cell.error
    assert kernel.value("r.provider") == "openai"


def test_why_names_excluded_routes(kernel: Kernel, sandboxed) -> None:
    """A provider excluded by -p does not just come later in the order.

    `--over` excludes paid routes unless `--allow-paid` is given.
    """
    sandboxed(keys={"groq": 1, "mistral": 1, "openai": 1})
    kernel.run("%llm -q -p mistral hi")
    _, rows = explained(kernel)
    assert rows["groq_key_1"]["verdict"] == "not offered"
    assert rows["groq_key_1"]["why"] == "only mistral was offered"
    assert rows["groq_key_1"]["would_change"] == "-p groq, or no -p"
    paid = "-p openai, or no -p, or --allow-paid with --over"
    assert rows["openai_key_1"]["would_change"] == paid


def test_why_does_not_blame_options_for_what_was_off(kernel: Kernel, sandboxed) -> None:
    """A model that was switched off, and a paid route that a job did not use."""
    sandboxed(keys={"groq": 1, "mistral": 1, "openai": 1})
    kernel.run(
        "from arche_magic.llm_providers.config import Choices, use_choices\n"
        "use_choices(Choices(off=frozenset({'mistral/mistral-small-latest'})))"
    )
    kernel.run("%llm -q -o answer hi\nuse_choices(Choices())")
    _, rows = explained(kernel, "%llm_why answer")
    row = rows["mistral_key_1"]
    assert row["why"] == "it was not available then"
    assert row["would_change"] == "turn it on in %llm_panel"
    kernel.run("rows = ['one', 'two']\n%llm -q --over rows --into paying {{prompt}}")
    _, rows = explained(kernel)
    row = rows["openai_key_1"]
    assert row["why"] == "it was not available then; paid"
    assert row["would_change"] == "turn it on in %llm_panel, or --allow-paid with --over"


def test_why_says_that_the_last_prompt_was_not_sent(kernel: Kernel, sandboxed) -> None:
    """Whatever refused it, rather than explain an older prompt or an older refusal."""
    sandboxed(keys={"groq": 1})
    for cell in (
        "%llm -q",
        "%llm --temperature hot hi",
        "%llm {{unknown_name}}",
        "%llm -p groq -m mistral-small-latest hi",
        "%llm --chat 'no name' hi",
        "%llm --file missing.txt hi",
        "%llm --compare groq,nobody hi",
        "%llm --over unknown_name {{a}}",
        "%llm_retry -p nobody",
    ):
        kernel.run("%llm -q hi")
        refused = kernel.run(cell).message
        (line,) = kernel.run("%llm_why").data()
        assert line == f"the last prompt was not sent: {refused.partition(': ')[2]}"
        for other in ("%llm", "%llm --help", "%llm --dry-run hi", "%llm --show-prompt hi"):
            kernel.run(other)
        # An error of arche_magic has nothing to explain.
        assert "came from arche_magic" in kernel.run("%llm_explain").message
        assert kernel.run("%llm_why").data() == [line]
    kernel.run("1 / 0")
    kernel.run("%llm_explain -p nobody")
    assert "unknown provider 'nobody'" in kernel.run("%llm_why").data()[0]
    assert kernel.run("%llm -q hi").status == "ok"
    assert "answered" in kernel.run("%llm_why").data()[0]


def test_why_says_that_the_last_reply_was_kept(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """It did not need a route, unlike the prompt before it, which may also have been refused."""
    sandboxed(keys={"groq": 1})
    kernel.run(f"os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'kept.sqlite')!r}")
    kernel.run("rows = ['one', 'two']")
    for cell in (
        "%llm -q --keep hi",
        "%llm -q --compare groq --keep hi",
        "%llm -q --over rows --into kept {{prompt}}",
        "%llm -q -b --over rows --into later {{prompt}}\nlater.wait()",
    ):
        kernel.run(cell)
        for before in ("%llm -q other", "%llm -t 9 hi"):
            kernel.run(before)
            assert kernel.run(cell).status == "ok"
            line = "the reply came from memory; no route was asked"
            assert kernel.run("%llm_why").data() == [line]


def test_a_saved_notebook_contains_the_choices(kernel: Kernel, sandboxed, tmp_path: Path) -> None:
    """For replies, failures and interrupts, it has the attempts and the inputs of each choice."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.02)
    sandbox.fail("groq", "rate_limit_day")
    cells = [kernel.run("%llm one")]
    sandbox.fail("mistral", "unauthorized")
    cells.append(kernel.run("%llm --patience 0 two"))
    kernel.use(sandbox)
    cells.append(kernel.run("%llm three", interrupt_when=lambda cell: len(cell.displays[:1]) == 1))
    assert [cell.status for cell in cells] == ["ok", "error", "error"]
    outputs = [[{"metadata": shown["metadata"]} for shown in cell.displays] for cell in cells]
    saved = tmp_path / "saved.ipynb"
    saved.write_text(json.dumps({"cells": [{"outputs": kept} for kept in outputs]}))
    frame = arche_magic.attempts_from_notebook(saved)
    assert list(frame["outcome"]) == [
        "refused", "served", "skipped", "failed", "interrupted"
    ]  # fmt: skip
    tried = frame[frame["outcome"] != "skipped"]
    choices = [
        d.choice() for request in arche_magic.decisions_from_notebook(saved) for d in request
    ]
    assert [choice.route.provider for choice in choices if choice.route] == list(tried["provider"])
    assert [choice.route for choice in choices].count(None) == 1


def test_quota_says_how_many_prompts_still_fit(kernel: Kernel, sandboxed) -> None:
    """The line counts prompts like the last one, now and until midnight.

    The frame has these numbers too.
    """
    sandboxed(keys={"groq": 1, "openai": 1}, left={"groq": {"requests_per_day": 8}})
    kernel.run("%llm -q one")
    cell = kernel.run("q = %llm_quota")
    assert " tokens): 7 now, " in cell.displays[0]["data"]["text/plain"]
    assert "until midnight" in cell.displays[0]["data"]["text/html"]
    outlook = json.loads(kernel.run("import json; print(json.dumps(q.attrs['outlook']))").printed)
    assert 0 < outlook["fit_now"] <= outlook["fit_until_midnight"]
