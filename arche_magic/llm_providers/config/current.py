"""The configuration in use in this process, the choices of its session, and what is configured.

Files are read again only after one of them changed. To see that, a stamp is taken, which reads no
file.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..catalog import Provider, known_services
from ..files import working_directory
from ..network import is_loopback
from .configuration import LEDGER_FILE, REPLIES_FILE, Configuration
from .env_file import environment_hash
from .keys import keys_of_session, numbered_names
from .loading import load_configuration
from .sources import SETTINGS_FILE, find_sources, own_settings_folder

# A file can change twice within one tick of its file system's clock, which is 2 s on FAT. On a
# network drive, that clock may be ahead of ours.
_TICK_SECONDS, _AHEAD_SECONDS = 2.0, 60.0

_Stamp = tuple[object, ...]


@dataclass(frozen=True)
class Choices:
    """Choices of one session, which take precedence over files and variables.

    They stay in effect when files and variables change, and are lost when the process ends.

    Attributes:
        order: providers, the first to ask first; the others follow in their configured order.
        off: key labels (`groq_key_2`) and models (`groq/openai/gpt-oss-120b`) that are not used.
        patience: seconds that a request waits for a route instead of failing or paying.
        preferred_provider: the provider to ask before all others, paid or not.
    """

    order: tuple[str, ...] = ()
    off: frozenset[str] = frozenset()
    patience: float | None = None
    preferred_provider: str | None = None

    def switched(self, name: str, on: bool) -> Choices:
        """Return these choices with a key or a model switched on or off."""
        return replace(self, off=self.off - {name} if on else self.off | {name})

    def applied(self, configuration: Configuration) -> Configuration:
        """Return the configuration with these choices; names that it does not have are ignored."""
        if self == Choices():
            return configuration
        known = configuration.providers
        order = dict.fromkeys([*(name for name in self.order if name in known), *known])
        preferred = self.preferred_provider if self.preferred_provider in known else None
        return replace(
            configuration,
            providers={name: known[name] for name in order},
            off=configuration.off.union(self.off),
            patience=configuration.patience if self.patience is None else self.patience,
            preferred_provider=preferred or configuration.preferred_provider,
        )


_current: Configuration | None = None
_choices = Choices()
# The last configuration, and the state of everything it depends on.
_read: tuple[_Stamp, dict[Path, str], Configuration] | None = None


def get_configuration() -> Configuration:
    """Return the configuration in use, with the choices of the session.

    It is the one given to `use_configuration`, else that of files and variables. They are read
    again only after one of them changed.

    Raises:
        ConfigurationError: as `load_configuration`.
    """
    return _choices.applied(_current or _of_files_and_variables())


def _of_files_and_variables() -> Configuration:
    global _read
    directory, read = working_directory(), _read
    # Taken before reading, so that a change during it makes a difference the next time.
    stamp = _settings_stamp(directory)
    if stamp and read and stamp == read[0] and _links_of(read[1]) == read[1]:
        return read[2]
    configuration = load_configuration(directory=directory)
    folders = {home / LEDGER_FILE.parent for home in (directory, configuration.directory) if home}
    folders.add(configuration.replies.parent)
    if "://" not in configuration.store:
        folders.add(Path(configuration.store).parent)
    _read = (stamp, _links_of(folders), configuration) if stamp else None
    return configuration


def use_configuration(configuration: Configuration | None) -> None:
    """Use this configuration in this process from now on; None uses files and variables again.

    Earlier choices are forgotten, because the new configuration may have other keys.
    """
    global _current, _choices, _read
    _current, _choices, _read = configuration, Choices(), None


def is_from_program() -> bool:
    """Return whether the configuration in use was passed to `use_configuration`."""
    return _current is not None


def get_choices() -> Choices:
    """Return the choices of this session."""
    return _choices


def use_choices(choices: Choices) -> None:
    """Apply these choices to every request of this process from now on."""
    global _choices
    _choices = choices


def _settings_stamp(directory: Path | None) -> _Stamp | None:
    """Return what the configuration for a working directory depends on, without any content.

    None if equal stamps would prove nothing, because a file may change again unnoticed.
    """
    folders = [str(folder) for folder in (directory, *directory.parents)] if directory else []
    own_folder = str(own_settings_folder())
    files = [f"{folder}/{name}" for folder in folders for name in (".env", SETTINGS_FILE)]
    seen: list[object] = [directory, environment_hash(), keys_of_session()]
    for path in (*files, f"{own_folder}/{SETTINGS_FILE}"):
        status = _status(path)
        if status is None:
            seen.append(None)
            continue
        # A time further ahead says nothing, and would stay ahead for hours or years.
        is_recent = -_TICK_SECONDS < status.st_mtime - time.time() < _AHEAD_SECONDS
        if is_recent or stat.S_ISFIFO(status.st_mode):
            return None
        changed = status.st_mtime_ns, status.st_ctime_ns
        seen += (status.st_dev, status.st_ino, status.st_size, *changed, os.path.realpath(path))
    # Who owns a folder, and who may write into it, decides which files in it count. Of a file of
    # kept replies, only its presence does: it changes with each reply.
    for path in (own_folder, *folders, *(f"{folder}/{REPLIES_FILE}" for folder in folders)):
        status = _status(path)
        seen.append(status and (status.st_mode, status.st_uid, status.st_ino))
    return tuple(seen)


def _links_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Return where folders lead; our files must not leave the project through symbolic links."""
    # Only the user's own environment can name relative ones.
    return {folder: os.path.realpath(folder) for folder in folders if folder.is_absolute()}


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # dozens of times a call
    except (OSError, ValueError):
        return None


