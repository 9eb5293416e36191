"""Explains a request: every route, what it had left, and what would have changed the choice."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.routing import Considered, Decision
from arche_magic.llm_providers.text.characters import without_controls
from arche_magic.llm_providers.types import Route, in_seconds, route_name, utc

from .costs import Name, paid_text
from .quota_words import clock
from .tables import Cell, table_bundle

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
        verdict: answered, interrupted, failed, refused; closed, open or waited for; not needed if
            it comes later in the order, not offered if it could not be chosen.
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

    @property
    def name(self) -> Name:
        """Provider, key and model."""
        return self.provider, self.key, self.model


def reasons(
    decisions: Sequence[Decision],
    attempts: Sequence[Attempt],
    routes: Sequence[Route],
    private: Container[Route],
) -> list[Reason]:
    """Every route of a request in the order of the choice, then the others of `routes`.

    `private` has those that private prompts may use.
    """
    tried: dict[Name, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.outcome != "skipped":
            name = (attempt.provider, attempt.key, attempt.model)
            tried.setdefault(name, []).append(attempt)
    # The last evaluation of each route; a route that was given up is not evaluated again.
    looked = {entry.name: (entry, d) for d in decisions for entry in d.considered}
    first = decisions[0]
    offered = [*(entry.name for entry in first.considered), *first.later]
    explained = []
    for name in offered:
        if name in looked and name in {entry.name for entry in decisions[-1].considered}:
            explained.append(_considered(*looked[name], tried.get(name, [])))
        elif name in tried:
            explained.append(_tried(name, looked[name][0], tried[name][-1]))
        elif name in looked and (passed := _spared(*looked[name])):
            explained.append(passed)
        else:
            later, change = "comes later in the order", f"-p {name[0]} asks it alone"
            explained.append(Reason(*name, "not needed", None, None, later, change))
    unmarked = [_name(route) for route in routes if route not in private]
    others = [_name(route) for route in routes if _name(route) not in offered]
    explained += [
        _left_out(name, "not marked private", f"{name[0]} in [private] routes, or no --private")
        if first.private and name in unmarked
        else _left_out(name, "another model", "no --same-model")
        if first.same_model
        else _not_offered(name, offered)
        for name in others
    ]
    costs = _costs(decisions, attempts, routes)
    return [
        replace(reason, why="; ".join(filter(None, (reason.why, costs.get(reason.name)))))
        for reason in explained
    ]


def _costs(
    decisions: Sequence[Decision], attempts: Sequence[Attempt], routes: Sequence[Route]
) -> dict[Name, str]:
    """The paid routes, each with what this request spent there, in words."""
    words = {_name(route): "paid" for route in routes if route.paid}
    words |= {e.name: "paid" for decision in decisions for e in decision.considered if e.paid}
    for name in words:
        sent = [
            attempt
            for attempt in attempts
            if (attempt.provider, attempt.key, attempt.model) == name
            and attempt.outcome in ("served", "failed", "interrupted")
        ]
        known = [attempt.cost_usd for attempt in sent if attempt.cost_usd is not None]
        if len(known) < len(sent):
            words[name] = paid_text(None)
        elif sum(known):
            words[name] = paid_text(sum(known))
    return words


def summary(decisions: Sequence[Decision], attempts: Sequence[Attempt]) -> str:
    """What became of the request, in one sentence."""
    last = decisions[-1]
    when = f"{datetime.fromtimestamp(decisions[0].at).astimezone():%H:%M:%S on %d %b %Y}"
    ended = next((a for a in attempts if a.outcome in ("served", "interrupted")), None)
    waited = max((a.waited_s for a in attempts), default=0.0)
    after = f" after {waited:.0f} s of waiting" if waited >= 1 else ""
    if ended is not None:
        verb = "answered" if ended.outcome == "served" else "was interrupted"
        route = route_name(ended.provider, ended.key, ended.model)
        cost = f" ({paid_text(ended.cost_usd)})" if ended.cost_usd != 0 else ""
        return f"Asked at {when}: {route} {verb}{after}{cost}."
    choice = last.choice()
    if choice.route and choice.opens_at > last.at:
        return f"Asked at {when}: interrupted while it waited for {route_name(*choice.route.name)}."
    openings = [e for e in last.considered if last.at < e.state.opens_at < math.inf]
    if not openings:
        return f"Asked at {when}: no route answered, and none opens by waiting."
    soonest = min(openings, key=lambda entry: entry.state.opens_at)
    return (
        f"Asked at {when}: no route answered; the first to open was "
        f"{route_name(*soonest.name)}, at {clock(soonest.state.opens_at, last.at)}, "
        f"with {last.patience:.0f} s of patience left."
    )


def why_frame(explained: Sequence[Reason]) -> pd.DataFrame:
    """A row per route.

    Columns: `provider, key, model, verdict, headroom_percent, opens_at, why, would_change`;
    `opens_at` is aware, UTC.
    """
    from .frames import typed_frame

    rows = [
        (
            r.provider, r.key, r.model, r.verdict,
            None if r.headroom is None else round(100 * r.headroom, 1),
            None if r.opens_at is None else utc(r.opens_at), r.why, r.would_change,
        )
        for r in explained
    ]  # fmt: skip
    return typed_frame(_TYPES, rows)


def why_bundle(explained: Sequence[Reason], note: str) -> dict[str, str]:
    """The reasons as a table for reading, with a note below."""
    rows = [
        (
            Cell(route_name(r.provider, r.key, r.model)),
            Cell(r.verdict),
            Cell("" if r.headroom is None else f"{100 * r.headroom:.0f} %", right=True),
            _long(r.why),
            _long(r.would_change),
        )
        for r in explained
    ]
    return table_bundle(("route", "verdict", "left", "why", "what would change it"), rows, [note])


def _long(text: str) -> Cell:
    clean = without_controls(text)
    return Cell(textwrap.shorten(clean, _TEXT_WIDTH, placeholder=" …"), escape(clean), long=True)


def _considered(entry: Considered, decision: Decision, tried: Sequence[Attempt]) -> Reason:
    """A route that the last choice evaluated."""
    choice = decision.choice()
    chosen = choice.route
    outcome = tried[-1].outcome if tried else ""
    opens_at = _opening(entry, decision)
    change = ""
    if outcome in ("served", "interrupted"):
        verdict = "answered" if outcome == "served" else "interrupted"
        open_keys = sum(
            _is_key_of(entry, e) and e.state.opens_at <= decision.at for e in decision.considered
        )
        why = "the first open route" + (", with the most left of its keys" if open_keys > 1 else "")
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
        verdict, why, change = "closed", entry.state.reason, _sooner(entry, decision)
    return Reason(*entry.name, verdict, entry.state.headroom, opens_at, why, change)


def _open_but_skipped(entry: Considered, decision: Decision) -> tuple[str, str]:
    choice = decision.choice()
    chosen = choice.route
    if chosen is None:
        return "", ""
    route = route_name(*chosen.name)
    if choice.opens_at > decision.at:
        wait = choice.opens_at - decision.at
        why = f"costs money, and {route} opened {in_seconds(wait)}, within the patience"
        return why, f"--patience {max(0, math.ceil(wait) - 1)}"
    if entry.state.headroom < chosen.state.headroom:
        left = f"{100 * entry.state.headroom:.0f} % against {100 * chosen.state.headroom:.0f} %"
        return f"had less left: {left}", f"{route} having less left"
    return "as good, and later in the order", f"{route} being closed"


def _spared(entry: Considered, decision: Decision) -> Reason | None:
    """A paid route that was open while the request waited for a free one."""
    choice = decision.choice()
    if entry.state.opens_at > decision.at or choice.opens_at <= decision.at or choice.route is None:
        return None
    why, change = _open_but_skipped(entry, decision)
    return Reason(*entry.name, "open", entry.state.headroom, None, why, change)


def _tried(name: Name, entry: Considered, attempt: Attempt) -> Reason:
    """A route that failed and was left out of later choices."""
    change = "nothing for this request: a route that failed is not tried again"
    return Reason(*name, attempt.outcome, entry.state.headroom, None, attempt.error or "", change)


def _sooner(entry: Considered, decision: Decision) -> str:
    """What would have made a closed route answer."""
    opens_at = _opening(entry, decision)
    if opens_at is None:
        if entry.state.reason.startswith("takes no "):
            return "a prompt without that"
        return "fixing that; waiting does not help"
    opened = entry.opened(decision.at)
    others = tuple(opened if e is entry else e for e in decision.considered)
    if replace(decision, considered=others).choice().route is not opened:
        return "nothing: others come before it even when it is open"
    return f"asking {in_seconds(opens_at - decision.at).removeprefix('in ')} later"


def _opening(entry: Considered, decision: Decision) -> float | None:
    return entry.state.opens_at if decision.at < entry.state.opens_at < math.inf else None


def _is_key_of(entry: Considered, other: Considered) -> bool:
    return (entry.provider, entry.model) == (other.provider, other.model)


def _name(route: Route) -> Name:
    return route.provider, route.key.label, route.model


def _left_out(name: Name, why: str, change: str) -> Reason:
    """A route that an option of the request left out."""
    return Reason(*name, "not offered", None, None, why, change)


def _not_offered(name: Name, offered: Sequence[Name]) -> Reason:
    """A configured route that the request could not use."""
    providers = {provider for provider, _, _ in offered}
    if name[0] not in providers:
        why = f"the request was for {' or '.join(sorted(providers))} alone"
        change = f"-p {name[0]}, or no -p"
    elif name[2] not in {model for provider, _, model in offered if provider == name[0]}:
        why, change = "the request named another model", f"-m {name[2]}, or no -m"
    else:
        why, change = "it was no choice then", ""
    return Reason(*name, "not offered", None, None, why, change)
