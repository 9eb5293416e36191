"""Asks some of a job's rows again with another model, to see how labels depend on the model.

The second question is an ordinary job over some of the rows, with another model. It shares the
bounds and the patience of the first, and its replies are kept in the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import get_choices
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.options import python_number, shown
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import without_vendor

from .progress import Progress
from .rows import CHUNK, Row, Rows
from .whole_job import costs_extra, in_order

if TYPE_CHECKING:
    from .job import Job


def draw_number(position: int, prompt: str) -> int:
    """A random number for a row; the rows with the lowest numbers are drawn.

    It is a hash, so a run that continues another one draws the same rows, and a larger share
    includes the rows of a smaller one.
    """
    text = f"{position} {prompt}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def number_drawn(share: float, rows: int) -> int:
    """The number of rows that are drawn: the share rounded up, so at least one."""
    # 0.07 * 100 is 7.000000000000001, which is not 8 rows.
    return math.ceil(round(share * rows, 6))


class SecondQuestions:
    """Asks a share (0 to 1) of a job's `rows` again, each on a model that did not answer it first.

    `choose(model, positions)` returns the model for rows that `model` has answered, and
    `ask(positions, model)` makes the job that asks it these rows. `jobs` contains the jobs that
    were made, one per model.
    """

    def __init__(
        self,
        share: float,
        rows: int,
        choose: Callable[[str, list[int]], str | None],
        ask: Callable[[list[int], str], Job],
    ) -> None:
        self._choose, self._ask = choose, ask
        self._wanted = number_drawn(share, rows)
        # By position. Rows that can no longer be drawn are removed from time to time.
        self._rows: dict[int, Row] = {}
        self.jobs: list[Job] = []
        self._answered = 0
        self._cancelled = False

    def note(self, row: Row) -> None:
        """Add a finished row, which may be drawn."""
        if row.reply is None:
            return
        # The attempts and decisions of a reply need much memory.
        slim = row.reply.changed(attempts=(), decisions=())
        self._rows[row.position] = replace(row, reply=slim)
        if len(self._rows) >= 2 * self._wanted + CHUNK:
            self._rows = self._drawn()

    def _drawn(self) -> dict[int, Row]:
        """The drawn rows by position, in their order."""
        rows = nsmallest(
            self._wanted,
            self._rows.values(),
            key=lambda row: draw_number(row.position, row.prompt),
        )
        return {row.position: row for row in sorted(rows, key=lambda row: row.position)}

    def rows(self) -> Iterator[Row]:
        """The drawn rows again, each with its `second` reply if there is one.

        It raises what a `Job` raises.
        """
        drawn = self._drawn()
        by_first: defaultdict[str, list[int]] = defaultdict(list)
        for position, row in drawn.items():
            if row.reply is not None:
                by_first[row.reply.model].append(position)
        by_model: defaultdict[str, list[int]] = defaultdict(list)
        for first, positions in by_first.items():
            if model := self._choose(first, positions):
                by_model[model] += positions
        for model, positions in by_model.items():
            if self._cancelled:
                return
            job = self._ask(positions, model)
            self.jobs.append(job)
            if self._cancelled:
                # Another thread cancelled before the job was in the list.
                job.cancel()
            for row in job.rows_unrecorded():
                if row.reply is not None:
                    self._answered += 1
                    yield replace(drawn[positions[row.position]], second=row.reply)

    def cancel(self) -> None:
        """Make the jobs end soon, as `Job.cancel` does."""
        self._cancelled = True
        for job in self.jobs:
            job.cancel()

    def added_to(self, first: Progress) -> Progress:
        """The progress of the whole job; `first` is the progress of the first questions."""
        whole = replace(first, twice=self._answered, to_ask_twice=self._wanted)
        for part in [job.progress() for job in self.jobs]:
            ends = [end for end in (first.finish_at, part.finish_at) if end is not None]
            whole = replace(
                whole.spending_also(part),
                waiting=part.waiting,
                finish_at=max(ends, default=None),
                rows_per_second=part.rows_per_second,
            )
        return whole


def share_of(twice: Any) -> float:
    """The share of rows that are asked twice, 0 for None; InvalidRequest unless it is 0 to 1."""
    if twice is None:
        return 0.0
    share = python_number(twice)
    if share is None or not 0 <= share <= 1:
        raise InvalidRequest(
            f"twice is {shown(twice)}; it must be a share of the rows, such as 0.05"
        )
    return float(share)


class OtherModels:
    """Chooses the model that answers rows again; if `paid`, it may be one that costs money.

    Raises:
        InvalidRequest: only one model can answer.
    """

    def __init__(self, llm: IntelligentLLMOrchestrator, sample: Request, paid: bool) -> None:
        self._llm, self._paid = llm, paid
        # The model must be of the job's provider, if one was named; it need not be the job's model.
        self._request = replace(sample, model=None, same_model=False)
        try:
            first = llm.routes(sample)[0]
        except ConfigurationError:
            # Rows whose replies are all kept need no key.
            return
        if not self._ranks(first.model):
            raise InvalidRequest(
                f"twice needs a second model, but only {first.model} can answer here; add a key "
                "for another provider, or omit twice= (--twice)"
            )

    def choose(self, first: str, requests: Sequence[Request] = ()) -> tuple[str | None, int]:
        """The model for requests that the model `first` has answered.

        Returns it as `provider/model`, with the number of its replies that are kept. A model whose
        replies are all kept comes first, then free models, then open ones. Among these, the one
        with the most kept replies comes first.
        """
        ranks = self._ranks(first)
        kept = dict.fromkeys(ranks, 0)
        for model in ranks if requests else ():
            like = replace(requests[0], model=model, provider=None, same_model=False)
            addresses = [*map(self._llm.addresses_like(like), requests)]
            found = reply_store(self._llm.configuration.replies).lookup_many(addresses)
            kept[model] = sum(address in found for address in addresses)

        def rank(model: str) -> tuple[bool, tuple[bool, bool], int]:
            return kept[model] < len(requests), ranks[model], -kept[model]

        chosen = min(ranks, key=rank, default=None)
        return chosen, kept[chosen] if chosen else 0

    def _ranks(self, first: str) -> dict[str, tuple[bool, bool]]:
        """The models other than `first`: whether each costs money, and is not open now."""
        llm, request, preferred = self._llm, self._request, self._llm.preferred_provider
        try:
            routes = llm.routes(request)
        except ConfigurationError:
            return {}
        now = llm.configuration.clock.time()
        # The user may have switched off keys or models since the job began.
        current = replace(llm.configuration, off=llm.configuration.off | get_choices().off)
        ranks = dict[str, tuple[bool, bool]]()
        for route in in_order(routes, preferred):
            if not current.is_on(route.key, route.model) or (route.paid and not self._paid):
                continue
            if without_vendor(route.model) == without_vendor(first):
                continue
            opens_at = llm.quota_tracker.state(route, request, now).opens_at
            # Waiting does not open a retired model or a rejected key.
            if opens_at < math.inf:
                rank = costs_extra(route, preferred), opens_at > now
                name = f"{route.provider}/{route.model}"
                ranks[name] = min(rank, ranks.get(name, rank))
        return ranks


def asked_twice(
    parts: Iterable[Rows],
    llm: IntelligentLLMOrchestrator,
    asked: Request,
    share: float,
    others: OtherModels,
    *,
    fresh: bool,
) -> tuple[int, list[str]]:
    """The number of rows that a job would ask again: drawn rows without a kept second reply.

    Also returns the models that would answer those rows whose first reply is kept.
    """
    store = reply_store(llm.configuration.replies)
    count, models = 0, dict[str, None]()
    for rows in parts:
        requests = (
            (draw_number(position, prompt), position, request)
            for start in rows.chunks()
            for position, _, prompt, request in rows.requests(start, llm.configuration, asked)
            if not isinstance(request, str)
        )
        drawn = [
            (llm.address(request), request)
            for _, _, request in nsmallest(number_drawn(share, len(rows)), requests)
        ]
        count += len(drawn)
        if fresh:
            continue
        replies = store.lookup_many([address for address, _ in drawn])
        by_first: defaultdict[str, list[Request]] = defaultdict(list)
        for address, request in drawn:
            if address in replies:
                by_first[replies[address].model].append(request)
        for first, again in by_first.items():
            model, kept = others.choose(first, again)
            count -= kept
            if model and kept < len(again):
                models[model] = None
    return count, list(models)
