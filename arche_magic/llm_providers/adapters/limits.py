"""Reads limits and delays from headers and error texts.

Formats as recorded from the services in 2025 and 2026: Groq and OpenAI write Go durations and
`x-ratelimit-*` headers without a period, Mistral puts the period into the header's name, and some
limits (Groq's tokens per day) are stated only in the text of a 429.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ..types import PERIOD_SECONDS, Metric, Observation, Period
from .bodies import MOST_READ

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_DELAY = 62 * 86_400.0
"""Longest delay in seconds that is believed: two months."""

_UNIT_SECONDS = {
    "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9,
}  # fmt: skip
_GO_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(h|ms|m|s|us|µs|μs|ns)")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?")
_EPOCH = 1e9
_EPOCH_MILLISECONDS = 1e12

_HEADER = re.compile(
    r"x-ratelimit-(limit|remaining|reset)-(requests|req|tokens)"
    r"(?:-(?:([0-9]{1,6})-)?(second|minute|hour|day|month))?"
)
# Mistral's until 2025-05: by size means tokens. The reset, in seconds, is the minute's.
_HEADER_BY_SIZE = re.compile(r"x-ratelimitbysize-(limit|remaining)-(second|minute|hour|day|month)")
_RESET_BY_SIZE = "ratelimitbysize-reset"
_COUNT = "[0-9]{1,15}(?:,[0-9]{3}){0,4}"
_SENTENCE = re.compile(
    r"on (?P<dimension>[a-z ]{1,60}) \([A-Z]{1,10}\): "
    rf"Limit:? (?P<limit>{_COUNT})"
    rf"(?:, Used:? (?P<used>{_COUNT}))?"
    rf"(?:, Requested:? (?P<requested>{_COUNT}))?"
    r"(?:\.? Please try again in (?P<wait>[0-9hmsnuµμ.]{1,40}))?"
)
_METRICS: Mapping[str, Metric] = {
    "requests": "requests",
    "tokens": "tokens",
    "input tokens": "input_tokens",
    "output tokens": "output_tokens",
}
_PERIODS: Mapping[str, Period] = {
    "sec": "second", "second": "second", "min": "minute", "minute": "minute", "hour": "hour",
    "day": "day", "month": "month",
}  # fmt: skip

# A delay that a service states only in the text of its refusal.
_ANNOUNCES = (
    r"(?:\b(?:re-?try(?:ing|[-_ ]?after)?|try(?: \w+)? again|wait|resets?|available(?: again)?"
    r"|allowed)\b|cool-?down)"
)
# The text between the words that announce a delay and the delay, within a sentence.
_GAP = r"[^0-9.\n]{0,40}?"
_UNIT = (
    r"(?:milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
    r"(?![a-z])"
)
_AMOUNT = rf"(?:[0-9]{{1,15}}(?:\.[0-9]{{1,15}})?[ -]?|\b(?:an?|one) (?=[mhd])){_UNIT}"
_SPAN = rf"(?P<span>{_AMOUNT}(?:(?:[ ,]|\band\b){{0,5}}{_AMOUNT}){{0,4}})"
_AFTER = re.compile(f"{_ANNOUNCES}{_GAP}{_SPAN}", re.IGNORECASE)
_BEFORE = re.compile(rf"\b(?:in|after) {_SPAN}{_GAP}{_ANNOUNCES}", re.IGNORECASE)
_STATED = re.compile(rf"([0-9.]+[ -]?|\b(?:an?|one) )({_UNIT})", re.IGNORECASE)
# A field or words without a unit after the number, which is not the year of a date.
_PLAIN = re.compile(
    r"retry[-_ ]?after[-_ ]?(?:(?P<thousandths>ms|millis\w*)|s|secs?|seconds)?[^\w.\n]{0,5}"
    r"(?P<amount>[0-9]{1,15}(?:\.[0-9]{1,15})?)(?!\.?[0-9]|[-/][0-9]{1,2}[-/]| ?\w)",
    re.IGNORECASE,
)
_MOMENT = re.compile(
    _ANNOUNCES + _GAP + r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,20}(?:Z|[+-][0-9:]{4,6})?)",
    re.IGNORECASE,
)


def parse_duration(text: str, now: float | None = None) -> float | None:
    """Return seconds from a delay as providers write it, or None if it is not one.

    Reads seconds (`7.66`), Go durations (`2m59.56s`, `26ms`), and, when `now` (epoch seconds) is
    given, HTTP dates and epoch times in seconds or milliseconds, which count from `now`.
    """
    text = text.strip().removesuffix(".")
    seconds: float | None = None
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        if seconds >= _EPOCH and now is not None:
            instant = seconds / 1000 if seconds >= _EPOCH_MILLISECONDS else seconds
            seconds = max(0.0, instant - now)
    elif text and not _GO_PART.sub("", text):
        seconds = sum(float(amount) * _UNIT_SECONDS[u] for amount, u in _GO_PART.findall(text))
    elif now is not None:
        date = parse_date(text)
        seconds = None if date is None else max(0.0, date - now)
    return seconds if seconds is not None and seconds <= LONGEST_DELAY else None


def parse_date(text: str | None) -> float | None:
    """Return epoch seconds of an HTTP date, or None; it is in UTC, also where it names no zone."""
    try:
        date = parsedate_to_datetime(text or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def retry_delay(headers: Mapping[str, str], now: float) -> float | None:
    """Return seconds to wait by `retry-after-ms` or `retry-after`, from the server's date on."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds) and float(milliseconds) / 1000 <= LONGEST_DELAY:
        return float(milliseconds) / 1000
    stated, now = headers.get("retry-after", ""), served_at(headers, now)
    # A proxy may have added another such header.
    delays = [parse_duration(part, now) for part in (stated, *stated.split(","))]
    return max((delay for delay in delays if delay is not None), default=None)


