"""Shared by the engine's tests: a clock set by the test, small configurations, short calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis_server import RedisServer

from arche_magic.llm_providers.catalog import Provider, published_providers
from arche_magic.llm_providers.config import Configuration, label_keys
from arche_magic.llm_providers.provider_failure import ProviderFailure, Remedy
from arche_magic.llm_providers.quota.merging import merge_documents
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.storage.redis import RedisStorage
from arche_magic.llm_providers.types import Limit, Route, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from arche_magic.llm_providers.quota.opening import RouteState

# A Monday noon in Los Angeles, far from any change of its clocks.
NOON = 1_763_409_600.0


class Clock:
    """A clock that changes only when a test sets it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class LedgerServer(RedisServer):
    """A Redis server with ledgers, whose clock is set by the test."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        super().__init__(folder, keeps=keeps)
        self.clock = Clock()

    def storage(self, url: str = "") -> RedisStorage:
        """The storage as another process would open it, perhaps through a proxy."""
        clock = self.clock
        return RedisStorage(url or self.url, lambda *given: merge_documents(*given, clock.now))


def custom_provider(
    limits: Sequence[Limit] = (), name: str = "groq", models: Sequence[str] = ("model-a", "model-b")
) -> Provider:
    """A provider with these limits on its first model and no limits on the others."""
    published = published_providers()[name]
    return Provider(
        name=name,
        title=name,
        wire=published.wire,
        models=tuple(models),
        known_models=frozenset(models),
        limits={models[0]: tuple(limits)},
        key_variables=published.key_variables,
        window=published.window,
        time_zone=published.time_zone,
    )


def custom_configuration(
    limits: Sequence[Limit] = (),
    *,
    name: str = "groq",
    models: Sequence[str] = ("model-a", "model-b"),
    keys: int = 2,
    clock: Clock | None = None,
) -> Configuration:
    """One provider with `keys` keys, each of which is its own account."""
    return Configuration(
        providers={name: custom_provider(limits, name, models)},
        keys=label_keys(name, [f"made-up-key-{number}" for number in range(keys)]),
        clock=clock or Clock(),
    )


def a_route(configuration: Configuration, key: int = 1, model: str = "model-a") -> Route:
    """The route of a key (counted from 1) and a model."""
    provider = next(iter(configuration.providers))
    label = f"{provider}_key_{key}"
    return next(
        route
        for route in configuration.routes()
        if route.key.label == label and route.model == model
    )


def ask(text: str = "Hello", max_tokens: int | None = 10, timeout: float = 60.0) -> Request:
    """A request with one user message."""
    return Request((Message("user", text),), max_tokens=max_tokens, timeout=timeout)


def set_by_user(limit: Limit) -> Limit:
    """The limit as set by the user, so that calls need not start one at a time."""
    return replace(limit, evidence="configured")


RPM = set_by_user(Limit("requests", "minute", 3, "bucket"))
RPD = set_by_user(Limit("requests", "day", 100, "bucket"))
TPM = set_by_user(Limit("tokens", "minute", 1000, "bucket"))


Build = Callable[..., QuotaTracker]


def held(tracker: QuotaTracker, route: Route, request: Request | None = None) -> Hold:
    hold = tracker.hold(route, request or ask())
    assert isinstance(hold, Hold), hold
    return hold


def proven(tracker: QuotaTracker) -> QuotaTracker:
    """A ledger in which each route was answered once, long enough ago that nothing counts now."""
    clock = tracker.configuration.clock
    now = clock.time()
    clock.sleep(-40 * 86_400.0)
    for route in tracker.configuration.routes():
        served(tracker, route)
    clock.sleep(now - clock.time())
    return tracker


def served(tracker: QuotaTracker, route: Route, **options: Any) -> str:
    return tracker.settle(Settlement(held(tracker, route), Usage(5, 5), **options))


def failed(tracker: QuotaTracker, route: Route, remedy: Remedy, **facts: Any) -> RouteState:
    facts["observations"] = tuple(facts.get("observations", ()))
    return tracker.fail(held(tracker, route), ProviderFailure("it failed", remedy, **facts))


def opens_in(tracker: QuotaTracker, route: Route, request: Request | None = None) -> float:
    now = tracker.configuration.clock.time()
    return max(0.0, tracker.state(route, request or ask(), now).opens_at - now)


def used(tracker: QuotaTracker, key: str = "groq_key_1", limit: str = "requests_per_minute") -> Any:
    """The used amount of a limit, with the fractions that tables leave out."""
    rows = (r for r in tracker.standings("groq") if (r.key, r.limit) == (key, limit))
    return max(rows, key=lambda row: row.used / row.amount).used
