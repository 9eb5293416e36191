"""A delay that a service states only in the text of its refusal."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .limits import LONGEST_DELAY

_READ = 20_000
_ANNOUNCES = (
    r"(?:\b(?:re-?try(?:ing)?|try(?: \w+)? again|wait|resets?|available(?: again)?|allowed)\b"
    r"|cool-?down)"
)
# From what announces the delay to the delay, within the sentence.
_GAP = r"[^0-9.\n]{0,40}?"
_UNIT = (
    r"(?:milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
    r"(?![a-z])"
)
_AMOUNT = rf"(?:[0-9]{{1,15}}(?:\.[0-9]{{1,15}})?[ -]?|\b(?:an?|one) (?=[mhd])){_UNIT}"
_SPAN = rf"(?P<span>{_AMOUNT}(?:(?:[ ,]|\band\b){{0,5}}{_AMOUNT}){{0,4}})"
_AFTER = re.compile(f"{_ANNOUNCES}{_GAP}{_SPAN}", re.IGNORECASE)
_BEFORE = re.compile(rf"\b(?:in|after) {_SPAN}{_GAP}{_ANNOUNCES}", re.IGNORECASE)
_PART = re.compile(rf"([0-9.]+[ -]?|\b(?:an?|one) )({_UNIT})", re.IGNORECASE)
_SECONDS = re.compile(
    r"retry[-_ ]?after(?:_seconds)?[^0-9.\n]{0,5}([0-9]{1,15}(?:\.[0-9]{1,15})?)(?![\w.]| ?\w)",
    re.IGNORECASE,
)
_MOMENT = re.compile(
    _ANNOUNCES + _GAP + r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,20}(?:Z|[+-][0-9:]{4,6})?)",
    re.IGNORECASE,
)


def stated_delay(text: str, now: float) -> float | None:
    """Return the seconds to wait of a sentence such as "Please retry in 41.9s"; None without one.

    Other forms: "try again in 1 minute", "retry after 27 seconds", "wait 2h30m", "retry_after: 5",
    "resets at 2026-11-29T12:00:00Z" (UTC if it has no zone).

    Args:
        text: what a service says of its refusal.
        now: epoch seconds.
    """
    text = text[:_READ]
    seconds: float | None = None
    if found := _AFTER.search(text) or _BEFORE.search(text):
        seconds = sum(
            _amount(amount) * _unit(unit) for amount, unit in _PART.findall(found["span"])
        )
    elif found := _SECONDS.search(text):
        seconds = float(found[1])
    elif found := _MOMENT.search(text):
        try:
            moment = datetime.fromisoformat(found[1].upper())
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = max(0.0, moment.timestamp() - now)
    return seconds if seconds is not None and seconds <= LONGEST_DELAY else None


def _amount(text: str) -> float:
    return float(text.rstrip(" -")) if text[0].isdigit() else 1.0


def _unit(name: str) -> float:
    """Return the seconds of a unit."""
    name = name.lower()
    if name.startswith(("ms", "mil")):
        return 1e-3
    return {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}[name[0]]
