"""The workers of a job, in groups that share routes.

Without packing, there is one group with all routes: the engine chooses, falls back and waits as for
any request. With packing, each model that takes packed requests has its own group. All groups take
rows from one scheduler; a worker returns a row instead of keeping it behind a closed route while
another group is idle.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.batch_ledger import BatchLedger
from arche_magic.llm_providers.config import Configuration, get_choices
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import utc

from .capacity import SECONDS_GUESS, Speed
from .estimate import KNOWN_AFTER, RowEstimate
from .group import Group
from .packing import Model
from .progress import Counts
from .rows import Task
from .scheduler import Scheduler
from .whole_job import Patience, WholeJob, costs_extra

# How often the number of rows per request is reconsidered.
_LOOK_SECONDS = 5.0
# How often calls that have ended are settled.
_BOOK_SECONDS = 0.25
# How long an estimated finish time is reused, because a bar asks ten times a second.
_FINISH_SECONDS = 0.5
# A request that waits for a route reports it more often than this.
_STILL_WAITING_SECONDS = 0.7


class Workers:
    """All workers of a job.

    Args:
        llm: the provider object of the job.
        names: the providers that the job may use.
        counts: what is spent so far.
        whole: the bounds of the job.
        pack: rows per request; None decides by the limits.

    Attributes:
        sample: the request of the first row, from which all are estimated; None before it is known.
        before_paying: that of `whole`; None unless there are both free and paid routes.
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        names: Sequence[str],
        counts: Counts,
        whole: WholeJob,
        pack: int | None,
    ) -> None:
        self.scheduler, self.counts = Scheduler(llm.configuration.clock), counts
        self.whole, self._pack = whole, pack
        self.before_paying: Patience | None = None
        # Requests that wait for a route end soon after the job has ended.
        configuration = replace(llm.configuration, clock=self.scheduler.clock)
        self.llm = _narrowed(llm, configuration, names)
        self.llm.quota_tracker.job = whole.spending
        self.threads: list[threading.Thread] = []
        self.sample: Request | None = None
        # By thread: the number of rows in its request, and when it last waited.
        self._under_way: dict[int, tuple[int, float]] = {}
        self._is_packing = False
        self._looked_at = self._booked_at = -math.inf
        # The ledgers of all current and earlier groups.
        self._ledgers: list[BatchLedger] = []
        self._finish_at = lru_cache(maxsize=1)(self._estimate_finish)

    def start(self, first: Task) -> None:
        """Begin to ask; the other rows are estimated by the first one.

        Raises:
            ConfigurationError: no key for any route, or an unknown model.
        """
        self.sample = first.request
        routes, preferred = self.llm.routes(first.request), self.llm.preferred_provider
        if len({costs_extra(route, preferred) for route in routes}) == 2:
            self.before_paying = self.whole.before_paying
        self._start_groups(self._sizes(first.request))

    def look_after(self) -> None:
        """Start more workers where they help, and settle the calls that have ended.

        Now and then, reconsider how many rows go in a request.
        """
        self._start_threads(self.scheduler.grow())
        self.book()
        self._leave_switched_off()
        now = self.scheduler.clock.time()
        if self._pack == 1 or self.sample is None or now < self._looked_at + _LOOK_SECONDS:
            return
        self._looked_at = now
        if self._is_packing:
            self.resize()
        elif max((sizes := self._sizes(self.sample)).values()) > 1:
            self._start_groups(sizes)

    def _leave_switched_off(self) -> None:
        """Restart without the keys and models that the user has switched off meanwhile."""
        configuration = self.llm.configuration
        off = configuration.off | get_choices().off
        if self.sample is None or off == configuration.off:
            return
        self.llm = _narrowed(self.llm, replace(configuration, off=off), self.llm.providers)
        try:
            self._start_groups(self._sizes(self.sample))
        except LLMProviderError as error:
            # No route is left.
            self.scheduler.end(error)

    def book(self) -> None:
        """Settle the calls that have ended, and release unused holds, a few times a second."""
        if time.monotonic() < self._booked_at + _BOOK_SECONDS:
            return
        self._booked_at = time.monotonic()
        for ledger in self._ledgers:
            ledger.book()

    def end(self) -> None:
        """Settle everything; calls that are still in progress are settled when they end."""
        for ledger in self._ledgers:
            ledger.close()

    def note_under_way(self, rows: int, waited_at: float = -math.inf) -> None:
        """Note how many rows this thread is asking, and when it last waited for a route."""
        self._under_way[threading.get_ident()] = rows, waited_at

    def rows_under_way(self) -> int:
        """Rows whose requests are sent, not waiting for a route."""
        since = time.monotonic() - _STILL_WAITING_SECONDS
        return sum(rows for rows, waited in self._under_way.copy().values() if waited < since)

    def resize(self) -> None:
        """Set the rows per request according to the limits and the replies so far."""
        if self.sample is not None:
            self.scheduler.resize(self._sizes(self.sample))

    def reply_tokens(self) -> float:
        """Tokens of one reply: the mean so far, or at first an estimate by schema or ledger."""
        if self.counts.served >= KNOWN_AFTER or self.sample is None:
            return self.counts.output_tokens / max(1, self.counts.served)
        first = self.llm.routes(self.sample)[0]
        return RowEstimate(self.llm, self.sample).usage(first).output_tokens

    def finish_at(self, later: int = 0) -> datetime | None:
        """When the remaining rows will be answered (aware, UTC); None if not within a year.

        It is computed from the limits, like a plan. `later` is a number of rows that come later.
        """
        try:
            return self._finish_at(later, time.monotonic() // _FINISH_SECONDS)
        except LLMProviderError:
            # Nothing can be asked now, such as without a key: the job's own requests say so.
            return None

    def _estimate_finish(self, later: int, _: float) -> datetime | None:
        counts, sample, now = self.counts, self.sample, self.scheduler.clock.time()
        # Read first: rows that finish meanwhile would be subtracted twice.
        left = counts.left + later
        if sample is None or not left:
            return None
        # Rows in progress have already reserved their share of the limits.
        held = self.rows_under_way() + sum(ledger.held_ahead for ledger in self._ledgers)
        held += self.scheduler.to_write.unfinished_tasks
        prompt_tokens = counts.input_tokens / counts.served if counts.served else None
        estimate = RowEstimate(self.llm, sample, self.reply_tokens(), prompt_tokens)
        # Use the measured speed as soon as there is one.
        seconds = counts.mean_seconds() or SECONDS_GUESS
        speed = Speed(seconds)
        if (pace := self.scheduler.pace()) is not None:
            threads, per_second = pace
            speed = Speed(threads / per_second, threads, most_threads=threads)
        patience = self.whole.before_paying.left
        forecast = estimate.forecast(self.scheduler.sizes(), speed, now, patience)
        end = forecast.finish_at(left - held)
        # Requests in progress must finish, too.
        end = max(end, now + seconds / 2)
        return utc(end) if math.isfinite(end) else None

    def _sizes(self, sample: Request) -> dict[Model, int]:
        """Rows per request of each model, from the limits and the replies known so far."""
        return RowEstimate(self.llm, sample, self.reply_tokens()).pack_sizes(
            self.counts.left,
            pack=self._pack,
            is_packing=self._is_packing,
            is_trusted=lambda model: not self.whole.packed_by(model).is_refuted,
        )

    def _start_groups(self, sizes: Mapping[Model, int]) -> None:
        """Create a group for each model that takes packed requests, and one for all others."""
        packing = [model for model, size in sizes.items() if size > 1]
        alone = [model for model, size in sizes.items() if size == 1]
        self._is_packing = bool(packing)
        groups = [self._group(self._for([model]), model, sizes[model]) for model in packing]
        if alone:
            groups.append(self._group(self._for(alone) if packing else self.llm))
        self._ledgers += [group.ledger for group in groups]
        self._start_threads(self.scheduler.start(groups))

    def _group(
        self, llm: IntelligentLLMOrchestrator, model: Model | None = None, size: int = 1
    ) -> Group:
        awaits_free = None
        if self.before_paying is not None and self.sample is not None:
            preferred = self.llm.preferred_provider
            # If all its routes are paid, it waits for the free routes of other groups.
            if all(costs_extra(route, preferred) for route in llm.routes(self.sample)):
                awaits_free = self.before_paying
        return Group(self, llm, model, size, awaits_free)

    def note_wait(self, seconds: float) -> None:
        """Count that rows wait for a route for that many seconds from now."""
        self.whole.patience.note_wait(seconds)
        if self.before_paying is not None:
            self.before_paying.note_wait(seconds)

    def _start_threads(self, groups: Sequence[Group]) -> None:
        for group in groups:
            thread = threading.Thread(target=group.work, name="arche-job", daemon=True)
            thread.start()
            self.threads = [*(old for old in self.threads if old.is_alive()), thread]

    def _for(self, models: Sequence[Model]) -> IntelligentLLMOrchestrator:
        """The orchestrator of the job, with only these models."""
        names = list(dict.fromkeys(provider for provider, _ in models))
        providers = dict(self.llm.configuration.providers)
        for name in names:
            own = tuple(model for provider, model in models if provider == name)
            providers[name] = replace(providers[name], models=own)
        configuration = replace(self.llm.configuration, providers=providers)
        return _narrowed(self.llm, configuration, names)


def _narrowed(
    llm: IntelligentLLMOrchestrator, configuration: Configuration, names: Sequence[str]
) -> IntelligentLLMOrchestrator:
    """A new orchestrator like another one, on some of its providers, with this configuration."""
    like = IntelligentLLMOrchestrator(
        enable_multi_key_groq=llm.enable_multi_key_groq,
        preferred_provider=llm.preferred_provider if llm.preferred_provider in names else None,
        providers=names,
        configuration=configuration,
    )
    like.quota_tracker.job = llm.quota_tracker.job
    return like
