"""What `%llm_doctor` found, as a table and as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from arche_magic.llm_providers.doctor import Finding

from .styles import AMBER, GREEN, RED
from .tables import Cell, table_bundle

_COLORS = {"ok": GREEN, "look": AMBER, "wrong": RED}
_ADVICE = "→"


def findings_bundle(findings: Sequence[Finding]) -> dict[str, str]:
    """The findings as a table for reading; as text, the lines of `text`."""
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
    return bundle | {"text/plain": text(findings)}


def text(findings: Sequence[Finding]) -> str:
    """A line per finding, with its advice on the next line, and a last line with the counts."""
    states = max(len(finding.state) for finding in findings)
    about = max(len(finding.about) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:{states}}  {finding.about:{about}}  {finding.found}")
        if finding.advice:
            lines.append(f"{_ADVICE:{states}}  {finding.advice}")
    return "\n".join([*lines, summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """How many findings are wrong, and how many need a look."""
    wrong = sum(finding.state == "wrong" for finding in findings)
    look = sum(finding.state == "look" for finding in findings)
    return f"{wrong} wrong, {look} to look at" if wrong or look else "nothing wrong"


def _colored(state: str) -> str:
    return f'<span style="color:{_COLORS[state]};font-weight:600">{escape(state)}</span>'
