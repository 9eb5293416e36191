"""The configuration in use in this process, and the choices of its session."""

from __future__ import annotations

from pathlib import Path

from ..choices import Choices
from ..files import working_directory
from .configuration import Configuration
from .loading import load_configuration
from .paths import LEDGER_FILE
from .settings_stamp import Stamp, links_of, settings_stamp

_current: Configuration | None = None
_choices = Choices()
# The configuration that was read last, and what it depends on.
_read: tuple[Stamp, dict[Path, str], Configuration] | None = None


def get_configuration() -> Configuration:
    """The configuration in use, with the choices of the session.

    It is the one given to `use_configuration`, else that of files and variables. They are read
    again only after one of them changed.

    Raises:
        ConfigurationError: as `load_configuration`.
    """
    return _choices.applied(_current if _current is not None else _of_files_and_variables())


def _of_files_and_variables() -> Configuration:
    global _read
    directory, read = working_directory(), _read
    # Taken before reading, so that a change during it makes a difference the next time.
    stamp = settings_stamp(directory)
    if stamp and read and stamp == read[0] and links_of(read[1]) == read[1]:
        return read[2]
    configuration = load_configuration(directory=directory)
    folders = {home / LEDGER_FILE.parent for home in (directory, configuration.directory) if home}
    folders.add(configuration.replies.parent)
    if "://" not in configuration.store:
        folders.add(Path(configuration.store).parent)
    _read = (stamp, links_of(folders), configuration) if stamp else None
    return configuration


def use_configuration(configuration: Configuration | None) -> None:
    """Use this configuration in this process from now on; None goes back to files and variables.

    Choices made before are forgotten, since the new configuration may have other keys.
    """
    global _current, _choices, _read
    _current, _choices, _read = configuration, Choices(), None


def is_given() -> bool:
    """Whether the configuration in use was passed to `use_configuration`."""
    return _current is not None


def get_choices() -> Choices:
    """The choices of this session."""
    return _choices


def use_choices(choices: Choices) -> None:
    """Apply these choices to every request of this process from now on."""
    global _choices
    _choices = choices
