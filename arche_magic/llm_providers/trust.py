"""What a file may decide by itself, and what it needs its user's word for: where keys are sent.

A notebook's folder is often somebody else's work, and its `.env` or `arche_magic.toml` must not
send the keys in this user's environment to an address of their choice.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .addresses import is_base_url, is_loopback, origin
from .catalog import Provider
from .env_file import tell
from .errors import ConfigurationError
from .types import Location

SETTING = "trust_base_urls"

Trusted = bool | tuple[str, ...]


def own_settings_folder() -> Path:
    """The folder of this user's own settings, which no project's file can name."""
    default, variable = Path.home() / ".config", "XDG_CONFIG_HOME"
    if sys.platform == "win32":
        default, variable = Path.home() / "AppData" / "Roaming", "APPDATA"
    named = Path(os.environ.get(variable, ""))
    # A relative one would lie in whatever folder is worked in.
    return (named if named.is_absolute() else default) / "arche_magic"


def read_trusted(value: Any) -> Trusted:
    """The setting's value: true for every address, or a list of those that are trusted.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(isinstance(a, str) and is_base_url(a) for a in value):
        return tuple(origin(address) for address in value)
    raise ValueError(f"{SETTING} must be true, or a list of addresses such as https://host")


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
    raise ConfigurationError(
        f"{where} would send prompts and keys for {provider.title} to {shown}, which needs your "
        f'word: write {SETTING} = ["{shown}"] (or {SETTING} = true, for any address) into '
        f"{own_settings}{elsewhere if provider.base_url_variable else ''}; if it is not yours, "
        "delete that line"
    )


def tell_of_store(store: Location, where: str, folder: Path, what: str = "the ledger is") -> None:
    """Announce a ledger that a file puts somewhere other than its own folder and this machine."""
    scheme, mark, _ = store.partition("://")
    if not mark:
        here = (folder / store).resolve().is_relative_to(folder)
    else:
        here = scheme == "memory" or is_loopback(store)
    if not here:
        tell(f"{what} kept in {store} ({where})")
