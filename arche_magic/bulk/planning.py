"""A look ahead at a whole job: what it takes, which limits hold it back, when it would be done."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.parameters import build_request
from arche_magic.llm_providers.prices import cost_usd
from arche_magic.llm_providers.replies import reply_store
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import (
    Request,
    Route,
    Standing,
    Usage,
    route_name,
    utc,
)

from .capacity import Lane, Share, Speed, finish_at, rows_until, shares, with_reserve
from .job import rows_per_request
from .lanes import MOST_THREADS, PACKING_THREADS, SLOW_SECONDS, SOON_SECONDS
from .packing import needs_packed, pack_size
from .plans import Plan, Way, moment
from .pool import MOST_PACKED, THREADS
from .reading import CHUNK
from .rows import Rows

# Where nothing was asked lately; and what a model writes in a second, as the slower ones do.
_SECONDS_GUESS, _TOKENS_PER_SECOND = 1.5, 100.0
_PACE_SECONDS = 3600.0
# How far the likely figure may be off, from below and from above: by the length of a text alone,
# and by a model's own record of earlier replies.
_INPUT_GUESS, _INPUT_RECORD = (0.8, 1.25), (0.95, 1.05)
_OUTPUT_GUESS, _OUTPUT_RECORD = (0.3, 2.0), (0.6, 1.6)
# So many replies say how long replies are.
_ENOUGH = 20
# A reply shorter than this says little.
_SHORTEST_REPLY = 16
_HIGHEST_LIMITS = 100.0
# What is sooner by less than this is no way out.
_WORTH_SAYING = 0.02
# Of the arguments of `map`, those that change nothing of a plan.
_NOT_PLANNED = ("patience", "max_cost", "max_tokens_total", "stop_after", "on_done", "client", "to")


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
    by: str | datetime | None = None,
    llm: IntelligentLLMOrchestrator | None = None,
    **options: Any,
) -> Plan:
    """What `map` with the same arguments would take, if it began now. Nothing is sent or held.

    Args:
        data: as for `map`, and so is all that follows.
        template: likewise.
        schema: likewise.
        pack: likewise.
        allow_paid: likewise.
        retry_errors: likewise.
        fresh: likewise.
        reserve: likewise.
        llm: likewise.
        **options: likewise.
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
    work = _look_through(Rows(data, template), llm, options, retry_errors, fresh)
    load = _Load.of(work, llm, options)
    rows = work.to_ask

    def lanes_for(load: _Load = load, **changes: Any) -> list[Lane]:
        return load.lanes(llm, rows, **{**asked, **changes})

    asked: dict[str, Any] = {"reserve": reserve, "pack": size, "paid": allow_paid}
    lanes, every = lanes_for(), lanes_for(paid=True)
    speed = _speed(llm, load)
    end = finish_at(lanes, speed, rows, now)
    # Longer replies are packed otherwise, which may even be faster.
    late = max(end, finish_at(lanes_for(load.heavy()), speed, rows, now))
    parts = shares(lanes, speed, rows, now, end) if math.isfinite(end) else ()
    with_paid = None
    if len(every) > len(lanes):
        with_paid = _way("paid routes as well", every, speed, rows, now)
    found = Plan(
        rows=work.rows,
        kept=work.kept,
        failed=work.failed,
        tokens=load.span(rows),
        input_tokens=round(load.input_tokens * rows),
        output_tokens=round(load.output_tokens * rows),
        basis=load.basis,
        requests=sum(share.requests for share in parts),
        shares=parts or tuple(Share(lane, 0, 0, None) for lane in lanes),
        at=utc(now),
        finish_at=_time(end),
        latest_at=_time(late),
        cost_usd=_cost(parts),
        with_paid=with_paid,
    )
    if until is None:
        return found
    done = min(rows, rows_until(lanes, speed, now, until)) if until > now else 0
    found = replace(found, by=utc(until), rows_by=done)
    if found.in_time:
        return found
    ways = [] if with_paid is None else [with_paid]
    for what, changes in (
        ("rows packed as the limits ask for", {"pack": None}),
        ("nothing kept in reserve for other cells", {"reserve": 0.0}),
    ):
        ways.append(_way(what, lanes_for(**changes), speed, rows, now))
    ways += _shorter(load, lanes_for, speed, rows, now, until)
    ways += _higher(lanes, speed, rows, now, until)
    better = [way for way in ways if _is_better(way, found)]
    return replace(found, ways=tuple(better))


@dataclass(frozen=True)
class _Work:
    """What is left to do; `outputs` are tokens of the replies that are kept."""

    rows: int
    kept: int
    failed: int
    to_ask: int
    prompt_tokens: float
    outputs: tuple[int, ...]


