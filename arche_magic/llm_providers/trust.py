"""What a file may decide by itself, and what it needs its user's word for: where keys are sent.

A notebook's folder is often somebody else's work, and its `.env` or `arche_magic.toml` must not
send the keys in this user's environment to an address of their choice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

from .addresses import is_base_url, is_loopback, origin
from .catalog import Provider
from .env_file import process_variable, tell
from .errors import ConfigurationError
from .folders import home_folder
from .settings_table import TRUST_BASE_URLS, TRUST_KEY_VARIABLES

Trusted = bool | tuple[str, ...]


def own_settings_folder() -> Path:
    """The folder of this user's own settings, which no project's file can name."""
    variable, below = "XDG_CONFIG_HOME", Path(".config")
    if sys.platform == "win32":
        variable, below = "APPDATA", Path("AppData", "Roaming")
    named = Path(process_variable(variable))
    # A relative one would lie in whatever folder is worked in.
    return (named if named.is_absolute() else home_folder() / below) / "arche_magic"


def read_trusted(value: bool | list[str]) -> Trusted:
    """The setting `trust_base_urls`: true for every address, or the origins that are trusted."""
    return value if isinstance(value, bool) else tuple(origin(address) for address in value)


def looks_like_key(variable: str) -> bool:
    """Whether a variable's name says that it holds a key for a service's API."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*_API_KEY(_\d+)?", variable) is not None


def check_key_variable(
    variable: str, where: str, trusted: Collection[str], own_settings: Path
) -> None:
    """Let a variable pass whose value a project's file wants to use as a key.

    Raises:
        ConfigurationError: it may hold anything; the message says what to write where.
    """
    if not looks_like_key(variable) and variable not in trusted:
        raise ConfigurationError(
            f"{where} would send {variable}, whose name does not say that it is a key "
            f'(…_API_KEY); to allow it, write {TRUST_KEY_VARIABLES} = ["{variable}"] into '
            f"{own_settings}"
        )


def check_base_url(provider: Provider, trusted: Trusted, own_settings: Path) -> None:
    """Let a base URL pass if it may have the provider's keys; one that a file named is announced.

    The environment's own addresses pass, and from files the provider's own, those on this machine,
    and those that `trusted`, a setting in the user's own settings file, lets through.

    Raises:
        ConfigurationError: it may not, or it is no address; the message says what to write where.
    """
    url, where = provider.base_url, provider.base_url_from
    if url is None:
        return
    named = where or provider.base_url_variable or f"base_url of {provider.name}"
    if not is_base_url(url):
        raise ConfigurationError(
            f"{named} is no address such as https://host/path, without a user name or password"
        )
    place, own = origin(url), {origin(service) for service in provider.services}
    if not where or is_loopback(url) or place in own:
        return
    shown = place.removesuffix(":443") if place.startswith("https") else place.removesuffix(":80")
    if trusted is True or (trusted and place in trusted):
        tell(f"prompts and keys for {provider.title} go to {shown} ({where})")
        return
    elsewhere = f" or set {provider.base_url_variable} in the environment"
    setting = TRUST_BASE_URLS
    raise ConfigurationError(
        f"{where} would send prompts and keys for {provider.title} to {shown}, which needs your "
        f'word: write {setting} = ["{shown}"] (or {setting} = true, for any address) into '
        f"{own_settings}{elsewhere if provider.base_url_variable else ''}; if it is not yours, "
        "delete that line"
    )
