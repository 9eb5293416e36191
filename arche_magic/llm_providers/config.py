"""Keys, order, models and limits: from the environment, the nearest `.env`, `arche_magic.toml`.

The real environment wins over `.env`. Nothing is written to the environment. Reading happens once,
in `load_configuration`; the result is an immutable `Configuration` that is handed around.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

from .addresses import is_loopback, origin
from .catalog import Provider, parse_limits, published_providers
from .choices import Choices
from .env_file import Variables, tell, tell_of_readers
from .errors import ConfigurationError
from .folders import absolute, working_directory
from .keys import find_keys, numbered_names
from .keys import label_keys as label_keys
from .places import (
    LEDGER_FILE,
    REPLIES,
    REPLIES_FILE,
    STORE,
    ledger_place,
    replies_place,
    tell_of_store,
)
from .privacy import Private
from .provider_settings import hint_for, read_providers
from .redaction import without_key_like
from .safe_files import keep_inside
from .sources import SETTINGS_FILE, Sources, find_sources
from .sources import did_you_mean as did_you_mean
from .sources import table as _table
from .tracebacks import without_locals
from .trust import check_base_url, check_key_variable, own_settings_folder
from .types import (
    Budget,
    Clock,
    Key,
    Limit,
    Location,
    OnStoreFailure,
    ReplayMode,
    Route,
    SystemClock,
    Timeouts,
)

REPLAY_SETTINGS = ("mode",)
DEFAULT_PATIENCE = 30.0


@dataclass(frozen=True)
class Configuration:
    """Everything the engine needs to know before the first request.

    Attributes:
        providers: by name, in the order they are asked.
        keys: all keys of all providers, in the order of their labels.
        store: where the ledger lives: a path, `memory://`, or a Redis URL (made a `Location`,
            which does not show its password).
        on_store_failure: what becomes of requests while Redis, though it answers, takes no
            changes: `refuse` sends none, `count-alone` counts in this process.
        default_provider: what `get_llm_provider(None)` gives.
        patience: seconds a request waits for a route rather than fail or pay.
        timeouts: how long a request waits for what.
        limits: the user's own, by provider, `provider/model`, key label or `label/model`.
        clock: what the engine reads time from.
        directory: where the settings were found; the ledger's default place.
        replay: whether replies are kept and used again: `off`, `keep`, or `only` kept ones.
        replies: the file they are kept in.
        off: key labels and models (`groq/openai/gpt-oss-120b`) that are switched off.
        preferred_provider: asked before all others, paid or not.
        budget: the most that paid routes may cost; None if nothing is set.
        private: the routes that private prompts may take.
    """

    providers: Mapping[str, Provider]
    keys: tuple[Key, ...] = ()
    store: str = "memory://"
    on_store_failure: OnStoreFailure = "refuse"
    default_provider: str = "intelligent"
    patience: float = DEFAULT_PATIENCE
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    directory: Path | None = None
    replay: ReplayMode = "off"
    replies: Path = REPLIES_FILE
    off: frozenset[str] = frozenset()
    preferred_provider: str | None = None
    budget: Budget | None = None
    private: Private = field(default_factory=Private)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Location(self.store))

    def provider(self, name: str) -> Provider:
        """The provider of that name.

        Raises:
            ConfigurationError: there is none; the message offers the nearest names.
        """
        try:
            return self.providers[name]
        except KeyError:
            raise ConfigurationError(
                f"unknown provider {name!r}{hint_for(name, self.providers)}; "
                f"known are {', '.join(self.providers)}"
            ) from None

    def routes(self, models: Mapping[str, Sequence[str]] | None = None) -> tuple[Route, ...]:
        """Every way to get an answer, but what is off; `models` narrows to those."""
        if models is None:
            models = {provider.name: provider.models for provider in self.providers.values()}
        return tuple(
            self.route(key, model)
            for provider in self.providers.values()
            for model in models.get(provider.name, ())
            for key in self.keys
            if key.provider == provider.name and self.is_on(key, model)
        )

    def route(self, key: Key, model: str) -> Route:
        """The way to a model with this key."""
        provider = self.providers[key.provider]
        price = provider.prices.get(model)
        return Route(provider.name, key, model, provider.paid, price, provider.base_url or "")

    def is_on(self, key: Key, model: str) -> bool:
        """Whether neither the key nor the model is switched off."""
        return self.off.isdisjoint((key.label, f"{key.provider}/{model}"))

    def is_private(self, route: Route) -> bool:
        """Whether private prompts may take the route: it is marked, and leads where that meant.

        A project's file could give a marked provider another address.
        """
        return self.private.marks(route) and self.providers[route.provider].is_at_home

    def default_limits(self, route: Route) -> tuple[Limit, ...]:
        """Limits of a route before any reply: published ones, overlaid by the user's."""
        provider = self.providers[route.provider]
        limits = {limit.name: limit for limit in provider.limits.get(route.model, ())}
        for scope in self.limit_scopes(route):
            limits.update({limit.name: limit for limit in self.limits.get(scope, ())})
        return tuple(limits.values())

    def takes_images(self, route: Route) -> bool:
        """Whether the route's model may take images; False only where it is known not to."""
        return route.model not in self.providers[route.provider].text_only

    def limit_scopes(self, route: Route) -> tuple[str, ...]:
        """The names under which limits of a route can be set; a later one wins."""
        key = route.key.label
        return route.provider, f"{route.provider}/{route.model}", key, f"{key}/{route.model}"

    def scope_owner(self, scope: str) -> str:
        """The provider that a scope of limits belongs to.

        Raises:
            ValueError: it belongs to none.
        """
        return _scope_owner(scope, self.providers)

    def resolve_model(self, model: str | None, provider: str | None = None) -> dict[str, list[str]]:
        """Which models of which providers a request may go to.

        A bare name goes to the providers known to have it, `provider/model` to that provider,
        and a name nobody knows to the provider that was asked for by name.

        Raises:
            ConfigurationError: unknown provider or model, or a model of another provider.
        """
        asked = {provider: self.provider(provider)} if provider else dict(self.providers)
        if model is None:
            return {name: list(entry.models) for name, entry in asked.items()}
        owners = [name for name, entry in self.providers.items() if model in entry.known_models]
        prefix, _, rest = model.partition("/")
        if prefix in asked and rest in asked[prefix].known_models:
            return {prefix: [rest]}
        if allowed := [name for name in owners if name in asked]:
            return {name: [model] for name in allowed}
        if prefix in asked and rest and not owners:
            return {prefix: [_full_name(asked[prefix], rest) or rest]}
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
        known = sorted(name for entry in self.providers.values() for name in entry.known_models)
        raise ConfigurationError(
            f"unknown model {model!r}{did_you_mean(model, known)}; "
            "write provider/model to send a name that is not in the catalog"
        )


