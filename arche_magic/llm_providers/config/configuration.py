"""Everything the engine needs before the first request: one immutable value."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..catalog import Provider
from ..errors import ConfigurationError
from ..secrets import key_in
from ..text.wording import did_you_mean, shortened
from ..types import Budget, Key, Limit, Location, OnStoreFailure, ReplayMode, Route, Timeouts
from .providers import unknown_provider

LEDGER_FILE = Path("outputs", "llm_quota_tracker.json")
REPLIES_FILE = Path("outputs", "llm_replies.sqlite")
# A provider or the label of its key, and perhaps a model.
_SCOPE = re.compile(r"([^/]+?)(?:_key_[1-9][0-9]*)?(?:/.+)?")


class Clock(Protocol):
    """The clock of the engine, which also sleeps; tests and the sandbox pass their own."""

    def time(self) -> float:
        """Return seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds of this clock."""


@dataclass(frozen=True)
class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Configuration:
    """Everything the engine needs to know before the first request.

    Attributes:
        providers: by name, in the order in which they are asked.
        keys: all keys of all providers, in the order of their labels.
        store: where the ledger is kept: a path, `memory://`, or a Redis URL (as a `Location`,
            which does not show its password).
        on_store_failure: what happens to requests while Redis answers but accepts no changes:
            `refuse` sends none, `count-alone` counts them in this process.
        default_provider: what `get_llm_provider(None)` returns.
        patience: seconds that a request waits for a route instead of failing or paying.
        timeouts: how long the steps of a request may take.
        limits: the user's own, by provider, `provider/model`, key label or `label/model`.
        clock: tells the time and waits.
        directory: where the settings were found; the ledger is kept there by default.
        replay: whether replies are kept and used again: `off`, `keep`, or `only` kept ones.
        replies: the file of kept replies.
        off: key labels and models (`groq/openai/gpt-oss-120b`) that are switched off.
        preferred_provider: the provider to ask before all others, paid or not.
        budget: the most that paid routes may cost; None if nothing is set.
        private_routes: the providers (`mistral`), models (`google/gemini-3.5-flash`) and keys
            (`google:4f0c2a91b7de`, by fingerprint) that the user marked, in their own settings, as
            not training on prompts. No reply says whether a provider does.
        always_private: every prompt is private unless its cell or call says otherwise.
        aliases: the user's own names for models.
        prompts: the user's saved prompts by name, each with a `prompt`, a `system` prompt or both.
        settings_folder: where the settings file is; None if there is none.
        set_by: the variables that set `default_provider` and `store`, if any, for messages.
    """

    providers: Mapping[str, Provider]
    keys: tuple[Key, ...] = ()
    store: str = "memory://"
    on_store_failure: OnStoreFailure = "refuse"
    default_provider: str = "intelligent"
    patience: float = 30.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    directory: Path | None = None
    replay: ReplayMode = "off"
    replies: Path = REPLIES_FILE
    off: frozenset[str] = frozenset()
    preferred_provider: str | None = None
    budget: Budget | None = None
    private_routes: frozenset[str] = frozenset()
    always_private: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings_folder: Path | None = None
    set_by: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Location(self.store))

    def provider(self, name: str) -> Provider:
        """Return the provider of that name.

        Raises:
            ConfigurationError: there is none; the message offers the nearest names.
        """
        if isinstance(name, str) and name in self.providers:
            return self.providers[name]
        raise self.unknown(unknown_provider(name, self.providers))

    def unknown(self, problem: str) -> ConfigurationError:
        """Return the error about an unknown name; a key in place of a name is not shown."""
        if key := key_in(problem, self.keys):
            problem = f"that is a key itself; its label is {key.label}"
        return ConfigurationError(problem)

    def routes(self, models: Mapping[str, Sequence[str]] | None = None) -> tuple[Route, ...]:
        """Return all routes except those that are off; only those of `models` if it is given."""
        return tuple(
            self.route(key, model)
            for name, provider in self.providers.items()
            for model in (provider.models if models is None else models.get(name, ()))
            for key in self.keys
            if key.provider == name and self.is_on(key, model)
        )

    def route(self, key: Key, model: str) -> Route:
        """Return the route to a model with this key."""
        provider = self.providers[key.provider]
        paid, price = provider.costs_money(model), provider.prices.get(model)
        return Route(provider.name, key, model, paid, price, provider.base_url or "")

    def is_on(self, key: Key, model: str) -> bool:
        """Return whether neither the key nor the model is switched off."""
        return self.off.isdisjoint((key.label, f"{key.provider}/{model}"))

    def is_private(self, route: Route) -> bool:
        """Return whether the user has marked the route, so that private prompts may take it."""
        name = route.provider
        names = name, f"{name}/{route.model}", f"{name}:{route.key.fingerprint}"
        # A project's file could give a marked provider another address.
        return not self.private_routes.isdisjoint(names) and self.providers[name].is_at_home

    def default_limits(self, route: Route) -> tuple[Limit, ...]:
        """Return a route's limits before its first reply: the user's, else the published ones."""
        provider = self.providers[route.provider]
        limits = {limit.name: limit for limit in provider.published_limits(route.model)}
        for scope in self.limit_scopes(route):
            limits.update({limit.name: limit for limit in self.limits.get(scope, ())})
        return tuple(limits.values())

    def takes_images(self, route: Route) -> bool:
        """Return whether the route's model may accept images; False only if it is known not to."""
        return route.model not in self.providers[route.provider].text_only

    def limit_scopes(self, route: Route) -> tuple[str, ...]:
        """Return the names under which limits of a route can be set; later ones take precedence."""
        key = route.key.label
        return route.provider, f"{route.provider}/{route.model}", key, f"{key}/{route.model}"

    def scope_owner(self, scope: str) -> str:
        """Return the provider that a name under `[limits]` is about.

        Raises:
            ValueError: it names no provider; the message says what such a name can be.
        """
        match = _SCOPE.fullmatch(scope)
        owner = match[1] if match else scope
        if owner not in self.providers:
            raise ValueError(
                "the name must be a provider, provider/model, a key's label, or label/model"
                f"{did_you_mean(owner, self.providers)}"
            )
        return owner

    def without_alias(self, model: str | None) -> str | None:
        """Return the model of an alias; any other name unchanged."""
        return self.aliases.get(model, model) if model is not None else None

    def resolve_model(self, model: str | None, provider: str | None = None) -> dict[str, list[str]]:
        """Return the models that a request may use, by provider.

        A bare name means the providers known to have it, `provider/model` means that provider, an
        alias means its model, and an unknown name means the provider that was asked for by name.

        Raises:
            ConfigurationError: unknown provider or model, or a model of another provider.
        """
        asked = {provider: self.provider(provider)} if provider else dict(self.providers)
        model = self.without_alias(model)
        if model is None:
            return {name: list(entry.models) for name, entry in asked.items()}
        owners = [name for name, entry in self.providers.items() if model in entry.known_models]
        prefix, _, rest = model.partition("/")
        if prefix in asked and rest in asked[prefix].known_models:
            return {prefix: [rest]}
        # A bare name, which may contain a slash.
        if allowed := [name for name in owners if name in asked]:
            return {name: [model] for name in allowed}
        # A name that is not in the catalog, or that lacks its vendor, of a named provider.
        if prefix in asked and rest and not owners:
            return {prefix: [_full_name(asked[prefix], rest) or rest]}
        # A bare name without its vendor.
        short = {name: full for name, entry in asked.items() if (full := _full_name(entry, model))}
        if short:
            return {name: [full] for name, full in short.items()}
        owners = owners or [
            name for name, entry in self.providers.items() if _full_name(entry, model)
        ]
        if provider and not owners and (prefix not in self.providers or not rest):
            return {provider: [model]}
        if provider:
            owner = owners[0] if owners else prefix
            raise ConfigurationError(f"{model!r} is a model of {owner}, not of {provider}")
        if model in self.providers:
            raise ConfigurationError(
                f"{model!r} is a provider, not a model; use provider={model!r} (-p {model})"
            )
        known = sorted(name for entry in self.providers.values() for name in entry.known_models)
        hint = did_you_mean(model, [*self.aliases, *known]).replace("?", "? If not,") or ";"
        raise self.unknown(
            f"unknown model {shortened(model, 100)!r}{hint} write provider/model to send a name "
            "that is not in the catalog"
        )


def _full_name(provider: Provider, model: str) -> str | None:
    """Return the provider's name for a model that the user wrote without its vendor, if any."""
    ends = (name for name in sorted(provider.known_models) if name.rpartition("/")[2] == model)
    return next(ends, None)
