"""The tables of `%llm_stats`: attempts per route; with `--by`, usage per provider, day, job."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.types import RouteId

from .costs import price_text, sum_text
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from arche_magic.bulk.job_records import JobRecord

DAYS = 31
"""How many days the sums cover."""
_NAMELESS = defaultdict(
    str, notebook="(not in a notebook)", tag="(no tag)", client="(notebook or script)"
)
_KINDS: Mapping[type, str] = {str: "str", int: "int64", float: "float64"}
_AGREEMENT = ["packed", "checked", "agreed"]
_PACKED_HEADS = ["packed", "checked rows that agree"]
_SINCE = f"all sessions of the last {DAYS} days"


def stats_bundle(frame: pd.DataFrame) -> dict[str, str]:
    """A row per provider, key and model: how many attempts were served, skipped, refused, failed.

    With paid attempts, also their cost.
    """
    if frame.empty:
        return {"text/plain": "no attempts yet", "text/html": "no attempts yet"}
    rows = []
    is_paid = bool((frame["cost_usd"] != 0).any())
    for (provider, key, model), group in frame.groupby(["provider", "key", "model"], sort=False):
        outcomes = group["outcome"].value_counts()
        served = group[group["outcome"] == "served"]
        tokens = int(group["input_tokens"].sum() + group["output_tokens"].sum())
        cost = sum_text(float(group["cost_usd"].sum()), int(group["cost_usd"].isna().sum()))
        median = f"{served['seconds'].median():.2f} s" if len(served) else "–"
        rows.append(
            (
                Cell(str(RouteId(str(provider), str(key), str(model))), long=True),
                *(
                    Cell(str(outcomes.get(outcome, 0)), right=True)
                    for outcome in ("served", "skipped", "refused", "failed", "interrupted")
                ),
                Cell(f"{tokens:,}", right=True),
                Cell(median, right=True),
                *([Cell(cost, right=True)] if is_paid else ()),
            )
        )
    heads = [
        "route", "served", "skipped", "refused", "failed", "interrupted", "tokens", "median time"
    ]  # fmt: skip
    return table_bundle([*heads, "cost"] if is_paid else heads, rows)


def sums_frame(attempts: pd.DataFrame, by: str, jobs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Sums of attempts, ordered by cost, then by requests; days in order of time.

    Columns: the one of `by`, `requests` (sent and not refused), `served`, `failed`,
    `input_tokens`, `output_tokens`, `cost_usd` (USD; without attempts of unknown price), and
    `unpriced`, the number of those. A `day` is in local time, such as `2026-11-25`. Per `tag`, with
    a frame of jobs, also `packed`, `checked` and `agreed`, which say how packed replies agreed.

    The `client` is the tag: a request that comes through OpenAI's interface carries its client's
    name as its tag, unless the client sends another one.
    """
    attempts = attempts.rename(columns={"tag": "client"}) if by == "client" else attempts
    sent = attempts[~attempts["outcome"].isin(("skipped", "refused"))]
    keys = _local_days(sent["at"]) if by == "day" else _named(sent[by])
    table = sent.assign(
        **{by: keys},
        requests=1,
        served=(sent["outcome"] == "served").astype("int64"),
        failed=(sent["outcome"] == "failed").astype("int64"),
        unpriced=sent["cost_usd"].isna().astype("int64"),
    )
    names = [
        "requests", "served", "failed", "input_tokens", "output_tokens", "cost_usd", "unpriced",
    ]  # fmt: skip
    sums = table.groupby(by, as_index=False)[names].sum()
    if by == "tag" and jobs is not None:
        packed = jobs.groupby(_named(jobs[by]))[_AGREEMENT].sum()
        sums = sums.join(packed, on=by).fillna(dict.fromkeys(_AGREEMENT, 0))
        sums = sums.astype(dict.fromkeys(_AGREEMENT, "int64"))
    if by == "day":
        return sums.sort_values(by, ignore_index=True)
    return sums.sort_values(["cost_usd", "requests"], ascending=False, ignore_index=True)


def sums_bundle(sums: pd.DataFrame, by: str) -> dict[str, str]:
    """The sums as a table for reading."""
    if sums.empty:
        return {"text/plain": "no attempts yet", "text/html": "no attempts yet"}
    is_packed = "packed" in sums and bool(sums["packed"].any())
    rows = []
    for row in sums.to_dict("records"):
        counts = ("requests", "served", "failed", "input_tokens", "output_tokens")
        cells = [Cell(str(row[by])), *(_count(row[name]) for name in counts)]
        cost = sum_text(row["cost_usd"], row["unpriced"])
        rows.append((*cells, Cell(cost, right=True), *_agreement(row, is_packed)))
    heads = [by, "requests", "served", "failed", "tokens in", "tokens out", "cost"]
    return table_bundle([*heads, *_PACKED_HEADS[: 2 * is_packed]], rows, [_SINCE])


def jobs_frame(jobs: Iterable[JobRecord]) -> pd.DataFrame:
    """One row per job that sent something, in the given order.

    Columns: `at` (when it ended; aware, UTC), `job` (its id), `session, notebook, tag`, `rows`,
    `done`, `errors`, `requests`, `tokens`, `cost_usd`, and, of rows that were packed, `packed`,
    `checked`, `agreed`, `not_compared` and `discarded`; see `JobRecord`.
    """
    from arche_magic.bulk.job_records import JobRecord

    from .frames import TIME, time_of, typed_frame

    kinds = {field.name: _KINDS[type(field.default)] for field in fields(JobRecord)}
    rows = [(time_of(job.at), *astuple(job)[1:]) for job in jobs]
    return typed_frame(kinds | {"at": TIME}, rows)


def jobs_bundle(jobs: pd.DataFrame) -> dict[str, str]:
    """The frame of jobs as a table for reading."""
    if jobs.empty:
        return {"text/plain": "no jobs yet", "text/html": "no jobs yet"}
    is_packed = bool(jobs["packed"].any())
    rows = []
    for row in jobs.to_dict("records"):
        ended = f"{datetime.fromtimestamp(row['at'].timestamp()):%Y-%m-%d %H:%M}"
        counts = (_count(row[name]) for name in ("rows", "done", "errors", "requests", "tokens"))
        cells = [Cell(ended), Cell(row["tag"]), *counts]
        cost = Cell(price_text(row["cost_usd"]), right=True)
        rows.append((*cells, cost, *_agreement(row, is_packed)))
    heads = ["ended", "tag", "rows", "done", "errors", "requests", "tokens", "cost"]
    return table_bundle([*heads, *_PACKED_HEADS[: 2 * is_packed]], rows, [_SINCE])


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", right=True)


def _agreement(row: Mapping[Any, Any], is_packed: bool) -> list[Cell]:
    """How many rows were packed, and how many checked rows agree; empty if none was packed."""
    if not is_packed:
        return []
    agreed = f"{row['agreed']:,} of {row['checked']:,}" if row["checked"] else "–"
    return [_count(row["packed"]), Cell(agreed, right=True)]


def _named(column: pd.Series) -> pd.Series:
    """The column with words for the empty name."""
    return column.where(column != "", _NAMELESS[str(column.name)])


def _local_days(times: pd.Series) -> pd.Series:
    """The local day of each time, such as `2026-11-25`, also before a change of the clock."""
    # Zones differ by multiples of 15 minutes, so the times within one are of the same day.
    quarters = times.dt.floor("15min")
    days = {q: f"{datetime.fromtimestamp(q.timestamp()):%Y-%m-%d}" for q in quarters.unique()}
    named: pd.Series = quarters.map(days).astype("str")
    return named
