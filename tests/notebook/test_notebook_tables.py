"""`%llm_quota` and `%llm_stats`: a table to read, and the figures as a DataFrame."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from arche_magic.notebook.words import price_text

if TYPE_CHECKING:
    from notebook_kernel import Kernel


QUOTA_COLUMNS = [
    "provider", "key", "account", "model", "limit", "used", "session_used", "allowed", "remaining",
    "usage_percent", "available", "opens_at", "resets_at", "evidence", "evidence_age_s",
]  # fmt: skip
ATTEMPT_COLUMNS = [
    "at", "session", "notebook", "tag", "request", "provider", "key", "model", "outcome",
    "input_tokens", "output_tokens", "seconds", "first_token_s", "cost_usd", "waited_s", "error",
]  # fmt: skip
# The only class in the output keeps MathJax away from a table.
STRIPPED = re.compile(
    r"<(style|script|svg|link)|\sid=|\sclass=(?!\"mathjax_ignore )|\son\w+=", re.IGNORECASE
)


def columns(kernel: Kernel, frame: str) -> dict[str, str]:
    return dict(kernel.value(f"[(str(n), str(t)) for n, t in {frame}.dtypes.items()]"))


def test_quota_shows_every_limit_of_every_route(kernel: Kernel, sandboxed) -> None:
    """A row per route, in text and in HTML that untrusted notebooks keep; shown once."""
    sandboxed(keys={"groq": 2, "mistral": 1})
    kernel.run("%llm -q hi")
    cell = kernel.run("%llm_quota")
    assert (cell.status, len(cell.displays), cell.results) == ("ok", 1, [])
    data = cell.displays[0]["data"]
    for wanted in ("groq · key 1 · gpt-oss-120b · open", "groq · key 2", "mistral · key 1"):
        assert wanted in data["text/plain"]
    (spent,) = (line for line in data["text/plain"].splitlines() if "999 of 1,000 left" in line)
    assert re.split(r"\s{2,}", spent.strip())[0] == "requests/day"
    assert "requests per day: 999 of 1,000 left" in data["text/html"]
    assert data["text/html"].count("<tr") == 1 + 3
    assert not STRIPPED.search(data["text/html"])


def test_quota_is_a_frame_with_the_documented_columns(kernel: Kernel, sandboxed) -> None:
    """Counts are integers, times are aware and in UTC; derived frames are plain DataFrames."""
    sandboxed(keys={"groq": 1})
    kernel.run("%llm -q hi")
    shown = kernel.run("q = %llm_quota groq\nq")
    assert (len(shown.displays), len(shown.results)) == (2, 1)
    types = columns(kernel, "q")
    assert list(types) == QUOTA_COLUMNS
    for name in ("used", "session_used", "allowed", "remaining"):
        assert types[name] == "int64"
    for name in ("opens_at", "resets_at"):
        assert re.fullmatch(r"datetime64\[\w+, UTC\]", types[name])
    assert types["available"] == "bool"
    day = "q[q.limit == 'requests_per_day'].iloc[0]"
    assert kernel.value(f"[int({day}[n]) for n in ('used', 'allowed', 'remaining')]") == [
        1,
        1000,
        999,
    ]
    assert kernel.value("(type(q).__name__, type(q.head(1)).__name__)") == ("DataFrame",) * 2
    assert len(kernel.run("q.head(1)").results) == 1


def test_stats_counts_outcomes_per_route(kernel: Kernel, sandboxed) -> None:
    """The table has sums per route; the frame has a row per attempt, with aware times."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    sandbox.fail("groq", "rate_limit_day")
    kernel.run("%llm -q one")
    kernel.run("%llm -q two")
    cell = kernel.run("s = %llm_stats")
    assert (len(cell.displays), cell.results) == (1, [])
    table = cell.displays[0]["data"]
    heads, groq, mistral = (re.split(r"\s{2,}", line) for line in table["text/plain"].splitlines())
    # Nothing failed or was interrupted.
    assert heads == ["route", "answered", "skipped", "refused", "tokens", "median time"]
    assert groq[:4] == ["groq · key 1 · gpt-oss-120b", *"011"]
    assert mistral[1:4] == list("200")
    assert not STRIPPED.search(table["text/html"])
    types = columns(kernel, "s")
    assert list(types) == ATTEMPT_COLUMNS
    assert re.fullmatch(r"datetime64\[\w+, UTC\]", types["at"])
    assert (types["input_tokens"], types["output_tokens"]) == ("int64", "int64")
    assert kernel.value("list(s.outcome)") == ["refused", "served", "skipped", "served"]
    assert kernel.value("s.request.nunique()") == 2


def test_tables_before_the_first_prompt_are_empty(kernel: Kernel, sandboxed) -> None:
    """The tables say so, and the frames have their columns and types."""
    sandboxed(keys={"groq": 1})
    assert kernel.run("s = %llm_stats").data() == ["no attempts yet"]
    types = columns(kernel, "s")
    assert list(types) == ATTEMPT_COLUMNS
    assert types["at"].endswith("UTC]")
    assert types["input_tokens"] == "int64"
    assert kernel.run("%llm_quota openai").data() == ["no key of openai is configured"]


def test_an_unknown_provider_is_an_error_with_the_closest_name(kernel: Kernel, sandboxed) -> None:
    """`%llm_quota gorq` fails in one line; without a key, it says what to set."""
    sandboxed(keys={"groq": 1})
    assert "did you mean 'groq'" in kernel.run("%llm_quota gorq").message
    kernel.forget_keys()
    assert kernel.run("%llm_quota").message.startswith("NoKeys: ")


def test_foreign_names_are_escaped(kernel: Kernel, sandboxed) -> None:
    """A model name or an error text with HTML in it is shown as text."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    assert kernel.run("%llm -q -p mistral hi").status == "ok"
    kernel.run("%llm -q --patience 0 -p groq -m <b>x</b> hi")
    for magic in ("%llm_stats", "%llm_quota"):
        html = kernel.run(magic).displays[0]["data"]["text/html"]
        assert "<b>x" not in html
    assert len(sandbox.requests) == 2


def test_amounts_of_money_have_one_format() -> None:
    """They have four decimals, or six if four would show zero."""
    for usd, shown in (
        (0.0, "free"), (None, "paid, price unknown"), (1e-7, "less than $0.000001"),
        (0.000042, "$0.000042"), (0.00009996, "$0.0001"), (0.0001, "$0.0001"),
        (0.0031, "$0.0031"), (12.5, "$12.5000"),
    ):  # fmt: skip
        assert price_text(usd) == shown