def _look_through(
    rows: Rows,
    llm: IntelligentLLMOrchestrator,
    options: Mapping[str, Any],
    retry: bool,
    fresh: bool,
) -> _Work:
    """Every row: whether it is kept, failed for good or is to be asked, and how long it is."""
    store = reply_store(llm.configuration.replies)
    kept = failed = to_ask = 0
    tokens = 0.0
    outputs: list[int] = []
    seen: set[str] = set()
    for start in range(0, len(rows), CHUNK):
        sizes: dict[str, list[float]] = {}
        for _, prompt in rows.prompts(start, min(start + CHUNK, len(rows))):
            try:
                if isinstance(prompt, str):
                    raise InvalidRequest(prompt)
                request = build_request(
                    prompt.text, llm.configuration, images=prompt.images or None, **options
                )
            except InvalidRequest:
                failed += 1
                continue
            sizes.setdefault(llm.address(request), []).append(request.messages[-1].tokens)
        found = {} if fresh else store.lookup_many(sizes)
        failures = {} if retry or fresh else store.failures([a for a in sizes if a not in found])
        outputs += [reply.usage.output_tokens for reply in found.values()]
        for address, each in sizes.items():
            if address in found:
                kept += len(each)
            elif address in failures:
                failed += len(each)
            else:
                # Rows that ask the same are asked once.
                new = address not in seen
                seen.add(address)
                to_ask += new
                kept += len(each) - new
                tokens += each[0] * new
    return _Work(len(rows), kept, failed, to_ask, tokens / max(1, to_ask), tuple(outputs))


@dataclass(frozen=True)
class _Load:
    """What one row takes, likely and at the edges; tokens.

    Attributes:
        probe: a request of the usual length.
        output: of a reply; None: as each model's record has it.
        input_span, output_span: factors from the likely to the least and to the most.
        basis: what this rests on, in words.
        input_tokens, output_tokens: of a row on the routes there are, in the mean.
        factor: by how much the likely figures are multiplied.
    """

    probe: Request
    output: float | None
    input_span: tuple[float, float]
    output_span: tuple[float, float]
    basis: str
    input_tokens: float
    output_tokens: float
    factor: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, work: _Work, llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]) -> _Load:
        """From the rows to ask, the replies that are kept, and the models' record."""
        # As long as the rows are in the mean, by the rule that lengths are turned to tokens by.
        text = "x" * max(1, round(4 * work.prompt_tokens))
        probe = build_request(text, llm.configuration, **options)
        routes = llm.routes(probe)
        names = {_names(route) for route in routes}
        # A model's record moves by a fifth with each reply, from a guess for all of them.
        served = [one for one in _served(llm) if (one.provider, one.key, one.model) in names]
        record = len(served) >= _ENOUGH
        output = None
        span, basis = _OUTPUT_GUESS, "by the length of the prompts"
        if len(work.outputs) >= _ENOUGH:
            output = statistics.fmean(work.outputs)
            error = 2 * statistics.pstdev(work.outputs) / math.sqrt(len(work.outputs))
            share = 0.02 + error / max(1.0, output)
            span, basis = (1 - min(share, 0.9), 1 + share), f"as in {len(work.outputs):,} replies"
        elif record:
            span, basis = _OUTPUT_RECORD, "by the replies of the last hour"
        load = cls(probe, output, _INPUT_RECORD if record else _INPUT_GUESS, span, basis, 0.0, 0.0)
        each = [load.usage(llm, route) for route in routes]
        return replace(
            load,
            input_tokens=statistics.fmean(usage.input_tokens for usage in each),
            output_tokens=statistics.fmean(usage.output_tokens for usage in each),
        )

    def usage(self, llm: IntelligentLLMOrchestrator, route: Route) -> Usage:
        """Tokens that one row likely takes on a route."""
        # A bound on replies is not how long they are.
        record = llm.quota_tracker.estimate(route, replace(self.probe, max_tokens=None))
        output = record.output_tokens if self.output is None else self.output
        output = min(output * self.factor[1], self.probe.max_tokens or math.inf)
        return Usage(round(record.input_tokens * self.factor[0]), max(1, round(output)))

    def heavy(self) -> _Load:
        """The same where each row takes as much as it may."""
        return replace(self, factor=(self.input_span[1], self.output_span[1]))

    def span(self, rows: int) -> tuple[int, int]:
        """Least and most tokens of so many rows."""
        low, high = (
            self.input_tokens * self.input_span[side]
            + min(self.output_tokens * self.output_span[side], self.probe.max_tokens or math.inf)
            for side in (0, 1)
        )
        return round(low * rows), round(high * rows)

    def lanes(
        self,
        llm: IntelligentLLMOrchestrator,
        rows: int,
        *,
        reserve: float,
        pack: int | None,
        paid: bool,
    ) -> list[Lane]:
        """Each account's model that may take part, with what one request takes there."""
        tracker, configuration = llm.quota_tracker, llm.configuration
        now = configuration.clock.time()
        standings: dict[tuple[str, str, str], list[Standing]] = {}
        for standing in tracker.standings(now=now):
            name = standing.provider, standing.key, standing.model
            standings.setdefault(name, []).append(standing)
        groups: dict[tuple[str, str, str], list[Route]] = {}
        for route in llm.routes(self.probe):
            if paid or not route.paid:
                account = tracker.account(route.key) or route.key.account
                groups.setdefault((route.provider, account, route.model), []).append(route)
        lanes = []
        for routes in groups.values():
            first, usage = routes[0], self.usage(llm, routes[0])
            limits = [row for route in routes for row in standings.get(_names(route), ())]
            states = [tracker.state(route, self.probe, now) for route in routes]
            lanes.append(
                Lane(
                    name=route_name(first.provider, first.key.label, first.model),
                    standings=with_reserve(limits, reserve),
                    need=_need(usage),
                    # What its limits say is in the standings.
                    opens_at=0.0 if limits else min(state.opens_at for state in states),
                    paid=first.paid,
                    cost=cost_usd(first, usage),
                )
            )
        if pack == 1 or (pack is None and _is_soon_done(lanes, rows, now)):
            return lanes
        packed = []
        for lane, routes in zip(lanes, groups.values(), strict=True):
            first, usage = routes[0], self.usage(llm, routes[0])
            windows = configuration.providers[first.provider].context_windows
            size = pack_size(
                [row for route in routes for row in standings.get(_names(route), ())],
                usage,
                windows.get(first.model, math.inf),
                pack or MOST_PACKED,
                always=pack is not None,
            )
            if size > 1:
                whole = needs_packed(usage, size)
                cost = cost_usd(first, whole)
                lane = replace(lane, need=_need(whole), pack=size, cost=cost)
            packed.append(lane)
        return packed


