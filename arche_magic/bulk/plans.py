"""The plan of a job, as figures and in words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as clock_time

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import shown
from arche_magic.llm_providers.text.wording import plural
from arche_magic.llm_providers.types import in_seconds, without_vendor

from .capacity import Share
from .progress import local_time


@dataclass(frozen=True)
class Way:
    """A change to a job, and its effect.

    Attributes:
        what: the change, in words.
        finish_at: when the job would be done (aware, UTC); None if not within a year.
        cost_usd: USD; None where a price is not known.
    """

    what: str
    finish_at: datetime | None
    cost_usd: float | None = 0.0


@dataclass(frozen=True, repr=False)
class Plan:
    """The estimated tokens, time and cost of a job if it started now. Nothing was sent.

    Attributes:
        rows: the number of all rows.
        kept: rows with a kept reply, which need no request.
        failed: rows that failed permanently before, or cannot be asked; they need no request.
        tokens: the lowest and highest estimate of all tokens for the other rows.
        input_tokens, output_tokens: the likely numbers.
        basis: what the estimate is based on, in words.
        requests: the number of requests.
        shares: the part of the job for each account and model, the largest first.
        at: when the plan was made (aware, UTC).
        finish_at: the likely finish time; None if it is more than a year away, or if no route will
            open.
        latest_at: the finish time with the highest estimate of tokens.
        cost_usd: the cost on the routes of the job in USD; None if a price is unknown.
        with_paid: what paid routes would change; None if the job would not finish clearly earlier.
        one_model: what `same_model=True` would change; None if only one model would answer.
        twice: rows that are asked again, on the model `second` (`a or b` if it depends on which
            model answers first); all figures but `rows`, `to_ask` and `rows_by` count them.
        by: the deadline, or None.
        rows_by: the number of rows that are finished by then, and within a year.
        ways: changes that would meet the deadline; empty if none is needed.
    """

    rows: int
    kept: int
    failed: int
    tokens: tuple[int, int]
    input_tokens: int
    output_tokens: int
    basis: str
    requests: int
    shares: tuple[Share, ...]
    at: datetime
    finish_at: datetime | None
    latest_at: datetime | None
    cost_usd: float | None
    with_paid: Way | None = None
    one_model: Way | None = None
    twice: int = 0
    second: str = ""
    by: datetime | None = None
    rows_by: int | None = None
    ways: tuple[Way, ...] = ()

    @property
    def to_ask(self) -> int:
        """Rows that would be asked."""
        return self.rows - self.kept - self.failed

    @property
    def in_time(self) -> bool | None:
        """Whether the job probably meets the deadline; None without one."""
        if self.by is None:
            return None
        return self.finish_at is not None and self.finish_at <= self.by

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "\n".join([*self.summary(), *self._table(), *self.outlook(), "Nothing was sent."])

    def summary(self) -> list[str]:
        """Rows, time and tokens, in words."""
        parts = [f"{self.to_ask:,} to ask" if self.to_ask < self.rows else ""]
        parts += [f"{self.kept:,} from memory" if self.kept else ""]
        parts += [f"{self.failed:,} that cannot be asked, or failed before" if self.failed else ""]
        what = ", ".join(filter(None, parts))
        lines = [f"{plural(self.rows, 'row')}{': ' if what else ''}{what}"]
        if self.twice:
            lines[0] += f"; {self.twice:,} of them asked again, by {self.second}"
        if asked := self.to_ask + self.twice:
            each = (self.input_tokens + self.output_tokens) / asked
            low, high = (_rounded(tokens) for tokens in self.tokens)
            span = low if low == high else f"{low} to {high}"
            lines += [self._when(), f"{span} tokens, about {each:,.0f} a row ({self.basis})"]
        answering = [share.capacity for share in self.shares if share.rows]
        if unknown := [one.name for one in answering if not one.pace_is_known]:
            names = ", ".join(unknown)
            lines.append(f"It may take longer: no limit per minute is known yet for {names}")
        return lines

    def outlook(self) -> list[str]:
        """What paid routes would change, and whether the job meets the deadline, in words."""
        lines = []
        if self.with_paid and self.to_ask:
            lines.append(f"With {self._way(self.with_paid)}")
        if self.one_model and self.to_ask:
            models = {without_vendor(share.capacity.model) for share in self.shares if share.rows}
            mixed = f"{len(models)} models would answer"
            way = self._way(self.one_model)
            lines.append(f"{mixed}; same_model=True (--same-model) asks {way}")
        if self.by is not None:
            at = _clock(self.by, self.at)
            if self.in_time:
                lines.append(f"By {at}: yes")
            else:
                some = f"By {at}: no, {self.rows_by:,} of {plural(self.to_ask, 'row')}"
                lines.append(f"{some}; sooner with" if self.ways else some)
                lines += [f"  {self._way(way)}" for way in self.ways]
        return lines

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of a table: route, rows, requests, and the limit that slows it down, in words."""
        return [
            (
                share.capacity.name,
                f"{share.rows:,}",
                f"{share.requests:,}",
                f"{share.bound_by.amount:,.0f} {share.bound_by.limit.replace('_', ' ')}"
                if share.bound_by
                else ("nothing" if share.capacity.pace_is_known else "not known yet"),
            )
            for share in self.shares
            if share.rows
        ]

    def _table(self) -> list[str]:
        rows = [("route", "rows", "requests", "held back by"), *self.table()]
        if len(rows) == 1:
            return []
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return [
            f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {requests:>{widths[2]}}  {limit}"
            for name, count, requests, limit in rows
        ]

    def _when(self) -> str:
        if self.finish_at is None:
            return "Not done within a year" if self.shares else "No free route can answer this"
        seconds = (self.finish_at - self.at).total_seconds()
        cost = _price(self.cost_usd)
        when = f"Done {in_seconds(max(1.0, seconds))}"
        if seconds >= 100:
            when += f", about {_clock(self.finish_at, self.at)}"
            later = self.latest_at and _clock(self.latest_at, self.at)
            if self.latest_at is None:
                when += ", or not at all"
            elif later != _clock(self.finish_at, self.at):
                when += f", {later} if replies are long"
        return f"{when} · {cost}"

    def _way(self, way: Way) -> str:
        if way.finish_at is None:
            return f"{way.what}: not done within a year"
        seconds = (way.finish_at - self.at).total_seconds()
        when = f"done {in_seconds(max(1.0, seconds))}"
        when += f", about {_clock(way.finish_at, self.at)}" if seconds >= 100 else ""
        return f"{way.what}: {when}" + (f", {_price(way.cost_usd)}" if way.cost_usd != 0 else "")


