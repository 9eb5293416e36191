"""The tables of `%llm_stats`: attempts per route; with `--by`, usage per provider, day, job."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.reply import outcome_in_words
from arche_magic.llm_providers.types import RouteId

from .styles import table_bundle
from .words import price_text, sum_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from arche_magic.bulk.whole_job import JobRecord

DAYS = 31
"""How many days the sums cover."""
_NAMELESS = defaultdict(
    str, notebook="(not in a notebook)", tag="(no tag)", client="(notebook or script)"
)
_KINDS: Mapping[type, str] = {str: "str", int: "int64", float: "float64"}
_OUTCOMES = ("served", "skipped", "refused", "failed", "interrupted")
_AGREEMENT = ["packed", "checked", "agreed"]
_PACKED_HEADS = ["packed", "checked rows that agree"]
_SINCE = f"all sessions of the last {DAYS} days"


def stats_bundle(frame: pd.DataFrame) -> dict[str, str]:
    """A row per provider, key and model: its attempts by their outcome, tokens and time.

    Outcomes that did not occur have no column, and neither has the cost if everything is free.
    """
    is_paid = bool((frame["cost_usd"] != 0).any())
    shown = [name for name in _OUTCOMES if name == "served" or (frame["outcome"] == name).any()]
    rows = []
    for names, group in frame.groupby(list(RouteId._fields), sort=False):
        outcomes = group["outcome"].value_counts()
        served = group[group["outcome"] == "served"]
        tokens = int(group["input_tokens"].sum() + group["output_tokens"].sum())
        cost = sum_text(float(group["cost_usd"].sum()), int(group["cost_usd"].isna().sum()))
        row = [
            str(RouteId(*map(str, names))),
            *(str(outcomes.get(outcome, 0)) for outcome in shown),
            f"{tokens:,}",
            f"{served['seconds'].median():.2f} s" if len(served) else "–",
        ]
        rows.append([*row, cost] if is_paid else row)
    heads = ["route", *map(outcome_in_words, shown), "tokens", "median time"]
    heads += ["cost"] if is_paid else []
    return table_bundle(heads, rows, right=heads[1:], long=["route"], none="no attempts yet")


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
        # An empty column of texts cannot be joined.
        sums[_AGREEMENT] = packed.reindex(sums[by].to_list(), fill_value=0).to_numpy("int64")
    if by == "day":
        return sums.sort_values(by, ignore_index=True)
    return sums.sort_values(["cost_usd", "requests"], ascending=False, ignore_index=True)


def sums_bundle(sums: pd.DataFrame, by: str) -> dict[str, str]:
    """The sums as a table for reading."""
    is_packed = "packed" in sums and bool(sums["packed"].any())
    counts = ("requests", "served", "failed", "input_tokens", "output_tokens")
    rows = [
        [row[by], *_figures(row, counts, sum_text(row["cost_usd"], row["unpriced"]), is_packed)]
        for row in sums.to_dict("records")
    ]
    heads = [by, "requests", "answered", "failed", "tokens in", "tokens out", "cost"]
    heads += _PACKED_HEADS if is_packed else []
    return table_bundle(heads, rows, [_SINCE], right=heads[1:], none="no attempts yet")


def jobs_frame(jobs: Iterable[JobRecord]) -> pd.DataFrame:
    """One row per job that sent something, in the given order.

    Columns: `at` (when it ended; aware, UTC), `job` (its id), `session, notebook, tag`, `rows`,
    `done`, `errors`, `requests`, `tokens`, `cost_usd`, and, of rows that were packed, `packed`,
    `checked`, `agreed`, `not_compared` and `discarded`; see `JobRecord`.
    """
    from arche_magic.bulk.whole_job import JobRecord

    from .frames import TIME, time_of, typed_frame

    kinds = {field.name: _KINDS[type(field.default)] for field in fields(JobRecord)}
    rows = [(time_of(job.at), *astuple(job)[1:]) for job in jobs]
    return typed_frame(kinds | {"at": TIME}, rows)


def jobs_bundle(jobs: pd.DataFrame) -> dict[str, str]:
    """The frame of jobs as a table for reading."""
    is_packed = bool(jobs["packed"].any())
    counts = ("rows", "done", "errors", "requests", "tokens")
    rows = [
        [
            f"{datetime.fromtimestamp(row['at'].timestamp()):%Y-%m-%d %H:%M}",
            row["tag"],
            *_figures(row, counts, price_text(row["cost_usd"]), is_packed),
        ]
        for row in jobs.to_dict("records")
    ]
    heads = ["ended", "tag", *counts, "cost", *(_PACKED_HEADS if is_packed else ())]
    return table_bundle(heads, rows, [_SINCE], right=heads[2:], none="no jobs yet")


def _figures(
    row: Mapping[Any, Any], counts: Iterable[str], cost: str, is_packed: bool
) -> list[str]:
    """The counts and the cost; with packed rows, how many these are, and how many agree."""
    texts = [*(f"{row[name]:,}" for name in counts), cost]
    if is_packed:
        agreed = f"{row['agreed']:,} of {row['checked']:,}" if row["checked"] else "–"
        texts += [f"{row['packed']:,}", agreed]
    return texts


def _named(column: pd.Series) -> pd.Series:
    return column.where(column != "", _NAMELESS[str(column.name)])


def _local_days(times: pd.Series) -> pd.Series:
    """The local day of each time, such as `2026-11-25`, also before a change of the clock."""
    # Zones differ by multiples of 15 minutes, so the times within one are of the same day.
    quarters = times.dt.floor("15min")
    days = {q: f"{datetime.fromtimestamp(q.timestamp()):%Y-%m-%d}" for q in quarters.unique()}
    named: pd.Series = quarters.map(days).astype("str")
    return named
