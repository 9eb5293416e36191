"""Explains a request: every route, what it had left, and what would have changed the choice."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from arche_magic.llm_providers import Considered, Decision
from arche_magic.llm_providers.reply import Attempt, outcome_in_words
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.text.wording import joined, percent
from arche_magic.llm_providers.types import Route, RouteId, in_seconds, utc, without_vendor

from .styles import Cell, escape, table_bundle
from .words import clock_time, paid_text, state_at

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {
    "provider": "str", "key": "str", "model": "str", "verdict": "str",
    "headroom_percent": "float64", "opens_at": "datetime64[ms, UTC]", "why": "str",
    "would_change": "str",
}  # fmt: skip
# A table as text does not wrap.
_TEXT_WIDTH = 70


@dataclass(frozen=True)
class Reason:
    """One route in the explanation of a choice.

    Attributes:
        verdict: answered, interrupted, failed, refused; open, waiting or closed, or waited for;
            not needed if it comes later in the order, not offered if it could not be chosen.
        headroom: share of its tightest limit that was left, 0 to 1; None if not evaluated.
        opens_at: epoch seconds, or None if it was open or does not open by waiting.
        why: the reason why it did not answer.
        would_change: what would have made it answer.
    """

    route: RouteId
    verdict: str
    headroom: float | None = None
    opens_at: float | None = None
    why: str = ""
    would_change: str = ""


def reasons(
    decisions: Sequence[Decision],
    attempts: Sequence[Attempt],
    routes: Sequence[Route],
    private: Container[Route],
) -> list[Reason]:
    """Every route of a request in the order of the choice, then the others of `routes`.

    `private` has those that private prompts may use.
    """
    tried: dict[RouteId, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.outcome != "skipped":
            tried.setdefault(attempt.route, []).append(attempt)
    # The last evaluation of each route; a route that was dropped is not evaluated again.
    looked = {entry.name: (entry, d) for d in decisions for entry in d.considered}
    first = decisions[0]
    offered = [*(entry.name for entry in first.considered), *first.later]
    last = {entry.name for entry in decisions[-1].considered}
    explained = []
    for route in offered:
        if route in last or (route in looked and _was_spared(*looked[route])):
            explained.append(_considered(*looked[route], tried.get(route, [])))
        elif route in tried:
            # A route that failed and was left out of later choices.
            attempt, headroom = tried[route][-1], looked[route][0].state.headroom
            change = "nothing: after such a failure, a request does not try the route again"
            why = attempt.error or ""
            explained.append(Reason(route, attempt.outcome, headroom, None, why, change))
        else:
            change = _instead(route, decisions[-1].choice().route)
            why = "comes later in the order"
            explained.append(Reason(route, "not needed", why=why, would_change=change))
    unmarked = {route.id for route in routes if route not in private}
    paid = {route.id for route in routes if route.paid}
    for route in (route.id for route in routes if route.id not in offered):
        if first.private and route in unmarked:
            why = "not marked private"
            change = f"{route.provider} in [private] routes, or no --private"
        elif first.same_model:
            why, change = "another model", "no --same-model"
        else:
            why, change = _not_offered(route, offered)
            # A job without --allow-paid offers its rows only to free routes.
            change += ", or --allow-paid with --over" if change and route in paid else ""
        explained.append(Reason(route, "not offered", why=why, would_change=change))
    costs = _costs(decisions, attempts, routes)
    return [
        replace(reason, why=joined((reason.why, costs.get(reason.route, ""))))
        for reason in explained
    ]


def _costs(
    decisions: Sequence[Decision], attempts: Sequence[Attempt], routes: Sequence[Route]
) -> dict[RouteId, str]:
    """What this request cost on each paid route, in words."""
    words = {route.id: "paid" for route in routes if route.paid}
    words |= {e.name: "paid" for decision in decisions for e in decision.considered if e.paid}
    for route in words:
        sent = [
            attempt
            for attempt in attempts
            if attempt.route == route and attempt.outcome in ("served", "failed", "interrupted")
        ]
        known = [attempt.cost_usd for attempt in sent if attempt.cost_usd is not None]
        if len(known) < len(sent):
            words[route] = paid_text(None)
        elif sum(known):
            words[route] = paid_text(sum(known))
    return words


def outcome_sentence(decisions: Sequence[Decision], attempts: Sequence[Attempt]) -> str:
    """The outcome of the request, in one sentence."""
    last = decisions[-1]
    when = f"{datetime.fromtimestamp(decisions[0].at).astimezone():%H:%M:%S on %d %b %Y}"
    ended = next((a for a in attempts if a.outcome in ("served", "interrupted")), None)
    waited = max((a.waited_s for a in attempts), default=0.0)
    after = f" after {waited:.0f} s of waiting" if waited >= 1 else ""
    if ended is not None:
        verb = "answered" if ended.outcome == "served" else "was interrupted"
        cost = f" ({paid_text(ended.cost_usd)})" if ended.cost_usd != 0 else ""
        return f"Asked at {when}: {ended.route} {verb}{after}{cost}."
    choice = last.choice()
    if choice.route and choice.opens_at > last.at:
        return f"Asked at {when}: interrupted while it waited for {choice.route.name}."
    openings = [e for e in last.considered if last.at < e.state.opens_at < math.inf]
    if not openings:
        return f"Asked at {when}: no route answered, and waiting does not help."
    soonest = min(openings, key=lambda entry: entry.state.opens_at)
    rest = f"for another {last.patience:.0f} s" if last.patience >= 1 else "no longer"
    return (
        f"Asked at {when}: no route answered. The first to open was "
        f"{soonest.name}, at {clock_time(soonest.state.opens_at, last.at)}; "
        f"the request could wait {rest}."
    )


def why_frame(explained: Sequence[Reason]) -> pd.DataFrame:
    """A row per route; `opens_at` is aware, UTC."""
    from .frames import typed_frame

    rows = [
        (
            *r.route, r.verdict,
            None if r.headroom is None else 100 * r.headroom,
            None if r.opens_at is None else utc(r.opens_at), r.why, r.would_change,
        )
        for r in explained
    ]  # fmt: skip
    return typed_frame(_TYPES, rows)


def why_bundle(explained: Sequence[Reason], note: str) -> dict[str, str]:
    """The reasons as a table for reading, with a note below."""
    rows = [
        (
            str(r.route),
            r.verdict,
            "" if r.headroom is None else percent(r.headroom),
            _short_in_text(r.why),
            _short_in_text(r.would_change),
        )
        for r in explained
    ]
    heads = ("route", "verdict", "left", "why", "what would change it")
    # The routes wrap, too, so that a narrow page shows every column.
    long = ("route", "why", "what would change it")
    return table_bundle(heads, rows, [note], right=["left"], long=long)


def _short_in_text(text: str) -> Cell:
    short = textwrap.shorten(without_controls(text), _TEXT_WIDTH, placeholder=" …")
    return short, escape(text)


def _considered(entry: Considered, decision: Decision, tried: Sequence[Attempt]) -> Reason:
    """A route that the last choice evaluated."""
    choice = decision.choice()
    chosen = choice.route
    outcome = tried[-1].outcome if tried else ""
    opens_at = _opening(entry, decision)
    change = ""
    if outcome in ("served", "interrupted"):
        verdict = outcome_in_words(outcome)
        open_keys = sum(
            (e.provider, e.model) == (entry.provider, entry.model)
            and e.state.opens_at <= decision.at
            for e in decision.considered
        )
        why = "the first open route"
        if open_keys > 1:
            why += "; among its keys, the one with the most quota left"
        if len(tried) > 1:
            why = f"answered after {len(tried) - 1} failed: {tried[-2].error}"
    elif tried:
        verdict, why, change = outcome, tried[-1].error or "", _sooner(entry, decision)
    elif entry.state.opens_at <= decision.at:
        verdict = "open"
        why, change = _open_but_skipped(entry, decision)
    elif chosen is entry:
        verdict, why = "waited for", entry.state.reason
    else:
        verdict = state_at(entry.state.opens_at, decision.at)
        why, change = entry.state.reason, _sooner(entry, decision)
    return Reason(entry.name, verdict, entry.state.headroom, opens_at, why, change)


def _open_but_skipped(entry: Considered, decision: Decision) -> tuple[str, str]:
    choice = decision.choice()
    chosen = choice.route
    if chosen is None:
        return "", ""
    route = chosen.name
    if (wait := choice.opens_at - decision.at) > 0:
        why = f"costs money, and {route} opened {in_seconds(wait)}, within the patience"
        return why, f"--patience {max(0, math.ceil(wait) - 1)}"
    if entry.state.headroom < chosen.state.headroom:
        shares = entry.state.headroom, chosen.state.headroom
        # Use as many decimals as are needed to distinguish the two.
        shown = ([percent(share, decimals) for share in shares] for decimals in range(3))
        differ = next((f": {left} against {most}" for left, most in shown if left != most), "")
        return f"had less left{differ}", f"{route} having less left"
    return "equally good, but later in the order", f"{route} being closed"


def _instead(route: RouteId, chosen: Considered | None) -> str:
    """The change that would have led to a route that was not evaluated."""
    if chosen is None or chosen.provider != route.provider:
        return f"-p {route.provider} uses only this provider"
    if chosen.model != route.model:
        return f"-m {route.model} uses only this model"
    return f"{chosen.name} having less left"


def _was_spared(entry: Considered, decision: Decision) -> bool:
    """Whether a paid route was open, but the request waited for a free one instead."""
    choice = decision.choice()
    return choice.route is not None and entry.state.opens_at <= decision.at < choice.opens_at


def _sooner(entry: Considered, decision: Decision) -> str:
    """The change that would have made a closed route answer."""
    opens_at = _opening(entry, decision)
    if opens_at is None:
        if entry.state.is_unsuitable:
            return "a prompt that this route can take"
        return "fixing that; waiting does not help"
    opened = entry.opened(decision.at)
    others = tuple(opened if e is entry else e for e in decision.considered)
    if replace(decision, considered=others).choice().route is not opened:
        return "nothing: others come before it even when it is open"
    return f"asking {in_seconds(opens_at - decision.at).removeprefix('in ')} later"


def _opening(entry: Considered, decision: Decision) -> float | None:
    return entry.state.opens_at if decision.at < entry.state.opens_at < math.inf else None


def _not_offered(route: RouteId, offered: Sequence[RouteId]) -> tuple[str, str]:
    """A configured route that the request could not use.

    The record does not say why. With -p, all offered routes have one provider; with -m, one model.
    """
    providers = {other.provider for other in offered}
    models = {o.model for o in offered if o.provider == route.provider}
    # Services name one model with its vendor or without.
    named = models or {without_vendor(o.model) for o in offered}
    if not models and len(providers) == 1:
        return f"only {providers.pop()} was offered", f"-p {route.provider}, or no -p"
    if route.model not in models and len(named) == 1:
        return f"only {without_vendor(named.pop())} was offered", f"-m {route.model}, or no -m"
    return "it was not available then", "turn it on in %llm_panel"
