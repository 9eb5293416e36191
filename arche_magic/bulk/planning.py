"""Plans a whole job: its tokens, the limits that slow it down, and its finish time."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.types import utc, without_vendor

from .capacity import HORIZON_SECONDS, SECONDS_GUESS, JobForecast, Share, Speed
from .comparison import gold_columns
from .estimate import RowEstimate, Work, count_work, rows_per_request, served_lately
from .file_job import ROWS
from .file_source import SourceFile, is_file
from .plans import Plan, Way, moment
from .results import columns_of
from .rows import Rows
from .twice import OtherModels, asked_twice, share_of
from .whole_job import WholeJob, checked_flag, orchestrator, refuse_tools

# Tokens that a slow model writes per second.
_TOKENS_PER_SECOND = 100.0
# A plan suggests no shorter replies (in tokens) and no higher factor for limits than these.
_SHORTEST_REPLY, _HIGHEST_LIMITS = 16, 100
# A change is suggested if it saves at least this share of the time.
_WORTH_SAYING = 0.02
# The arguments of `map` that do not matter for a plan.
_NOT_PLANNED = ("on_done", "progress", "client", "to")


def plan(
    data: Any,
    template: str | None = None,
    *,
    schema: Any = None,
    pack: int | str = "auto",
    allow_paid: bool = False,
    retry_errors: bool = False,
    fresh: bool = False,
    reserve: float = 0.1,
    prefix: str = "",
    details: bool = False,
    twice: float | None = None,
    gold: str | Mapping[str, str] | None = None,
    max_cost: float | None = None,
    max_tokens_total: int | None = None,
    stop_after: int | None = None,
    by: str | datetime | None = None,
    encoding: str | None = None,
    sep: str | None = None,
    sheet: str | None = None,
    on_rows: Callable[[int], object] | None = None,
    llm: IntelligentLLMOrchestrator | None = None,
    **options: Any,
) -> Plan:
    """Estimate what `map` with the same arguments would take now. Nothing is sent or reserved.

    It also takes the other arguments of `map`, but only checks the bounds. `on_rows` is called
    repeatedly with the number of rows read so far. `by` is a deadline: a datetime, `08:00` (the
    next one) or `2026-11-26 08:00`. The plan says whether the job meets it, and what would help.

    Raises:
        InvalidRequest: data, template or an option is wrong.
        ConfigurationError: no key, unknown provider or model.
    """
    allow_paid = checked_flag("allow_paid", allow_paid)
    retry_errors, fresh = checked_flag("retry_errors", retry_errors), checked_flag("fresh", fresh)
    llm = orchestrator(llm)
    configuration = llm.configuration
    options = {name: value for name, value in options.items() if name not in _NOT_PLANNED}
    refuse_tools(options)
    share = share_of(twice)
    whole = WholeJob(
        llm, patience=options.get("patience"), max_cost=max_cost,
        max_tokens_total=max_tokens_total, stop_after=stop_after,
    )  # fmt: skip
    options |= {"schema": schema, "reserve": reserve, "patience": math.inf}
    sample = build_request("…", configuration, **options)
    options["schema"] = sample.schema
    size = rows_per_request(pack, sample)
    now = configuration.clock.time()
    until = None if by is None else moment(by, now)
    read = {"encoding": encoding, "sep": sep, "sheet": sheet}

    def check(rows: Rows) -> None:
        columns_of(rows.frame, sample.schema, prefix, details=details, twice=share > 0)
        gold_columns(gold, sample.schema, rows)

    parts = partial(_parts, data, template, read, check)
    work = count_work(parts(), llm, sample, retry_errors, fresh, on_rows)
    estimate = RowEstimate.of(work, llm, options)
    outlook = _Outlook(
        estimate, _speed(estimate), work.to_ask, now, size, allow_paid, whole.before_paying.left
    )
    found = _plan_of(work, outlook)
    if share:
        others = OtherModels(llm, sample, allow_paid)
        again, known = asked_twice(parts(), llm, sample, share, others, fresh=fresh)
        found = _with_second(found, outlook, again, known, others)
    return found if until is None else _with_deadline(found, outlook, until)


@dataclass(frozen=True)
class _Outlook:
    """When the rows of a job would be finished, and with which changes.

    Attributes:
        rows: the number of rows to ask.
        now: epoch seconds.
        pack: rows per request; None decides by the limits.
        patience: seconds that the job waits for free routes before it pays.
    """

    estimate: RowEstimate
    speed: Speed
    rows: int
    now: float
    pack: int | None
    allow_paid: bool
    patience: float

    def forecast(self, estimate: RowEstimate | None = None, **changes: Any) -> JobForecast:
        """The forecast for the rows; `changes` replace `pack` or `paid`."""
        estimate = estimate or self.estimate
        asked = {"pack": self.pack, "paid": self.allow_paid, **changes}
        sizes = estimate.pack_sizes(self.rows, **asked)
        return estimate.forecast(sizes, self.speed, self.now, self.patience, paid=asked["paid"])

    def way(self, what: str, forecast: JobForecast) -> Way:
        """A change to the job, with its effect."""
        end = forecast.finish_at(self.rows)
        return Way(what, _time(end), _cost(forecast.shares(self.rows, end)))


def _plan_of(work: Work, outlook: _Outlook) -> Plan:
    """The plan of a job without second questions and without a deadline."""
    estimate, rows = outlook.estimate, outlook.rows
    forecast, with_paid = outlook.forecast(), outlook.forecast(paid=True)
    end = forecast.finish_at(rows)
    # With longer replies, rows are packed differently, which may even be faster.
    late = max(end, outlook.forecast(estimate.heavy()).finish_at(rows))
    shares = forecast.shares(rows, end)
    plan = Plan(
        rows=work.rows,
        kept=work.kept,
        failed=work.failed,
        tokens=estimate.span(rows),
        input_tokens=round(estimate.input_tokens * rows),
        output_tokens=round(estimate.output_tokens * rows),
        basis=estimate.basis,
        requests=sum(share.requests for share in shares),
        shares=shares or tuple(Share(one, 0, 0, None) for one in forecast.capacities),
        at=utc(outlook.now),
        finish_at=_time(end),
        latest_at=_time(late),
        cost_usd=_cost(shares),
        one_model=_one_model(outlook, shares),
    )
    paying = outlook.way("paid routes as well", with_paid)
    return replace(plan, with_paid=paying) if _is_better(paying, plan) else plan


def _with_deadline(plan: Plan, outlook: _Outlook, until: float) -> Plan:
    """The same plan with the rows that are finished by then, and what would help with the rest."""
    forecast = outlook.forecast()
    done = forecast.rows_until(min(until, outlook.now + HORIZON_SECONDS))
    plan = replace(plan, by=utc(until), rows_by=min(outlook.rows, done))
    if plan.in_time:
        return plan
    whole = replace(outlook.estimate, probe=replace(outlook.estimate.probe, reserve=0.0))
    ways = [
        *filter(None, [plan.with_paid]),
        outlook.way("as many rows per request as the limits suggest", outlook.forecast(pack=None)),
        outlook.way("no reserve for other cells", outlook.forecast(whole)),
        *_shorter(outlook, until),
        *_higher(outlook, forecast, until),
    ]
    return replace(plan, ways=tuple(way for way in ways if _is_better(way, plan)))


def _parts(
    data: Any,
    template: str | None,
    read: Mapping[str, str | None],
    check: Callable[[Rows], object],
) -> Iterable[Rows]:
    """The rows of a frame as one piece, or of a file in pieces; `check` gets the first piece."""
    if not is_file(data):
        if any(value is not None for value in read.values()):
            raise InvalidRequest("encoding=, sep= and sheet= are only for files")
        rows = Rows(data, template)
        check(rows)
        return [rows]
    source = SourceFile(data, **read, template=template)
    first = Rows(source.first_row, template)
    check(first)
    return (Rows(frame, template) for frame in source.frames(ROWS, first.columns))


def _speed(estimate: RowEstimate) -> Speed:
    served = [attempt.seconds for attempt in served_lately(estimate.llm)]
    seconds = max(0.001, statistics.median(served)) if served else SECONDS_GUESS
    # If requests take no time, rows take no time either.
    row = min(estimate.output_tokens / _TOKENS_PER_SECOND, seconds)
    return Speed(seconds, seconds_per_row=row)


def _one_model(outlook: _Outlook, parts: Sequence[Share]) -> Way | None:
    """The effect of `same_model`, if several models would answer."""
    if len({without_vendor(part.capacity.model) for part in parts if part.rows}) < 2:
        return None
    probe = replace(outlook.estimate.probe, same_model=True)
    forecast = outlook.forecast(replace(outlook.estimate, probe=probe))
    model = without_vendor(outlook.estimate.llm.routes(probe)[0].model)
    return outlook.way(f"{model} alone", forecast) if forecast.capacities else None


def _with_second(
    plan: Plan, outlook: _Outlook, rows: int, known: Sequence[str], others: OtherModels
) -> Plan:
    """The same plan with some rows asked again, after all others, on the first of other models.

    `known` are the models for rows whose first reply is kept.
    """
    estimate = outlook.estimate
    answering = [share.capacity.model for share in plan.shares if share.rows]
    if plan.to_ask and not answering:
        answering = [estimate.llm.routes(estimate.probe)[0].model]
    seconds = (others.choose(first)[0] for first in answering)
    models = list(dict.fromkeys([*known, *filter(None, seconds)]))
    if not rows or not models:
        return plan
    probe = replace(estimate.probe, model=models[0], provider=None, same_model=False)
    second = replace(estimate, probe=probe)
    forecast = outlook.forecast(second)
    end = plan.finish_at.timestamp() if plan.finish_at else math.inf
    names = {capacity.name for capacity in forecast.capacities}
    # The other model may also be the first one for some of the rows.
    taken = sum(share.rows for share in plan.shares if share.capacity.name in names)
    unlimited = [replace(one, standings=(), opens_at=0.0) for one in forecast.capacities]
    finish = math.inf
    if math.isfinite(end):
        at_full_speed = JobForecast(unlimited, outlook.speed, end)
        finish = max(forecast.finish_at(taken + rows), at_full_speed.finish_at(rows))
    parts = forecast.shares(rows, finish)
    shown = {share.capacity.name: share for share in plan.shares if share.rows}
    for part in parts:
        old = shown.get(part.capacity.name, replace(part, rows=0, requests=0))
        shown[part.capacity.name] = replace(
            part, rows=old.rows + part.rows, requests=old.requests + part.requests
        )
    low, high = second.span(rows)
    later = finish - end if math.isfinite(finish) else math.inf
    latest = plan.latest_at.timestamp() + later if plan.latest_at else math.inf
    cost = _cost(parts)
    return replace(
        plan,
        twice=rows,
        second=" or ".join(map(without_vendor, models)),
        tokens=(plan.tokens[0] + low, plan.tokens[1] + high),
        input_tokens=plan.input_tokens + round(second.input_tokens * rows),
        output_tokens=plan.output_tokens + round(second.output_tokens * rows),
        requests=plan.requests + sum(part.requests for part in parts),
        shares=tuple(shown.values()) or plan.shares,
        finish_at=_time(finish),
        latest_at=_time(latest),
        cost_usd=None if plan.cost_usd is None or cost is None else plan.cost_usd + cost,
    )


def _shorter(outlook: _Outlook, until: float) -> Iterator[Way]:
    """The longest replies with which the job meets the deadline, if shorter replies help."""

    def forecast(tokens: int) -> JobForecast:
        return outlook.forecast(replace(outlook.estimate, reply_tokens=float(tokens)))

    lengths = range(_SHORTEST_REPLY, math.floor(outlook.estimate.output_tokens))
    fitting = bisect_left(
        lengths, True, key=lambda tokens: forecast(tokens).finish_at(outlook.rows) > until
    )
    if fitting:
        tokens = lengths[fitting - 1]
        what = f"replies of {tokens} tokens, instead of {outlook.estimate.output_tokens:,.0f}"
        yield outlook.way(what, forecast(tokens))


def _higher(outlook: _Outlook, forecast: JobForecast, until: float) -> Iterator[Way]:
    """The lowest limits with which the job meets the deadline."""

    def raised(times: float) -> JobForecast:
        capacities = [
            replace(one, standings=[replace(r, amount=r.amount * times) for r in one.standings])
            for one in forecast.capacities
        ]
        return replace(forecast, capacities=capacities)

    tenths = range(11, 10 * _HIGHEST_LIMITS + 1)
    tenth = bisect_left(
        tenths, True, key=lambda tenth: raised(tenth / 10).finish_at(outlook.rows) <= until
    )
    if forecast.capacities and tenth < len(tenths):
        times = tenths[tenth] / 10
        yield outlook.way(f"limits {times:g} times as high", raised(times))


def _is_better(way: Way, plan: Plan) -> bool:
    """Whether the change makes the job finish clearly earlier."""
    if way.finish_at is None or plan.finish_at is None:
        return way.finish_at is not None
    seconds = (plan.finish_at - plan.at).total_seconds()
    return (plan.finish_at - way.finish_at).total_seconds() > _WORTH_SAYING * seconds


def _cost(parts: Sequence[Share]) -> float | None:
    costs = [part.cost for part in parts if part.rows]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _time(moment: float) -> datetime | None:
    return utc(moment) if math.isfinite(moment) else None
