"""The cost of routes, in words."""

from __future__ import annotations

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.prices import usd_per_million
from arche_magic.llm_providers.reply import Reply

_HOW_TO_PREVENT = (
    "Paid, because no free route could answer. --patience SECONDS waits longer for one; "
    "per_day = 0 under [budget] in arche_magic.toml allows free routes only"
)
# Whether this session has shown the hint.
_is_shown = False


def price_text(cost: float | None) -> str:
    """`free`, `$0.0012`, below that `$0.000042`, or that the price is not known."""
    if cost is None:
        return "paid, price unknown"
    if 0 < cost < 1e-6:
        return "less than $0.000001"
    return f"${cost:.{4 if round(cost, 6) >= 0.0001 else 6}f}" if cost else "free"


def paid_text(cost: float | None) -> str:
    """`free`, `paid · $0.0012`, or that the price is not known."""
    return f"paid · {price_text(cost)}" if cost else price_text(cost)


def sum_text(cost: float, unpriced: int) -> str:
    """The cost of several attempts; `$0.0012 and more` if the price of some is unknown."""
    if not unpriced:
        return price_text(cost)
    return f"{price_text(cost)} and more" if cost else price_text(None)


def rate_text(provider: str, model: str) -> str:
    """`$0.75 per million tokens in, $4.50 out`, or that the price is not known."""
    try:
        priced = get_configuration().providers.get(provider)
    except ConfigurationError:
        # The settings were changed before the reply arrived.
        priced = None
    rate = (priced and priced.prices.get(model)) or usd_per_million(provider, model)
    if rate is None:
        return "not known"
    into, out = (f"${usd:.{2 if usd == round(usd, 2) else 4}f}" for usd in rate)
    return f"{into} per million tokens in, {out} out"


def was_paid(reply: Reply) -> bool:
    """Whether the route that answered is a paid one."""
    considered = (entry for decision in reply.decisions for entry in decision.considered)
    return any(entry.paid for entry in considered if entry.name == reply.route)


def paid_hint(reply: Reply) -> str:
    """How to prevent paid replies; "" except for the first one that could have been free."""
    global _is_shown
    considered = [entry for decision in reply.decisions for entry in decision.considered]
    if _is_shown or not was_paid(reply) or all(entry.paid for entry in considered):
        return ""
    _is_shown = True
    return _HOW_TO_PREVENT


def forget_hint() -> None:
    """Forget that the hint was shown."""
    global _is_shown
    _is_shown = False
