"""Providers as `[providers.NAME]` in the settings changes or adds them, and where keys may go.

An added service speaks OpenAI's chat completions. The catalog knows the addresses of some; for any
other the table names it. The user's keys must not go to an address that others chose, and others
often wrote the `.env` and `arche_magic.toml` in a notebook's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..catalog import EmbeddingModel, Provider, known_services, published_providers
from ..errors import ConfigurationError
from ..network import is_base_url, is_loopback, origin
from ..text.wording import did_you_mean, suggestion
from .env_file import warn_of_configuration
from .keys import numbered_names
from .settings_table import TRUST_BASE_URLS, TRUST_KEY_VARIABLES
from .sources import SETTINGS_FILE, Sources, own_settings_file

# Names that mean all providers.
ALL_PROVIDERS = ("intelligent", "orchestrator")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ENDPOINT = "/chat/completions"


def read_providers(sources: Sources) -> dict[str, Provider]:
    """Return all providers in the order in which they are asked.

    Raises:
        ValueError: a setting is missing, or does not fit the provider.
        ConfigurationError: a project's file would use another variable as a key.
    """
    providers = dict(published_providers())
    for name, entry in sources.settings.get("providers", {}).items():
        try:
            providers[name] = _read(name, entry, sources)
        except ValueError as error:
            raise ValueError(f"[providers.{name}]: {error}") from None
        if sources.project_file and "key_variable" in entry:
            where = f"[providers.{name}] key_variable in {sources.project_file}"
            _check_key_variable(entry["key_variable"], where, sources)
    for name, provider in providers.items():
        variable = provider.base_url_variable or ""
        if url := sources.variables.get(variable):
            where = sources.where_set(variable)
            providers[name] = replace(provider, base_url=url, base_url_from=where)
    order = sources.settings.get("order", list(providers))
    for name in order:
        if name not in providers:
            raise ValueError(f"order: {unknown_provider(name, providers)}")
    return {name: providers[name] for name in dict.fromkeys([*order, *providers])}


def unknown_provider(name: object, known: Iterable[str]) -> str:
    """Return the message about an unknown name of a provider."""
    if not isinstance(name, str):
        return f"the name of a provider is of type {type(name).__name__}; it must be text"
    hint = suggestion(name, known, "known are")
    if service := known_services().get(name):
        hint = f"; the line [providers.{name}] in {SETTINGS_FILE} turns it on"
        if service.retired:
            hint = f"; {service.title} was retired on {service.retired}"
        elif not service.models:
            hint = f"; a table [providers.{name}] with its models in {SETTINGS_FILE} adds it"
    return f"unknown provider {name!r}{hint}"


def _read(name: str, entry: Mapping[str, Any], sources: Sources) -> Provider:
    provider = _with_address(_known_or_new(name, entry), entry, sources)
    models = tuple(dict.fromkeys(entry.get("models", provider.models)))
    known = provider.embedding_models
    embedding_models = {
        model: known.get(model, EmbeddingModel()) for model in entry.get("embedding_models", known)
    }
    # A paid account's limits are its own: they are learned from its replies.
    limits = provider.limits
    if entry.get("tier") == "paid":
        limits = {}
        embedding_models = {m: replace(about, limits=()) for m, about in embedding_models.items()}
    if not (models or embedding_models):
        raise ValueError('models is missing; write models = ["…"], as the service calls them')
    prices = {
        model: (float(price["input"]), float(price["output"]))
        for model, price in entry.get("prices", {}).items()
    }
    if "token_limit" in entry and provider.wire != "openai":
        raise ValueError(
            f"token_limit cannot be set for {provider.name}, which always uses the same parameter"
        )
    # If one of the models costs money, all of them count as paid.
    costs = any(map(provider.costs_money, models))
    costs = costs or any(price > 0 for pair in prices.values() for price in pair)
    return replace(
        provider,
        models=models,
        embedding_models=embedding_models,
        known_models=provider.known_models | {*models, *prices},
        paid=entry.get("paid", costs),
        free_models=() if "paid" in entry else provider.free_models,
        limits=limits,
        prices=prices,
        header_periods=entry.get("limit_headers", {}),
        token_limit=entry.get("token_limit", ""),
    )


def _known_or_new(name: str, entry: Mapping[str, Any]) -> Provider:
    """Return what is known about the provider that a table names."""
    if provider := published_providers().get(name):
        if "key_variable" in entry:
            variable = provider.key_variables[0]
            raise ValueError(
                f"key_variable cannot be set for a built-in provider; it uses {variable}"
            )
        return provider
    service = known_services().get(name)
    if service and not service.retired:
        return service
    if "base_url" in entry:
        return _new_provider(name)
    if service:
        raise ValueError(f"{service.title} was retired on {service.retired}")
    known = [*published_providers(), *known_services()]
    raise ValueError(
        f"unknown provider; to add another service, set its base_url{did_you_mean(name, known)}"
    )


def _new_provider(name: str) -> Provider:
    if not _NAME.fullmatch(name) or "_key_" in name or name in ("auto", *ALL_PROVIDERS):
        raise ValueError(
            "a provider's name can have lowercase letters, digits, - and _, such as my-server, and "
            "cannot contain _key_ or be auto, intelligent or orchestrator"
        )
    variable = f"{name.upper().replace('-', '_')}_API_KEY"
    return Provider(name, name, "openai", (), frozenset(), {}, (variable,), source="your settings")


def _with_address(provider: Provider, entry: Mapping[str, Any], sources: Sources) -> Provider:
    """Return the provider with the address and the key variable of its table."""
    setting, base_url, project_file = "base_url", entry.get("base_url"), sources.project_file
    if base_url is not None and (problem := _address_problem(base_url)):
        raise ValueError(f"base_url {problem}")
    if provider.name in published_providers():
        where = f"[providers.{provider.name}] base_url in {project_file}"
        from_file = where if base_url and project_file else ""
        return replace(provider, base_url=base_url, base_url_from=from_file)
    variable = entry.get("key_variable", provider.key_variables[0])
    if variable != provider.key_variables[0] and not base_url:
        setting = "key_variable"
    base_url = base_url or _filled_in(provider, sources)
    # A key may always go to the service that issued it, whatever the table is called.
    owners = (*published_providers().values(), *known_services().values())
    own = [url for owner in owners if variable in owner.key_variables for url in owner.services]
    is_elsewhere = origin(base_url) not in map(origin, provider.services)
    costs = is_elsewhere and not is_loopback(base_url)
    where = f"[providers.{provider.name}] {setting} in {project_file}"
    return replace(
        provider,
        key_variables=(variable,),
        base_url=base_url,
        base_url_from=where if project_file else "",
        services=tuple(dict.fromkeys(own)),
        # A service elsewhere is assumed to cost money, so that free routes are used first.
        paid=provider.paid or costs,
        free_models=() if costs else provider.free_models,
    )


def _filled_in(provider: Provider, sources: Sources) -> str:
    """Return the provider's address, with the values of the variables that are parts of it."""
    url = provider.url
    for name in provider.address_variables:
        value = sources.variables.get(name, "")
        if not re.fullmatch(r"[\w-]{1,64}", value, re.ASCII):
            problem = f"{name} is not set"
            if value:
                problem = f"{sources.named(name)} has a value that cannot be part of an address"
            raise ValueError(
                f"{problem}; it is part of the address of {provider.title}, so set it in "
                "the environment or in .env, or set base_url to the whole address"
            )
        url = url.replace(f"{{{name}}}", value)
    return url


