"""Paths and files: the home folder, the working directory, and opening our own files.

A notebook's folder is often somebody else's work. A symbolic link there with the name of one of our
files would make us overwrite a file of the user, and a named pipe would make us wait. So our files
are opened only if they are regular files under their own name. The functions that open, read or
write one of ours raise NotOurs if it is not, or another OSError.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import InvalidRequest
from .secrets import without_locals

_CHECKED_BY_SYSTEM = hasattr(os, "O_NOFOLLOW")
_READS_ANYWHERE = hasattr(os, "pread")
# The beginning and the end of a file show whether it was changed, or is being written.
_END_BYTES, _READINGS = 64, 3
# Without O_NONBLOCK, opening a named pipe waits for its other end.
_SAFELY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
# Other kinds of reparse points are ordinary files, for example in a OneDrive folder.
_WINDOWS_LINKS = [
    getattr(stat, f"IO_REPARSE_TAG_{kind}", -1) for kind in ("SYMLINK", "MOUNT_POINT")
]
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
# The mark of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Folders inside a project that lead out of it, and where they lead.
_outside: dict[str, str] = {}


class NotOurs(OSError):
    """The path is not a file of ours; `strerror` is the message, with the path."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(errno.EPERM, f"{os.fspath(path)} {why}", os.fspath(path))


class CutShort(OSError):
    """Only the first `written` bytes were appended, because the disk is full."""

    def __init__(self, written: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written = written


@without_locals
def home_folder() -> Path:
    """Return the user's home folder, or a path that does not exist if there is none.

    A container may run as a user who is not in passwd and has no HOME.
    """
    nowhere = Path("/nonexistent")
    try:
        home = Path.home()
    except RuntimeError:
        return nowhere
    # An empty HOME would mean the working directory.
    return home if home.is_absolute() else nowhere


def working_directory() -> Path | None:
    """Return the working directory; None if it was removed or may not be read."""
    try:
        return Path.cwd()
    except OSError:
        return None


def absolute(path: Path) -> Path:
    """Return the absolute path; if the working directory was deleted, return the path unchanged."""
    return (working_directory() or Path()) / path


def expanded(path: str | Path) -> Path:
    """Return a path that a user typed, with `~` for a home folder.

    Raises:
        InvalidRequest: it is not a path, or the home folder for `~` is unknown.
    """
    try:
        found = Path(path).expanduser()
        if b"\0" not in os.fsencode(found):
            return found
    except (TypeError, ValueError):
        pass
    except RuntimeError:
        raise InvalidRequest(
            f"{path}: the home folder for ~ is unknown; write the path without ~"
        ) from None
    raise InvalidRequest(f"{path!r:.100} is not a path")


def open_ours(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file under its own name; returns the descriptor.

    Takes the flags of `os.open`. With `O_CREAT`, a missing file is created.

    Raises:
        NotOurs: the path is a symbolic link, a hard link to a file that would be written, or not a
            regular file; or its folder leads out of the project.
        OSError: as `os.open`.
    """
    if _outside:
        _check_folder(path)
    if not _CHECKED_BY_SYSTEM:
        check_ours(path)
    try:
        # It is truncated below, once it is known to be ours.
        descriptor = os.open(path, flags & ~os.O_TRUNC | _SAFELY, 0o666)
    except OSError:
        check_ours(path)
        raise
    try:
        _check_kind(path, os.fstat(descriptor), bool(flags & (os.O_WRONLY | os.O_RDWR)))
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_ours(path: Path) -> bytes:
    """Return the bytes of a file of ours."""
    with os.fdopen(open_ours(path, os.O_RDONLY), "rb") as file:
        return file.read()


def append_lines(path: Path, lines: bytes) -> None:
    """Append lines to a file of ours, which is created if it does not exist.

    Raises:
        CutShort: the disk had room for only a part of them.
    """
    # A single write in append mode does not mix with lines of other kernels.
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        descriptor = open_ours(path, how)
    except FileNotFoundError:
        # The folder was deleted.
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_ours(path, how)
    try:
        written = os.write(descriptor, lines)
        if written < len(lines):
            raise CutShort(written)
    finally:
        os.close(descriptor)


def overwrite_ours(path: Path, content: bytes) -> os.stat_result:
    """Write a file of ours in place, so that it is never empty in between; returns its status."""
    descriptor = open_ours(path, os.O_RDWR | os.O_CREAT)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        status = os.fstat(descriptor)
        if status.st_size > written:
            os.ftruncate(descriptor, written)
            status = os.fstat(descriptor)
        return status
    finally:
        os.close(descriptor)


def patch_ours(
    path: Path, before: bytearray, parts: Iterable[tuple[int, bytes]]
) -> os.stat_result | None:
    """Write parts of a file of ours, in their order; each is a place and the bytes that go there.

    Returns the file's status, or None if nothing was written, because the size, the beginning or
    the end of the file are not as `before`.
    """
    if not _READS_ANYWHERE:
        return None
    descriptor = open_ours(path, os.O_RDWR | os.O_CREAT)
    try:
        end = len(before) - _END_BYTES
        if (
            os.fstat(descriptor).st_size != len(before)
            or os.pread(descriptor, _END_BYTES, 0) != before[:_END_BYTES]
            or os.pread(descriptor, _END_BYTES, end) != before[end:]
        ):
            return None
        for place, part in parts:
            written = 0
            while written < len(part):
                written += os.pwrite(descriptor, part[written:], place + written)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def read_unchanging(path: Path) -> bytes | None:
    """The bytes of a file of ours, None if its beginning or end changed while it was read."""
    if not _READS_ANYWHERE:
        return read_ours(path)
    with os.fdopen(open_ours(path, os.O_RDONLY), "rb") as file:
        for _ in range(_READINGS):
            # A writer changes the beginning first and the end last, so a reader reads the end
            # first.
            size = os.fstat(file.fileno()).st_size
            end = os.pread(file.fileno(), _END_BYTES, max(0, size - _END_BYTES))
            file.seek(0)
            content = file.read()
            begin = os.pread(file.fileno(), _END_BYTES, 0)
            if content[:_END_BYTES] == begin and content[-_END_BYTES:] == end:
                return content
    return None


def check_ours(path: str | os.PathLike[str]) -> None:
    """Check a file that a library will open by its path; a missing file is fine."""
    _check_folder(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    _check_kind(path, status, writing=True)


def check_sqlite(path: Path) -> None:
    """Check an SQLite file, and the files that SQLite opens beside it.

    Raises:
        NotOurs: also if the journal names a further file, which SQLite would delete. Only
            transactions over several databases leave such a journal; we have none.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        check_ours(f"{path}{suffix}")
    journal = Path(f"{path}-journal")
    try:
        with os.fdopen(open_ours(journal, os.O_RDONLY), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_SUPER_JOURNAL)))
            ending = file.read()
    except FileNotFoundError:
        return
    if ending == _SUPER_JOURNAL:
        raise NotOurs(journal, "names another file, which SQLite would delete; delete the journal")