def served_at(headers: Mapping[str, str], now: float) -> float:
    """Return epoch seconds by the server's clock, to which its times refer; `now` if not given."""
    date = parse_date(headers.get("date"))
    return now if date is None else date


def header_observations(
    headers: Mapping[str, str], defaults: Mapping[str, Period] | None = None
) -> tuple[Observation, ...]:
    """Return what the `x-ratelimit-*` headers say, absurd figures left out.

    `defaults` are the periods of `requests` and `tokens` in headers whose names state none. Without
    them, the period is inferred from a bucket's rule, reset = used / limit × period (15,533 of
    15,540 recorded OpenAI replies fit). If it does not fit, tokens count by the minute, and
    requests are left out.
    """
    found: dict[tuple[Metric, Period | None], dict[str, str]] = {}
    for written, value in headers.items():
        name = written.lower()
        if "ratelimit" not in name:
            continue
        if by_size := _HEADER_BY_SIZE.fullmatch(name):
            found.setdefault(("tokens", _PERIODS[by_size[2]]), {})[by_size[1]] = value
        if match := _HEADER.fullmatch(name):
            figure, dimension, count, unit = match.groups()
            period = _named_period(int(count or 1), unit) if unit else None
            if period or not unit:
                metric: Metric = "tokens" if dimension == "tokens" else "requests"
                found.setdefault((metric, period), {})[figure] = value
    if (by_minute := found.get(("tokens", "minute"))) and _RESET_BY_SIZE in headers:
        by_minute.setdefault("reset", headers[_RESET_BY_SIZE])
    observations = []
    for (metric, period), figures in found.items():
        limit, remaining = as_amount(figures.get("limit")), as_amount(figures.get("remaining"))
        resets_in = parse_duration(figures.get("reset", ""))
        if limit is None and remaining is None:
            continue
        if limit is not None and remaining is not None and remaining > limit:
            continue
        stated = period or (defaults or {}).get(metric)
        window = stated or _inferred(limit, remaining, resets_in)
        if window is None and metric == "tokens":
            window = "minute"
        if window is not None:
            # A limit per minute never delays requests for long, so it needs no further proof.
            name, inferred = f"{metric}_per_{window}", stated is None and window != "minute"
            observations.append(
                Observation(name, limit, remaining, resets_in, "header", inferred=inferred)
            )
    return tuple(observations)