def _need(usage: Usage) -> dict[str, float]:
    """Units of one request, per metric."""
    return {
        "requests": 1.0,
        "tokens": float(usage.total_tokens),
        "input_tokens": float(usage.input_tokens),
        "output_tokens": float(usage.output_tokens),
    }


def _is_soon_done(lanes: Sequence[Lane], rows: int, now: float) -> bool:
    """Whether a job packs nothing, as it needs no more than a minute."""
    return sum(lane.requests_until(now, now + SOON_SECONDS) for lane in lanes) >= rows


def _names(route: Route) -> tuple[str, str, str]:
    return route.provider, route.key.label, route.model


def _served(llm: IntelligentLLMOrchestrator) -> list[Attempt]:
    """The attempts of the last hour that were answered."""
    since = llm.configuration.clock.time() - _PACE_SECONDS
    lately = attempt_log(llm.configuration.store).since(since)
    return [attempt for attempt in lately if attempt.outcome == "served"]


def _speed(llm: IntelligentLLMOrchestrator, load: _Load) -> Speed:
    served = [attempt.seconds for attempt in _served(llm)]
    seconds = max(0.001, statistics.median(served)) if served else _SECONDS_GUESS
    # Where requests take no time, neither do rows.
    row = min(load.output_tokens / _TOKENS_PER_SECOND, seconds)
    # Where replies take long, a job has more threads with each of them.
    most = MOST_THREADS if seconds >= SLOW_SECONDS else 0
    return Speed(seconds, THREADS, PACKING_THREADS, most, row)


def _way(what: str, lanes: Sequence[Lane], speed: Speed, rows: int, now: float) -> Way:
    end = finish_at(lanes, speed, rows, now)
    parts = shares(lanes, speed, rows, now, end) if math.isfinite(end) else ()
    return Way(what, _time(end), _cost(parts))


def _shorter(
    load: _Load, lanes_of: Callable[..., Sequence[Lane]], speed: Speed, rows: int, now: float,
    until: float,
) -> Iterator[Way]:  # fmt: skip
    """Replies as long as they may be for that, if shorter ones help."""

    def lanes(tokens: int) -> Sequence[Lane]:
        return lanes_of(replace(load, output=float(tokens)))

    low, high = _SHORTEST_REPLY, math.floor(load.output_tokens)
    if high <= low or finish_at(lanes(low), speed, rows, now) > until:
        return
    while high - low > 1:
        middle = (low + high) // 2
        if finish_at(lanes(middle), speed, rows, now) <= until:
            low = middle
        else:
            high = middle
    yield _way(f"replies of {low} tokens, instead of {load.output_tokens:,.0f}", lanes(low), speed,
               rows, now)  # fmt: skip


def _higher(
    lanes: Sequence[Lane], speed: Speed, rows: int, now: float, until: float
) -> Iterator[Way]:
    """Limits as high as they must be for that."""

    def raised(times: float) -> list[Lane]:
        return [
            replace(
                lane,
                standings=tuple(replace(r, amount=r.amount * times) for r in lane.standings),
            )
            for lane in lanes
        ]

    low, high = 1.0, _HIGHEST_LIMITS
    if not lanes or finish_at(raised(high), speed, rows, now) > until:
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
