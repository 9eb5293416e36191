"""The ledger and the attempts as DataFrames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.attempt_log import Spent, records_of
from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.reply import MOST_TOKENS, Attempt
from arche_magic.llm_providers.types import NEVER, RouteId, Standing

if TYPE_CHECKING:
    import pandas as pd
    from pandas.api.typing import NaTType
else:
    pd = library("pandas")

_PART_ROWS = 20_000
# The type of a column of times.
TIME = "datetime64[ms, UTC]"
_ATTEMPT_NUMBERS = {
    **dict.fromkeys(("input_tokens", "output_tokens"), "int64"),
    **dict.fromkeys(("seconds", "first_token_s", "cost_usd", "waited_s"), "float64"),
}
_ATTEMPT_COLUMNS = (
    "at", "session", "notebook", "tag", "request", "provider", "key", "model", "outcome",
    *_ATTEMPT_NUMBERS, "error",
)  # fmt: skip
_NUMBERS = ("at", *_ATTEMPT_NUMBERS)
_MAY_BE_MISSING = ("first_token_s", "cost_usd")
_QUOTA_TYPES = {
    **dict.fromkeys(("provider", "key", "account", "model", "limit"), "str"),
    **dict.fromkeys(("used", "session_used", "allowed", "remaining"), "int64"),
    "usage_percent": "float64",
    "available": "bool",
    **dict.fromkeys(("opens_at", "resets_at"), TIME),
    "evidence": "str",
    "evidence_age_s": "float64",
}


def typed_frame(types: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A frame with columns of these types.

    Each column is created with its type, because pandas would infer another type from an empty
    column, and cannot convert a column of `NaT` to one with a time zone.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=dtype)
            for (name, dtype), values in zip(types.items(), columns, strict=True)
        }
    )


def quota_frame(
    standings: Iterable[Standing], spent: Mapping[RouteId, Spent], now: float
) -> pd.DataFrame:
    """One row per provider, key, model and limit.

    Columns: `provider, key, account, model, limit, used, session_used, allowed, remaining,
    usage_percent, available, opens_at, resets_at, evidence, evidence_age_s`. `used`, `allowed` and
    `remaining` are whole requests or tokens, depending on `limit`, and include calls in progress.
    `session_used` counts only this process, independent of the window (`spent`, by provider, key
    and model). Times are aware, in UTC.
    """
    nothing = Spent()
    rows = [
        (
            row.provider,
            row.key,
            row.account,
            row.model,
            row.limit,
            row.used_units,
            spent.get(row.route, nothing).units(row.metric),
            row.allowed_units,
            row.remaining_units,
            row.usage_percent,
            row.opens_at <= now,
            time_of(row.opens_at),
            time_of(row.resets_at),
            row.evidence,
            round(max(0.0, now - row.evidence_at), 1),
        )
        for row in standings
    ]
    return typed_frame(_QUOTA_TYPES, rows)


def attempts_frame(attempts: Iterable[Attempt | Mapping[str, Any]]) -> pd.DataFrame:
    """One row per attempt or record of an attempt, in the given order.

    Columns: `at` (aware, UTC), `session, notebook, tag, request, provider, key, model, outcome,
    input_tokens, output_tokens, seconds, first_token_s, cost_usd, waited_s, error`; `notebook`,
    `tag` and `error` are "" if there was none.
    Records without a time, or with text where a number should be, are left out.
    """
    rows = (one.to_dict() if isinstance(one, Attempt) else one for one in attempts)
    # Converted in parts, because a million records need ten times the memory of their columns.
    parts = list(map(_frame_of, iter(lambda: list(islice(rows, _PART_ROWS)), [])))
    return pd.concat(parts or [_frame_of([])], ignore_index=True)


def recorded_attempts_frame(blocks: Iterable[bytes]) -> pd.DataFrame:
    """The same frame from the lines of the call log, see `AttemptLog.lines`."""
    return attempts_frame(record for lines in blocks for record in records_of(lines))


def _frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            name: _numbers(rows, name) if name in _NUMBERS else _texts(rows, name)
            for name in _ATTEMPT_COLUMNS
        }
    )
    for name in ("input_tokens", "output_tokens"):
        frame[name] = frame[name].where(frame[name].abs() <= MOST_TOKENS)
    at = (frame["at"] * 1000).round()
    frame["at"] = pd.to_datetime(at, unit="ms", utc=True, errors="coerce")
    frame = frame.dropna(subset=[name for name in _NUMBERS if name not in _MAY_BE_MISSING])
    for name in ("error", "notebook", "tag"):
        frame[name] = frame[name].fillna("")
    return frame.astype({"at": TIME, **_ATTEMPT_NUMBERS})


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> pd.Series:
    values = pd.Series([row.get(name) for row in rows], dtype="object")
    return pd.to_numeric(values, errors="coerce").astype("float64")


def _texts(rows: Sequence[Mapping[str, Any]], name: str) -> pd.Series:
    # Converting a missing value to text would make it the word "None" before pandas 3.
    values = (row.get(name) for row in rows)
    return pd.Series([None if v is None else str(v) for v in values], dtype="str")


def time_of(seconds: float) -> pd.Timestamp | NaTType:
    """Epoch seconds as a UTC timestamp; NaT for a route that does not open by waiting."""
    return pd.Timestamp(round(seconds * 1000), unit="ms", tz="UTC") if seconds < NEVER else pd.NaT