def check_addresses(sources: Sources, providers: Iterable[Provider]) -> None:
    """Check where the keys of these providers are sent; announce what a file changes about that.

    Raises:
        ConfigurationError: the place is not allowed; the message says how to allow it.
    """
    for provider in providers:
        _check_base_url(provider, sources)
        names = numbered_names(sources.variables, provider.key_variables)
        if not provider.base_url_from or origin(provider.url) in map(origin, provider.services):
            continue
        for name in names:
            for borrowed in sources.borrowed(name):
                _check_key_variable(borrowed, sources.where_set(name), sources)
        exported = [name for name in names if not sources.where_set(name)]
        if exported and is_loopback(provider.url) and provider.name not in published_providers():
            warn_of_configuration(
                f"{', '.join(exported)} is sent to {origin(provider.url)} "
                f"({provider.base_url_from})"
            )


def _address_problem(url: str) -> str:
    """Return what is wrong with a base URL; "" if nothing is."""
    if not is_base_url(url):
        return "must be an address such as https://host/path, without a user name or password"
    if url.rstrip("/").endswith(_ENDPOINT):
        return f"must not end with {_ENDPOINT}, which is added automatically"
    return ""


def _check_key_variable(variable: str, where: str, sources: Sources) -> None:
    """Check the name of a variable that a project's file uses as a key."""
    names_a_key = re.fullmatch(r"[A-Z][A-Z0-9_]*_API_KEY(_\d+)?", variable)
    trusted = sources.own_settings.get(TRUST_KEY_VARIABLES, ())
    if not names_a_key and variable not in trusted:
        raise ConfigurationError(
            f"{where} would send {variable}, whose name does not end in _API_KEY; to allow it, "
            f'write {TRUST_KEY_VARIABLES} = ["{variable}"] into {own_settings_file()}'
        )


def _check_base_url(provider: Provider, sources: Sources) -> None:
    """Check that the provider's keys may be sent to its base URL.

    A file may name the provider's own addresses, those on this machine, and those that the user
    trusts, which are announced.
    """
    url, where = provider.base_url, provider.base_url_from
    if url is None:
        return
    # Addresses in the settings were checked when they were read.
    if problem := _address_problem(url):
        raise ConfigurationError(f"{sources.named(provider.base_url_variable or '')} {problem}")
    place, own = origin(url), {origin(service) for service in provider.services}
    if not where or is_loopback(url) or place in own:
        return
    trusted = sources.own_settings.get(TRUST_BASE_URLS, ())
    shown = place.removesuffix(":443") if place.startswith("https") else place.removesuffix(":80")
    if trusted is True or place in map(origin, trusted or ()):
        warn_of_configuration(
            f"prompts and keys for {provider.title} are sent to {shown} ({where})"
        )
        return
    variable, setting = provider.base_url_variable, TRUST_BASE_URLS
    elsewhere = f" or set {variable} in the environment" if variable else ""
    raise ConfigurationError(
        f"{where} would send prompts and keys for {provider.title} to {shown}, which needs your "
        f'permission: write {setting} = ["{shown}"] (or {setting} = true, for any address) into '
        f"{own_settings_file()}{elsewhere}; if you did not write that line, delete it"
    )
