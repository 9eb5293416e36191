"""What tokens cost, by the price table that the package genai-prices keeps and dates."""

from __future__ import annotations

from .types import Route, Usage


def cost_usd(route: Route, usage: Usage) -> float | None:
    """USD for what a route spent: 0 on free routes, None where the price is not known.

    Prices are those of the installed genai-prices, a table kept by third parties, not by the
    providers. Its size makes the first call take about a third of a second; free routes, and calls
    that spent nothing, do not load it.
    """
    if not route.paid or not usage.total_tokens:
        return 0.0
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    try:
        price = calc_price(
            PricedUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
            route.model,
            provider_id=route.provider,
        )
    except (LookupError, ValueError):
        return None
    return float(price.total_price)
