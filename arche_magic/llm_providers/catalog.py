"""Published facts about providers and models: `catalog.toml` and `services.toml`.

Each file is read once, when it is first needed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from .network import is_loopback, origin
from .types import METRICS, MOST_UNITS, PERIOD_SECONDS, Evidence, Limit, Metric, Period, WindowRule

_RULES = ("window", "time_zone", "source")
# Fields of a provider that the catalog has in the same form.
_SAME = (
    "title", "wire", "base_url_variable", "key_page", "paid", "free_tier", "retired",
    "context_windows", "source",
)  # fmt: skip
# The window of a custom limit if neither the user nor the catalog names one. It never opens too
# early.
_DEFAULT_WINDOW: WindowRule = "rolling"


@dataclass(frozen=True)
class Training:
    """Whether a provider's terms let it train on prompts: `yes`, `no` or `unknown`.

    Attributes:
        free, paid: on accounts that pay nothing, and on those that pay.
        note: what else the user should know.
        source: where that was read, and when.
    """

    free: str = "unknown"
    paid: str = "unknown"
    note: str = ""
    source: str = ""

    def __str__(self) -> str:
        words = f"trains on prompts: {self.free} for free accounts, {self.paid} for paying ones"
        source = f" ({self.source})" if self.source else ""
        return "; ".join(filter(None, (words, self.note))) + source


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that turns texts into vectors.

    Attributes:
        dimensions: the length of its vectors; 0 if unknown.
        takes_dimensions: whether shorter vectors can be asked for; always allowed if unknown.
        texts_per_request: maximum number of texts in a request.
        tokens_per_request: maximum tokens of all texts in a request; 0 if unknown.
        tokens_per_text: maximum tokens of one text; 0 if unknown.
        counts_texts: whether the provider counts each text of a request as a request.
        limits: published limits.
        source: where that was read, and when.
    """

    dimensions: int = 0
    takes_dimensions: bool = True
    texts_per_request: int = 64
    tokens_per_request: int = 0
    tokens_per_text: int = 0
    counts_texts: bool = False
    limits: tuple[Limit, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Provider:
    """A service that answers prompts.

    Attributes:
        wire: whose format it speaks: groq, mistral, google, openai.
        models: the models used by default, each a route per key, in this order.
        known_models: every model name known to be this provider's.
        text_only: of these, the ones known not to take images.
        context_windows: maximum tokens of a request and its reply, for models where it is known.
        limits: published limits per model, or per pattern of models such as `*:free`.
        embedding_models: its models that embed texts; the first is the default.
        window, time_zone: how its windows turn, for limits that do not say.
        paid: whether its replies cost money.
        free_models: patterns of models that cost nothing. If there are any, all other models cost
            money.
        free_tier: what a known service offers for free, in words; "" if nothing.
        retired: the date on which a known service ended; "" for the others.
        training: what it states about training on prompts.
        key_variables: environment variables that hold its keys; the first is the usual one.
        prices: USD for a million input, and a million output tokens, where the user says so.
        header_periods: what `x-ratelimit-*` headers for `requests` and `tokens` count over, where
            their names do not say.
        token_limit: the parameter that limits a reply's tokens, where the user names it.
        services: addresses of the provider itself; requests go to the first. `{NAME}` in one is
            the variable that holds that part.
        base_url: another address for its requests, if one is configured.
        base_url_from: the file that sets that address, such as `GROQ_BASE_URL in /…/.env`; "" for
            the environment and the user's own settings, which are trusted.
    """

    name: str
    title: str
    wire: str
    models: tuple[str, ...]
    known_models: frozenset[str]
    limits: Mapping[str, tuple[Limit, ...]]
    key_variables: tuple[str, ...]
    base_url_variable: str | None = None
    base_url: str | None = None
    base_url_from: str = ""
    token_limit: str = ""
    services: tuple[str, ...] = ()
    key_page: str = ""
    paid: bool = False
    free_models: tuple[str, ...] = ()
    free_tier: str = ""
    retired: str = ""
    training: Training = field(default_factory=Training)
    text_only: frozenset[str] = frozenset()
    context_windows: Mapping[str, int] = field(default_factory=dict)
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    header_periods: Mapping[str, Period] = field(default_factory=dict)
    embedding_models: Mapping[str, EmbeddingModel] = field(default_factory=dict)
    window: WindowRule = _DEFAULT_WINDOW
    time_zone: str = "UTC"
    source: str = ""

    @property
    def url(self) -> str:
        """The URL for its requests."""
        return self.base_url or next(iter(self.services), "")

    @property
    def address_variables(self) -> list[str]:
        """The variables whose values are parts of its address."""
        return re.findall(r"{(\w+)}", " ".join(self.services))

    def costs_money(self, model: str) -> bool:
        """Return whether the answers of a model cost money."""
        matches = (fnmatchcase(model, pattern) for pattern in self.free_models)
        return self.paid or (bool(self.free_models) and not any(matches))

    def published_limits(self, model: str) -> tuple[Limit, ...]:
        """Return the limits of a model, by its own name or else by a pattern that matches."""
        if model in self.embedding_models and self.embedding_models[model].limits:
            return self.embedding_models[model].limits
        if model in self.limits:
            return self.limits[model]
        found = (limits for name, limits in self.limits.items() if fnmatchcase(model, name))
        return next(found, ())

    @property
    def is_at_home(self) -> bool:
        """Whether requests go to the service that the catalog has under this name.

        True for any address that the environment or the user's own settings name.
        """
        known = published_providers().get(self.name) or known_services().get(self.name)
        own = {origin(service) for service in known.services} if known else set()
        return not self.base_url_from or origin(self.url) in own

    @property
    def needs_no_key(self) -> bool:
        """Whether it is a server of the user's own on this machine, which asks for no key."""
        return self.name not in published_providers() and is_loopback(self.url)


@lru_cache(maxsize=1)
def published_providers() -> Mapping[str, Provider]:
    """Return the four providers of the catalog, in their default order.

    A published figure is a starting point: replies replace it.
    """
    return {name: _provider(name, entry) for name, entry in _read("catalog.toml", "providers")}


@lru_cache(maxsize=1)
def known_services() -> Mapping[str, Provider]:
    """Return other services whose address is known; a table in the settings turns one on."""
    return {
        name: _provider(
            name, {**entry, "wire": "openai", "source": f"{entry['source']}, {entry['read_at']}"}
        )
        for name, entry in _read("services.toml", "services")
    }


def _read(file: str, table: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Return the tables below a table of one of our files, with their names."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)[table]
    return tables.items()


def parse_limits(
    table: Mapping[str, Any],
    window: WindowRule = _DEFAULT_WINDOW,
    time_zone: str = "UTC",
    evidence: Evidence = "configured",
    source: str = "",
) -> tuple[Limit, ...]:
    """Return limits from a table such as `{"requests_per_minute": 30, "tokens_per_day": 200_000}`.

    `window`, `time_zone` and `source` in the table override the arguments. A limit with its own
    rule is written `{"requests_per_day": {"amount": 20, "window": "calendar", "time_zone":
    "Asia/Tokyo"}}`. A source is any text; the last date in it is when the figure was read.

    Raises:
        ValueError: a name is not a limit, or an amount is neither 0 nor a number of at least 1.
    """
    window, time_zone = _window_rule(table, window, time_zone)
    limits = []
    for name, entry in table.items():
        if name in _RULES:
            continue
        metric, period = split_limit_name(name)
        own = entry if isinstance(entry, Mapping) else {"amount": entry}
        if unknown := set(own) - {"amount", *_RULES}:
            raise ValueError(f"{name} has an unknown part {min(unknown)!r}")
        amount: Any = own.get("amount")
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not number or not (amount == 0 or 1 <= amount <= MOST_UNITS):
            raise ValueError(f"{name} is {amount!r}; it must be a number from 1 to 1e15, or 0")
        rule = _window_rule(own, window, time_zone)
        read_in = str(own.get("source", table.get("source", source)))
        limits.append(
            Limit(metric, period, float(amount), *rule, evidence, read_in, _read_at(read_in))
        )
    return tuple(limits)


def _read_at(source: str) -> float:
    """Return epoch seconds of the last date in a source (the first day of a month); 0 if none."""
    dates = re.findall(r"\b(\d{4})-(\d\d)(?:-(\d\d))?\b", source)
    try:
        moments = [datetime(int(y), int(m), int(d or 1), tzinfo=UTC) for y, m, d in dates]
    except ValueError:
        return 0.0
    return max(moments).timestamp() if moments else 0.0


def _window_rule(
    table: Mapping[str, Any], window: WindowRule, time_zone: str
) -> tuple[WindowRule, str]:
    window = table.get("window", window)
    if window not in ("bucket", "calendar", "rolling"):
        raise ValueError(f"window is {window!r}; it can be bucket, calendar or rolling")
    if "time_zone" in table:
        time_zone = table["time_zone"]
        # Few tables have a time zone, and loading zoneinfo takes milliseconds.
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(time_zone)
        except (KeyError, OSError, TypeError, ValueError):
            raise ValueError(
                f"time_zone is {time_zone!r}; write a name such as America/Los_Angeles"
            ) from None
    return window, time_zone


def split_limit_name(name: str) -> tuple[Metric, Period]:
    """`tokens_per_day` as metric and period.

    Raises:
        ValueError: it is not the name of a limit.
    """
    metric, _, period = name.partition("_per_")
    if metric not in METRICS or period not in PERIOD_SECONDS:
        raise ValueError(
            f"{name!r} is not a limit; write {{{'|'.join(METRICS)}}}_per_"
            f"{{{'|'.join(PERIOD_SECONDS)}}}, for example requests_per_minute"
        )
    return metric, cast("Period", period)


def _provider(name: str, entry: Mapping[str, Any]) -> Provider:
    window, time_zone = entry.get("window", _DEFAULT_WINDOW), entry.get("time_zone", "UTC")

    def limits_of(table: Mapping[str, Any], source: str) -> tuple[Limit, ...]:
        return parse_limits(table, window, time_zone, "published", source)

    limits = {
        model: limits_of(table, entry["source"]) for model, table in entry.get("limits", {}).items()
    }
    models = tuple(entry["models"])
    named = (model for model in limits if "*" not in model)
    return Provider(
        name=name,
        models=models,
        known_models=frozenset({*models, *named, *entry.get("other_models", ())}),
        limits=limits,
        key_variables=tuple(entry["key_variables"]),
        services=tuple(entry["services"]),
        free_models=tuple(entry.get("free_models", ())),
        training=Training(**entry.get("training", {})),
        text_only=frozenset(entry.get("text_only", ())),
        embedding_models={
            model: EmbeddingModel(
                **{**about, "limits": limits_of(about.get("limits", {}), about["source"])}
            )
            for model, about in entry.get("embedding_models", {}).items()
        },
        window=window,
        time_zone=time_zone,
        **{field: entry[field] for field in _SAME if field in entry},
    )
