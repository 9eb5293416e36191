"""Which base URLs and key variables a project's files may set without the user's permission.

The user's keys must not go to an address that somebody else chose, and a notebook's folder with
its `.env` and `arche_magic.toml` is often somebody else's work.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

from ..catalog import Provider
from ..errors import ConfigurationError
from ..files import home_folder
from ..network import is_base_url, is_loopback, origin
from .env_file import process_variable, warn_once
from .settings_table import TRUST_BASE_URLS, TRUST_KEY_VARIABLES

Trusted = bool | tuple[str, ...]


def own_settings_folder() -> Path:
    """Return the folder of the user's own settings, which no project's file can change."""
    variable, below = "XDG_CONFIG_HOME", Path(".config")
    if sys.platform == "win32":
        variable, below = "APPDATA", Path("AppData", "Roaming")
    named = Path(process_variable(variable))
    # A relative path would be inside the working directory, which may be somebody else's.
    return (named if named.is_absolute() else home_folder() / below) / "arche_magic"


def read_trusted(value: bool | list[str]) -> Trusted:
    """Read the setting `trust_base_urls`: true for every address, or the trusted origins."""
    return value if isinstance(value, bool) else tuple(origin(address) for address in value)


def check_key_variable(
    variable: str, where: str, trusted: Collection[str], own_settings: Path
) -> None:
    """Check a variable that a project's file uses as a key.

    Raises:
        ConfigurationError: its name does not say that it is a key, and the user does not trust it;
            the message says how to allow it.
    """
    names_a_key = re.fullmatch(r"[A-Z][A-Z0-9_]*_API_KEY(_\d+)?", variable)
    if not names_a_key and variable not in trusted:
        raise ConfigurationError(
            f"{where} would send {variable}, whose name does not end in _API_KEY; to allow it, "
            f'write {TRUST_KEY_VARIABLES} = ["{variable}"] into {own_settings}'
        )


def check_base_url(provider: Provider, trusted: Trusted, own_settings: Path) -> None:
    """Check that the provider's keys may be sent to its base URL.

    Any address in the environment is allowed. In a file, the allowed addresses are the provider's
    own, those on this machine, and those of `trusted`, which are announced.

    Raises:
        ConfigurationError: it is not an address, or it is not allowed; the message says how to
            allow it.
    """
    url, where = provider.base_url, provider.base_url_from
    if url is None:
        return
    named = where or provider.base_url_variable or f"base_url of {provider.name}"
    if not is_base_url(url):
        raise ConfigurationError(
            f"{named} must be an address such as https://host/path, without a user name or password"
        )
    place, own = origin(url), {origin(service) for service in provider.services}
    if not where or is_loopback(url) or place in own:
        return
    shown = place.removesuffix(":443") if place.startswith("https") else place.removesuffix(":80")
    if trusted is True or (trusted and place in trusted):
        warn_once(f"prompts and keys for {provider.title} go to {shown} ({where})")
        return
    elsewhere = f" or set {provider.base_url_variable} in the environment"
    setting = TRUST_BASE_URLS
    raise ConfigurationError(
        f"{where} would send prompts and keys for {provider.title} to {shown}, which needs your "
        f'permission: write {setting} = ["{shown}"] (or {setting} = true, for any address) into '
        f"{own_settings}{elsewhere if provider.base_url_variable else ''}; if you did not write "
        "that line, delete it"
    )
