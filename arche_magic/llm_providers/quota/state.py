"""The ledger's state of accounts, providers and budgets, as types.

The rules (`windows`, `counting`, `learning`, `opening`, `closures`, `merging`) are functions on
these types; `codec` is the only module that knows their file format. Times are epoch seconds, units
are requests or tokens. The annotations state which values `codec` accepts from a file.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le, MaxLen, Predicate

from ..catalog import parse_limits
from ..types import (
    METRICS,
    MOST_UNITS,
    NEVER,
    PERIOD_SECONDS,
    Evidence,
    Limit,
    Metric,
    Route,
    WindowRule,
)

LEARNED: tuple[Evidence, ...] = ("header", "error")
"""The evidence of what a provider stated in its replies."""

Amounts = dict[Metric, float]
"""Units per metric."""

# No request takes a month, and no closure lasts longer than two months.
_LONGEST_HOLD_SECONDS = 31 * 86_400.0
_LONGEST_CLOSURE_SECONDS = 63 * 86_400.0


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:
        # If too many files are open, nothing is wrong with the name.
        return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    return True


def _is_limits_table(table: Mapping[str, Any]) -> bool:
    try:
        parse_limits(table)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        return False
    return True


Units = Annotated[float, Ge(0.0), Le(MOST_UNITS)]
# Until the year 5138, because some later moments do not fit into a `datetime`.
Moment = Annotated[float, Ge(0.0), Le(NEVER)]
Text = Annotated[str, MaxLen(10_000)]
LimitsTable = Annotated[dict[str, Any], Predicate(_is_limits_table)]
if TYPE_CHECKING:
    LimitName = str
else:
    LimitName = Literal[tuple(f"{m}_per_{period}" for m in METRICS for period in PERIOD_SECONDS)]


@dataclass
class Counter:
    """How much of one limit is used. Slots are replaced, and never changed in place.

    Attributes:
        used: units in a bucket or calendar window at the moment `at`.
        at: None if nothing was counted.
        slots: units used per sixtieth of a rolling window's period, by the slot's number.
    """

    used: Units = 0.0
    at: Moment | None = None
    slots: dict[int, Units] = field(default_factory=dict)


@dataclass
class LimitState:
    """One limit of a model: its size, its evidence, and its usage.

    Attributes:
        evidence_at: when it was learned.
        counter: what is used.
        recent: units charged lately to a bucket, by slot; see `windows.remember`.
        proven: the most requests that were answered within the window of a published rate.
        inferred: the provider did not state the period; see `learning.doubt`.
    """

    amount: Units
    window: WindowRule
    time_zone: Annotated[str, Predicate(_is_zone)]
    evidence: Evidence
    evidence_at: Moment
    counter: Counter = field(default_factory=Counter)
    recent: dict[int, Units] = field(default_factory=dict)
    proven: Units = 1.0
    inferred: bool = False

    def counts(self, limit: Limit) -> bool:
        """Whether this is the count of a limit of that size, window and evidence."""
        return (
            self.amount == limit.amount
            and self.window == limit.window
            and self.time_zone == limit.time_zone
            and self.evidence == limit.evidence
        )

    def limit(self, name: str) -> Limit:
        """The limit of that name, such as `requests_per_minute`."""
        return limit_named(name, self.amount, self.window, self.time_zone, self.evidence)


@lru_cache(maxsize=4096)
def limit_named(
    name: str, amount: float, window: WindowRule, time_zone: str, evidence: Evidence
) -> Limit:
    """The limit of that name, made once."""
    metric, period = name.split("_per_")
    # The codec accepts only names of limits.
    return Limit(metric, period, float(amount), window, time_zone, evidence)  # type: ignore[arg-type]


@dataclass
class Closure:
    """Why a part of the ledger is closed.

    Attributes:
        until: when it may be tried again; None if the user must act. See `ends`.
        strikes: how often in a row it was closed, for waits that double.
        remedy: name of the `Remedy` that opens it, "" if unknown.
        address: fingerprint of the base URL that gave the reason, "" for the provider's own. At
            another address the part is open.
        tried: when a call last tried whether it is open again; None if no call did.
    """

    reason: Text
    since: Moment
    until: Moment | None
    strikes: Annotated[int, Ge(0), Le(1_000_000)] = 1
    remedy: Text = ""
    address: Text = ""
    tried: Moment | None = None

    @property
    def ends(self) -> float:
        """When it may be tried again; inf if the user must act."""
        if self.until is None:
            return math.inf
        return min(self.until, self.since + _LONGEST_CLOSURE_SECONDS)


@dataclass
class HeldCall:
    """The amounts reserved for a call in progress.

    `key` is the fingerprint of its key; `by` is the process that made it, see `processes`.
    """

    at: Moment
    expires: Moment
    amounts: dict[Metric, Units]
    key: Text = ""
    by: Text = ""

    def __post_init__(self) -> None:
        self.expires = min(self.expires, self.at + _LONGEST_HOLD_SECONDS)


@dataclass
class Calibration:
    """Input tokens counted for each one estimated by length, and the usual length of a reply."""

    input_ratio: Annotated[float, Ge(0.01), Le(100.0)]
    output_tokens: Units


@dataclass
class KeyState:
    """One key of an account."""

    label: Text = ""
    answered: bool = False
    closed: Closure | None = None


@dataclass
class ModelState:
    """One model of an account.

    Attributes:
        holds: calls in progress, by the hold's id.
        charged: everything that was ever charged; it never decreases.
    """

    limits: dict[LimitName, LimitState] = field(default_factory=dict)
    holds: dict[Text, HeldCall] = field(default_factory=dict)
    charged: dict[Metric, Units] = field(default_factory=dict)
    last_charged: Moment | None = None
    calibration: Calibration | None = None
    answered: bool = False
    closed: Closure | None = None


@dataclass
class Moved:
    """The document to which a key's counts were moved, and the counts at that time."""

    to: Annotated[str, Predicate(lambda name: ":" in name)]
    content: dict[str, Any]


