"""The text in a panel and the status bar about the next prompt and the last attempts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Preview
from arche_magic.llm_providers.errors import LLMProviderError, NoKeys
from arche_magic.llm_providers.reply import Attempt, outcome_in_words
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import Route, Standing

from ..cell import typed_or_default
from ..quota import QuotaView
from ..styles import QUIET, escape, html_table, one_line
from ..words import RouteQuota, State, amounts_of, clock_time, in_words, paid_text, state_at

if TYPE_CHECKING:
    from ..magics import Defaults

_REASONS = 2
# Used as a short prompt while the prompt box is empty.
_ANY_PROMPT = "Hello"
# Routes that open sooner have a countdown; for the others, the time of day is enough.
_COUNTDOWN_SECONDS = 100.0
_LONGEST_REASON = 160
_TOOLTIP_REASONS = 5
_CLICK = "Click to see all routes."


def prompt_options(defaults: Defaults) -> dict[str, Any]:
    """The options of a prompt without explicit options."""
    return typed_or_default(
        Namespace(), defaults, "provider", "model", "system", "temperature", "max_tokens",
        "patience", "keep", "private",
    )  # fmt: skip


def _preview(view: QuotaView, prompt: str, defaults: Defaults) -> Preview:
    llm = IntelligentLLMOrchestrator(configuration=view.configuration)
    return llm.preview(prompt.strip() or _ANY_PROMPT, **prompt_options(defaults))


def next_html(view: QuotaView, prompt: str, defaults: Defaults) -> str:
    """The route that would answer a prompt now, and why."""
    try:
        ahead = _preview(view, prompt, defaults)
    except LLMProviderError as error:
        return _status("No route would answer", "", str(error))
    skipped = _skipped(view, ahead)
    why = "; ".join(skipped[:_REASONS])
    if len(skipped) > _REASONS:
        why += f"; and {len(skipped) - _REASONS} more before it"
    if ahead.route is None:
        return _status("No route would answer", "", why)
    if ahead.wait > 0:
        opens = clock_time(view.now + ahead.wait, view.now)
        return _status("The next prompt waits for", str(ahead.route), f"it opens {opens}")
    why = why or "the first open route; among its keys, the one with the most quota left"
    return _status("The next prompt goes to", str(ahead.route), why)


def attempts_html(view: QuotaView) -> str:
    """The last attempts, newest first."""
    if not view.attempts:
        return f'<span style="{QUIET}">no attempts yet</span>'
    rows = [
        (
            f"{datetime.fromtimestamp(attempt.at):%H:%M:%S}",
            str(attempt.route),
            outcome_in_words(attempt.outcome),
            _result(attempt),
        )
        for attempt in view.attempts
    ]
    heads = ("time", "route", "outcome", "reply or reason")
    table = html_table(heads, rows, long=["reply or reason"])
    # Widgets have lines as high as buttons.
    return f'<div style="line-height:1.35">{table}</div>'


def status_of(view: QuotaView, defaults: Defaults) -> dict[str, Any]:
    """The status at one moment.

    Returns `sign` (open, waiting or closed), `text`, `short` (the text for a narrow window),
    `details` (the lines of the tooltip), and `opens_at` (epoch seconds) if the page adds a
    countdown to the text, else None.
    """
    try:
        ahead = _preview(view, "", defaults)
    except NoKeys as error:
        return _item("closed", "no API key", [str(error)])
    except LLMProviderError as error:
        return _item("closed", "no route would answer", [str(error)])
    if ahead.route is not None and ahead.wait <= 0:
        return _open(view, ahead.route)
    return _not_open(view, ahead)


def _open(view: QuotaView, route: Route) -> dict[str, Any]:
    limits = [row for row in view.standings if row.route == route.id]
    tightest = RouteQuota(limits, view.now).tightest if limits else None
    left = _left(tightest) if tightest else "no limit is known"
    paid = " · paid" if route.paid else ""
    details = [f"The next prompt goes to {route}{paid}.", *map(_left, limits)]
    name = f"{route.provider}{paid}"
    short = f"{name} {amounts_of(tightest)}" if tightest else name
    return _item("open", short, [*details, *_open_routes(view), _CLICK], f"{name} {left}")


def _not_open(view: QuotaView, ahead: Preview) -> dict[str, Any]:
    first = min(ahead.closed, key=lambda one: (one[0] != ahead.route, one[1]), default=None)
    skipped = _skipped(view, ahead)[:_TOOLTIP_REASONS]
    reasons = (one_line(words, _LONGEST_REASON) for words in skipped)
    details = [*reasons, *_open_routes(view), _CLICK]
    if first is None or state_at(first[1], view.now) == "closed":
        return _item("closed", "every route is closed", details)
    route, opens_at, _ = first
    counts = opens_at - view.now < _COUNTDOWN_SECONDS
    at = clock_time(opens_at, view.now)
    when = "" if counts else f" {at}"
    short, text = f"waiting: {route.provider}{when}", f"waiting: {route.provider} opens{when}"
    details = [f"{route} opens first: {at}.", *details]
    return _item("waiting", short, details, text, round(opens_at, 1) if counts else None)


def _open_routes(view: QuotaView) -> list[str]:
    """A line such as `5 of 6 routes are open.`, if there are several routes with limits."""
    routes = [route for route in view.routes if route.is_on]
    if len(routes) < 2:
        return []
    open_now = sum(route.state == "open" for route in routes)
    return [f"{open_now} of {len(routes)} routes are open."]


def _left(row: Standing) -> str:
    """What a limit has left, in the words of the receipts: `27 of 30 requests left this minute`."""
    when = "today" if row.period == "day" else f"this {row.period}"
    return f"{amounts_of(row)} {in_words(row.metric)} left {when}"


def _item(
    sign: State, short: str, details: Sequence[str], text: str = "", opens_at: float | None = None
) -> dict[str, Any]:
    return {
        "sign": sign,
        "text": without_controls(text or f"arche_magic: {short}"),
        "short": without_controls(short),
        "details": [without_controls(line) for line in details],
        "opens_at": opens_at,
    }


def _skipped(view: QuotaView, ahead: Preview) -> list[str]:
    """The routes before the one that would answer: `groq · … is waiting (…, opens 14:32)`."""
    skipped = []
    for route, opens_at, why in ahead.closed:
        state = state_at(opens_at, view.now)
        # This is a time instead of a countdown, because screen readers announce each change of this
        # line.
        when = f", opens {clock_time(opens_at, view.now)}" if state == "waiting" else ""
        skipped.append(f"{route} is {state} ({why}{when})")
    return skipped


def _status(begin: str, route: str, why: str) -> str:
    # The role is status, so that screen readers announce changes.
    named = f" <b>{escape(route)}</b>" if route else ""
    reason = f'<div style="{QUIET};line-height:1.35">{escape(why)}</div>' if why else ""
    return f'<div role="status">{begin}{named}{reason}</div>'


def _result(attempt: Attempt) -> str:
    if attempt.error and attempt.outcome != "interrupted":
        return attempt.why
    cost = f", {paid_text(attempt.cost_usd)}" if attempt.cost_usd != 0 else ""
    return f"{attempt.input_tokens + attempt.output_tokens:,} tokens, {attempt.seconds:.1f} s{cost}"
