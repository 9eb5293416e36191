"""Asks a share of a job's rows again with another model, to see how labels depend on the model.

The second question is an ordinary job over some of the rows, with another model. It shares the
bounds and the patience of the first, and its replies are kept in the same way.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import without_vendor

from .progress import SPENT, Progress
from .rows import CHUNK, Row, Rows

if TYPE_CHECKING:
    from .job import Job

T = TypeVar("T")


class Sample(Generic[T]):
    """A random sample of rows, always the same one for the same rows.

    A hash of position and prompt replaces the random number. So a run that continues another one
    draws the same rows, and a larger share includes a smaller one.

    Args:
        share: of all rows, 0 to 1; at least one row if it is more than 0.
        rows: how many rows there are.
    """

    def __init__(self, share: float, rows: int) -> None:
        self.count = math.ceil(share * rows)
        self._heap: list[tuple[int, int]] = []
        self._drawn: dict[int, T] = {}

    def note(self, position: int, prompt: str, value: Callable[[], T]) -> None:
        """Offer a row; if it was offered before, the new value replaces the old one.

        `value` makes the value that `drawn` returns; it is called only if the row is drawn.
        """
        if not self.count:
            return
        if position in self._drawn:
            self._drawn[position] = value()
            return
        text = f"{position} {prompt}".encode("utf-8", "replace")
        entry = -int.from_bytes(hashlib.sha256(text).digest()[:8]), position
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        else:
            _, out = heapq.heappushpop(self._heap, entry)
            if out == position:
                return
            del self._drawn[out]
        self._drawn[position] = value()

    def drawn(self) -> dict[int, T]:
        """The drawn rows by position, in their order."""
        return dict(sorted(self._drawn.items()))


class Second:
    """Asks the drawn rows of a job again, each on another model than the one that answered it.

    Args:
        share: of the rows, 0 to 1.
        rows: those of the job.
        other: returns another model than a given one, as `provider/model`; None without one.
        ask: makes the job that asks some rows (by position) on a model.

    Attributes:
        jobs: those that were made, one for each model.
    """

    def __init__(
        self,
        share: float,
        rows: Rows,
        other: Callable[[str], str | None],
        ask: Callable[[list[int], str], Job],
    ) -> None:
        self._other, self._ask = other, ask
        self._sample: Sample[Row] = Sample(share, len(rows))
        self.jobs: list[Job] = []
        self._answered = 0
        self._cancelled = False

    def note(self, row: Row) -> None:
        """Offer a finished row."""
        if row.reply is not None:
            self._sample.note(row.position, row.prompt, partial(_without_attempts, row))

    def rows(self) -> Iterator[Row]:
        """The drawn rows again, each with its `second` reply, as far as one came.

        Raises:
            JobStopped: at one of the bounds of the whole job.
            LLMProviderError: no row can be asked.
        """
        drawn = self._sample.drawn()
        by_model: defaultdict[str, list[int]] = defaultdict(list)
        for position, row in drawn.items():
            if row.reply is not None and (model := self._other(row.reply.model)):
                by_model[model].append(position)
        for model, positions in by_model.items():
            if self._cancelled:
                return
            job = self._ask(positions, model)
            self.jobs.append(job)
            if self._cancelled:
                # By another thread, before the job was in the list.
                job.cancel()
            for row in job:
                if row.reply is not None:
                    self._answered += 1
                    yield replace(drawn[positions[row.position]], second=row.reply)

    def patience_left(self, first: float) -> float:
        """Seconds that are left of the whole job's patience, where `first` were before it."""
        return self.jobs[-1].patience_left if self.jobs else first

    def cancel(self) -> None:
        """End soon; see `Job`."""
        self._cancelled = True
        for job in self.jobs:
            job.cancel()

    def added_to(self, first: Progress) -> Progress:
        """How far the whole job is; `first` is about the rows asked once."""
        parts = [job.progress() for job in self.jobs]
        sums = {
            name: getattr(first, name) + sum(getattr(part, name) for part in parts)
            for name in SPENT
        }
        routes: Counter[str] = Counter(first.routes)
        for part in parts:
            routes.update(part.routes)
        if parts:
            now = parts[-1]
            ends = [end for end in (first.finish_at, now.finish_at) if end is not None]
            sums |= {"waiting": now.waiting, "finish_at": max(ends, default=None)}
            sums |= {"rows_per_second": now.rows_per_second}
        answered, wanted = self._answered, self._sample.count
        return replace(first, **sums, routes=dict(routes), twice=answered, to_ask_twice=wanted)


