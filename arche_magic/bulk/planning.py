"""A look ahead at a whole job: what it takes, which limits hold it back, when it would be done."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.parameters import build_request
from arche_magic.llm_providers.routing import bare
from arche_magic.llm_providers.types import Schema, utc

from .capacity import Capacity, Share, Speed, finish_at, rows_until, shares
from .chunks import ROWS
from .columns import columns_of
from .estimate import Load, look_through, served_lately
from .files import SourceFile, is_file
from .growth import MOST_THREADS, THREADS
from .job import rows_per_request
from .plans import Plan, Way, moment
from .rows import Rows
from .twice import asked_twice, check_other_model, other_model, share_of
from .workers import PACKING_THREADS

# Where nothing was asked lately; and what a model writes in a second, as the slower ones do.
_SECONDS_GUESS, _TOKENS_PER_SECOND = 1.5, 100.0
# A reply shorter than this says little.
_SHORTEST_REPLY = 16
_HIGHEST_LIMITS = 100.0
# What is sooner by less than this is no way out.
_WORTH_SAYING = 0.02
# Of the arguments of `map`, those that change nothing of a plan.
_NOT_PLANNED = (
    "patience", "max_cost", "max_tokens_total", "stop_after", "on_done", "progress", "client", "to",
    "details", "gold",
)  # fmt: skip


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
    twice: float | None = None,
    by: str | datetime | None = None,
    encoding: str | None = None,
    sep: str | None = None,
    sheet: str | None = None,
    on_rows: Callable[[int], object] | None = None,
    llm: IntelligentLLMOrchestrator | None = None,
    **options: Any,
) -> Plan:
    """What `map` with the same arguments would take, if it began now. Nothing is sent or held.

    Args:
        data: as for `map`.
        template: as for `map`.
        schema: as for `map`.
        pack: as for `map`.
        allow_paid: as for `map`.
        retry_errors: as for `map`.
        fresh: as for `map`.
        reserve: as for `map`.
        prefix: as for `map`.
        twice: as for `map`.
        encoding: as for `map`.
        sep: as for `map`.
        sheet: as for `map`.
        on_rows: called again and again with the number of rows that are read so far.
        llm: as for `map`.
        **options: as for `map`.
        by: also say whether it is done by then, and what would have to change: a datetime, `08:00`
            (the next one), or `2026-11-26 08:00`.

    Raises:
        InvalidRequest: data, template or an option is wrong.
        ConfigurationError: no key, unknown provider or model.
    """
    llm = llm or get_llm_provider()
    configuration = llm.configuration
    options = {name: value for name, value in options.items() if name not in _NOT_PLANNED}
    options |= {"schema": schema, "reserve": reserve, "patience": math.inf}
    sample = build_request("…", configuration, **options)
    options["schema"] = sample.schema
    size = rows_per_request(pack, sample)
    now = configuration.clock.time()
    until = None if by is None else moment(by, now)
    read = {"encoding": encoding, "sep": sep, "sheet": sheet}
    parts = _parts(data, template, sample.schema, prefix, read)
    work = look_through(parts, llm, sample, retry_errors, fresh, on_rows)
    load = Load.of(work, llm, options)
    rows = work.to_ask

    def capacities_for(load: Load = load, **changes: Any) -> list[Capacity]:
        return load.capacities(llm, rows, **{**asked, **changes})

    asked: dict[str, Any] = {"reserve": reserve, "pack": size, "paid": allow_paid}
    capacities, every = capacities_for(), capacities_for(paid=True)
    speed = _speed(llm, load)
    end = finish_at(capacities, speed, rows, now)
    # Longer replies are packed otherwise, which may even be faster.
    late = max(end, finish_at(capacities_for(load.heavy()), speed, rows, now))
    shared = shares(capacities, speed, rows, now, end) if math.isfinite(end) else ()
    with_paid = None
    if len(every) > len(capacities):
        with_paid = _way("paid routes as well", every, speed, rows, now)
    found = Plan(
        rows=work.rows,
        kept=work.kept,
        failed=work.failed,
        tokens=load.span(rows),
        input_tokens=round(load.input_tokens * rows),
        output_tokens=round(load.output_tokens * rows),
        basis=load.basis,
        requests=sum(share.requests for share in shared),
        shares=shared or tuple(Share(capacity, 0, 0, None) for capacity in capacities),
        at=utc(now),
        finish_at=_time(end),
        latest_at=_time(late),
        cost_usd=_cost(shared),
        with_paid=with_paid,
        one_model=_one_model(llm, load, capacities_for, shared, speed, rows, now),
    )
    if share := share_of(twice):
        other = partial(other_model, llm, sample, allow_paid)
        check_other_model(llm, sample, other)
        parts = _parts(data, template, sample.schema, prefix, read)
        again = asked_twice(parts, llm, sample, share, other, fresh=fresh)
        found = _with_second(found, load, capacities_for, speed, again, llm, other)
    if until is None:
        return found
    done = min(rows, rows_until(capacities, speed, now, until)) if until > now else 0
    found = replace(found, by=utc(until), rows_by=done)
    if found.in_time:
        return found
    ways = [] if with_paid is None else [with_paid]
    for what, changes in (
        ("rows packed as the limits ask for", {"pack": None}),
        ("nothing kept in reserve for other cells", {"reserve": 0.0}),
    ):
        ways.append(_way(what, capacities_for(**changes), speed, rows, now))
    ways += _shorter(load, capacities_for, speed, rows, now, until)
    ways += _higher(capacities, speed, rows, now, until)
    better = [way for way in ways if _is_better(way, found)]
    return replace(found, ways=tuple(better))


def _parts(
    data: Any,
    template: str | None,
    schema: Schema | None,
    prefix: str,
    read: Mapping[str, str | None],
) -> Iterable[Rows]:
    """The rows: all of a frame, or a file's as many at a time as are in memory."""
    if not is_file(data):
        if any(value is not None for value in read.values()):
            raise InvalidRequest("encoding=, sep= and sheet= go with the path of a file")
        rows = Rows(data, template)
        columns_of(rows.frame, schema, prefix)
        return [rows]
    source = SourceFile(data, **read)
    columns_of(source.first_row, schema, prefix)
    columns = Rows(source.first_row, template).columns
    return (Rows(frame, template) for frame in source.frames(ROWS, columns))