_current: Configuration | None = None
_choices = Choices()


def get_configuration() -> Configuration:
    """The configuration in use: the one given to `use_configuration`, else freshly loaded.

    The choices of the session, if any, are in it.
    """
    return _choices.applied(_current if _current is not None else load_configuration())


def use_configuration(configuration: Configuration | None) -> None:
    """Use this configuration in this process from now on; None goes back to files and variables.

    Choices made before are forgotten: its keys may be others.
    """
    global _current, _choices
    _current, _choices = configuration, Choices()


def is_given() -> bool:
    """Whether the configuration in use was given to `use_configuration`."""
    return _current is not None


def get_choices() -> Choices:
    """The choices of this session."""
    return _choices


def use_choices(choices: Choices) -> None:
    """Make these choices for every request of this process from now on."""
    global _choices
    _choices = choices


@without_locals
def load_configuration(
    environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Configuration:
    """Read variables, the nearest `.env` upward from `directory`, and `arche_magic.toml`.

    Keys that were added for this session, and those among Google Colab's secrets, are found too.

    Args:
        environment: variables to use instead of all these.
        directory: where to look; the working directory if not given.

    Raises:
        ConfigurationError: a settings file cannot be read or says something impossible.
    """
    directory = directory or working_directory()
    own = environment is None
    sources = find_sources(directory) if environment is None else Sources(Variables(environment))
    # A traceback that lists local variables would show the keys in it.
    del environment
    try:
        configuration = _build(sources, directory, own)
    except ValueError as error:
        problem = without_key_like(str(error))
    else:
        _check_what_files_say(sources, configuration)
        return configuration
    # Not while it is handled: what was being read when it was raised would hang on to this one.
    raise ConfigurationError(f"{sources.settings_file or SETTINGS_FILE}: {problem}")


def _build(sources: Sources, home: Path | None, own: bool) -> Configuration:
    variables, settings = sources.variables, sources.settings
    providers = read_providers(settings, sources.project_file, sources.trusted_variables)
    for name, provider in providers.items():
        variable = provider.base_url_variable
        if variable and (url := variables.get(variable)):
            where = sources.said_in(variable)
            providers[name] = replace(provider, base_url=url, base_url_from=where)
    places = [entry.base_url_variable for entry in providers.values()]
    sources.check_references([*filter(None, places), STORE, REPLIES])
    names = [name for entry in providers.values() for name in entry.key_variables]
    folders = [home] if home else []
    if sources.env_file and any(numbered_names(sources.in_file, [name]) for name in names):
        tell_of_readers(sources.env_file)
        home = sources.env_file.parent
        folders.append(home)
    # Also that of the working directory: the record lies there if the ledger is in Redis.
    for folder in folders:
        keep_inside(absolute(folder / LEDGER_FILE).parent, home)
    accounts = {label: str(name) for label, name in _table(settings, "accounts").items()}
    for label in accounts:
        owner, _, number = label.rpartition("_key_")
        if owner not in providers or not number.isdigit():
            example = next(iter(providers))
            raise ValueError(f"[accounts]: {label!r} is no key label such as {example}_key_1")
    keys = tuple(
        key
        for provider in providers.values()
        for key in find_keys(provider, sources, accounts, own)
    )
    patience = settings.get("patience", DEFAULT_PATIENCE)
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
        raise ValueError(f"patience is {patience!r}; it must be seconds, 0 or more")
    default_provider = variables.get("ARCHE_LLM_PROVIDER") or settings.get("default_provider")
    if not isinstance(default_provider, str | None):
        raise ValueError(f"default_provider is {default_provider!r}; it must be a name")
    store = ledger_place(sources, home)
    return Configuration(
        providers=providers,
        keys=keys,
        store=store,
        on_store_failure=_on_store_failure(settings),
        default_provider=default_provider or "intelligent",
        patience=float(patience),
        timeouts=_timeouts(_table(settings, "timeouts")),
        limits=_limits(_table(settings, "limits"), providers),
        directory=home,
        replay=_replay(variables, settings),
        replies=replies_place(sources, store, home, bool(keys)),
        budget=_budget(_table(settings, "budget")),
        private=sources.private,
    )


def _check_what_files_say(sources: Sources, configuration: Configuration) -> None:
    """Raise or announce, where a file sends keys, or the ledger, to some other place."""
    owners = {key.provider for key in configuration.keys}
    own_settings = own_settings_folder() / SETTINGS_FILE
    for provider in configuration.providers.values():
        # One without a key sends nothing anywhere.
        if provider.name not in owners:
            continue
        check_base_url(provider, sources.trusted, own_settings)
        names = numbered_names(sources.variables, provider.key_variables)
        if not provider.base_url_from or origin(provider.url) in map(origin, provider.services):
            continue
        for name in names:
            for borrowed in sources.borrowed(name):
                where = sources.said_in(name)
                check_key_variable(borrowed, where, sources.trusted_variables, own_settings)
        exported = [name for name in names if not sources.said_in(name)]
        if exported and is_loopback(provider.url) and provider.name not in published_providers():
            tell(f"{', '.join(exported)} goes to {origin(provider.url)} ({provider.base_url_from})")
    if where := sources.said_in(STORE):
        tell_of_store(Location(configuration.store), where)


def _on_store_failure(settings: Mapping[str, Any]) -> OnStoreFailure:
    found, known = settings.get("on_store_failure", "refuse"), get_args(OnStoreFailure)
    if found not in known:
        raise ValueError(f"on_store_failure is {found!r}; it can be {', '.join(known)}")
    return cast("OnStoreFailure", found)


def _replay(variables: Mapping[str, str], settings: Mapping[str, Any]) -> ReplayMode:
    table = _table(settings, "replay")
    if unknown := set(table) - set(REPLAY_SETTINGS):
        raise ValueError(f"[replay]: unknown setting {min(unknown)!r}; there is mode")
    mode, known = table.get("mode", "off"), get_args(ReplayMode)
    if mode not in known:
        raise ValueError(f"[replay]: mode is {mode!r}; it can be {', '.join(known)}")
    if (named := variables.get("ARCHE_REPLAY", "")) and named not in known:
        raise ConfigurationError(f"ARCHE_REPLAY is {str(named)!r}; it can be {', '.join(known)}")
    return cast("ReplayMode", named or mode)


def _full_name(provider: Provider, model: str) -> str | None:
    """The provider's own name for a model that may be given without its vendor's prefix."""
    if model in provider.known_models:
        return model
    ends = (name for name in sorted(provider.known_models) if name.rpartition("/")[2] == model)
    return next(ends, None)


def _timeouts(table: Mapping[str, Any]) -> Timeouts:
    known = [entry.name for entry in fields(Timeouts)]
    for name, seconds in table.items():
        if name not in known:
            raise ValueError(f"[timeouts]: unknown setting {name!r}{did_you_mean(name, known)}")
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 < seconds < math.inf:
            raise ValueError(f"[timeouts]: {name} is {seconds!r}; it must be seconds, more than 0")
    return Timeouts(**{name: float(seconds) for name, seconds in table.items()})


def _budget(table: Mapping[str, Any]) -> Budget | None:
    known = [entry.name for entry in fields(Budget)]
    for name, amount in table.items():
        if name not in known:
            raise ValueError(f"[budget]: unknown setting {name!r}{did_you_mean(name, known)}")
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not number or not 0 <= amount < math.inf:
            raise ValueError(f"[budget]: {name} is {amount!r}; it must be USD, 0 or more")
    return Budget(**{name: float(amount) for name, amount in table.items()}) if table else None


def _limits(
    table: Mapping[str, Any], providers: Mapping[str, Provider]
) -> dict[str, tuple[Limit, ...]]:
    limits = {}
    for scope in table:
        entry = _table(table, scope, "limits.")
        try:
            provider = providers[_scope_owner(scope, providers)]
            limits[scope] = parse_limits(entry, provider.window, provider.time_zone)
        except ValueError as error:
            raise ValueError(f"[limits.{scope!r}]: {error}") from None
    return limits


def _scope_owner(scope: str, providers: Mapping[str, Provider]) -> str:
    owner = scope.partition("/")[0].partition("_key_")[0]
    if owner not in providers:
        raise ValueError(
            "write a provider, provider/model, a key's label, or label/model"
            f"{did_you_mean(owner, providers)}"
        )
    return owner