def moment(by: str | datetime, now: float) -> float:
    """Epoch seconds of a time: a datetime, `08:00` (the next one), or `2026-11-26 08:00`.

    A time without a zone is in this machine's zone.

    Raises:
        InvalidRequest: it is not a time, or it has passed.
    """
    if isinstance(by, str) and (clock := re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*", by)):
        hour, minute = int(clock[1]), int(clock[2])
        if hour < 24 and minute < 60:
            today = datetime.fromtimestamp(now).date()
            # When clocks are set back, a time can occur twice in a day. If both have passed, use
            # tomorrow's.
            local = datetime.combine(today, clock_time(hour, minute))
            days = (local, local.replace(fold=1), local + timedelta(days=1))
            return next(at for at in map(datetime.timestamp, days) if at > now)
    try:
        # Do not use the method of a pandas Timestamp, which treats a time without a zone as UTC.
        found = datetime.timestamp(datetime.fromisoformat(by) if isinstance(by, str) else by)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidRequest(
            f"by is {shown(by)}; write a time such as 08:00 or 2026-11-26 08:00"
        ) from None
    if found <= now:
        raise InvalidRequest(f"by is {str(by)!r}, which has passed")
    return found


def _clock(then: datetime, now: datetime) -> str:
    """The local time to the minute, rounded up, with the day if it is not today."""
    return local_time(math.ceil(then.timestamp() / 60) * 60, now.timestamp())


def _rounded(tokens: int) -> str:
    """The figure with two digits, because it is an estimate."""
    if tokens < 100:
        return f"{tokens}"
    digits = 10 ** (len(str(tokens)) - 2)
    return f"{round(tokens / digits) * digits:,}"


def _price(cost: float | None) -> str:
    """The figure with two digits, because it is an estimate."""
    if not cost:
        return "free" if cost == 0 else "price not known"
    digits = max(2, 1 - math.floor(math.log10(cost)))
    return f"about ${cost:,.{digits}f}"
