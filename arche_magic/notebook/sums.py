"""`%llm_stats --by`: what was spent, per provider, model, day or notebook."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.tracebacks import without_locals

from .tables import Cell, table_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

DAYS = 31
"""How far back they go."""
_NAMELESS = "(not in a notebook)"
_LONGEST_NAME = 100


def notebook_name(variables: Mapping[str, Any]) -> str:
    """The name of the notebook's file, without its folder; "" where nobody tells it.

    VS Code has it in a variable of the notebook, Jupyter's server in one of the environment.
    """
    told = variables.get("__vsc_ipynb_file__") or without_locals(os.environ.get)(
        "JPY_SESSION_NAME", ""
    )
    name = re.split(r"[/\\]", str(told))[-1]
    return name[:_LONGEST_NAME] if name.isprintable() else ""


def sums_frame(attempts: pd.DataFrame, by: str) -> pd.DataFrame:
    """Sums of attempts, the dearest and then the busiest first; days in their order.

    Columns: the one of `by`, `requests` (sent and not refused), `served`, `failed`,
    `input_tokens`, `output_tokens`, `cost_usd` (USD; what has no known price is left out). A
    `day` is one of local time, as `2026-11-25`.
    """
    sent = attempts[~attempts["outcome"].isin(("skipped", "refused"))]
    if by == "day":
        keys = sent["at"].dt.tz_convert(_local_zone()).dt.strftime("%Y-%m-%d")
    else:
        keys = sent[by].where(sent[by] != "", _NAMELESS)
    table = sent.assign(
        **{by: keys},
        requests=1,
        served=(sent["outcome"] == "served").astype("int64"),
        failed=(sent["outcome"] == "failed").astype("int64"),
    )
    names = ["requests", "served", "failed", "input_tokens", "output_tokens", "cost_usd"]
    sums = table.groupby(by, as_index=False)[names].sum()
    if by == "day":
        return sums.sort_values(by, ignore_index=True)
    return sums.sort_values(["cost_usd", "requests"], ascending=False, ignore_index=True)


def sums_bundle(sums: pd.DataFrame, by: str) -> dict[str, str]:
    """The same as a table for reading."""
    if sums.empty:
        return {"text/plain": "no attempts yet", "text/html": "no attempts yet"}
    rows = [
        (
            Cell(str(name)),
            *(Cell(f"{count:,}", right=True) for count in counts),
            Cell(f"${cost:.4f}" if cost else "free", right=True),
        )
        for name, *counts, cost in sums.itertuples(index=False)
    ]
    heads = (by, "requests", "served", "failed", "tokens in", "tokens out", "cost")
    return table_bundle(heads, rows, [f"all sessions of the last {DAYS} days"])


def _local_zone() -> Any:
    from datetime import datetime

    return datetime.now().astimezone().tzinfo
