"""What routes cost, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arche_magic.llm_providers.attempt_log import Spent
from arche_magic.llm_providers.types import Route

Name = tuple[str, str, str]
"""Provider, key and model."""


def price_text(cost: float | None) -> str:
    """`free`, `$0.0012`, below that `$0.000042`, or that the price is not known."""
    if cost is None:
        return "paid, price not known"
    if 0 < cost < 1e-6:
        return "less than $0.000001"
    return f"${cost:.{4 if round(cost, 6) >= 0.0001 else 6}f}" if cost else "free"


def paid_text(cost: float | None) -> str:
    """`free`, `paid · $0.0012`, or that the price is not known."""
    return f"paid · {price_text(cost)}" if cost else price_text(cost)


def paid_routes(routes: Iterable[Route], spent: Mapping[Name, Spent]) -> dict[Name, str]:
    """The paid routes, each with what this session has spent on it, in words."""
    words = {}
    for route in routes:
        if not route.paid:
            continue
        name = route.provider, route.key.label, route.model
        bill = spent.get(name, Spent())
        words[name] = "paid"
        if bill.cost_usd:
            more = " and more" if bill.unpriced else ""
            words[name] = f"{paid_text(bill.cost_usd)}{more} in this session"
        elif bill.unpriced:
            words[name] = paid_text(None)
    return words
