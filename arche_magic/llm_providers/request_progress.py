"""The attempts of one request so far, and the time it has left."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from .attempt_log import SESSION, notebook
from .errors import LLMProviderError
from .events import Event, Piece
from .prices import cost_usd
from .provider_failure import ProviderFailure
from .reply import Attempt, Outcome
from .types import Timeouts, Usage

if TYPE_CHECKING:
    from .attempt import Answer
    from .config import Configuration
    from .request import Request
    from .routing import Decision
    from .timed_ledger import TimedLedger
    from .types import Route

logger = logging.getLogger("arche_magic.attempts")


class RequestProgress:
    """The attempts of one request, its decisions and its time.

    Args:
        request: what is asked.
        stream: whether replies are to come in pieces.
        configuration: its clock and timeouts are used.
        ledger: its deadline follows that of the request.

    Attributes:
        id: names the request in the record.
        attempts: its attempts so far.
        decisions: how its routes were chosen.
        waited: seconds that it has waited for routes.
    """

    def __init__(
        self, request: Request, stream: bool, configuration: Configuration, ledger: TimedLedger
    ) -> None:
        self.request, self.stream, self.configuration = request, stream, configuration
        self.id = f"r{os.urandom(6).hex()}"
        self.attempts: list[Attempt] = []
        self.decisions: list[Decision] = []
        self.waited = 0.0
        self._ledger = ledger
        self._clock = configuration.clock
        # Seconds that the reader of the stream spent between pieces.
        self._paused = 0.0

    def start(self) -> None:
        """Start to measure the time, in the process that sends the request.

        Raises:
            LLMProviderError: Python is shutting down, so threads and imports no longer work.
        """
        if sys.is_finalizing():
            raise LLMProviderError("Python is shutting down; no request can be sent")
        self._process = os.getpid()
        self._started = self._clock.time()
        self._ledger.start(self.request.timeout)

    def seconds(self) -> float:
        """Since the start."""
        return self._clock.time() - self._started

    def time_left(self) -> float:
        """Seconds until the request's timeout."""
        return self._started + self.request.timeout + self._paused - self._clock.time()

    def patience_left(self) -> float:
        """Seconds that the request may still wait for a route."""
        return max(0.0, min(self.request.patience - self.waited, self.time_left()))

    def timeouts(self) -> Timeouts:
        """The timeouts of the next call."""
        timeouts, left = self.configuration.timeouts, max(0.0, self.time_left())
        # A host that cannot be reached must leave time for another route.
        return replace(timeouts, connect=min(timeouts.connect, left / 2), total=left)

    def is_ours(self) -> bool:
        """Whether this process asked; a fork of it only has a copy of the request."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Check that this is the process that asked.

        A fork shares the connection, so the parent would miss what the fork reads.

        Raises:
            LLMProviderError: it is a fork of that process.
        """
        if not self.is_ours():
            raise LLMProviderError(
                "this request belongs to the parent process; send a new one in this process"
            )

    def hand_over(self, piece: Piece) -> Generator[Event, None, None]:
        """Yield a piece to the reader, whose own time does not count against the request."""
        paused_at, paused_on = time.monotonic(), self._clock.time()
        yield piece
        self._ledger.add_time(time.monotonic() - paused_at)
        self._paused += self._clock.time() - paused_on
        self.check_process()

    def note(
        self,
        route: Route,
        outcome: Outcome,
        answer: Answer | None = None,
        usage: Usage | None = None,
        error: ProviderFailure | str | None = None,
        opens_at: float | None = None,
    ) -> Attempt:
        """Add an attempt; `answer` is None if nothing was sent, and `error` if it was answered."""
        usage = usage or Usage()
        first_token = answer.first_token_s if answer and self.stream else None
        now = self._clock.time()
        opens_later = opens_at is not None and now < opens_at < math.inf
        attempt = Attempt(
            provider=route.provider,
            key=route.key.label,
            model=route.model,
            outcome=outcome,
            error=None if error is None else str(error),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            seconds=round(answer.seconds(), 4) if answer else 0.0,
            first_token_s=round(first_token, 4) if first_token is not None else None,
            waited_s=round(self.waited, 3),
            # After an interrupt nothing is loaded, because the request must end immediately.
            cost_usd=cost_usd(route, usage, load=outcome != "interrupted"),
            at=round(now, 3),
            request=self.id,
            session=SESSION,
            notebook=notebook(),
            tag=self.request.tag,
            opens_at=opens_at if opens_later else None,
            said=error.said if isinstance(error, ProviderFailure) else "",
        )
        self.attempts.append(attempt)
        logger.info("%s", attempt.without_said())
        return attempt
