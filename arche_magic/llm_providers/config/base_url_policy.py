"""Which base URLs and key variables a project's files may set without the user's permission.

The user's keys must not go to an address that others chose, and others often wrote the `.env` and
`arche_magic.toml` in a notebook's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..catalog import Provider, published_providers
from ..errors import ConfigurationError
from ..network import is_base_url, is_loopback, origin
from .env_file import warn_of_configuration
from .keys import numbered_names
from .settings_table import TRUST_BASE_URLS, TRUST_KEY_VARIABLES
from .sources import Sources, own_settings_file

_ENDPOINT = "/chat/completions"


def check_addresses(sources: Sources, providers: Iterable[Provider]) -> None:
    """Check where the keys of these providers are sent; announce what a file changes about that.

    Raises:
        ConfigurationError: as `_check_base_url` and `check_key_variable`.
    """
    for provider in providers:
        _check_base_url(provider, sources)
        names = numbered_names(sources.variables, provider.key_variables)
        if not provider.base_url_from or origin(provider.url) in map(origin, provider.services):
            continue
        for name in names:
            for borrowed in sources.borrowed(name):
                check_key_variable(borrowed, sources.where_set(name), sources)
        exported = [name for name in names if not sources.where_set(name)]
        if exported and is_loopback(provider.url) and provider.name not in published_providers():
            warn_of_configuration(
                f"{', '.join(exported)} is sent to {origin(provider.url)} "
                f"({provider.base_url_from})"
            )


def address_problem(url: str) -> str:
    """Return what is wrong with a base URL; "" if nothing is."""
    if not is_base_url(url):
        return "must be an address such as https://host/path, without a user name or password"
    if url.rstrip("/").endswith(_ENDPOINT):
        return f"must not end with {_ENDPOINT}, which is added automatically"
    return ""


def check_key_variable(variable: str, where: str, sources: Sources) -> None:
    """Check a variable that a project's file uses as a key.

    Raises:
        ConfigurationError: its name does not say that it is a key, and the user does not trust it;
            the message says how to allow it.
    """
    names_a_key = re.fullmatch(r"[A-Z][A-Z0-9_]*_API_KEY(_\d+)?", variable)
    trusted = sources.own_settings.get(TRUST_KEY_VARIABLES, ())
    if not names_a_key and variable not in trusted:
        raise ConfigurationError(
            f"{where} would send {variable}, whose name does not end in _API_KEY; to allow it, "
            f'write {TRUST_KEY_VARIABLES} = ["{variable}"] into {own_settings_file()}'
        )


def _check_base_url(provider: Provider, sources: Sources) -> None:
    """Check that the provider's keys may be sent to its base URL.

    Any address in the environment is allowed. In a file, the allowed addresses are the provider's
    own, those on this machine, and those that the user trusts, which are announced.

    Raises:
        ConfigurationError: it is not an address, or it is not allowed; the message says how to
            allow it.
    """
    url, where = provider.base_url, provider.base_url_from
    if url is None:
        return
    # That of a table was checked when it was read.
    if problem := address_problem(url):
        raise ConfigurationError(f"{sources.named(provider.base_url_variable or '')} {problem}")
    place, own = origin(url), {origin(service) for service in provider.services}
    if not where or is_loopback(url) or place in own:
        return
    trusted = sources.own_settings.get(TRUST_BASE_URLS, ())
    shown = place.removesuffix(":443") if place.startswith("https") else place.removesuffix(":80")
    if trusted is True or (trusted and place in map(origin, trusted)):
        warn_of_configuration(
            f"prompts and keys for {provider.title} are sent to {shown} ({where})"
        )
        return
    elsewhere = f" or set {provider.base_url_variable} in the environment"
    setting = TRUST_BASE_URLS
    raise ConfigurationError(
        f"{where} would send prompts and keys for {provider.title} to {shown}, which needs your "
        f'permission: write {setting} = ["{shown}"] (or {setting} = true, for any address) into '
        f"{own_settings_file()}{elsewhere if provider.base_url_variable else ''}; if you did not "
        "write that line, delete it"
    )
