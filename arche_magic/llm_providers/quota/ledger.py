"""The ledger's rules: pure functions on one account's document, without clock, file or network.

An account's document (`document_name` is its name in the storage):

    provider      "groq"
    keys          fingerprint -> {label, answered?, closed?}
    closed        the whole account is shut, see `opening`
    models        model -> {limits, answered?, closed?, holds, calibration, charged, last_charged}
      charged     metric -> all that was ever charged here; never falls
      limits      limit name -> {amount, window, time_zone, evidence, evidence_at, counter, recent,
                  proven?, inferred?}
        inferred  true if the provider did not state the period, see `doubt`
        recent    of a bucket: slot -> units charged, see `windows.remember`
      holds       hold id -> {at, expires, key, by: process, amounts: {metric: units}}
      calibration {input_ratio, output_tokens}: how estimates compare with the provider's counts

That is a document written out in full; see `folding` for how it is kept. Amounts on hold do not
flow back into a window before they are settled, so the ledger is never ahead of the provider's own
count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from ..types import (
    MOST_UNITS,
    PERIOD_SECONDS,
    Evidence,
    Limit,
    Observation,
    Request,
    Route,
    Usage,
    WindowRule,
)
from . import windows
from .holds import release
from .opening import note_level, on_hold, reopen

Document = dict[str, Any]
Amounts = dict[str, float]

_OUTPUT_GUESS = 300.0
_SPENT_TO_GUESSED = 3.0
_PER_MESSAGE, _PER_REQUEST = 4, 3
# So much more than the table says is no new figure of the same plan, but another plan.
_OTHER_PLAN = 3.0
# What an error said of a limit is not replaced by a header for so long: headers may speak of
# another limit (Groq's tokens per minute, where input tokens are what is refused).
_ERROR_HOLDS_SECONDS = 86_400.0
_LEARNED = ("header", "error")


def document_name(route: Route) -> str:
    """The storage's name for the document of a route's account."""
    return f"{route.provider}:{route.key.account}"


def estimate(document: Document, model: str, request: Request) -> Amounts:
    """Units a request will probably spend, per metric.

    The model's own ratio corrects the guess by length.
    """
    calibration = document.get("models", {}).get(model, {}).get("calibration", {})
    tokens = plain_tokens(request) * calibration.get("input_ratio", 1.0)
    usual = calibration.get("output_tokens", _OUTPUT_GUESS)
    output = request.expected_tokens or request.max_tokens or usual
    return as_amounts(math.ceil(tokens), math.ceil(output))


def plain_tokens(request: Request) -> float:
    """Input tokens of a request by the length of its messages and of its schema alone."""
    # Providers put the schema into the prompt, or count it as if they did.
    schema = request.schema.tokens if request.schema else 0
    turns = sum(_PER_MESSAGE + message.tokens for message in request.messages)
    return _PER_REQUEST + schema + turns


def as_amounts(input_tokens: float, output_tokens: float, requests: float = 1.0) -> Amounts:
    """Units per metric."""
    return {
        "requests": requests,
        "tokens": float(input_tokens + output_tokens),
        "input_tokens": float(input_tokens),
        "output_tokens": float(output_tokens),
    }


def limits_of(document: Document, model: str, defaults: Iterable[Limit]) -> dict[str, Limit]:
    """The limits in force for a model: what was learned, over what is configured or published.

    A smaller figure of the user's is no claim but a wish, and stays. Where a provider states many
    times what the table says, the account is on another plan than the table's, and the table's
    other figures say nothing about it.
    """
    limits = {limit.name: limit for limit in defaults}
    learned = {}
    for name, stored in document.get("models", {}).get(model, {}).get("limits", {}).items():
        # A stored copy of a published or configured limit is no evidence: the file may be newer.
        # And without an amount, the figure was the published one, which is gone.
        if stored["evidence"] not in _LEARNED or stored["amount"] is None:
            continue
        if not _is_wish(limits.get(name), stored["amount"]):
            learned[name] = limit_of(name, stored)
    if any(
        name in limits
        and limits[name].evidence == "published"
        and limit.amount > _OTHER_PLAN * limits[name].amount
        for name, limit in learned.items()
    ):
        limits = {name: x for name, x in limits.items() if x.evidence != "published"}
    return limits | learned


def keep_limits(entry: Document, limits: Iterable[Limit], now: float) -> None:
    """Have an entry for each limit in force, to charge."""
    stored = entry.setdefault("limits", {})
    for limit in limits:
        known = stored.get(limit.name)
        if known is None or known["amount"] is None or limit_of(limit.name, known) != limit:
            stored[limit.name] = stored_limit(limit, now, known)


def charge_holds(
    document: Document, model: str, holds: Iterable[str], limits: Iterable[Limit], now: float
) -> None:
    """Charge what these holds of a model reserved, in their place."""
    entry = document["models"][model]
    keep_limits(entry, limits, now)
    for name in holds:
        _charge(entry, entry["holds"].pop(name)["amounts"], now)
    entry["last_charged"] = now


def settle(
    document: Document, model: str, limits: Iterable[Limit], hold_id: str, held: Amounts,
    spent: Amounts, now: float, began: float,
) -> bool:  # fmt: skip
    """Replace what a call `held` by what it spent; True if no other was under way since `began`.

    A hold that is not there any more has expired and was charged then, or was forgotten on
    purpose together with everything else.
    """
    entry = document.setdefault("models", {}).setdefault(model, {})
    hold = release(document, model, hold_id, held)
    if hold is not None:
        keep_limits(entry, limits, now)
        _charge(entry, spent, now)
    alone = hold is not None and not entry["holds"] and entry.get("last_charged", -math.inf) < began
    entry["last_charged"] = now
    return alone


def note_answer(
    document: Document, provider: Document, route: Route, limits: Mapping[str, Limit],
    now: float, began: float,
) -> None:  # fmt: skip
    """A call that began then was answered: what was closed before or never tried is proven."""
    key = document.setdefault("keys", {}).setdefault(
        route.key.fingerprint, {"label": route.key.label}
    )
    entry = document["models"][route.model]
    key["answered"] = entry["answered"] = True
    note_level(entry, limits, now)
    for place in (
        document, key, entry, provider, provider.get("models", {}).get(route.model, {})
    ):  # fmt: skip
        reopen(place, began)


def calibrate(document: Document, model: str, plain: float, usage: Usage) -> None:
    """Let a settled call correct the model's estimates, each counting for a fifth."""
    if not usage.input_tokens or plain <= 0:
        return
    entry = document.setdefault("models", {}).setdefault(model, {})
    calibration = entry.setdefault("calibration", {})
    ratio = min(4.0, max(0.25, usage.input_tokens / plain))
    old_ratio = calibration.get("input_ratio", 1.0)
    old_output = calibration.get("output_tokens", _OUTPUT_GUESS)
    calibration["input_ratio"] = round(0.8 * old_ratio + 0.2 * ratio, 4)
    calibration["output_tokens"] = round(0.8 * old_output + 0.2 * usage.output_tokens, 1)


