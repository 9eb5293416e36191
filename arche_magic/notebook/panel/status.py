"""The line in JupyterLab's status bar: where the next prompt goes, and what is left there."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import Preview
from arche_magic.llm_providers.errors import LLMProviderError, NoKeys
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import Route, Standing

from ..cell_options import typed_or_default
from ..meters import by_route
from ..quota_words import clock, count, state_of, tightest
from ..styles import one_line
from .view import View, is_on, preview

if TYPE_CHECKING:
    from ..defaults import Defaults

# A route that opens sooner has a countdown; for the others the time of day is enough.
_COUNTDOWN_SECONDS = 100.0
_LONGEST_REASON = 160
_REASONS = 5
_CLICK = "Click to see all routes."


def describe(view: View, defaults: Defaults) -> dict[str, Any]:
    """The status at one moment.

    Returns `sign` (open, waiting or closed), `text`, `details` (the lines of the tooltip), and
    `opens_at` (epoch seconds) if the page adds a countdown to the text, else None.
    """
    try:
        ahead = preview(view, "", prompt_options(defaults))
    except NoKeys as error:
        return _status("closed", "arche_magic: no API key", [str(error)])
    except LLMProviderError as error:
        return _status("closed", "arche_magic: nobody would answer", [str(error)])
    if ahead.route is not None and ahead.wait <= 0:
        return _open(view, ahead.route)
    return _closed(view, ahead)


def prompt_options(defaults: Defaults) -> dict[str, Any]:
    """The options of a prompt that names none."""
    names = ("provider", "model", "system", "temperature", "max_tokens", "patience", "private")
    return typed_or_default(Namespace(), defaults, *names)


def _open(view: View, route: Route) -> dict[str, Any]:
    limits = [row for row in view.standings if row.route == route.id]
    left = _left(tightest(limits)) if limits else "no limit is known"
    paid = " · paid" if route.paid else ""
    details = [f"The next prompt goes to {route}{paid}.", *map(_left, limits)]
    return _status("open", f"{route.provider}{paid} {left}", [*details, *_routes(view), _CLICK])


def _closed(view: View, ahead: Preview) -> dict[str, Any]:
    first = min(ahead.closed, key=lambda one: (one[0] != ahead.route, one[1]), default=None)
    reasons = [
        one_line(f"{route}: {why}", _LONGEST_REASON) for route, _, why in ahead.closed[:_REASONS]
    ]
    if first is None or not math.isfinite(first[1]):
        text = "arche_magic: every route is closed"
        return _status("closed", text, [*reasons, *_routes(view), _CLICK])
    route, opens_at, _ = first
    counts = opens_at - view.now < _COUNTDOWN_SECONDS
    at = clock(opens_at, view.now)
    text = f"waiting: {route.provider} opens" + ("" if counts else f" {at}")
    details = [f"{route} opens first: {at}.", *reasons, *_routes(view), _CLICK]
    return _status("waiting", text, details, round(opens_at, 1) if counts else None)


def _routes(view: View) -> list[str]:
    """A line such as `5 of 6 routes are open.`, if there are several routes with limits."""
    routes = [limits for limits in by_route(view.standings) if is_on(view, limits)]
    if len(routes) < 2:
        return []
    open_now = sum(state_of(limits, view.now)[1] == "open" for limits in routes)
    return [f"{open_now} of {len(routes)} routes are open."]


def _left(row: Standing) -> str:
    """What a limit has left, in the words of the receipts: `27 of 30 requests left this minute`."""
    left = f"{count(row.remaining_units)} of {count(row.allowed_units)}"
    when = "today" if row.period == "day" else f"this {row.period}"
    return f"{left} {row.metric.replace('_', ' ')} left {when}"


def _status(
    sign: str, text: str, details: Sequence[str], opens_at: float | None = None
) -> dict[str, Any]:
    lines = [without_controls(line) for line in details]
    return {"sign": sign, "text": without_controls(text), "details": lines, "opens_at": opens_at}
