"""Building the configuration from the environment, the nearest `.env` and `arche_magic.toml`.

Variables of the environment take precedence over those of `.env`. Nothing is written to the
environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ..catalog import Provider, parse_limits
from ..errors import ConfigurationError, InvalidRequest
from ..files import absolute, expanded, keep_inside, working_directory
from ..network import is_loopback
from ..secrets import without_locals
from ..types import Budget, Limit, Location, ReplayMode, Timeouts
from .configuration import LEDGER_FILE, REPLIES_FILE, Configuration
from .env_file import clean_variables, warn_of_configuration
from .keys import find_keys, numbered_names
from .providers import ALL_PROVIDERS, check_addresses, read_providers, unknown_provider
from .settings_table import REPLAY_MODE, quoted
from .sources import SETTINGS_FILE, Sources, find_sources, how_to_hide, nearest

_DEFAULT, _STORE = "ARCHE_LLM_PROVIDER", "ARCHE_QUOTA_STORE"
_REPLIES, _REPLAY = "ARCHE_REPLIES", "ARCHE_REPLAY"
# How a Redis URL begins, even one whose slashes are missing.
_SCHEMES = ("redis:", "rediss:", "unix:", "memory:")
_SHELL_VARIABLE = re.compile(r"\$\w|\$\{|%\w+%")


@without_locals
def load_configuration(
    environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Configuration:
    """Read variables, the nearest `.env` upward from `directory`, and `arche_magic.toml`.

    Keys that were added for this session and keys in Google Colab's secrets are included. If an
    `environment` is given, its variables are used instead of all of these.

    Raises:
        ConfigurationError: a settings file cannot be read or has a wrong setting.
    """
    directory = directory or working_directory()
    if environment is None:
        sources = find_sources(directory)
    else:
        sources = Sources(clean_variables(environment))
    # A traceback that lists local variables would show the keys in it.
    del environment
    try:
        configuration = _build(sources, directory)
    except ConfigurationError as error:
        problem = str(error)
    except ValueError as error:
        problem = f"{sources.settings_file or SETTINGS_FILE}: {error}"
    else:
        owners = {key.provider for key in configuration.keys}
        # Without a key, nothing is sent.
        used = [one for one in configuration.providers.values() if one.name in owners]
        check_addresses(sources, used)
        store, where = configuration.store, sources.where_set(_STORE)
        if where and "://" in store and not (store.startswith("memory:") or is_loopback(store)):
            warn_of_configuration(f"the ledger is stored in {store} ({where})")
        return configuration
    # Raised outside the handler, so that the first error, whose frames hold the text, is not its
    # context.
    raise ConfigurationError(problem)


def _build(sources: Sources, directory: Path | None) -> Configuration:
    settings = sources.settings
    providers = read_providers(sources)
    addresses = [
        name
        for entry in providers.values()
        for name in (*entry.address_variables, entry.base_url_variable)
        if name
    ]
    sources.check_references([_STORE, _REPLIES, *addresses])
    home = _home(sources, providers, directory)
    accounts = _accounts(settings.get("accounts", {}), providers)
    keys = tuple(
        key for provider in providers.values() for key in find_keys(provider, sources, accounts)
    )
    store = _ledger_place(sources, home)
    private, own_private = (table.get("private", {}) for table in (settings, sources.own_settings))
    configuration = Configuration(
        providers=providers,
        keys=keys,
        store=store,
        on_store_failure=settings.get("on_store_failure", Configuration.on_store_failure),
        default_provider=_default_provider(sources, providers),
        patience=settings.get("patience", Configuration.patience),
        timeouts=Timeouts(**settings.get("timeouts", {})),
        directory=home,
        replay=_replay(sources),
        replies=_replies_place(sources, store, home, bool(keys)),
        budget=Budget(**budget) if (budget := settings.get("budget")) else None,
        private_routes=frozenset(own_private.get("routes", ())),
        always_private=own_private.get("always") or private.get("always", False),
        aliases=settings.get("aliases", {}),
        prompts={
            name: {"prompt": saved} if isinstance(saved, str) else saved
            for name, saved in settings.get("prompts", {}).items()
        },
        settings_folder=sources.settings_file.parent if sources.settings_file else None,
        set_by={
            name: sources.named(variable)
            for name, variable in (("default_provider", _DEFAULT), ("store", _STORE))
            if sources.variables.get(variable)
        },
    )
    _check_aliases(configuration)
    return replace(configuration, limits=_limits(settings.get("limits", {}), configuration))


def _home(
    sources: Sources, providers: Mapping[str, Provider], directory: Path | None
) -> Path | None:
    """Return the folder of a `.env` with keys, else the working directory."""
    names = [name for entry in providers.values() for name in entry.key_variables]
    home, env_file = directory, sources.env_file
    if env_file and numbered_names(sources.dotenv.variables, names):
        home = env_file.parent
        if command := how_to_hide(env_file):
            warn_of_configuration(
                f"other users of this machine can read the keys in {env_file}; run: {command}"
            )
    # Nothing is written to `outputs` if that is a link that leads out of the folder. The working
    # directory too: if the ledger is in Redis, the record of attempts is there.
    for folder in filter(None, (directory, home)):
        keep_inside(absolute(folder / LEDGER_FILE).parent, home)
    return home


def _accounts(table: Mapping[str, Any], providers: Mapping[str, Provider]) -> dict[str, str]:
    for label in table:
        match = re.fullmatch(r"(.+)_key_[1-9][0-9]*", label)
        if not match or match[1] not in providers:
            example = next(iter(providers))
            raise ValueError(f"[accounts]: {label!r} is not a key label such as {example}_key_1")
    return {label: str(name) for label, name in table.items()}


def _check_aliases(configuration: Configuration) -> None:
    for name, model in configuration.aliases.items():
        if name in configuration.providers or name == "auto":
            raise ValueError(f"[aliases]: {name!r} is taken; choose another name")
        if model in configuration.aliases:
            raise ValueError(f"[aliases]: {name} is {model!r}, an alias; write the model's name")
        try:
            configuration.resolve_model(model)
        except ConfigurationError as error:
            raise ValueError(f"[aliases]: {name}: {error}") from None


def _default_provider(sources: Sources, providers: Mapping[str, Provider]) -> str:
    if named := sources.variables.get(_DEFAULT):
        return named
    default: str = sources.settings.get("default_provider", Configuration.default_provider)
    if default.strip().lower() not in (*ALL_PROVIDERS, *providers):
        problem = unknown_provider(default, ["intelligent", *providers])
        raise ValueError(f"default_provider: {problem}")
    return default


def _replay(sources: Sources) -> ReplayMode:
    mode = sources.settings.get("replay", {}).get("mode", Configuration.replay)
    if named := sources.variables.get(_REPLAY):
        mode = str(named)
        if not REPLAY_MODE.allows(mode):
            raise ConfigurationError(f"{sources.named(_REPLAY)} is {mode!r}; it {REPLAY_MODE.rule}")
    return cast("ReplayMode", mode)


def _limits(
    table: Mapping[str, Mapping[str, Any]], configuration: Configuration
) -> dict[str, tuple[Limit, ...]]:
    limits = {}
    for scope, entry in table.items():
        try:
            provider = configuration.providers[configuration.scope_owner(scope)]
            limits[scope] = parse_limits(entry, provider.window, provider.time_zone)
        except ValueError as error:
            raise ValueError(f"[limits.{quoted(scope)}]: {error}") from None
    return limits


def _ledger_place(sources: Sources, home: Path | None) -> Location:
    """Return where the ledger is kept: a path or a URL; by default in the `outputs` of `home`."""
    if named := sources.variables.get(_STORE):
        is_url = "://" in named or named.startswith(_SCHEMES)
        return Location(named if is_url else str(_named(named, _STORE, sources)))
    if home is None:
        warn_of_configuration("the working directory is gone; the ledger is kept in memory")
        return Location("memory://")
    return Location(str(home / LEDGER_FILE))


def _replies_place(sources: Sources, ledger: str, home: Path | None, has_keys: bool) -> Path:
    """Return where replies are kept: beside the ledger, or in `outputs` if that is not a file."""
    if named := sources.variables.get(_REPLIES):
        if "://" in named:
            raise ConfigurationError(
                f"{sources.named(_REPLIES)} is a URL; it must be the path of a file"
            )
        return _named(named, _REPLIES, sources)
    # Somebody who received only the file of replies has no `.env` in the project's folder.
    if not has_keys and (handed := nearest(str(REPLIES_FILE), home)):
        return handed
    if "://" in ledger:
        return home / REPLIES_FILE if home else REPLIES_FILE
    return Path(ledger).with_name(REPLIES_FILE.name)


def _named(named: str, variable: str, sources: Sources) -> Path:
    """Return the path of one of our files, as a variable names it."""
    where, env_file = sources.where_set(variable), sources.env_file
    if _SHELL_VARIABLE.match(named):
        raise ConfigurationError(
            f"{sources.named(variable)}: {named} names a variable, which only a shell would "
            "expand; write the path itself, or ~ for the home folder"
        )
    try:
        path = expanded(named)
    except InvalidRequest as error:
        raise ConfigurationError(f"{sources.named(variable)}: {error}") from None
    if not path.name:
        raise ConfigurationError(f"{sources.named(variable)}: {named} is a folder; name a file")
    if not where or env_file is None:
        keep_inside(path.parent, None)
        return path
    # A path in `.env` is relative to the folder of that file, the project, and stays inside it.
    project = env_file.parent
    path = project / path
    leads_to = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118
    if not Path(leads_to).is_relative_to(os.path.realpath(project)):
        raise ConfigurationError(
            f"{where} points outside the project, to {leads_to}; if you want that, set {variable} "
            "in the environment, otherwise delete that line"
        )
    keep_inside(path.parent, project)
    return path
