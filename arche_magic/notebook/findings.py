"""The findings of `%llm_doctor`, as a table, as lines of text and as a frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from arche_magic.llm_providers.doctor import Finding

from .styles import AMBER, GREEN, RED, details, escape, html_table, notes_html

if TYPE_CHECKING:
    import pandas as pd

_COLORS = {"ok": GREEN, "look": AMBER, "wrong": RED}
_ADVICE = "→"


def findings_bundle(findings: Sequence[Finding]) -> dict[str, str]:
    """The findings for display: problems as a table, then the rest, folded."""
    problems, fine = _grouped(findings)
    html = _table(problems) if problems else ""
    if fine:
        count = f"{_colored('ok')} · {len(fine)} fine"
        html += details(count, _table(fine), style="margin-top:4px")
    return {
        "text/plain": findings_text(findings),
        "text/html": html + notes_html([_counts(findings)]),
    }


def findings_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per finding; `state` is `ok`, `look` or `wrong`."""
    from .frames import typed_frame

    records = [(one.state, one.about, one.found, one.advice) for one in findings]
    return typed_frame(dict.fromkeys(("state", "about", "found", "advice"), "str"), records)


def findings_text(findings: Sequence[Finding]) -> str:
    """A line per finding, problems first, each with its advice below; then the counts."""
    states = max(len(finding.state) for finding in findings)
    about = max(len(finding.about) for finding in findings)
    lines = []
    for finding in itertools.chain(*_grouped(findings)):
        lines.append(f"{finding.state:{states}}  {finding.about:{about}}  {finding.found}")
        if finding.advice:
            lines.append(f"{_ADVICE:{states}}  {finding.advice}")
    return "\n".join([*lines, _counts(findings)])


def _grouped(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The problems, the worst first, and the findings without problems."""
    problems = [f for state in ("wrong", "look") for f in findings if f.state == state]
    return problems, [finding for finding in findings if finding.state == "ok"]


def _table(findings: Sequence[Finding]) -> str:
    """One row per finding, with a column of advice if there is any."""
    columns = 4 if any(finding.advice for finding in findings) else 3
    rows = [
        ((one.state, _colored(one.state)), one.about, one.found, one.advice)[:columns]
        for one in findings
    ]
    heads = ("state", "about", "found", "advice")[:columns]
    return html_table(heads, rows, long=("found", "advice"))


def _counts(findings: Sequence[Finding]) -> str:
    """How many findings are wrong, and how many need a look."""
    wrong = sum(finding.state == "wrong" for finding in findings)
    look = sum(finding.state == "look" for finding in findings)
    return f"{wrong} wrong, {look} to look at" if wrong or look else "nothing wrong"


def _colored(state: str) -> str:
    return f'<span style="color:{_COLORS[state]};font-weight:600">{escape(state)}</span>'