def learn(
    document: Document, model: str, defaults: Iterable[Limit],
    window_of: Callable[[str], Limit], observations: Iterable[Observation], now: float, alone: bool,
    refused: Amounts | None = None,
) -> None:  # fmt: skip
    """Let a response correct limits, their windows, and what is used of them.

    Args:
        document: the account's document.
        model: the model that was asked.
        defaults: the limits that are published or configured.
        window_of: the provider's usual window for the name of a limit.
        observations: what the response says.
        now: epoch seconds.
        alone: True if no other call of the model was under way at any time during this one. Only
            then may a figure lower our own count, since other calls may not be in it. Tokens are
            never lowered, because a stream's headers come before its output is counted.
        refused: units of the request that was refused, if it was. When the provider says how long
            it has to wait, it fits after that wait.
    """
    entry = document.setdefault("models", {}).setdefault(model, {})
    stored = entry.setdefault("limits", {})
    known = limits_of(document, model, defaults)
    held = on_hold(entry, now)
    for seen in observations:
        limit, before = known.get(seen.name), stored.get(seen.name)
        if seen.amount is None:
            amount, evidence = (limit.amount, limit.evidence) if limit else (0.0, seen.evidence)
        else:
            amount, evidence = seen.amount, seen.evidence
        # Less than one would never open again; what is not in the plan is closed by its remedy.
        if not 1 <= amount <= MOST_UNITS or _is_overruled(seen, before, now):
            continue
        remaining, wish = seen.remaining, limit if _is_wish(limit, amount) else None
        usual = window_of(seen.name)
        rule = limit or usual
        if wish:
            # The user wants less than there is: of that only what is left counts, if it is less.
            amount, evidence = wish.amount, wish.evidence
            remaining = None if remaining is None else min(remaining, amount)
        elif seen.amount is not None:
            learned = windows.rule_by_reset if seen.opens_in is None else windows.rule_by_wait
            rule = learned(rule, usual, amount, seen, now)
        limit = Limit(rule.metric, rule.period, amount, rule.window, rule.time_zone, evidence)
        since = before["evidence_at"] if before and seen.amount is None else now
        known[seen.name] = limit
        stored[seen.name] = stored_limit(limit, now, before, since)
        if seen.amount is not None:
            was_stated = before and before["evidence"] in _LEARNED and not before.get("inferred")
            stored[seen.name]["inferred"] = seen.inferred and not was_stated
        counter = stored[seen.name]["counter"]
        opens = None if wish or seen.opens_in is None else now + seen.opens_in
        if remaining is not None and 0 <= remaining <= amount:
            ours = windows.used(limit, counter, now)
            theirs = amount - remaining
            units = held.get(limit.metric, 0.0)
            if limit.metric != "requests":
                # Calls under way may have spent more than was guessed, and are charged when they
                # end: what they can explain was not spent by somebody else.
                units *= _SPENT_TO_GUESSED
            if theirs > ours + units:
                first = None if opens is None else opens - PERIOD_SECONDS[limit.period]
                windows.set_used(limit, counter, theirs - units, now, first)
                windows.remember(limit, stored[seen.name], theirs - units - ours, now)
            elif theirs < ours and alone and limit.metric == "requests" and not wish:
                windows.set_used(limit, counter, theirs, now)
        if refused and opens is not None:
            windows.open_by(limit, counter, min(refused[limit.metric], amount), opens, now)


