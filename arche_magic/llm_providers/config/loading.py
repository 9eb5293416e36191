"""Reading the configuration from the environment, the nearest `.env` and `arche_magic.toml`.

Variables of the environment take precedence over those of `.env`. Nothing is written to the
environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from ..catalog import Provider, parse_limits, published_providers
from ..errors import ConfigurationError
from ..files import absolute, keep_inside, working_directory
from ..network import is_loopback, origin
from ..secrets import without_locals
from ..types import Budget, Limit, Location, ReplayMode, Timeouts
from .base_url_policy import check_base_url, check_key_variable, own_settings_folder
from .configuration import DEFAULT_PATIENCE, Configuration, scope_owner
from .env_file import Variables, warn_of_readers, warn_once
from .keys import find_keys, numbered_names
from .paths import (
    LEDGER_FILE,
    REPLIES,
    STORE,
    announce_store,
    ledger_place,
    replies_place,
)
from .providers import read_providers
from .sources import SETTINGS_FILE, Sources, find_sources


@without_locals
def load_configuration(
    environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> Configuration:
    """Read variables, the nearest `.env` upward from `directory`, and `arche_magic.toml`.

    Keys that were added for this session and keys in Google Colab's secrets are included.

    Args:
        environment: variables to use instead of all of these.
        directory: where to look; by default the working directory.

    Raises:
        ConfigurationError: a settings file cannot be read or has a wrong setting.
    """
    directory = directory or working_directory()
    own = environment is None
    sources = find_sources(directory) if environment is None else Sources(Variables(environment))
    # A traceback that lists local variables would show the keys in it.
    del environment
    try:
        configuration = _build(sources, directory, own)
    except ValueError as error:
        from ..redaction import without_key_like

        problem = without_key_like(str(error))
    else:
        _check_what_files_say(sources, configuration)
        return configuration
    # Raised outside the handler, so that the first error, whose frames hold the text, is not its
    # context.
    raise ConfigurationError(f"{sources.settings_file or SETTINGS_FILE}: {problem}")


def _build(sources: Sources, home: Path | None, own: bool) -> Configuration:
    variables, settings = sources.variables, sources.settings
    providers = read_providers(settings, sources.project_file, sources.trusted_variables, variables)
    for name, provider in providers.items():
        variable = provider.base_url_variable
        if variable and (url := variables.get(variable)):
            where = sources.where_set(variable)
            providers[name] = replace(provider, base_url=url, base_url_from=where)
    places = [entry.base_url_variable for entry in providers.values() if entry.base_url_variable]
    places += [name for entry in providers.values() for name in entry.address_variables]
    sources.check_references([*places, STORE, REPLIES])
    names = [name for entry in providers.values() for name in entry.key_variables]
    folders = [home] if home else []
    if sources.env_file and any(numbered_names(sources.in_file, [name]) for name in names):
        warn_of_readers(sources.env_file)
        home = sources.env_file.parent
        folders.append(home)
    # The working directory too: if the ledger is in Redis, the record of attempts is there.
    for folder in folders:
        keep_inside(absolute(folder / LEDGER_FILE).parent, home)
    accounts = {label: str(name) for label, name in settings.get("accounts", {}).items()}
    for label in accounts:
        owner, _, number = label.rpartition("_key_")
        if owner not in providers or not number.isdigit():
            example = next(iter(providers))
            raise ValueError(f"[accounts]: {label!r} is not a key label such as {example}_key_1")
    keys = tuple(
        key
        for provider in providers.values()
        for key in find_keys(provider, sources, accounts, own)
    )
    store = ledger_place(sources, home)
    configuration = Configuration(
        providers=providers,
        keys=keys,
        store=store,
        on_store_failure=settings.get("on_store_failure", "refuse"),
        default_provider=variables.get("ARCHE_LLM_PROVIDER")
        or settings.get("default_provider")
        or "intelligent",
        patience=float(settings.get("patience", DEFAULT_PATIENCE)),
        timeouts=Timeouts(**_numbers(settings.get("timeouts", {}))),
        limits=_limits(settings.get("limits", {}), providers),
        directory=home,
        replay=_replay(variables, settings),
        replies=replies_place(sources, store, home, bool(keys)),
        budget=Budget(**_numbers(budget)) if (budget := settings.get("budget")) else None,
        private=sources.private,
        aliases=settings.get("aliases", {}),
        prompts={
            name: {"prompt": saved} if isinstance(saved, str) else saved
            for name, saved in settings.get("prompts", {}).items()
        },
        settings_folder=sources.settings_file.parent if sources.settings_file else None,
    )
    _check_aliases(configuration)
    return configuration


def _check_aliases(configuration: Configuration) -> None:
    for name, model in configuration.aliases.items():
        if name in configuration.providers or name in ("auto", ""):
            raise ValueError(f"[aliases]: {name!r} is taken; choose another name")
        if model in configuration.aliases:
            raise ValueError(f"[aliases]: {name} is {model!r}, an alias; write the model's name")
        try:
            configuration.resolve_model(model)
        except ConfigurationError as error:
            raise ValueError(f"[aliases]: {name}: {error}") from None


def _check_what_files_say(sources: Sources, configuration: Configuration) -> None:
    """Refuse or announce that a file sends keys or the ledger to another machine."""
    owners = {key.provider for key in configuration.keys}
    own_settings = own_settings_folder() / SETTINGS_FILE
    for provider in configuration.providers.values():
        # Without a key, nothing is sent.
        if provider.name not in owners:
            continue
        check_base_url(provider, sources.trusted, own_settings)
        names = numbered_names(sources.variables, provider.key_variables)
        if not provider.base_url_from or origin(provider.url) in map(origin, provider.services):
            continue
        for name in names:
            for borrowed in sources.borrowed(name):
                where = sources.where_set(name)
                check_key_variable(borrowed, where, sources.trusted_variables, own_settings)
        exported = [name for name in names if not sources.where_set(name)]
        if exported and is_loopback(provider.url) and provider.name not in published_providers():
            warn_once(
                f"{', '.join(exported)} goes to {origin(provider.url)} ({provider.base_url_from})"
            )
    if where := sources.where_set(STORE):
        announce_store(Location(configuration.store), where)


def _numbers(table: Mapping[str, float]) -> dict[str, float]:
    """Return the same numbers as floats; a file may have `5` for `5.0`."""
    return {name: float(number) for name, number in table.items()}


def _replay(variables: Mapping[str, str], settings: Mapping[str, Any]) -> ReplayMode:
    named, known = variables.get("ARCHE_REPLAY"), get_args(ReplayMode)
    if named and named not in known:
        raise ConfigurationError(f"ARCHE_REPLAY is {str(named)!r}; it can be {', '.join(known)}")
    return cast("ReplayMode", named or settings.get("replay", {}).get("mode", "off"))


def _limits(
    table: Mapping[str, Mapping[str, Any]], providers: Mapping[str, Provider]
) -> dict[str, tuple[Limit, ...]]:
    limits = {}
    for scope, entry in table.items():
        try:
            provider = providers[scope_owner(scope, providers)]
            limits[scope] = parse_limits(entry, provider.window, provider.time_zone)
        except ValueError as error:
            raise ValueError(f"[limits.{scope!r}]: {error}") from None
    return limits
