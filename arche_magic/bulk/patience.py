"""How long a job waits for routes, and for free routes before it uses paid ones."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable

from arche_magic.llm_providers.types import Route


class Patience:
    """How long a job waits for routes, all its rows together.

    Args:
        seconds: the most; inf for no bound.
        now: the clock, in epoch seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._left, self._now = seconds, now
        self._counted_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that it still waits."""
        return max(0.0, self._left)

    def wait(self, seconds: float) -> None:
        """Count a wait of a row, in seconds from now; rows that wait together count once."""
        with self._lock:
            began = max(self._now(), self._counted_until)
            self._counted_until = max(self._now() + seconds, began)
            self._left -= self._counted_until - began


def costs_extra(route: Route, preferred: str | None) -> bool:
    """Whether a route costs money and does not belong to the preferred provider."""
    return route.paid and route.provider != preferred


def pays_after_waiting(routes: Iterable[Route], preferred: str | None) -> bool:
    """Whether there are both paid and free routes, so that the job waits for free ones first."""
    return len({costs_extra(route, preferred) for route in routes}) == 2