ServiceState = Literal["in use", "off", "available", "retired"]


@dataclass(frozen=True)
class Service:
    """A provider or a known service, and what is configured of it.

    Attributes:
        provider: what is known about it, as the settings have it.
        state: `in use` with a key, `off` with a key but without a table in the settings or if all
            keys are switched off, `available` without a key, or `retired`.
        keys: labels of its keys if it is configured, else the variables that hold one.
        turn_on: the line of the settings that turns it on; "" if there is nothing to turn on.
    """

    provider: Provider
    state: ServiceState
    keys: tuple[str, ...] = ()
    turn_on: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a server on this machine."""
        return is_loopback(self.provider.url)


def list_services(configuration: Configuration | None = None) -> list[Service]:
    """Return all providers and known services, by state; those that cost money come last in each.

    Raises:
        ConfigurationError: the settings or `.env` cannot be read.
    """
    configuration = configuration or get_configuration()
    variables: Mapping[str, str] = {}
    # A configuration that was given by a program does not depend on variables.
    if not is_from_program():
        variables = find_sources(working_directory()).variables
    configured = configuration.providers
    rows = []
    for provider in configured.values():
        keys = tuple(key.label for key in configuration.keys if key.provider == provider.name)
        state: ServiceState = "available"
        if keys:
            state = "off" if configuration.off.issuperset(keys) else "in use"
        rows.append(Service(provider, state, keys))
    others = (one for name, one in known_services().items() if name not in configured)
    used = {name for provider in configured.values() for name in provider.key_variables}
    rows += [_known(provider, variables, used) for provider in others]
    order: list[ServiceState] = ["in use", "off", "available", "retired"]
    return sorted(rows, key=lambda row: (order.index(row.state), row.provider.paid, row.is_local))


def _known(provider: Provider, variables: Mapping[str, str], used: set[str]) -> Service:
    if provider.retired:
        return Service(provider, "retired")
    models = "" if provider.models else ' with its models = ["…"]'
    turn_on = f"[providers.{provider.name}]{models}"
    # A server on this machine needs no key, and a key may be in use under another provider's name.
    unused = [name for name in provider.key_variables if name not in used]
    keys = () if is_loopback(provider.url) else tuple(numbered_names(variables, unused))
    return Service(provider, "off" if keys else "available", keys, turn_on)


def how_to_turn_on(service: Service) -> str:
    """Return what to set and write to use a service that has a key; "" if nothing is missing."""
    steps = [f"set {name}" for name in service.provider.address_variables]
    if service.turn_on:
        steps.append(f"add the line {service.turn_on} to {SETTINGS_FILE}")
    return " and ".join(steps)
