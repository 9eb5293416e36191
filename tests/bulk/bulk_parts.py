"""Shared by the tests of jobs: a clock for threads, and the prompts that were sent."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from provider_parts import NOON

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox


class WaitingClock:
    """A clock that moves only while threads sleep on it. Threads that sleep together share it.

    Requests take no time on it, so the speed of the machine does not matter.
    """

    def __init__(self) -> None:
        self._now = NOON
        self._lock = threading.Lock()

    def time(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        # Lets the rows that are being asked arrive before the time is over.
        time.sleep(0.002)
        with self._lock:
            self._now = max(self._now, until)


def prompts(sandbox: Sandbox) -> list[str]:
    """The last message of each request that reached a provider, sorted."""
    found = []
    for request in sandbox.requests:
        if "contents" in request.body:
            found.append(request.body["contents"][-1]["parts"][0]["text"])
        elif "messages" in request.body:  # it is cut where a client was killed while it sent
            found.append(request.body["messages"][-1]["content"])
    return sorted(found)