def doubt(document: Document, model: str, defaults: Iterable[Limit], began: float) -> None:
    """Drop limits whose period was only inferred: a call that began then was answered.

    A reply that implies the same period has confirmed it just now.
    """
    given = {limit.name for limit in defaults}
    limits = document.get("models", {}).get(model, {}).get("limits", {})
    for name, stored in list(limits.items()):
        if stored.get("inferred") and stored["evidence_at"] < began:
            if name in given:
                # Its count stays; its figures are those of the table or the user again.
                stored.update(evidence="published", inferred=False)
            else:
                del limits[name]


def forget(document: Document) -> None:
    """Forget all that was spent and shut; the totals stay, as other copies are compared by them."""
    models = document.get("models", {}).items()
    totals = {model: {"charged": entry["charged"]} for model, entry in models if "charged" in entry}
    absorbed = document.get("absorbed")
    document.clear()
    if totals:
        document["models"] = totals
    if absorbed:
        document["absorbed"] = absorbed


def limit_of(name: str, entry: Document) -> Limit:
    """A limit from its entry in a document."""
    return _limit(name, entry["amount"], entry["window"], entry["time_zone"], entry["evidence"])


@lru_cache(maxsize=4096)
def _limit(
    name: str, amount: float, window: WindowRule, time_zone: str, evidence: Evidence
) -> Limit:
    metric, period = name.split("_per_")
    return Limit(
        metric,  # type: ignore[arg-type]  # written by us, from a Limit
        period,  # type: ignore[arg-type]  # as above
        float(amount),
        window,
        time_zone,
        evidence,
    )


def stored_limit(
    limit: Limit, now: float, known: Document | None = None, since: float | None = None
) -> Document:
    """A limit as the document keeps it, known `since` then, with the counter it had before."""
    known = known or {}
    counter: windows.Counter = known.get("counter", {})
    if known.get("amount") is not None:
        before = limit_of(limit.name, known)
        if (before.window, before.time_zone) != (limit.window, limit.time_zone):
            counter = windows.converted(before, limit, known, now)
        elif limit.window == "bucket" and before.amount != limit.amount:
            # The rate of refill changes with the amount; fix today's level first. There is not
            # more in a bucket than it holds.
            level = min(windows.used(before, counter, now), limit.amount)
            windows.set_used(limit, counter, level, now)
    stored = {
        "amount": limit.amount,
        "window": limit.window,
        "time_zone": limit.time_zone,
        "evidence": limit.evidence,
        "evidence_at": now if since is None else since,
        "counter": counter,
        "recent": known.get("recent", {}),
    }
    for name in ("proven", "inferred"):
        if name in known:
            stored[name] = known[name]
    return stored


def _is_wish(limit: Limit | None, stated: float) -> bool:
    """Whether the user set less than what the provider states."""
    return limit is not None and limit.evidence == "configured" and limit.amount < stated


def _is_overruled(seen: Observation, before: Document | None, now: float) -> bool:
    """Whether an error said something else of the limit lately, which is better evidence."""
    return (
        before is not None
        and before["evidence"] == "error"
        and seen.evidence == "header"
        and seen.amount not in (None, before["amount"])
        and 0 <= now - before["evidence_at"] < _ERROR_HOLDS_SECONDS
    )


def _charge(entry: Document, amounts: Amounts, now: float) -> None:
    charged = entry.setdefault("charged", {})
    for metric, amount in amounts.items():
        charged[metric] = charged.get(metric, 0.0) + amount
    for name, stored in entry.get("limits", {}).items():
        metric = name.partition("_per_")[0]
        if not amounts.get(metric):
            continue
        if stored["amount"] is None:
            # How it refills, only another kernel's configuration knows: nothing flows back here.
            counter = stored["counter"]
            counter.update(used=counter.get("used", 0.0) + amounts[metric], at=now)
            continue
        limit = limit_of(name, stored)
        windows.charge(limit, stored["counter"], amounts[metric], now)
        windows.remember(limit, stored, amounts[metric], now)