@dataclass(frozen=True)
class LimitSentence:
    """The figures in a message such as "on tokens per minute (TPM): Limit 6000, Used 5447, …".

    `name` is None for what the ledger does not count (audio seconds, images). `wait` is in seconds.
    `inferred` says that the period in `name` was worked out from the wait.
    """

    name: str | None
    limit: float
    used: float | None
    requested: float | None
    wait: float | None
    inferred: bool = False

    @property
    def never_fits(self) -> bool:
        """The one request is larger than the whole limit: waiting cannot help."""
        return self.requested is not None and self.requested > self.limit

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The sentence as an observation, if it counts something that we count."""
        if self.name is None:
            return ()
        remaining = excess = None
        if self.used is not None:
            remaining = max(0.0, self.limit - self.used)
            excess = None if self.requested is None else self.used + self.requested - self.limit
        return (
            Observation(
                self.name,
                self.limit,
                remaining,
                evidence="error",
                opens_in=None if self.never_fits else self.wait,
                excess=excess,
                inferred=self.inferred,
            ),
        )

    @property
    def figures(self) -> str:
        """`limit 6,000, used 5,447, requested 783`, as far as known."""
        known = (("limit", self.limit), ("used", self.used), ("requested", self.requested))
        return ", ".join(f"{name} {value:,.0f}" for name, value in known if value is not None)


def read_sentence(text: str) -> LimitSentence | None:
    """Return the figures in a Groq or OpenAI limit message, or None.

    A label can be wrong: "tokens per min … try again in 14h29m" was seen. A wait that is longer
    than the period replaces the label. The period is then inferred as if the limit were a bucket,
    which waits (used + requested - limit) / limit × period.
    """
    match = _SENTENCE.search(text)
    if match is None:
        return None
    limit, used, requested = (
        as_amount((match[group] or "").replace(",", "")) for group in ("limit", "used", "requested")
    )
    if limit is None:
        return None
    wait = parse_duration(match["wait"] or "")
    dimension, _, label = match["dimension"].rpartition(" per ")
    metric, period = _METRICS.get(dimension.strip()), _PERIODS.get(label.strip())
    inferred = False
    # A server may add a little to the longest wait that a period explains.
    is_wrong = period is None or (wait or 0.0) > 1.1 * PERIOD_SECONDS[period] + 1
    if wait and wait >= 0.01 and limit and is_wrong:
        excess = used + requested - limit if used is not None and requested is not None else 0.0
        period = _nearest(wait * limit / excess if excess > 0 else wait)
        inferred = True
    name = f"{metric}_per_{period}" if metric and period else None
    return LimitSentence(name, limit, used, requested, wait, inferred)


def stated_delay(text: str, now: float) -> float | None:
    """Return the seconds to wait of a sentence such as "Please retry in 41.9s"; None without one.

    Other forms: "retry after 27 seconds", "wait 2h30m", "retry_after: 5", "resets at
    2026-11-29T12:00:00Z" (UTC if it has no zone). `now` is in epoch seconds.
    """
    text = text[:MOST_READ]
    seconds: float | None = None
    if found := _AFTER.search(text) or _BEFORE.search(text):
        seconds = sum(_seconds_of(*amount) for amount in _STATED.findall(found["span"]))
    elif found := _PLAIN.search(text):
        seconds = float(found["amount"]) / (1000 if found["thousandths"] else 1)
    elif found := _MOMENT.search(text):
        try:
            moment = datetime.fromisoformat(found[1].upper())
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = max(0.0, moment.timestamp() - now)
    return seconds if seconds is not None and seconds <= LONGEST_DELAY else None


def as_amount(text: str | None) -> float | None:
    """Return a count that is stated as text; None if it is not a plain number of sensible size."""
    return float(text) if text and _NUMBER.fullmatch(text.strip()) else None


def _named_period(count: int, unit: str) -> Period | None:
    """Return the period of `count` units, if it has a name: 60 seconds is a minute."""
    seconds = count * PERIOD_SECONDS[_PERIODS[unit]]
    return next((name for name, length in PERIOD_SECONDS.items() if length == seconds), None)


def _nearest(seconds: float) -> Period:
    return min(PERIOD_SECONDS, key=lambda name: abs(math.log(PERIOD_SECONDS[name] / seconds)))


def _inferred(
    limit: float | None, remaining: float | None, resets_in: float | None
) -> Period | None:
    """Return the period of a bucket from its reset time, or None where the figures do not tell."""
    if not limit or remaining is None or resets_in is None or remaining >= limit:
        return None
    used = limit - remaining
    # "0s" means less than a millisecond. A limit per day never resets that soon.
    nearest = _nearest(resets_in * limit / used or PERIOD_SECONDS["minute"])
    refill = used / limit * PERIOD_SECONDS[nearest]
    # What remains is rounded down to whole units, so a minute may look up to twice as long. Any
    # other period would slow requests down a lot if it were wrong, so it must fit closely.
    low, high = (0.45, 2.2) if nearest == "minute" else (0.88, 1.02)
    fits = low * refill - 0.001 <= resets_in <= high * refill + 0.001
    return nearest if fits else None


def _seconds_of(amount: str, unit: str) -> float:
    """Return the seconds in an amount, such as `1.5`, `an` or `one`, of a unit."""
    number, unit = float(amount.rstrip(" -")) if amount[0].isdigit() else 1.0, unit.lower()
    if unit.startswith(("ms", "mil")):
        return number / 1000
    return number * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}[unit[0]]
