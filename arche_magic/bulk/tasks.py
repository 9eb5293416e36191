"""The tasks of a job, and the groups of workers that take them."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.batch_ledger import BatchLedger
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Request

from .agreement import Check, Model
from .growth import Growth
from .patience import Patience

MOST_PACKED = 50


@dataclass(eq=False)
class Task:
    """A prompt to ask once, for all rows that ask the same.

    Attributes:
        address: where its reply is kept.
        request: the request that asks it alone.
        rows: position and label of each row.
        limit: the most tasks in a request that contains this one.
        tries: how often it failed for a reason that may pass.
        too_long_for: numbers of the groups that cannot take it.
        checks: the packed reply to compare its reply with, if it is asked only for that.
        group: the number of the only group that may take it; None for any.
    """

    address: str
    request: Request
    rows: list[tuple[int, Hashable]]
    limit: int = MOST_PACKED
    tries: int = 0
    too_long_for: set[int] = field(default_factory=set)
    checks: Check | None = None
    group: int | None = None

    def suits(self, group: int) -> bool:
        """Whether the group of this number can take it."""
        return group not in self.too_long_for and self.group in (None, group)

    @property
    def prompt(self) -> str:
        """The text of the prompt."""
        return self.request.messages[-1].content


@dataclass(frozen=True)
class Finished:
    """The outcome of a task.

    Attributes:
        again: asking it in another run could help.
        packed_by: the model whose packed reply it is, if it is one.
    """

    task: Task
    reply: Reply | None = None
    error: LLMProviderError | None = None
    again: bool = False
    packed_by: Model | None = None


@dataclass(eq=False)
class Group:
    """Workers that ask on the same routes. Only the scheduler changes it.

    Attributes:
        number: its number in the job.
        llm: asks on its routes.
        ledger: holds and books the calls of its workers, many at once.
        models: those that get packed requests; none if each row is asked alone.
        size: rows in one request; if each row is asked alone, how many are held at once.
        cap: most rows in one request, lowered by replies that could not be read.
        opens_at: epoch seconds; none of its routes opens before.
        is_closed: none of its routes opens in this run.
        threads: how many workers it has.
        growth: how many it should have, if each row is asked alone.
        is_timed: one of its workers sleeps until it opens; the others wait for that one.
        awaits_free: how long it waits for free routes of other groups, if all its own cost money.
    """

    number: int
    llm: IntelligentLLMOrchestrator
    ledger: BatchLedger
    models: tuple[Model, ...] = ()
    size: int = 1
    cap: int = MOST_PACKED
    opens_at: float = 0.0
    is_closed: bool = False
    threads: int = 0
    growth: Growth = field(default_factory=lambda: Growth(time.monotonic()))
    is_timed: bool = False
    awaits_free: Patience | None = None
