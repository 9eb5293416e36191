"""Why a reply came from its route: every route, what it had left, what would have changed it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arche_magic.llm_providers.reply import Considered, Reply
from arche_magic.llm_providers.types import Route, in_seconds, route_name, utc

from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "provider", "key", "model", "verdict", "headroom_percent", "opens_at", "why", "would_change",
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """One route in the explanation of a choice.

    Attributes:
        verdict: answered, shut, failed, open or not needed.
        headroom: share of its tightest limit that was left, 0 to 1; None if not looked at.
        opens_at: epoch seconds, or None if it was open or does not open by waiting.
        why: what kept it from answering.
        would_change: what would have made it answer.
    """

    provider: str
    key: str
    model: str
    verdict: str
    headroom: float | None
    opens_at: float | None
    why: str
    would_change: str


def reasons(reply: Reply, routes: Iterable[Route]) -> list[Reason]:
    """Every route looked at for the reply, in order, then those of `routes` that were not."""
    chosen = (reply.provider, reply.key, reply.model)
    best = next((c.headroom for c in reply.considered if _name(c) == chosen), 1.0)
    explained = [_reason(reply, entry, chosen, best) for entry in reply.considered]
    known = {_name(entry) for entry in reply.considered}
    later = [
        Reason(
            route.provider, route.key.label, route.model, "not needed", None, None,
            "comes later in the order", f"-p {route.provider} asks it alone",
        )
        for route in routes
        if (route.provider, route.key.label, route.model) not in known
    ]  # fmt: skip
    return explained + later


def why_frame(explained: Sequence[Reason]) -> pd.DataFrame:
    """A row per route.

    Columns: `provider, key, model, verdict, headroom_percent, opens_at, why, would_change`;
    `opens_at` is aware, UTC.
    """
    import pandas as pd

    rows = [
        (
            r.provider, r.key, r.model, r.verdict,
            None if r.headroom is None else round(100 * r.headroom, 1),
            None if r.opens_at is None else utc(r.opens_at), r.why, r.would_change,
        )
        for r in explained
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({"headroom_percent": "float64", "opens_at": "datetime64[ms, UTC]"})


def why_bundle(explained: Sequence[Reason]) -> dict[str, str]:
    """The same as a table for reading."""
    rows = [
        (
            Cell(route_name(r.provider, r.key, r.model)),
            Cell(r.verdict),
            Cell("" if r.headroom is None else f"{100 * r.headroom:.0f} %", right=True),
            Cell(r.why),
            Cell(r.would_change),
        )
        for r in explained
    ]
    return table_bundle(("route", "verdict", "left", "why", "what would change it"), rows)


def _reason(reply: Reply, entry: Considered, chosen: tuple[str, str, str], best: float) -> Reason:
    tried = [
        attempt
        for attempt in reply.attempts
        if (attempt.provider, attempt.key, attempt.model) == _name(entry)
        and attempt.outcome in ("refused", "failed")
    ]
    opens_at = entry.opens_at if entry.at < entry.opens_at < math.inf else None
    if _name(entry) == chosen:
        verdict, why, change = "answered", "first open route with the most left", ""
        if tried:
            why = f"answered after {len(tried)} failed: {tried[-1].why}"
    elif entry.opens_at > entry.at:
        verdict, why = ("failed", tried[-1].error or "") if tried else ("shut", entry.reason)
        change = (
            f"asking {in_seconds(opens_at - entry.at).removeprefix('in ')} later"
            if opens_at
            else "it does not open by waiting"
        )
    else:
        verdict = "open"
        why = f"had less left: {100 * entry.headroom:.0f} % against {100 * best:.0f} %"
        change = f"{route_name(*chosen)} having less left"
        if entry.headroom >= best:
            why, change = "as good, and later in the order", f"{route_name(*chosen)} being shut"
    return Reason(*_name(entry), verdict, entry.headroom, opens_at, why, change)


def _name(entry: Considered) -> tuple[str, str, str]:
    return entry.provider, entry.key, entry.model