def _speed(llm: IntelligentLLMOrchestrator, load: Load) -> Speed:
    served = [attempt.seconds for attempt in served_lately(llm)]
    seconds = max(0.001, statistics.median(served)) if served else _SECONDS_GUESS
    # Where requests take no time, neither do rows.
    row = min(load.output_tokens / _TOKENS_PER_SECOND, seconds)
    return Speed(seconds, THREADS, PACKING_THREADS, MOST_THREADS, row)


def _one_model(
    llm: IntelligentLLMOrchestrator, load: Load, capacities_of: Callable[..., Sequence[Capacity]],
    parts: Sequence[Share], speed: Speed, rows: int, now: float,
) -> Way | None:  # fmt: skip
    """What `same_model` would change, where several models would answer."""
    models = {bare(part.capacity.model) for part in parts if part.rows}
    if len(models) < 2:
        return None
    alone = replace(load, probe=replace(load.probe, same_model=True))
    capacities = capacities_of(alone)
    model = bare(llm.routes(alone.probe)[0].model)
    return _way(f"{model} alone", capacities, speed, rows, now) if capacities else None


def _with_second(
    plan: Plan, load: Load, capacities_of: Callable[..., Sequence[Capacity]], speed: Speed,
    rows: int, llm: IntelligentLLMOrchestrator, other_than: Callable[[str], str | None],
) -> Plan:  # fmt: skip
    """The same with some rows asked again, after all others, on another model."""
    answering = [share.capacity.model for share in plan.shares if share.rows]
    first = llm.routes(load.probe)[0].model
    if answering and first not in answering:
        first = answering[0]
    model = other_than(first)
    if not rows or model is None:
        return plan
    other = replace(load, probe=replace(load.probe, model=model, provider=None, same_model=False))
    capacities = capacities_of(other)
    now = plan.at.timestamp()
    end = plan.finish_at.timestamp() if plan.finish_at else math.inf
    names = {capacity.name for capacity in capacities}
    # It may have answered some of the rows in the first place.
    taken = sum(share.rows for share in plan.shares if share.capacity.name in names)
    unlimited = [replace(capacity, standings=(), opens_at=0.0) for capacity in capacities]
    finish = max(
        finish_at(capacities, speed, taken + rows, now),
        finish_at(unlimited, speed, rows, end) if math.isfinite(end) else math.inf,
    )
    parts = shares(capacities, speed, rows, now, finish) if math.isfinite(finish) else ()
    shown = {share.capacity.name: share for share in plan.shares if share.rows}
    for part in parts:
        old = shown.get(part.capacity.name, replace(part, rows=0, requests=0))
        shown[part.capacity.name] = replace(
            part, rows=old.rows + part.rows, requests=old.requests + part.requests
        )
    low, high = other.span(rows)
    later = finish - end if math.isfinite(finish) else math.inf
    latest = plan.latest_at.timestamp() + later if plan.latest_at else math.inf
    cost = _cost(parts)
    return replace(
        plan,
        twice=rows,
        second=bare(model),
        tokens=(plan.tokens[0] + low, plan.tokens[1] + high),
        input_tokens=plan.input_tokens + round(other.input_tokens * rows),
        output_tokens=plan.output_tokens + round(other.output_tokens * rows),
        requests=plan.requests + sum(part.requests for part in parts),
        shares=tuple(shown.values()) or plan.shares,
        finish_at=_time(finish),
        latest_at=_time(latest),
        cost_usd=None if plan.cost_usd is None or cost is None else plan.cost_usd + cost,
    )