def keep_inside(folder: Path, project: Path | None) -> None:
    """From now on, refuse or allow our files in a folder.

    Args:
        folder: the absolute path of the folder.
        project: the project that places our files there; the folder must not lead out of it
            through links. None if the user's own environment or program names the folder.
    """
    leads_to = os.path.realpath(folder)
    if project is None or Path(leads_to).is_relative_to(os.path.realpath(project)):
        _outside.pop(os.fspath(folder), None)
    else:
        _outside[os.fspath(folder)] = leads_to


def _check_folder(path: str | os.PathLike[str]) -> None:
    folder = os.path.dirname(path)  # noqa: PTH120  # several times a call
    if leads_to := _outside.get(folder):
        raise NotOurs(
            folder,
            f"points outside the project, to {leads_to}; if you made this link, set "
            f"ARCHE_QUOTA_STORE={leads_to}/llm_quota_tracker.json in the environment",
        )


def _check_kind(path: str | os.PathLike[str], status: os.stat_result, writing: bool) -> None:
    tag = getattr(status, "st_reparse_tag", 0)
    if stat.S_ISLNK(status.st_mode) or tag in _WINDOWS_LINKS:
        raise NotOurs(path, "is a link, which is not followed; delete it")
    if stat.S_ISDIR(status.st_mode):
        raise NotOurs(path, "is a folder; use another path, or move the folder away")
    if not stat.S_ISREG(status.st_mode):
        raise NotOurs(path, "is not a regular file; use another path, or move it away")
    if writing and status.st_nlink > 1:
        raise NotOurs(path, "is a hard link to another file; put a copy in its place")


def marked_encoding(content: bytes) -> str:
    """Return the encoding that a byte order mark at the start of a file's content states, or ""."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "")
