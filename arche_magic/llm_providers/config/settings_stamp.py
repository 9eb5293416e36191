"""Whether the files and variables that configure us have changed since they were read.

Taking a stamp reads no file. As long as the stamp stays equal, reading the files again would give
the same configuration.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from .base_url_policy import own_settings_folder
from .env_file import environment_hash
from .keys import keys_of_session
from .paths import REPLIES_FILE
from .sources import SETTINGS_FILE

# A file can change twice within one tick of its file system's clock, which is 2 s on FAT.
_TICK_SECONDS = 2.0

Stamp = tuple[object, ...]


def settings_stamp(directory: Path | None) -> Stamp | None:
    """What the configuration for a working directory depends on, without any content.

    Returns None if equal stamps would prove nothing: a file changed within the last two seconds
    and may change again unnoticed, or `.env` is a named pipe.
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
        if stat.S_ISFIFO(status.st_mode) or status.st_mtime > time.time() - _TICK_SECONDS:
            return None
        changed = status.st_mtime_ns, status.st_ctime_ns
        seen += (status.st_dev, status.st_ino, status.st_size, *changed, os.path.realpath(path))
    # Who owns a folder, and who may write into it, decides which files in it count. Of a file of
    # kept replies, only its presence does: it changes with each reply.
    for path in (own_folder, *folders, *(f"{folder}/{REPLIES_FILE}" for folder in folders)):
        status = _status(path)
        seen.append(status and (status.st_mode, status.st_uid, status.st_ino))
    return tuple(seen)


def links_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Where folders lead to by symbolic links; our files must not leave the project by one.

    Relative ones are left out: only the user's own environment can name those.
    """
    return {folder: os.path.realpath(folder) for folder in folders if folder.is_absolute()}


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # dozens of times a call
    except (OSError, ValueError):
        return None
