"""The reservation for a call, and how the call ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import Observation, Route, Usage
from .state import Amounts

if TYPE_CHECKING:
    from .budget import SpendingBounds


@dataclass(frozen=True)
class Hold:
    """A reservation on one route, to be settled or failed exactly once.

    `document` is the name of the document in which it was made. `shares` are its parts of the
    budget and of the bounds of its job.
    """

    id: str
    route: Route
    amounts: Amounts
    plain_tokens: float
    at: float
    document: str = ""
    shares: tuple[tuple[SpendingBounds, str], ...] = ()


@dataclass(frozen=True)
class Settlement:
    """How a call that was made on a hold ended.

    Attributes:
        hold: what was reserved for it.
        usage: the provider's own count; None charges the estimate.
        observations: what the reply stated about limits.
        account: the account it named, if any.
        answered: False for a call that was stopped before anything arrived.
        is_whole: False for a call that was left before its end: the provider may charge for more
            than `usage`.
        ended_at: when it ended, epoch seconds; inf for now. Calls may be settled later.
        sent: False if the hold was not used; nothing is charged then.
    """

    hold: Hold
    usage: Usage | None
    observations: Sequence[Observation] = ()
    account: str | None = None
    answered: bool = True
    is_whole: bool = True
    ended_at: float = math.inf
    sent: bool = True
