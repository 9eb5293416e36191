"""The paths of our files: the ledger, the record of attempts beside it, and kept replies."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigurationError, InvalidRequest
from ..files import expanded, keep_inside
from ..network import is_loopback
from ..types import Location
from .env_file import nearest, warn_once
from .sources import Sources

LEDGER_FILE = Path("outputs", "llm_quota_tracker.json")
REPLIES_FILE = Path("outputs", "llm_replies.sqlite")
STORE, REPLIES = "ARCHE_QUOTA_STORE", "ARCHE_REPLIES"


def ledger_place(sources: Sources, home: Path | None) -> Location:
    """Return where the ledger is kept: a path or a URL.

    Args:
        sources: variables and settings.
        home: the folder whose `outputs` is the default; None if there is none.

    Raises:
        ConfigurationError: a project's file names a path outside the project.
    """
    if named := sources.variables.get(STORE):
        return Location(named if "://" in named else str(_named(named, STORE, sources)))
    if home is None:
        warn_once("there is no working directory, so the ledger is kept in memory")
        return Location("memory://")
    return Location(str(home / LEDGER_FILE))


def replies_place(sources: Sources, ledger: str, home: Path | None, has_keys: bool) -> Path:
    """Return where replies are kept: beside the ledger, or in `outputs` if that is not a file.

    Raises:
        ConfigurationError: a project's file names a path outside the project.
    """
    if named := sources.variables.get(REPLIES):
        return _named(named, REPLIES, sources)
    # Somebody who received only the file of replies has no `.env` that marks the project's folder.
    if home and not has_keys and (handed := nearest(str(REPLIES_FILE), home)):
        return handed
    if "://" in ledger:
        return home / REPLIES_FILE if home else REPLIES_FILE
    return Path(ledger).with_name(REPLIES_FILE.name)


def _named(named: str, variable: str, sources: Sources) -> Path:
    """Return the path of one of our files, as a variable names it.

    A path in `.env` is relative to the folder of that file, the project, and must stay inside it.

    Raises:
        ConfigurationError: the path leads out of the project, or it begins with `~` and there is
            no home folder.
    """
    where, env_file = sources.where_set(variable), sources.env_file
    try:
        path = expanded(named)
    except InvalidRequest as error:
        raise ConfigurationError(f"{where or variable}: {error}") from None
    if not where or env_file is None:
        keep_inside(path.parent, None)
        return path
    project = env_file.parent
    path = project / path
    leads_to = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118
    if not Path(leads_to).is_relative_to(os.path.realpath(project)):
        raise ConfigurationError(
            f"{where} points outside the project, to {leads_to}; if you want that, set {variable} "
            "in the environment, otherwise delete that line"
        )
    keep_inside(path.parent, project)
    return path


def announce_store(store: Location, where: str) -> None:
    """Announce that a file places the ledger on another machine."""
    scheme, mark, _ = store.partition("://")
    if mark and scheme != "memory" and not is_loopback(store):
        warn_once(f"the ledger is stored in {store} ({where})")
