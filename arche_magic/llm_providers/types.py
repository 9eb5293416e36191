"""The basic types of the engine: keys, routes, limits and usage, as small immutable values."""

from __future__ import annotations

import hashlib
import math
import re
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from .secrets import Secret, remember_key
from .tools import ToolCall

Metric = Literal["requests", "tokens", "input_tokens", "output_tokens"]
METRICS: tuple[Metric, ...] = ("requests", "tokens", "input_tokens", "output_tokens")
Period = Literal["second", "minute", "hour", "day", "month"]
WindowRule = Literal["bucket", "calendar", "rolling"]
Evidence = Literal["published", "configured", "header", "error"]
ReplayMode = Literal["off", "keep", "only"]
OnStoreFailure = Literal["refuse", "count-alone"]
Vectors: TypeAlias = "tuple[array[float], ...]"
"""One vector per text, in 32-bit floats."""

# What services on OpenAI's wire call the limit of a reply's tokens.
TOKEN_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
# No provider counts further; larger figures are errors, and do not fit into a table's columns.
MOST_UNITS = 1e15
PERIOD_SECONDS: Mapping[Period, float] = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
    "month": 30 * 86_400.0,
}


@dataclass(frozen=True)
class Key:
    """One credential of a provider.

    It is shown by its `label` (`groq_key_2`) and stored by its `fingerprint`. Only `secret()`
    returns the text, so that no repr, log line or traceback prints it. `source` says in words where
    the key was found.
    """

    provider: str
    label: str
    fingerprint: str
    account: str
    _secret: Secret = field(repr=False, compare=False)
    source: str = field(default="", compare=False)

    @classmethod
    def of(cls, provider: str, label: str, text: str, account: str | None = None) -> Key:
        """Build a key; `account` is the configured name of the account it spends, if any."""
        # Variables of the environment may hold bytes that are not text.
        fingerprint = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        secret = Secret(text)
        remember_key(secret)
        return cls(provider, label, fingerprint, account or fingerprint, secret)

    def __hash__(self) -> int:
        # Each choice looks up hundreds of keys, and hashing all fields is slow.
        return hash(self.fingerprint)

    @property
    def number(self) -> int:
        """Its number among the provider's keys: the end of its label."""
        return int(self.label.rpartition("_")[2])

    def secret(self) -> str:
        """Return the credential itself, for the provider's SDK and nobody else."""
        return self._secret.reveal()


class Location(str):
    """The location of the ledger: a path, or a URL without its password.

    The text is the URL without the parts that can hold a password: user name, password and query.
    Only `url()` returns all of it.
    """

    _whole: Secret | None

    def __new__(cls, text: str) -> Location:  # noqa: PYI034  # returns its argument if it is one
        """Create a location from a text; a text that is a Location already keeps its password."""
        if isinstance(text, Location):
            return text
        # A single letter is a drive. A URL that lacks a slash can contain a password too.
        scheme = re.match("[A-Za-z]{2,}:/{0,2}", text)
        rest = text[scheme.end() :].rpartition("@")[2].partition("?")[0] if scheme else ""
        shown = f"{scheme[0]}{rest}" if scheme else text
        location = super().__new__(cls, shown)
        location._whole = Secret(text) if shown != text else None
        return location

    def url(self) -> str:
        """Return the whole URL, for the client of that service and nobody else."""
        return self._whole.reveal() if self._whole else str(self)

    @property
    def fingerprint(self) -> str:
        """Distinguishes locations that are displayed alike: databases and users of one server."""
        return hashlib.sha256(self.url().encode("utf-8", "surrogatepass")).hexdigest()[:12]


class RouteId(NamedTuple):
    """The identity of a route; `key` is the key's label.

    It is shown as `groq · key 2 · gpt-oss-120b`.
    """

    provider: str
    key: str
    model: str

    def __str__(self) -> str:
        number = self.key.rpartition("_key_")[2]
        return f"{self.provider} · key {number} · {without_vendor(self.model)}"


@dataclass(frozen=True)
class Route:
    """Provider, key and model: one way to get an answer.

    Attributes:
        price: what the user says it costs: USD for a million input, and a million output tokens.
        address: the base URL that it leads to, "" for the provider's own.
        id: identifies the route in dicts, tables and messages.
    """

    provider: str
    key: Key
    model: str
    paid: bool = False
    price: tuple[float, float] | None = field(default=None, compare=False)
    address: str = field(default="", compare=False)
    id: RouteId = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", RouteId(self.provider, self.key.label, self.model))

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)


def without_vendor(model: str) -> str:
    """Return the name of a model without its vendor: `gpt-oss-120b` for `openai/gpt-oss-120b`."""
    return model.rpartition("/")[2]


def name_in_words(name: str) -> str:
    """Return a key's label, or a model with its provider, as it is shown in routes.

    `groq_key_2` is `groq · key 2`, `groq/openai/gpt-oss-120b` is `groq · gpt-oss-120b`.
    """
    provider, slash, model = name.partition("/")
    if slash:
        return f"{provider} · {without_vendor(model)}"
    provider, _, number = name.rpartition("_key_")
    return f"{provider} · key {number}"


@dataclass(frozen=True)
class Limit:
    """An amount of requests or tokens per period, and when the used amount comes back.

    `bucket` refills continuously; `calendar` starts again with the clock in `time_zone` (a minute
    on the full minute, a day at midnight); `rolling` counts the last period up to now. `source`
    names where a published figure was read, and `read_at` when (epoch seconds; 0 if it was not
    read).
    """

    metric: Metric
    period: Period
    amount: float
    window: WindowRule
    time_zone: str = "UTC"
    evidence: Evidence = "published"
    source: str = field(default="", compare=False)
    read_at: float = field(default=0.0, compare=False)

    @cached_property
    def name(self) -> str:
        """Its name, such as `requests_per_minute` or `tokens_per_day`."""
        return f"{self.metric}_per_{self.period}"