def _way(what: str, capacities: Sequence[Capacity], speed: Speed, rows: int, now: float) -> Way:
    end = finish_at(capacities, speed, rows, now)
    parts = shares(capacities, speed, rows, now, end) if math.isfinite(end) else ()
    return Way(what, _time(end), _cost(parts))


def _shorter(
    load: Load, capacities_of: Callable[..., Sequence[Capacity]], speed: Speed, rows: int,
    now: float, until: float,
) -> Iterator[Way]:  # fmt: skip
    """Replies as long as they may be for that, if shorter ones help."""

    def capacities(tokens: int) -> Sequence[Capacity]:
        return capacities_of(replace(load, output=float(tokens)))

    low, high = _SHORTEST_REPLY, math.floor(load.output_tokens)
    if high <= low or finish_at(capacities(low), speed, rows, now) > until:
        return
    while high - low > 1:
        middle = (low + high) // 2
        if finish_at(capacities(middle), speed, rows, now) <= until:
            low = middle
        else:
            high = middle
    what = f"replies of {low} tokens, instead of {load.output_tokens:,.0f}"
    yield _way(what, capacities(low), speed, rows, now)


def _higher(
    capacities: Sequence[Capacity], speed: Speed, rows: int, now: float, until: float
) -> Iterator[Way]:
    """Limits as high as they must be for that."""

    def raised(times: float) -> list[Capacity]:
        return [
            replace(
                capacity,
                standings=tuple(replace(r, amount=r.amount * times) for r in capacity.standings),
            )
            for capacity in capacities
        ]

    low, high = 1.0, _HIGHEST_LIMITS
    if not capacities or finish_at(raised(high), speed, rows, now) > until:
        return
    while high - low > 0.05:
        middle = (low + high) / 2
        if finish_at(raised(middle), speed, rows, now) <= until:
            high = middle
        else:
            low = middle
    times = math.ceil(high * 10) / 10
    yield _way(f"limits {times:g} times as high", raised(times), speed, rows, now)


def _is_better(way: Way, plan: Plan) -> bool:
    """Whether it is done notably sooner."""
    if way.finish_at is None or plan.finish_at is None:
        return way.finish_at is not None
    seconds = (plan.finish_at - plan.at).total_seconds()
    return (plan.finish_at - way.finish_at).total_seconds() > _WORTH_SAYING * seconds


def _cost(parts: Sequence[Share]) -> float | None:
    costs = [part.cost for part in parts if part.rows]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _time(moment: float) -> datetime | None:
    return utc(moment) if math.isfinite(moment) else None
