"""What `[providers.NAME]` says: other models, addresses and prices, and services of one's own.

A service that is not built in speaks OpenAI's chat completions. Of some the address is known; of
any other the table says it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from .addresses import is_base_url, is_loopback
from .catalog import Provider, known_services, published_providers
from .sources import SETTINGS_FILE, did_you_mean, table
from .trust import check_key_variable, own_settings_folder
from .types import PERIOD_SECONDS, TOKEN_LIMIT_NAMES, Period

PROVIDER_SETTINGS = (
    "models", "paid", "tier", "base_url", "key_variable", "prices", "limit_headers",
    "token_limit",
)  # fmt: skip
_RESERVED = ("intelligent", "orchestrator")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# In capitals, so that a key that was written there is not taken for a name, and shown as one.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_ENDPOINT = "/chat/completions"


def read_providers(
    settings: Mapping[str, Any], project_file: Path | None, trusted_variables: Collection[str]
) -> dict[str, Provider]:
    """All providers, in the order they are asked: the built-in four, then those of the settings.

    `project_file` is where the settings are from, if that file is not the user's own. Such a file
    may name variables of keys, by their names or as `trusted_variables`.

    Raises:
        ValueError: a setting is unknown, missing or impossible.
        ConfigurationError: a project's file would use some other variable as a key.
    """
    providers = dict(published_providers())
    tables = table(settings, "providers")
    for name in tables:
        entry = table(tables, name, "providers.")
        try:
            providers[name] = _read(name, entry, project_file)
        except ValueError as error:
            raise ValueError(f"[providers.{name}]: {error}") from None
        if project_file and "key_variable" in entry:
            where = f"[providers.{name}] key_variable in {project_file}"
            own_settings = own_settings_folder() / SETTINGS_FILE
            check_key_variable(entry["key_variable"], where, trusted_variables, own_settings)
    order = settings.get("order", list(providers))
    if not isinstance(order, list):
        raise ValueError(f"order is {order!r}; it must be a list of provider names")
    for name in order:
        if name not in providers:
            raise ValueError(f"order: unknown provider {name!r}{hint_for(str(name), providers)}")
    return {name: providers[name] for name in dict.fromkeys([*order, *providers])}


def hint_for(name: str, known: Iterable[str]) -> str:
    """What may be meant by the name of a provider that is not among the known ones."""
    if name in known_services():
        return f"; a table [providers.{name}] with its models in {SETTINGS_FILE} adds it"
    return did_you_mean(name, known)


def _read(name: str, entry: Mapping[str, Any], project_file: Path | None) -> Provider:
    if name in published_providers():
        provider = published_providers()[name]
        if "key_variable" in entry:
            raise ValueError(f"key_variable cannot be set: {provider.key_variables[0]} is its own")
    elif name in known_services():
        provider = known_services()[name]
    elif "base_url" in entry:
        provider = _unknown_service(name)
    else:
        known = [*published_providers(), *known_services()]
        raise ValueError(
            f"unknown provider{did_you_mean(name, known)}; another service needs its base_url"
        )
    for setting in entry:
        if setting not in PROVIDER_SETTINGS:
            hint = did_you_mean(setting, PROVIDER_SETTINGS)
            if "key" in setting.lower() and not hint:
                hint = "; keys go into the environment or into .env"
            raise ValueError(f"unknown setting {setting!r}{hint}")
    provider = _with_address(provider, entry, project_file)
    models = _models(provider, entry)
    prices = _prices(table(entry, "prices"))
    tier = entry.get("tier", "free")
    if tier not in ("free", "paid"):
        raise ValueError(f"tier is {tier!r}; it can be free or paid")
    costs = provider.paid or any(price > 0 for pair in prices.values() for price in pair)
    paid = entry.get("paid", costs)
    if not isinstance(paid, bool):
        raise ValueError(f"paid is {paid!r}; it must be true or false")
    return replace(
        provider,
        models=models,
        known_models=provider.known_models | {*models, *prices},
        paid=paid,
        # A paid account's limits are its own: they are learned from its replies.
        limits={} if tier == "paid" else provider.limits,
        prices=prices,
        header_periods=_header_periods(table(entry, "limit_headers")),
        token_limit=_token_limit(provider, entry),
    )


def _unknown_service(name: str) -> Provider:
    if not _NAME.fullmatch(name) or "_key_" in name or name in _RESERVED:
        raise ValueError(
            "a provider's name has small letters, digits, - and _, such as my-server, and is "
            f"neither {' nor '.join(_RESERVED)}"
        )
    variable = f"{name.upper().replace('-', '_')}_API_KEY"
    return Provider(name, name, "openai", (), frozenset(), {}, (variable,), source="your settings")


def _with_address(
    provider: Provider, entry: Mapping[str, Any], project_file: Path | None
) -> Provider:
    """The provider with the address and the variable of its table, and whose address that is."""
    setting, base_url = "base_url", entry.get("base_url")
    if not isinstance(base_url, str | None):
        raise ValueError("base_url must be an address")
    if provider.name in published_providers():
        said_in = f"[providers.{provider.name}] base_url in {project_file}"
        from_file = said_in if base_url and project_file else ""
        return replace(provider, base_url=base_url, base_url_from=from_file)
    variable = entry.get("key_variable", provider.key_variables[0])
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        raise ValueError(
            "key_variable must be the name of a variable, in capitals, such as MY_SERVER_API_KEY"
        )
    if variable != provider.key_variables[0] and not base_url:
        setting = "key_variable"
    base_url = base_url or provider.url
    if not is_base_url(base_url):
        raise ValueError(
            "base_url is no address such as https://host/v1, without a user name or password"
        )
    if base_url.rstrip("/").endswith(_ENDPOINT):
        raise ValueError(f"base_url goes without {_ENDPOINT}, which is added to it")
    # A key goes by itself to the service whose key it is, whatever the table is called.
    owners = (*published_providers().values(), *known_services().values())
    own = [owner.services for owner in owners if variable in owner.key_variables]
    said_in = f"[providers.{provider.name}] {setting} in {project_file}"
    return replace(
        provider,
        key_variables=(variable,),
        base_url=base_url,
        base_url_from=said_in if project_file else "",
        services=own[0] if own else (),
        # Where nobody said that it is free, no money is spent before what is free is used up.
        paid=provider.paid or not is_loopback(base_url),
    )


def _models(provider: Provider, entry: Mapping[str, Any]) -> tuple[str, ...]:
    listed = entry.get("models", list(provider.models))
    names = listed if isinstance(listed, list) else [None]
    if not all(isinstance(m, str) and m and m.isprintable() for m in names):
        raise ValueError("models must be a list of model names")
    models = tuple(dict.fromkeys(listed)) or provider.models
    if not models:
        raise ValueError('models is missing; write models = ["…"], as the service calls them')
    return models


def _prices(prices: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = {}
    for model, price in prices.items():
        if not isinstance(price, dict) or set(price) != {"input", "output"}:
            raise ValueError(
                f"prices.{model!r} must be {{ input = …, output = … }}, in USD for a million tokens"
            )
        for amount in price.values():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if not number or not 0 <= amount < math.inf:
                raise ValueError(f"prices.{model!r}: {amount!r} is no amount of USD")
        found[model] = (float(price["input"]), float(price["output"]))
    return found


def _token_limit(provider: Provider, entry: Mapping[str, Any]) -> str:
    name = entry.get("token_limit", "")
    if name and provider.wire != "openai":
        raise ValueError(f"token_limit cannot be set: {provider.name} has one name for it")
    if name not in ("", *TOKEN_LIMIT_NAMES):
        raise ValueError(f"token_limit is {name!r}; it can be {' or '.join(TOKEN_LIMIT_NAMES)}")
    return str(name)


def _header_periods(periods: Mapping[str, Any]) -> dict[str, Period]:
    for metric, period in periods.items():
        if metric not in ("requests", "tokens"):
            raise ValueError(
                f"limit_headers has an unknown part {metric!r}; there are requests and tokens"
            )
        if period not in PERIOD_SECONDS:
            hint = did_you_mean(str(period), PERIOD_SECONDS)
            known = ", ".join(PERIOD_SECONDS)
            raise ValueError(f"limit_headers: {metric} is {period!r}{hint}; it can be {known}")
    return {metric: cast("Period", period) for metric, period in periods.items()}
