"""Asks a share of a job's rows again with another model, to see how labels depend on the model.

The second question is an ordinary job over some of the rows, with another model. It shares the
bounds and the patience of the first, and its replies are kept in the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.config import get_choices
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.options import python_number
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.types import without_vendor

from .bounds import in_order
from .progress import Progress
from .rows import CHUNK, Row, Rows

if TYPE_CHECKING:
    from .job import Job


def draw_number(position: int, prompt: str) -> int:
    """A random number of a row; those with the lowest numbers are drawn.

    It is a hash, so a run that continues another one draws the same rows, and a larger share of
    rows includes a smaller one.
    """
    text = f"{position} {prompt}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def number_drawn(share: float, rows: int) -> int:
    """How many of the rows are drawn: the share rounded up, so at least one."""
    # 0.07 * 100 is 7.000000000000001, which is not 8 rows.
    return math.ceil(round(share * rows, 6))


class Second:
    """Asks a share (0 to 1) of a job's rows again, each on a model that did not answer it first.

    `other` chooses the model, and `ask` makes the job that asks some rows (by position) on it.
    `jobs` has those that were made, one for each model.
    """

    def __init__(
        self,
        share: float,
        rows: Rows,
        other: OtherModel,
        ask: Callable[[list[int], str], Job],
    ) -> None:
        self._other, self._ask = other, ask
        self._wanted = number_drawn(share, len(rows))
        # By position; rows that cannot be drawn any more are removed from time to time.
        self._rows: dict[int, Row] = {}
        self.jobs: list[Job] = []
        self._answered = 0
        self._cancelled = False

    def note(self, row: Row) -> None:
        """Offer a finished row."""
        if row.reply is None:
            return
        # The attempts and decisions of a reply take much room.
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
        """The drawn rows again, each with its `second` reply, as far as one came.

        It raises what a `Job` raises.
        """
        drawn = self._drawn()
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
            for row in job.rows_unrecorded():
                if row.reply is not None:
                    self._answered += 1
                    yield replace(drawn[positions[row.position]], second=row.reply)

    def cancel(self) -> None:
        """End soon; see `Job`."""
        self._cancelled = True
        for job in self.jobs:
            job.cancel()

    def added_to(self, first: Progress) -> Progress:
        """How far the whole job is; `first` is about the rows asked once."""
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
        raise InvalidRequest(f"twice is {twice!r}; it must be a share of the rows, such as 0.05")
    return float(share)


OtherModel = Callable[[str], str | None]
"""Returns another model than a given one, as `provider/model`; None if there is none."""


def other_models(llm: IntelligentLLMOrchestrator, sample: Request, paid: bool) -> OtherModel:
    """Return what chooses the model that answers a row again; with `paid` it may cost money.

    Raises:
        InvalidRequest: only one model can answer.
    """
    preferred, state = llm.preferred_provider, llm.quota_tracker.state
    # The model must be of the job's provider, if one was named; it need not be the job's model.
    request = replace(sample, model=None, same_model=False)

    def other(model: str) -> str | None:
        try:
            routes = llm.routes(request)
        except ConfigurationError:
            return None
        now = llm.configuration.clock.time()
        # The user may have switched off more since the job began.
        current = replace(llm.configuration, off=llm.configuration.off | get_choices().off)
        for route in in_order(routes, preferred):
            if not current.is_on(route.key, route.model):
                continue
            if without_vendor(route.model) == without_vendor(model) or (route.paid and not paid):
                continue
            # Waiting does not open a retired model or a rejected key.
            if state(route, request, now).opens_at < math.inf:
                return f"{route.provider}/{route.model}"
        return None

    try:
        first = llm.routes(sample)[0]
    except ConfigurationError:
        # Rows whose replies are all kept need no key.
        return other
    if other(first.model) is None:
        raise InvalidRequest(
            f"twice needs a second model, but only {first.model} can answer here; add a key for "
            "another provider, or omit twice= (--twice)"
        )
    return other


def asked_twice(
    parts: Iterable[Rows],
    llm: IntelligentLLMOrchestrator,
    asked: Request,
    share: float,
    other: OtherModel,
    *,
    fresh: bool,
) -> tuple[int, list[str]]:
    """How many rows a job would ask again: drawn ones whose second reply is not kept.

    Also returns the models that would answer those of them whose first reply is kept.
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
