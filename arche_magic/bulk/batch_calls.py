"""Requests the vectors of batches of texts, several at once."""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.errors import (
    ContentFiltered,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
)
from arche_magic.llm_providers.reply import Waiting
from arche_magic.llm_providers.request import Request

from .bounds import Patience
from .progress import Counts

if TYPE_CHECKING:
    from array import array

VectorsOfTexts: TypeAlias = "Mapping[str, array[float]]"

_THREADS = 8
_NAP_SECONDS, _SHORTEST_NAP_SECONDS = 0.5, 0.05
# How often a batch is sent if the provider has temporary failures.
_TRIES = 5


class TextsFailed(Exception):
    """Some texts have no vectors.

    Attributes:
        error: the reason.
        texts: those of the batch that failed first; empty if the texts are not the reason.
    """

    def __init__(self, error: BaseException, texts: Sequence[str]) -> None:
        super().__init__(str(error))
        self.error, self.texts = error, texts


class _Left(Exception):
    """The call has ended, so this thread ends too."""


class BatchCalls:
    """The calls for all batches of one `embed`.

    Args:
        llm: what asks.
        request: makes the request for some texts.
        keep: saves vectors; called when they arrive, in several threads.
        counts: counts usage and waits.
        patience: how long all calls together may wait for routes.
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        request: Callable[[Sequence[str]], Request],
        keep: Callable[[VectorsOfTexts], None],
        counts: Counts,
        patience: Patience,
    ) -> None:
        self._llm, self._request, self._keep = llm, request, keep
        self._counts, self._patience = counts, patience
        self._clock = llm.configuration.clock
        self._ended = threading.Event()
        self._batches: deque[Sequence[str]] = deque()
        self._out: queue.SimpleQueue[VectorsOfTexts | TextsFailed | None] = queue.SimpleQueue()

    def run(self, batches: Iterable[Sequence[str]]) -> Iterator[VectorsOfTexts]:
        """Yield the vectors as they arrive; after a failure, no further calls are sent.

        If the reader stops early, calls in progress continue: their vectors are kept when they
        arrive.

        Raises:
            TextsFailed: after the vectors of all calls that were sent.
        """
        self._batches.extend(batches)
        running = min(_THREADS, len(self._batches))
        for _ in range(running):
            threading.Thread(target=self._work, name="arche-embed", daemon=True).start()
        failures: list[TextsFailed] = []
        try:
            while running:
                try:
                    # An interrupt does not reach an endless wait on every system.
                    item = self._out.get(timeout=_NAP_SECONDS)
                except queue.Empty:
                    continue
                if item is None:
                    running -= 1
                elif isinstance(item, TextsFailed):
                    failures.append(item)
                else:
                    yield item
        finally:
            self._ended.set()
        if failures:
            raise failures[0]

    def _work(self) -> None:
        try:
            while not self._ended.is_set() and (batch := self._next()):
                for found in self._ask(batch):
                    self._out.put(found)
        except _Left:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again where the vectors are awaited
            self._ended.set()
            self._out.put(error if isinstance(error, TextsFailed) else TextsFailed(error, ()))
        finally:
            self._out.put(None)

    def _next(self) -> Sequence[str]:
        try:
            return self._batches.popleft()
        except IndexError:
            return ()

    def _ask(self, texts: Sequence[str]) -> Iterator[VectorsOfTexts]:
        """Request the vectors of some texts; if the texts are refused, halve the batch."""
        failed = 0
        while not self._ended.is_set():
            request = self._request(texts)
            try:
                reply = self._llm.ask(request, self._note_wait)
            except LLMProviderError as error:
                self._counts.spend(error.attempts)
                failed += any(attempt.outcome == "failed" for attempt in error.attempts)
                if len(texts) > 1 and self._is_about_texts(error):
                    half = len(texts) // 2
                    yield from self._ask(texts[:half])
                    yield from self._ask(texts[half:])
                    return
                if failed >= _TRIES or not self._wait(error, request):
                    raise TextsFailed(error, texts) from None
            else:
                self._counts.spend(reply.attempts)
                found = dict(zip(texts, reply.vectors, strict=True))
                self._keep(found)
                yield found
                return

    def _is_about_texts(self, error: LLMProviderError) -> bool:
        """Whether the refusal is about the texts, so that other texts may be accepted."""
        if isinstance(error, InvalidRequest | ContentFiltered):
            return True
        if not isinstance(error, NoRouteAvailable) or error.next_available_at is not None:
            return False
        short, now = self._request(["?"]), self._clock.time()
        state = self._llm.quota_tracker.state
        opens = (state(route, short, now).opens_at for route in self._llm.routes(short))
        return min(opens, default=math.inf) < math.inf

    def _note_wait(self, waiting: Waiting) -> None:
        if self._ended.is_set():
            raise _Left
        self._counts.wait(waiting)
        self._patience.wait(min(waiting.seconds, _NAP_SECONDS))

    def _wait(self, error: LLMProviderError, request: Request) -> bool:
        """Wait until the first route opens; False if none does within the patience."""
        if error.next_available_at is None:
            return False
        opens, route = error.next_available_at.timestamp(), self._llm.routes(request)[0]
        while self._patience.left > 0:
            left = max(0.0, opens - self._clock.time())
            if left > self._patience.left:
                return False
            self._note_wait(Waiting(route, left))
            self._clock.sleep(min(max(left, _SHORTEST_NAP_SECONDS), _NAP_SECONDS))
            if left <= _NAP_SECONDS:
                return True
        return False
