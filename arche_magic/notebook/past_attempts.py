"""Attempts of this and earlier sessions, read from the call log or a saved notebook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from arche_magic.llm_providers import Decision
from arche_magic.llm_providers.attempt_log import SESSION, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import utc

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def load_attempts(since: str | datetime | None = None) -> pd.DataFrame:
    """Return the attempts of all sessions from the record beside the ledger, oldest first.

    The columns are those of `%llm_stats`. Files of months before `since` are not read.

    Args:
        since: omit older attempts; a datetime, or an ISO string such as `2026-11-23`. Without a
            time zone, it is in local time.

    Raises:
        InvalidRequest: `since` is not a time.
    """
    from .frames import attempts_frame, recorded_attempts_frame

    log, earliest = attempt_log(get_configuration().store), _moment(since)
    if log.path is None:
        frame = attempts_frame(log.session())
    else:
        frame = recorded_attempts_frame(log.lines(earliest))
    if since is None:
        return frame
    return frame[frame["at"] >= utc(earliest)].reset_index(drop=True)


def session_attempts() -> pd.DataFrame:
    """The attempts of this process, oldest first, with the columns of `%llm_stats`."""
    from .frames import attempts_frame, recorded_attempts_frame

    log = attempt_log(get_configuration().store)
    if log.path is None or not log.forgets():
        return attempts_frame(log.session())
    try:
        frame = recorded_attempts_frame(log.lines(log.began))
    except OSError:
        return attempts_frame(log.session())
    return frame[frame["session"] == SESSION].reset_index(drop=True)


def attempts_from_notebook(path: str | Path) -> pd.DataFrame:
    """Return the attempts in the outputs of a saved notebook, in the order of its cells.

    Raises:
        InvalidRequest: the file is not a notebook.
    """
    from .frames import attempts_frame

    return attempts_frame(
        attempt
        for kept in _kept(path)
        for attempt in _read(kept.get("attempts"), Attempt.from_dict)
    )


def decisions_from_notebook(path: str | Path) -> list[list[Decision]]:
    """Return the inputs of each choice of a route, for every request in a saved notebook.

    `decision.choice()` repeats the choice.

    Raises:
        InvalidRequest: the file is not a notebook.
    """
    requests = (list(_read(kept.get("decisions"), Decision.from_dict)) for kept in _kept(path))
    return [decisions for decisions in requests if decisions]


def _read(lines: Any, read: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    for line in _list(lines):
        # A record that was edited by hand is skipped; the others are read.
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            yield read(json.loads(line))


def _kept(path: str | Path) -> Iterator[dict[str, Any]]:
    """The metadata of our outputs in a saved notebook."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is not a notebook that can be read: {error}") from None
    for cell in filter(_is_dict, _list(cells)):
        for output in filter(_is_dict, _list(cell.get("outputs"))):
            metadata = output.get("metadata")
            kept = metadata.get("arche_magic") if _is_dict(metadata) else None
            if _is_dict(kept):
                yield kept


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_dict(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _moment(since: str | datetime | None) -> float:
    if since is None:
        return 0.0
    try:
        moment = datetime.fromisoformat(since) if isinstance(since, str) else since
        return (moment if moment.tzinfo else moment.astimezone()).astimezone(UTC).timestamp()
    except (TypeError, ValueError, AttributeError):
        raise InvalidRequest(
            f"since={since!r} is not a time; write 2026-11-23 or 2026-11-23T14:00"
        ) from None
