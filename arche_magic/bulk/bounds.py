"""The bounds of a whole job, shared by its parts: what it may spend and how long it waits."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.options import python_number, read_flag, shown
from arche_magic.llm_providers.quota_tracker import SpendingBounds
from arche_magic.llm_providers.types import Route

from .agreement import Agreement
from .job_records import new_job_id

if TYPE_CHECKING:
    from .capacity import Capacity


class JobStopped(LLMProviderError):
    """A job ended before its last row: at one of its bounds, or because every row was refused.

    Attributes:
        frame: the finished rows, if the job returns a frame. They are also on disk: the same call
            continues from there.
        at_bound: whether it stopped at `max_cost` or `max_tokens_total`.
    """

    frame: Any = None
    at_bound: bool = False


def checked_bound(name: str, value: Any, least: float = 0) -> float:
    """A bound as a number, inf for None; raise InvalidRequest unless it is `least` or more."""
    if value is None:
        return math.inf
    number = python_number(value)
    if number is None or not number >= least:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a number, {least:g} or more")
    return math.inf if number > sys.float_info.max else float(number)


def checked_flag(name: str, value: Any) -> bool:
    """A flag, False for None; raise InvalidRequest unless it is True or False."""
    return value is not None and read_flag(name, value)


def orchestrator(llm: object) -> IntelligentLLMOrchestrator:
    """What asks, by default the configured one; raise InvalidRequest for anything else."""
    if llm is None:
        return get_llm_provider()
    if not isinstance(llm, IntelligentLLMOrchestrator):
        raise InvalidRequest(f"llm is {shown(llm)}; it must come from get_llm_provider()")
    return llm


def refuse_tools(options: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if the options of a job have tools, which may be functions."""
    if options.get("tools"):
        raise InvalidRequest("tools: jobs do not run tools; call generate for each row")


class Patience:
    """Limits how long all rows of a job together wait for routes: at most `seconds`.

    `now` is the clock, in epoch seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._left, self._now = seconds, now
        self._counted_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that it still waits."""
        return max(0.0, self._left)

    def note_wait(self, seconds: float) -> None:
        """Count a row's wait of `seconds` from now; rows that wait at the same time count once."""
        with self._lock:
            began = max(self._now(), self._counted_until)
            self._counted_until = max(self._now() + seconds, began)
            self._left -= self._counted_until - began


class WholeJob:
    """The bounds and counts that the parts of a whole job share, such as the chunks of a file.

    Args:
        llm: the provider object that asks the rows.
        name: jobs with the same name share their bounds through the ledger.
        patience, max_cost, max_tokens_total, stop_after: as for `Job`.

    Attributes:
        id: its id in the record of jobs.
        spending: the bounds on the cost of all calls; None without any bound.
        patience: how long the job waits for routes.
        before_paying: how long it waits for free routes before it uses paid ones.
        stop_after: the number of failed rows that ends the job; inf without a bound.
        failed: the number of failed rows in this run.
        agreement: how packed replies agree with others.

    Raises:
        InvalidRequest: one of them is not a valid bound.
    """

    def __init__(
        self,
        llm: IntelligentLLMOrchestrator,
        *,
        name: str = "",
        patience: Any = None,
        max_cost: Any = None,
        max_tokens_total: Any = None,
        stop_after: Any = None,
    ) -> None:
        longest = checked_bound("patience", patience)
        most = (
            checked_bound("max_cost", max_cost),
            checked_bound("max_tokens_total", max_tokens_total),
        )
        configuration = llm.configuration
        now = configuration.clock.time
        self.id: str = name or new_job_id()
        self.spending: SpendingBounds | None = llm.quota_tracker.job_bounds(*most, name)
        self.patience = Patience(longest, now)
        self.before_paying = Patience(configuration.patience if patience is None else longest, now)
        self.stop_after: float = checked_bound("stop_after", stop_after, least=1)
        self.failed = 0
        self.agreement = Agreement()


def in_order(routes: Iterable[Route], preferred: str | None) -> list[Route]:
    """Routes in the order of a job: of the preferred provider, then free ones, then paid ones."""
    return sorted(routes, key=lambda route: (route.provider != preferred, route.paid))


def costs_extra(route: Route | Capacity, preferred: str | None) -> bool:
    """Whether a route costs money and does not belong to the preferred provider."""
    return route.paid and route.provider != preferred


def pays_after_waiting(routes: Iterable[Route], preferred: str | None) -> bool:
    """Whether there are both paid and free routes, so that the job waits for free ones first."""
    return len({costs_extra(route, preferred) for route in routes}) == 2


def why_stopped(bound: str, requests: int) -> str:
    """Why the job ends at a bound, in one line."""
    if not bound.startswith("max_"):
        return f"stopped: {bound}"
    # Other parts of the job, in other processes, may have sent requests.
    if requests or not bound.endswith(": 0 spent"):
        return f"stopped before it would exceed {bound}"
    # Such as "max_cost (USD) of 0.001: 0 spent".
    name, amount = bound.partition(" ")[0], bound.partition(":")[0].rpartition(" ")[2]
    return (
        f"nothing was sent, because a single request may exceed {name}={amount}: raise it, or "
        "lower max_tokens (--max-tokens)"
    )