@dataclass(frozen=True)
class Observation:
    """What one response says about one limit; missing figures are None.

    Attributes:
        name: the limit, such as `requests_per_minute`.
        amount: its size.
        remaining: what is left of it.
        resets_in: seconds until all of it is back.
        evidence: `header` or `error`.
        opens_in: seconds until the refused request fits, from a refusal.
        excess: by how many units the refused request did not fit.
        inferred: True if the response does not state the period and it was worked out.
    """

    name: str
    amount: float | None = None
    remaining: float | None = None
    resets_in: float | None = None
    evidence: Evidence = "header"
    opens_in: float | None = None
    excess: float | None = None
    inferred: bool = False


# Rounding errors of windows that refill, in units and in seconds.
_ROUNDING = 1e-3
# The year 5138; later times count as never.
NEVER = 1e11


@dataclass(frozen=True)
class Timeouts:
    """Timeouts of the steps of a request, in seconds.

    Attributes:
        connect: for a connection, name lookup and TLS included.
        first_token: for the first event of a streamed reply.
        silence: between two events of a streamed reply; keep-alive comments do not count.
        answer: for a reply that comes in one piece.
        total: for the request as a whole, all routes and waits included.
    """

    connect: float = 10.0
    first_token: float = 60.0
    silence: float = 30.0
    answer: float = 120.0
    total: float = 300.0


@dataclass(frozen=True)
class Budget:
    """Maximum cost of paid routes in USD, per day and per month (UTC); None for no maximum."""

    per_day: float | None = None
    per_month: float | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Completion:
    """An adapter's result: a piece of text, or the figures at the end.

    A non-streamed call gives one; a stream gives one per piece. A server may report anything as
    usage; -1 means that a value is not a count. `usage`, `finish_reason` (`stop`, `length` or
    `tool_calls`) and `observations` are set on those that carry them.
    `tool_calls` are whole, on the last one; `choices` and `vectors` are as in `Reply`.
    """

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    observations: tuple[Observation, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    choices: tuple[Mapping[str, Any], ...] = ()
    vectors: Vectors = ()


@dataclass(frozen=True)
class Standing:
    """One limit of one route as the ledger sees it at one moment; times in epoch seconds.

    `used` includes amounts on hold for calls in progress. `opens_at` is when the limit has room for
    a short prompt and nothing else closes the route. Until then, `closed_by` says what else closes
    it, and `reason` what the limit lacks. `source` says where the figure comes from, in words;
    `evidence_at` is when it was read there, and `charged_at` when the route was last charged (0:
    never).
    """

    provider: str
    key: str
    account: str
    model: str
    limit: str
    amount: float
    used: float
    opens_at: float
    resets_at: float
    evidence: Evidence
    evidence_at: float
    closed_by: str = ""
    window: WindowRule = "rolling"
    time_zone: str = "UTC"
    source: str = ""
    charged_at: float = 0.0
    reason: str = ""

    @property
    def route(self) -> RouteId:
        """The route that has the limit."""
        return RouteId(self.provider, self.key, self.model)

    @property
    def metric(self) -> Metric:
        """What the limit counts: requests or tokens."""
        return cast("Metric", self.limit.partition("_per_")[0])

    @property
    def period(self) -> Period:
        """Over what the limit counts, such as a minute or a day."""
        return cast("Period", self.limit.partition("_per_")[2])

    @property
    def remaining(self) -> float:
        """What is left now, never below zero."""
        return max(0.0, self.amount - self.used)

    @property
    def allowed_units(self) -> int:
        """The limit in whole units."""
        return _whole(math.floor, self.amount + _ROUNDING)

    @property
    def used_units(self) -> int:
        """The used amount in whole units, rounded up."""
        return _whole(math.ceil, self.used - _ROUNDING)

    @property
    def remaining_units(self) -> int:
        """What is left in whole units, never below zero."""
        return max(0, self.allowed_units - self.used_units)

    @property
    def usage_percent(self) -> float:
        """The used share of the whole units: 2 of 2 is 100."""
        if not self.allowed_units:
            return 100.0
        return 100 * self.used_units / self.allowed_units


def _whole(rounded: Callable[[float], int], units: float) -> int:
    """Units as a whole number that every table and file can hold."""
    return 0 if math.isnan(units) else rounded(min(max(0.0, units), MOST_UNITS))


def iso(seconds: float) -> str | None:
    """Return epoch seconds as ISO 8601 text in UTC, rounded up to whole seconds; None for never."""
    if not 0 <= seconds < NEVER:
        return None
    return utc(math.ceil(seconds - _ROUNDING)).isoformat()


_LAST_MOMENT = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def utc(seconds: float) -> datetime:
    """Convert epoch seconds to an aware datetime in UTC, at most the last day of the year 9999."""
    return datetime.fromtimestamp(min(seconds, _LAST_MOMENT), UTC)


def in_seconds(seconds: float) -> str:
    """`in 42 s`, `in 3 min`, `in 5 h`, `in 2 days`; rounded up, so that it is not too early."""
    if seconds < 100:
        return f"in {math.ceil(seconds)} s"
    if seconds < 100 * 60:
        return f"in {math.ceil(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"in {math.ceil(seconds / 3600)} h"
    return f"in {math.ceil(seconds / 86_400)} days"


def little_endian(vector: array[float]) -> array[float]:
    """Convert a vector between the byte order of this machine and that of files and replies."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector
