"""What `%llm_doctor` shows: the findings, as a table and as a frame."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from arche_magic.llm_providers.doctor import Finding, examine

from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd

_COLORS = {"ok": "#2e9e5b", "look": "#c98a1b", "wrong": "#d0493b"}
_ADVICE = "→"


def doctor(send: bool) -> tuple[dict[str, str], pd.DataFrame]:
    """Examine the configuration; as a table and as a frame."""
    from .frames import findings_frame

    findings = examine(send=send)
    rows = [
        (
            Cell(finding.state, _colored(finding.state)),
            Cell(finding.about),
            Cell(finding.found, long=True),
            Cell(finding.advice, long=True),
        )
        for finding in findings
    ]
    bundle = table_bundle(("", "about", "found", "advice"), rows, [summary(findings)])
    return bundle | {"text/plain": text(findings)}, findings_frame(findings)


def text(findings: Sequence[Finding]) -> str:
    """A line per finding, its advice in one of its own below it, and a last line that counts."""
    states = max(len(finding.state) for finding in findings)
    about = max(len(finding.about) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:{states}}  {finding.about:{about}}  {finding.found}")
        if finding.advice:
            lines.append(f"{_ADVICE:{states}}  {finding.advice}")
    return "\n".join([*lines, summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """How many findings are wrong, and how many are to be looked at."""
    wrong = sum(finding.state == "wrong" for finding in findings)
    look = sum(finding.state == "look" for finding in findings)
    return f"{wrong} wrong, {look} to look at" if wrong or look else "nothing wrong"


def _colored(state: str) -> str:
    return f'<span style="color:{_COLORS[state]};font-weight:600">{escape(state)}</span>'
