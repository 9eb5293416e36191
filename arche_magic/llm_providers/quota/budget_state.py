"""The ledger's state of the budget and of the bounds of jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from ..types import MOST_UNITS
from .state import LONGEST_HOLD_SECONDS, Moment, Text, Units


@dataclass
class HeldShare:
    """The amount reserved for a call in progress, of a budget or of the bounds of its job.

    Attributes:
        usd, tokens: its usual usage, which is charged if it never ends.
        most_usd, most_tokens: its highest possible usage; None if unknown.
        kind, plain, scale: see `budget.Expected`.
        by: the process that made it; see `processes`.
    """

    expires: Moment
    usd: Units
    tokens: Units = 0.0
    most_usd: Units | None = None
    most_tokens: Units | None = None
    kind: Text = ""
    plain: Units = 0.0
    scale: Annotated[float, Ge(1e-9), Le(MOST_UNITS)] = 1.0
    at: Moment = 0.0
    by: Text = ""

    def __post_init__(self) -> None:
        # Older versions did not write when it began.
        began = self.at or self.expires
        self.expires = min(self.expires, began + LONGEST_HOLD_SECONDS)


@dataclass
class Highest:
    """The highest counts of one kind of request; see `budget.Expected`.

    `output` is 0 until a reply has tokens.
    """

    input: Units = 0.0
    output: Units = 0.0


@dataclass
class BudgetState:
    """The usage of calls within some bounds.

    Attributes:
        spent: the budget counts USD per day and month of UTC (`2026-11-25`, `2026-11`); a job
            counts `usd` and `tokens`.
        held: the usage that calls in progress may have, by the hold's id.
        seen: by kind of request, the highest counts so far: today, or in the job.
    """

    spent: dict[Text, Units] = field(default_factory=dict)
    held: dict[Text, HeldShare] = field(default_factory=dict)
    seen: dict[Text, Highest] = field(default_factory=dict)


@dataclass
class JobState(BudgetState):
    """The usage of calls within one job's bounds; `at` is the time of the last change."""

    at: Moment = 0.0


@dataclass
class JobsState:
    """The bounds of all jobs, by their names."""

    jobs: dict[Text, JobState] = field(default_factory=dict)
