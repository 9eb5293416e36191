"""What the rows of a job take: how many are left to ask, and the tokens of one, as far as known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.parameters import build_request
from arche_magic.llm_providers.prices import cost_usd
from arche_magic.llm_providers.quota.forecast import PACE_SECONDS, prompt_units
from arche_magic.llm_providers.replies import reply_store
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Request, Route, Standing, Usage, route_name

from .agreement import Model
from .capacity import Capacity, with_reserve
from .packing import needs_packed, pack_size
from .rows import CHUNK, Rows
from .scheduler import MOST_PACKED
from .workers import KNOWN_AFTER, SOON_SECONDS

# How far the likely figure may be off, from below and from above: by the length of a text alone,
# and by a model's own record of earlier replies.
_INPUT_GUESS, _INPUT_RECORD = (0.8, 1.25), (0.95, 1.05)
_OUTPUT_GUESS, _OUTPUT_RECORD = (0.3, 2.0), (0.6, 1.6)
# So many replies say how long replies are.
_ENOUGH = 20


@dataclass(frozen=True)
class Work:
    """What is left to do; `outputs` are tokens of the replies that are kept."""

    rows: int
    kept: int
    failed: int
    to_ask: int
    prompt_tokens: float
    outputs: tuple[int, ...]


def look_through(
    parts: Iterable[Rows],
    llm: IntelligentLLMOrchestrator,
    sample: Request,
    retry: bool,
    fresh: bool,
    on_rows: Callable[[int], object] | None = None,
) -> Work:
    """Every row: whether it is kept, failed for good or is to be asked, and how long it is.

    `on_rows` is called with the number of rows that are read, again and again.
    """
    store = reply_store(llm.configuration.replies)
    address_of = llm.addresses_like(sample)
    total = kept = failed = to_ask = 0
    tokens = 0.0
    outputs: list[int] = []
    seen: set[str] = set()
    stretches = ((rows, start) for rows in parts for start in range(0, len(rows), CHUNK))
    for rows, start in stretches:
        sizes: dict[str, list[float]] = {}
        stop = min(start + CHUNK, len(rows))
        total += stop - start
        for _, _, request in rows.requests(start, stop, llm.configuration, sample):
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
                # Rows that ask the same are asked once.
                new = address not in seen
                seen.add(address)
                to_ask += new
                kept += len(each) - new
                tokens += each[0] * new
        if on_rows:
            on_rows(total)
    return Work(total, kept, failed, to_ask, tokens / max(1, to_ask), tuple(outputs))


@dataclass(frozen=True)
class Load:
    """What one row takes, likely and at the edges; tokens.

    Attributes:
        probe: a request of the usual length.
        output: of a reply; None: as each model's record has it.
        input_span, output_span: factors from the likely to the least and to the most.
        basis: what this rests on, in words.
        input_tokens, output_tokens: of a row on the routes there are, in the mean.
        factor: by how much the likely figures are multiplied.
        input: of a prompt; None: by the length of the probe.
    """

    probe: Request
    output: float | None
    input_span: tuple[float, float]
    output_span: tuple[float, float]
    basis: str
    input_tokens: float
    output_tokens: float
    factor: tuple[float, float] = (1.0, 1.0)
    input: float | None = None

    @classmethod
    def measured(cls, probe: Request, input_tokens: float | None, output_tokens: float) -> Load:
        """What one row of a job under way takes, by those that were answered."""
        exact = (1.0, 1.0)
        return cls(probe, output_tokens, exact, exact, "", 0.0, 0.0, input=input_tokens)

    @classmethod
    def of(cls, work: Work, llm: IntelligentLLMOrchestrator, options: Mapping[str, Any]) -> Load:
        """From the rows to ask, the replies that are kept, and the models' record."""
        # As long as the rows are in the mean, by the rule that lengths are turned to tokens by.
        text = "x" * max(1, round(4 * work.prompt_tokens))
        probe = build_request(text, llm.configuration, **options)
        routes = llm.routes(probe)
        names = {names_of(route) for route in routes}
        # A model's record moves by a fifth with each reply, from a guess for all of them.
        served = [one for one in served_lately(llm) if (one.provider, one.key, one.model) in names]
        record = len(served) >= _ENOUGH
        output = None
        span, basis = _OUTPUT_GUESS, "by the length of the prompts"
        if probe.schema and probe.schema.fields:
            basis = "by the length of the prompts and by the schema"
        if len(work.outputs) >= KNOWN_AFTER:
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
        output = self.output
        if output is None:
            guess, schema = record.output_tokens, self.probe.schema
            output = schema.reply_tokens(guess) if schema else guess
        output = min(output * self.factor[1], self.probe.max_tokens or math.inf)
        prompt = record.input_tokens if self.input is None else self.input
        return Usage(round(prompt * self.factor[0]), max(1, round(output)))

    def heavy(self) -> Load:
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

    def capacities(
        self,
        llm: IntelligentLLMOrchestrator,
        rows: int,
        *,
        reserve: float,
        pack: int | None,
        paid: bool,
        sizes: Mapping[Model, int] | None = None,
    ) -> list[Capacity]:
        """Each account's model that may take part, with what one request takes there.

        `sizes` says how many rows travel in one request to each model (one if it is not there);
        then `pack` does not count.
        """
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
        capacities = []
        for routes in groups.values():
            first, usage = routes[0], self.usage(llm, routes[0])
            limits = [row for route in routes for row in standings.get(names_of(route), ())]
            states = [tracker.state(route, self.probe, now) for route in routes]
            capacities.append(
                Capacity(
                    name=route_name(first.provider, first.key.label, first.model),
                    standings=with_reserve(limits, reserve),
                    need=prompt_units(usage),
                    # What its limits say is in the standings.
                    opens_at=0.0 if limits else min(state.opens_at for state in states),
                    paid=first.paid,
                    cost=cost_usd(first, usage),
                    model=first.model,
                )
            )
        if sizes is None and (pack == 1 or (pack is None and _is_soon_done(capacities, rows, now))):
            return capacities
        packed = []
        for capacity, routes in zip(capacities, groups.values(), strict=True):
            first, usage = routes[0], self.usage(llm, routes[0])
            windows = configuration.providers[first.provider].context_windows
            model = first.provider, first.model
            size = (
                sizes.get(model, 1)
                if sizes is not None
                else pack_size(
                    [row for route in routes for row in standings.get(names_of(route), ())],
                    usage,
                    windows.get(first.model, math.inf),
                    pack or MOST_PACKED,
                    always=pack is not None,
                )
            )
            if size > 1:
                whole = needs_packed(usage, size)
                cost = cost_usd(first, whole)
                packed.append(replace(capacity, need=prompt_units(whole), pack=size, cost=cost))
            else:
                packed.append(capacity)
        return packed


def _is_soon_done(capacities: Sequence[Capacity], rows: int, now: float) -> bool:
    """Whether a job packs nothing, as it needs no more than a minute."""
    return sum(capacity.requests_until(now, now + SOON_SECONDS) for capacity in capacities) >= rows


def names_of(route: Route) -> tuple[str, str, str]:
    """Provider, label of the key, and model, as a standing and an attempt have them."""
    return route.provider, route.key.label, route.model


def served_lately(llm: IntelligentLLMOrchestrator) -> list[Attempt]:
    """The attempts of the last hour that were answered."""
    since = llm.configuration.clock.time() - PACE_SECONDS
    lately = attempt_log(llm.configuration.store).since(since)
    return [attempt for attempt in lately if attempt.outcome == "served"]
