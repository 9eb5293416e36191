"""Loads the extension in every notebook, with a file of our own in the IPython profile.

Kernels and terminals run the files in `profile_default/startup`. A file of our own can be removed
without reading or changing the user's configuration.
"""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

_NAME = "50-arche_magic.py"
_MARK = "# Written by `python -m arche_magic enable`; `python -m arche_magic disable` removes it.\n"
# Other environments of the user share the profile, and may not have the package.
_LINES = """if __import__("importlib.util").util.find_spec("arche_magic"):
    get_ipython().run_line_magic("load_ext", "arche_magic")
"""


def enable() -> tuple[Path, bool]:
    """Load the extension in every notebook; returns the file in the profile, and whether it is new.

    Raises:
        FileExistsError: another file has this name.
        OSError: it cannot be written.
    """
    path = _path()
    if _is_there(path) and path.read_text("utf-8") == _MARK + _LINES:
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_MARK + _LINES, "utf-8")
    return path, True


def disable() -> tuple[Path, bool]:
    """Undo `enable`; returns the file in the profile, and whether there was one.

    Raises:
        FileExistsError: another file has this name.
        OSError: it cannot be removed.
    """
    path = _path()
    was_there = _is_there(path)
    path.unlink(missing_ok=True)
    return path, was_there


def _path() -> Path:
    from IPython.paths import get_ipython_dir

    with warnings.catch_warnings():
        # If its folder cannot be written, IPython warns and returns a temporary one.
        warnings.filterwarnings("error", message=".*using a temp directory")
        try:
            folder = get_ipython_dir()
        except UserWarning:
            where = os.environ.get("IPYTHONDIR") or str(Path.home())
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), where) from None
    return Path(folder, "profile_default", "startup", _NAME)


def _is_there(path: Path) -> bool:
    if not path.exists():
        return False
    if not path.read_text("utf-8", errors="replace").startswith(_MARK):
        raise FileExistsError(
            f"{path} was not written by arche_magic, or was changed; move it or delete it"
        )
    return True