@dataclass
class AccountState:
    """Everything known of one account.

    Attributes:
        keys: by fingerprint.
        closed: set if the whole account is closed.
        moved: set if the account is now counted in another document.
        absorbed: names of the documents that were added to this one, with the digest of each.
    """

    provider: Text = ""
    keys: dict[Text, KeyState] = field(default_factory=dict)
    models: dict[Text, ModelState] = field(default_factory=dict)
    closed: Closure | None = None
    moved: Moved | None = None
    absorbed: dict[Text, Text] = field(default_factory=dict)

    def model(self, name: str) -> ModelState:
        """The model's state, which callers may change."""
        return self.models.setdefault(name, ModelState())

    def key(self, fingerprint: str, label: str = "") -> KeyState:
        """The key's state, which callers may change."""
        return self.keys.setdefault(fingerprint, KeyState(label))


@dataclass
class Lack:
    """When a model refused something that it lacks, and at which address (a fingerprint)."""

    at: Moment
    address: Text = ""


@dataclass
class ModelAtProvider:
    """The state of a model for all accounts; `lacks` is by capability."""

    closed: Closure | None = None
    lacks: dict[Text, Lack] = field(default_factory=dict)


@dataclass
class ProviderState:
    """The state of a provider for all accounts.

    Attributes:
        limits: tables of limits set at run time, by scope; see `QuotaTracker.set_limits`.
    """

    models: dict[Text, ModelAtProvider] = field(default_factory=dict)
    closed: Closure | None = None
    limits: dict[Text, LimitsTable] = field(default_factory=dict)

    def model(self, name: str) -> ModelAtProvider:
        """The model's state, which callers may change."""
        return self.models.setdefault(name, ModelAtProvider())


@dataclass
class NamedAccount:
    """The account that a provider named for a key; `evidence` is `header` or `error`."""

    account: Text
    at: Moment
    evidence: Text = ""


@dataclass
class DirectoryState:
    """The account of each key of a provider, by the key's fingerprint."""

    accounts: dict[Text, NamedAccount] = field(default_factory=dict)


@dataclass
class OlderCount:
    """The older package's count of one limit."""

    used: Units
    reset_at: Moment
    at: Moment


OlderCounts = dict[Text, dict[Text, OlderCount]]
"""The counts of the older package, by key label and limit."""


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
        self.expires = min(self.expires, began + _LONGEST_HOLD_SECONDS)


@dataclass
class Highest:
    """The highest counts of one kind of request; `output` is 0 until a reply has tokens."""

    input: Units = 0.0
    output: Units = 0.0


@dataclass
class BudgetState:
    """The usage of calls within the budget, or within the bounds of a job.

    Attributes:
        spent: USD per day and month of UTC (`2026-11-25`, `2026-11`); of a job, `usd` and `tokens`.
        held: the usage that calls in progress may have, by the hold's id.
        seen: by kind of request, the highest counts so far: today, or in the job.
        at: time of the last change of a job.
    """

    spent: dict[Text, Units] = field(default_factory=dict)
    held: dict[Text, HeldShare] = field(default_factory=dict)
    seen: dict[Text, Highest] = field(default_factory=dict)
    at: Moment = 0.0


@dataclass
class JobsState:
    """The bounds of all jobs, by their names."""

    jobs: dict[Text, BudgetState] = field(default_factory=dict)


_NEW_KEY, _NEW_MODEL_AT_PROVIDER = KeyState(), ModelAtProvider()


class RouteRecord(NamedTuple):
    """Everything that the ledger knows about a route; missing parts are like those of a new one.

    Attributes:
        model: the route's model in its account.
        limits: the limits in force, by name; `model` counts each of them.
        defaults: the limits before anything was learned: those published, and the user's.
        usual_window: the window and the time zone that the provider's limits usually have.
    """

    route: Route
    account: AccountState
    provider: ProviderState
    model: ModelState
    limits: Mapping[str, Limit]
    defaults: tuple[Limit, ...]
    usual_window: tuple[WindowRule, str]

    @property
    def key(self) -> KeyState:
        """The state of the route's key. Callers must not change it."""
        return self.account.keys.get(self.route.key.fingerprint, _NEW_KEY)

    @property
    def model_at_provider(self) -> ModelAtProvider:
        """The state of the route's model for all accounts. Callers must not change it."""
        return self.provider.models.get(self.route.model, _NEW_MODEL_AT_PROVIDER)
