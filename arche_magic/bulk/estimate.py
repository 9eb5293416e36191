"""Estimates of a job: how many rows are left, the tokens of a row, and the rows per request.

Both the plan and the run of a job use `RowEstimate.pack_sizes` to decide about packing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import build_request, python_number, shown
from arche_magic.llm_providers.prices import cost_usd
from arche_magic.llm_providers.quota.forecast import PACE_SECONDS, prompt_units
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import PERIOD_SECONDS, Route, RouteId, Standing, Usage

from .capacity import Capacity, JobForecast, Speed
from .packing import Model, needs_packed
from .rows import MOST_PACKED, Rows
from .whole_job import in_order

# Maximum tokens of a packed reply. In longer ones, models make mistakes, and services cut them.
_LONGEST_REPLY = 8000
# The highest share of a token limit, or of the model's window, for one request.
_SHARE = 0.5
# A job that takes less than this time needs no packing.
SOON_SECONDS = 60.0
# The number of replies after which their mean length is used.
KNOWN_AFTER = 5
# Factors from the likely figure to the lowest and highest one, if it is estimated from the length
# of a text, and from a model's earlier replies.
_INPUT_GUESS, _INPUT_RECORD = (0.8, 1.25), (0.95, 1.05)
_OUTPUT_GUESS, _OUTPUT_RECORD = (0.3, 2.0), (0.6, 1.6)
# The number of replies of the last hour that are enough for an estimate.
_ENOUGH = 20


@dataclass(frozen=True)
class Work:
    """The rows that are left to ask.

    Attributes:
        kept: rows with a kept reply, and rows equal to another row.
        failed: rows that failed permanently, or that have no prompt.
        to_ask: the prompts that are left to ask.
        prompt_tokens: their mean length.
        outputs: the tokens of each kept reply.
    """

    rows: int
    kept: int
    failed: int
    to_ask: int
    prompt_tokens: float
    outputs: tuple[int, ...]


def count_work(
    parts: Iterable[Rows],
    llm: IntelligentLLMOrchestrator,
    sample: Request,
    retry: bool,
    fresh: bool,
    on_rows: Callable[[int], object] | None,
) -> Work:
    """Classify every row (kept, failed permanently, to be asked) and measure its length.

    `on_rows` is called repeatedly with the number of rows read so far.
    """
    store = reply_store(llm.configuration.replies)
    address_of = llm.addresses_like(sample)
    total = kept = failed = to_ask = 0
    tokens = 0.0
    outputs: list[int] = []
    seen: set[str] = set()
    for rows, start in ((part, start) for part in parts for start in part.chunks()):
        sizes: dict[str, list[float]] = {}
        for *_, request in rows.requests(start, llm.configuration, sample):
            total += 1
            if isinstance(request, str):
                failed += 1
                continue
            sizes.setdefault(address_of(request), []).append(request.messages[-1].tokens)
        found = {} if fresh else store.lookup_many(sizes)
        failures = {} if retry or fresh else store.failures([a for a in sizes if a not in found])
        outputs += [reply.usage.output_tokens for reply in found.values()]
        for address, each in sizes.items():
            if address in found:
                kept += len(each)
            elif address in failures:
                failed += len(each)
            else:
                # Equal rows are asked once.
                new = address not in seen
                seen.add(address)
                to_ask += new
                kept += len(each) - new
                tokens += each[0] * new
        if on_rows:
            on_rows(total)
    return Work(total, kept, failed, to_ask, tokens / max(1, to_ask), tuple(outputs))


def rows_per_request(pack: int | str, sample: Request) -> int | None:
    """Maximum rows in one request, up to `MOST_PACKED`; None if the limits decide.

    Raises:
        InvalidRequest: `pack` is neither 'auto' nor a whole number from 1 on.
    """
    if isinstance(pack, str) and pack == "auto":
        # A stop text would cut the list, and extra fields may only make sense for a single reply.
        return 1 if sample.stop or sample.extra else None
    most = python_number(pack)
    if not isinstance(most, int) or most < 1:
        raise InvalidRequest(
            f"pack is {shown(pack)}; it must be 'auto', or a number of rows from 1 on"
        )
    if most > 1 and sample.stop:
        raise InvalidRequest("stop cannot be combined with packing; leave it out, or use pack=1")
    return min(most, MOST_PACKED)


def pack_size(
    standings: Iterable[Standing], row: Usage, window: float, most: int, *, always: bool = False
) -> int:
    """The number of rows in one request to a model: as many as its token limits allow.

    Args:
        standings: the limits of its routes.
        row: tokens of one row.
        window: maximum tokens of a request and its reply; inf if unknown.
        most: the maximum.
        always: pack as many as fit, even if requests are not scarce.
    """
    one = needs_packed(row, 1)
    needs = {"input_tokens": one.input_tokens, "output_tokens": one.output_tokens}
    needs["tokens"] = one.total_tokens
    requests, by_tokens = math.inf, math.inf
    room = min(most, _SHARE * window / needs["tokens"], _LONGEST_REPLY / needs["output_tokens"])
    for limit in standings:
        rate = limit.amount / PERIOD_SECONDS[limit.period]
        if limit.metric == "requests":
            requests = min(requests, rate)
        else:
            by_tokens = min(by_tokens, rate / needs[limit.metric])
            room = min(room, _SHARE * limit.amount / needs[limit.metric])
    if always:
        return max(1, math.floor(room))
    if not 0 < requests < math.inf:
        return 1
    return max(1, math.floor(min(room, by_tokens / requests)))


@dataclass(frozen=True)
class RowEstimate:
    """The tokens of one row: likely, at least and at most.

    Attributes:
        llm: has the routes of the job.
        probe: a request of the usual length.
        reply_tokens: tokens of a reply; None uses each model's earlier replies.
        prompt_tokens: tokens of a prompt; None uses the length of the probe.
        factor: multiplies the likely figures.
        input_span, output_span: factors from the likely to the lowest and highest figure.
        basis: what the estimate is based on, in words.
        input_tokens, output_tokens: the mean per row over all routes; for a plan.
    """

    llm: IntelligentLLMOrchestrator
    probe: Request
    reply_tokens: float | None = None
    prompt_tokens: float | None = None
    factor: tuple[float, float] = (1.0, 1.0)
    input_span: tuple[float, float] = (1.0, 1.0)
    output_span: tuple[float, float] = (1.0, 1.0)
    basis: str = ""
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    @classmethod
    def of(
        cls, work: Work, llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]
    ) -> RowEstimate:
        """Estimate from the rows to ask, the kept replies, and the models' earlier replies."""
        # A text of the mean length: four characters count as a token.
        text = "x" * max(1, round(4 * work.prompt_tokens))
        probe = build_request(text, llm.configuration, **options)
        routes = llm.routes(probe)
        names = {route.id for route in routes}
        # The mean of a model's replies starts as a guess and moves by a fifth with each reply.
        served = [one for one in served_lately(llm) if one.route in names]
        record = len(served) >= _ENOUGH
        output = None
        span, basis = _OUTPUT_GUESS, "estimated from the length of the prompts"
        if probe.schema and probe.schema.fields:
            basis = "estimated from the length of the prompts and the schema"
        if len(work.outputs) >= KNOWN_AFTER:
            output = statistics.fmean(work.outputs)
            error = 2 * statistics.pstdev(work.outputs) / math.sqrt(len(work.outputs))
            share = 0.02 + error / max(1.0, output)
            span = 1 - min(share, 0.9), 1 + share
            basis = f"based on {len(work.outputs):,} replies"
        elif record:
            span, basis = _OUTPUT_RECORD, "estimated from the replies of the last hour"
        estimate = cls(
            llm,
            probe,
            output,
            input_span=_INPUT_RECORD if record else _INPUT_GUESS,
            output_span=span,
            basis=basis,
        )
        each = [estimate.usage(route) for route in routes]
        return replace(
            estimate,
            input_tokens=statistics.fmean(usage.input_tokens for usage in each),
            output_tokens=statistics.fmean(usage.output_tokens for usage in each),
        )

    def usage(self, route: Route) -> Usage:
        """The likely tokens of one row on a route."""
        # Do not use the maximum length of replies as their usual length.
        record = self.llm.quota_tracker.estimate(route, replace(self.probe, max_tokens=None))
        output = self.reply_tokens
        if output is None:
            guess, schema = record.output_tokens, self.probe.schema
            output = schema.reply_tokens(guess) if schema else guess
        output = min(output * self.factor[1], self.probe.max_tokens or math.inf)
        prompt = record.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        return Usage(round(prompt * self.factor[0]), max(1, round(output)))

    def heavy(self) -> RowEstimate:
        """The same estimate with the highest figures."""
        return replace(self, factor=(self.input_span[1], self.output_span[1]))

    def span(self, rows: int) -> tuple[int, int]:
        """The lowest and highest number of tokens of this number of rows."""
        low, high = (
            self.input_tokens * self.input_span[side]
            + min(self.output_tokens * self.output_span[side], self.probe.max_tokens or math.inf)
            for side in (0, 1)
        )
        return round(low * rows), round(high * rows)

    def pack_sizes(
        self,
        rows: int,
        *,
        pack: int | None,
        paid: bool = True,
        is_packing: bool = False,
        is_trusted: Callable[[Model], bool] = lambda model: True,
    ) -> dict[Model, int]:
        """The number of rows in one request to each model, by its current limits.

        `rows` are left to ask. `pack` is the user's choice; None lets the limits decide. With
        `paid`, the models include those that cost money. A job that already packs (`is_packing`)
        continues to pack, because it has few threads. `is_trusted` says whose packed replies are
        trusted.
        """
        configuration = self.llm.configuration
        routes = self._routes(paid)
        alone = {(route.provider, route.model): 1 for route in routes}
        if pack == 1:
            return alone
        if pack is None and not is_packing:
            capacities = self._capacities(alone, paid)
            now = configuration.clock.time()
            soon = sum(one.requests_until(now, now + SOON_SECONDS) for one in capacities)
            if soon >= rows:
                return alone
        sizes, standings = {}, self._standings
        for provider, model in alone:
            own = [route for route in routes if (route.provider, route.model) == (provider, model)]
            sizes[provider, model] = 1
            if is_trusted((provider, model)):
                windows = configuration.providers[provider].context_windows
                sizes[provider, model] = pack_size(
                    [row for route in own for row in standings.get(route.id, ())],
                    self.usage(own[0]),
                    windows.get(model, math.inf),
                    pack or MOST_PACKED,
                    always=pack is not None,
                )
        return sizes

    def forecast(
        self,
        sizes: Mapping[Model, int],
        speed: Speed,
        now: float,
        patience: float,
        *,
        paid: bool = True,
    ) -> JobForecast:
        """The forecast of a job that waits `patience` seconds for free routes before it pays.

        `sizes` are the rows in one request to each model, by default one; for `paid` see
        `pack_sizes`.
        """
        forecast = JobForecast(self._capacities(sizes, paid), speed, now)
        return forecast.paying_after(patience, self.llm.preferred_provider)

    def _capacities(self, sizes: Mapping[Model, int], paid: bool) -> list[Capacity]:
        """The capacity of each model of each account, in the order in which they are asked."""
        tracker, now = self.llm.quota_tracker, self.llm.configuration.clock.time()
        standings = self._standings
        accounts: dict[tuple[str, str, str], list[Route]] = {}
        for route in self._routes(paid):
            account = tracker.account(route.key) or route.key.account
            accounts.setdefault((route.provider, account, route.model), []).append(route)
        capacities = []
        for own in accounts.values():
            first, usage = own[0], self.usage(own[0])
            limits = [row for route in own for row in standings.get(route.id, ())]
            opens_at = 0.0
            if not limits:
                # If there are limits, they say when it opens.
                opens_at = min(tracker.state(route, self.probe, now).opens_at for route in own)
            size = sizes.get((first.provider, first.model), 1)
            usage = needs_packed(usage, size) if size > 1 else usage
            capacities.append(
                Capacity(
                    name=str(first),
                    standings=limits,
                    need=prompt_units(usage),
                    pack=size,
                    reserve=self.probe.reserve,
                    opens_at=opens_at,
                    paid=first.paid,
                    cost=cost_usd(first, usage),
                    provider=first.provider,
                    model=first.model,
                )
            )
        return capacities

    def _routes(self, paid: bool) -> list[Route]:
        """The routes of the job, in the order in which they are asked."""
        routes = in_order(self.llm.routes(self.probe), self.llm.preferred_provider)
        return [route for route in routes if paid or not route.paid]

    @cached_property
    def _standings(self) -> dict[RouteId, list[Standing]]:
        """The current limits of each route in the ledger."""
        found: dict[RouteId, list[Standing]] = {}
        for row in self.llm.quota_tracker.standings(now=self.llm.configuration.clock.time()):
            found.setdefault(row.route, []).append(row)
        return found


def served_lately(llm: IntelligentLLMOrchestrator) -> list[Attempt]:
    """The attempts of the last hour that were answered."""
    since = llm.configuration.clock.time() - PACE_SECONDS
    lately = attempt_log(llm.configuration.store).since(since)
    return [attempt for attempt in lately if attempt.outcome == "served"]
