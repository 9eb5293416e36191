"""Attempts of earlier sessions, and those a saved notebook holds, as DataFrames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.attempts import attempt_log, read_attempts
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Attempt

if TYPE_CHECKING:
    import pandas as pd


def load_attempts(since: str | datetime | None = None) -> pd.DataFrame:
    """The attempts of all sessions kept beside the ledger, oldest first.

    Columns are those of `%llm_stats`; the frame exports itself (`to_csv`, `to_json`,
    `to_parquet`).

    Args:
        since: leave out what is older; a datetime, or ISO text such as `2026-11-23`. Without a
            time zone it is meant in local time.

    Raises:
        InvalidRequest: `since` is no time.
    """
    from .frames import attempts_frame

    log = attempt_log(get_configuration().store)
    attempts = read_attempts(log.path) if log.path else iter(log.recent)
    earliest = _moment(since)
    return attempts_frame(attempt for attempt in attempts if attempt.at >= earliest)


def attempts_from_notebook(path: str | Path) -> pd.DataFrame:
    """The attempts that the outputs of a saved notebook hold, in the order of its cells.

    Raises:
        InvalidRequest: the file is no notebook.
    """
    from .frames import attempts_frame

    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is no notebook that can be read: {error}") from None
    return attempts_frame(_saved(cells))


def _saved(cells: list[dict[str, Any]]) -> Iterator[Attempt]:
    for cell in cells:
        for output in cell.get("outputs", ()):
            kept = output.get("metadata", {}).get("arche_magic", {})
            for entry in kept.get("attempts", ()):
                yield Attempt(**entry)


def _moment(since: str | datetime | None) -> float:
    if since is None:
        return 0.0
    try:
        moment = datetime.fromisoformat(since) if isinstance(since, str) else since
        return (moment if moment.tzinfo else moment.astimezone()).astimezone(UTC).timestamp()
    except (TypeError, ValueError, AttributeError):
        raise InvalidRequest(
            f"since={since!r} is no time; write 2026-11-23 or 2026-11-23T14:00"
        ) from None
