"""The content of the panels at one moment, read from the engine: text and HTML, no widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from typing import Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Preview, get_quota_tracker
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import Configuration, get_configuration
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import Route, RouteId, Standing

from ..costs import paid_routes, paid_text
from ..meters import clock, quota_bundle, shared_notes, switched_off, without_limits
from ..styles import QUIET

_ATTEMPTS = 6
_REASONS = 2
# Used as a short prompt while the prompt box is empty.
_ANY_PROMPT = "Hello"


@dataclass(frozen=True)
class View:
    """The state of the engine at one moment.

    Attributes:
        configuration: the one in use, the session's choices in it.
        standings: every limit of every route, also of routes that are off.
        shared: labels of keys that add no quota, each with the one whose account it shares.
        attempts: the last ones of this kernel, newest first.
        paid: the routes that cost money, each with what this session has paid for it, in words.
        now: epoch seconds.
    """

    configuration: Configuration
    standings: Sequence[Standing]
    shared: Mapping[str, str]
    attempts: Sequence[Attempt]
    paid: Mapping[RouteId, str]
    now: float

    @property
    def groups(self) -> dict[str, tuple[list[str], list[str]]]:
        """Providers that have keys, in order: labels of their keys, and their models."""
        return {
            name: (labels, list(provider.models))
            for name, provider in self.configuration.providers.items()
            if (labels := [key.label for key in self.configuration.keys if key.provider == name])
        }


def look() -> View:
    """The current state of the engine."""
    configuration = get_configuration()
    everything = replace(configuration, off=frozenset())
    now = configuration.clock.time()
    tracker = get_quota_tracker(everything)
    log = attempt_log(configuration.store)
    recent = log.recent
    # From the end: there may be ten thousand, and other threads append.
    last = [recent[-1 - n] for n in range(min(_ATTEMPTS, len(recent)))]
    paid = paid_routes(everything.routes(), log.spent())
    standings = tracker.standings(now=now)
    return View(configuration, standings, tracker.shared_keys(), last, paid, now)


def is_on(view: View, limits: Sequence[Standing]) -> bool:
    """Whether the route of these limits is asked at all."""
    first = limits[0]
    return view.configuration.off.isdisjoint((first.key, f"{first.provider}/{first.model}"))


def notes(view: View) -> list[str]:
    """Lines below the meters: routes without a known limit, and keys that add no quota."""
    return [
        *without_limits(view.configuration.routes(), view.standings, view.paid),
        *shared_notes(view.shared),
    ]


def preview(view: View, prompt: str, options: Mapping[str, Any]) -> Preview:
    """What would happen to a prompt now; an empty one counts as a short prompt.

    Raises:
        LLMProviderError: no request can be made, for example because there is no key.
    """
    llm = IntelligentLLMOrchestrator(configuration=view.configuration)
    return llm.preview(prompt.strip() or _ANY_PROMPT, **options)


def next_html(view: View, prompt: str, options: Mapping[str, Any]) -> str:
    """The route that would answer a prompt now, and why."""
    try:
        ahead = preview(view, prompt, options)
    except LLMProviderError as error:
        return _status("Nobody would answer", "", str(error))
    closed = [_closed(route, opens, why, view.now) for route, opens, why in ahead.closed]
    why = "; ".join(closed[:_REASONS])
    if len(closed) > _REASONS:
        why += f"; and {len(closed) - _REASONS} more before it"
    if ahead.route is None:
        return _status("Nobody would answer", "", why)
    if ahead.wait > 0:
        opens = clock(view.now + ahead.wait, view.now, soon="minutes")
        return _status("The next prompt waits for", str(ahead.route), f"it opens {opens}")
    why = why or "the first open route; among its keys, the one with the most quota left"
    return _status("The next prompt goes to", str(ahead.route), why)


def attempts_html(view: View) -> str:
    """The last attempts, newest first."""
    if not view.attempts:
        return f'<span style="{QUIET}">no attempts yet</span>'
    cell = "border:none;padding:2px 14px 2px 0;text-align:left;vertical-align:top;line-height:1.35"
    rows = "".join(
        f'<tr style="background:none"><td style="{cell};{QUIET};font-variant-numeric:tabular-nums">'
        f"{datetime.fromtimestamp(attempt.at):%H:%M:%S}</td>"
        f'<td style="{cell};white-space:nowrap">'
        f"{escape(str(attempt.route))}</td>"
        f'<td style="{cell}">{attempt.outcome}</td>'
        f'<td style="{cell};{QUIET}">{escape(_came_of(attempt))}</td></tr>'
        for attempt in view.attempts
    )
    return (
        f'<table style="border-collapse:collapse;border:none;font-size:90%;margin:0">{rows}</table>'
    )


def snapshot_bundle(view: View) -> dict[str, str]:
    """The same as a static table, which stays in the saved notebook and needs no kernel."""
    on = [row for row in view.standings if is_on(view, [row])]
    lines = [*notes(view), *switched_off(view.configuration.off)]
    return quota_bundle(on, view.now, lines, paid=view.paid)


def _closed(route: Route, opens: float, why: str, now: float) -> str:
    # A time, not a countdown: screen readers announce this line whenever it changes.
    when = f", opens {clock(opens, now, soon='minutes')}" if opens < 1e11 else ""
    return f"{route} is closed ({without_controls(why)}{when})"


def _status(begin: str, route: str, why: str) -> str:
    # A status, so that screen readers announce changes.
    named = f" <b>{escape(route)}</b>" if route else ""
    reason = (
        f'<div style="{QUIET};line-height:1.35">{escape(without_controls(why))}</div>'
        if why
        else ""
    )
    return f'<div role="status">{escape(begin)}{named}{reason}</div>'


def _came_of(attempt: Attempt) -> str:
    if attempt.error and attempt.outcome != "interrupted":
        return without_controls(attempt.why)
    cost = f", {paid_text(attempt.cost_usd)}" if attempt.cost_usd != 0 else ""
    return f"{attempt.input_tokens + attempt.output_tokens:,} tokens, {attempt.seconds:.1f} s{cost}"
