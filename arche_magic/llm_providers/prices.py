"""The cost of tokens, by the dated price table of the package genai-prices."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

from .bounded import TookTooLong, library, within
from .types import Route, Usage


def cost_usd(route: Route, usage: Usage, *, load: bool = True) -> float | None:
    """Return USD for what a route spent: 0 on free routes, None if the price is not known.

    If the user set no price, prices are those of the installed genai-prices, a table kept by
    third parties, not by the providers. Its size makes the first call take about a third of a
    second; free routes, and calls that spent nothing, do not load it. With `load` false, a table
    that is not loaded yet counts as a price that is not known.
    """
    if not route.paid or not usage.total_tokens:
        return 0.0
    if route.price:
        spent = usage.input_tokens * route.price[0] + usage.output_tokens * route.price[1]
        return spent / 1_000_000
    if not (load or _table.cache_info().currsize):
        return None
    price = _price(route.provider, route.model, usage)
    return float(price.total_price) if price else None


def usd_per_million(provider: str, model: str) -> tuple[float, float] | None:
    """Return the price in USD of a million input, and a million output tokens, for paying accounts.

    None if the price is not known. Loads the table; see `cost_usd`.
    """
    # A short prompt: long ones cost more per token with some models.
    price = _price(provider, model, Usage(1000, 1000))
    return (float(price.input_price) * 1000, float(price.output_price) * 1000) if price else None


def load_soon(route: Route) -> None:
    """Start loading the table in another thread, if a reply of that route will need it."""
    if route.paid and not route.price and not _table.cache_info().currsize:
        with suppress(TookTooLong):
            within(0.0, _table)


def _price(provider: str, model: str, usage: Usage) -> Any:
    """The table's price of these tokens, or None if it has none."""
    table = _table()
    tokens = table.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    try:
        return table.calc_price(tokens, model, provider_id=provider)
    except (LookupError, ValueError):
        return None


@cache
def _table() -> Any:
    return library("genai_prices")