def _without_attempts(row: Row) -> Row:
    """The row without the attempts and decisions of its reply, which take much room."""
    return replace(row, reply=row.reply and row.reply.changed(attempts=(), decisions=()))


def share_of(twice: Any) -> float:
    """The share of rows that are asked twice, 0 to 1; None is 0.

    Raises:
        InvalidRequest: it is not a share.
    """
    if twice is None:
        return 0.0
    if isinstance(twice, bool) or not isinstance(twice, int | float) or not 0 <= twice <= 1:
        raise InvalidRequest(f"twice is {twice!r}; it must be a share of the rows, such as 0.05")
    return float(twice)


def other_model(
    llm: IntelligentLLMOrchestrator, sample: Request, paid: bool, model: str
) -> str | None:
    """The first model other than `model`, as `provider/model`; None if there is none.

    It must be of the job's provider, if one was named; it need not be the job's model. With `paid`
    it may cost money.
    """
    preferred, now = llm.preferred_provider, llm.configuration.clock.time()
    request = replace(sample, model=None, same_model=False)
    try:
        routes = llm.routes(request)
    except ConfigurationError:
        return None
    state = llm.quota_tracker.state
    for route in sorted(routes, key=lambda route: (route.provider != preferred, route.paid)):
        if without_vendor(route.model) == without_vendor(model) or (route.paid and not paid):
            continue
        # Waiting does not open a retired model or a rejected key.
        if state(route, request, now).opens_at < math.inf:
            return f"{route.provider}/{route.model}"
    return None


def check_other_model(
    llm: IntelligentLLMOrchestrator, sample: Request, other: Callable[[str], str | None]
) -> None:
    """Refuse to ask twice if only one model can answer.

    Raises:
        InvalidRequest: no second model can answer.
    """
    try:
        first = llm.routes(sample)[0]
    except ConfigurationError:
        # Rows whose replies are all kept need no key.
        return
    if other(first.model) is None:
        raise InvalidRequest(
            f"twice needs a second model, but only {first.model} can answer here; add a key for "
            "another provider, or omit twice= (--twice)"
        )


def asked_twice(
    parts: Iterable[Rows],
    llm: IntelligentLLMOrchestrator,
    asked: Request,
    share: float,
    other: Callable[[str], str | None],
    *,
    fresh: bool,
) -> tuple[int, list[str]]:
    """How many rows a job would ask again: drawn ones whose second reply is not kept.

    Also returns the models that would answer those of them whose first reply is kept.
    """
    store = reply_store(llm.configuration.replies)
    count, models = 0, dict[str, None]()
    for rows in parts:
        sample: Sample[Request] = Sample(share, len(rows))
        for start in range(0, len(rows), CHUNK):
            found = rows.requests(start, min(start + CHUNK, len(rows)), llm.configuration, asked)
            for position, (_, prompt, request) in enumerate(found, start):
                if not isinstance(request, str):
                    sample.note(position, prompt, partial(copy, request))
        drawn = [(llm.address(request), request) for request in sample.drawn().values()]
        count += len(drawn)
        if fresh:
            continue
        first = store.lookup_many([address for address, _ in drawn])
        seconds: dict[str, str] = {}
        for address, request in drawn:
            reply = first.get(address)
            if reply is not None and (model := other(reply.model)):
                again = replace(request, model=model, provider=None, same_model=False)
                seconds[llm.address(again)] = model
        kept = store.lookup_many(seconds)
        count -= sum(address in kept for address in seconds)
        models |= {model: None for address, model in seconds.items() if address not in kept}
    return count, list(models)
