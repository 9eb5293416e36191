"""The ledger: hold before a call, settle after it, learn from the reply, close what is shut.

`QuotaTracker` joins the pure rules of `ledger` to a storage and a clock. All kernels of a machine
that use the same storage see one ledger.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .catalog import split_limit_name
from .config import Configuration, get_configuration
from .errors import AttemptFailed, ConfigurationError, Remedy
from .quota import ledger, windows
from .quota.accounts import Accounts
from .quota.ledger import Amounts, Document, RouteState
from .quota.merging import merge
from .quota.older_package import older_documents, take_over_older_counts
from .storage import Storage, open_storage
from .types import Key, Limit, Observation, Request, Route, Standing, Usage, utc

T = TypeVar("T")

# A hold outlives its call by this much; after that its kernel is taken for dead.
_HOLD_MARGIN_SECONDS = 30.0
_FIRST_OUTAGE_SECONDS, _LONGEST_OUTAGE_SECONDS = 1.0, 60.0
# A refusal that names neither limit nor time: a minute is the shortest window providers publish.
_UNNAMED_LIMIT_SECONDS, _LONGEST_UNNAMED_SECONDS = 60.0, 3600.0
_ACCOUNT_RECHECK_SECONDS = 3600.0
_MODEL_RECHECK_SECONDS = 86_400.0


@dataclass(frozen=True)
class Hold:
    """A reservation on one route, to be settled or failed exactly once.

    `document` is the name of the document it was made in.
    """

    id: str
    route: Route
    amounts: Amounts
    plain_tokens: float
    at: float
    document: str = ""


@dataclass(frozen=True)
class Closure:
    """Why a key is shut, since when, and until when (None: until the user acts); epoch seconds."""

    reason: str
    since: float
    until: float | None


class QuotaTracker:
    """What every route has left, when it opens, and how we know.

    Args:
        storage: where the documents live.
        configuration: keys, models and the limits to start from; its clock is used.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.storage = storage
        self.configuration = configuration
        self._clock = configuration.clock
        self._jitter = random.Random()
        self._defaults: dict[Route, tuple[Limit, ...]] = {}
        self._accounts = Accounts(storage, configuration)
        take_over_older_counts(storage, configuration)

    def state(self, route: Route, request: Request, now: float) -> RouteState:
        """When the route takes this request, and what keeps it shut until then."""
        if request.images and not self.configuration.takes_images(route):
            return RouteState(math.inf, "takes no images", 0.0)
        document = self._read(route, now)
        return self._state(document, route, ledger.estimate(document, route.model, request), now)

    def estimate(self, route: Route, request: Request) -> Usage:
        """Tokens the request will probably spend there, by the model's own record."""
        document = self._read(route, self._clock.time())
        amounts = ledger.estimate(document, route.model, request)
        return Usage(int(amounts["input_tokens"]), int(amounts["output_tokens"]))

    def room(self, route: Route) -> float:
        """Input tokens that one request may have at most there; inf if nothing is known.

        Its limits say that, and the model's window, of which the reply needs a part too.
        """
        document = self._read(route, self._clock.time())
        window = self.configuration.providers[route.provider].context_windows.get(route.model)
        amounts = [
            limit.amount
            for limit in self._limits(document, route).values()
            if limit.metric in ("tokens", "input_tokens")
        ]
        return min([window or math.inf, *amounts])

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """Reserve what the request will probably spend on every limit of the route, or on none.

        Returns the hold, or, if the route is shut, its state.
        """

        def change(document: Document) -> Hold | RouteState:
            now = self._clock.time()
            ledger.expire_holds(document, now)
            amounts = ledger.estimate(document, route.model, request)
            state = self._state(document, route, amounts, now)
            if state.opens_at > now:
                return state
            # What a model counts for an image says nothing about its text.
            plain = 0.0 if request.images else ledger.plain_tokens(request)
            hold = Hold(os.urandom(6).hex(), route, amounts, plain, now)
            ledger.place_hold(
                document,
                route,
                self._default_limits(route),
                hold.id,
                amounts,
                now,
                now + request.timeout + _HOLD_MARGIN_SECONDS,
            )
            return hold

        result, name = self._accounts.update(route.key, change)
        return replace(result, document=name) if isinstance(result, Hold) else result

    def settle(
        self,
        hold: Hold,
        usage: Usage | None,
        observations: Iterable[Observation] = (),
        account: str | None = None,
    ) -> str:
        """Book what a call spent, by the provider's count (None: by the estimate), and learn.

        `account` is the account the reply named, if any. Returns what is left of the route's
        tightest limit, in words.
        """
        route = hold.route
        # First of all: what the reply says of limits holds for the account as a whole.
        self._accounts.learn(route.key, account, "header")

        def change(document: Document) -> str:
            now = self._clock.time()
            spent = (
                ledger.as_amounts(usage.input_tokens, usage.output_tokens)
                if usage
                else hold.amounts
            )
            alone = ledger.settle(document, route.model, hold.id, spent, now, hold.at)
            key = document.get("keys", {}).get(route.key.fingerprint, {})
            for place in (document, key, document["models"][route.model]):
                ledger.reopen(place, hold.at)
            if usage:
                ledger.calibrate(document, route.model, hold.plain_tokens, usage)
            self._learn(document, route, observations, now, alone)
            return self._tightest(document, route, now)

        def change_provider(document: Document) -> None:
            for place in (document, document.get("models", {}).get(route.model, {})):
                ledger.reopen(place, hold.at)

        left = self._update_held(hold, change)
        if self.storage.read(_provider(route)):
            self.storage.update(_provider(route), change_provider)
        return left

    def fail(self, hold: Hold, failure: AttemptFailed, account: str | None = None) -> RouteState:
        """Book a failed attempt as the provider would count it, and close what its remedy says.

        `account` is the account the reply named, if any. Returns the state of the route after it.
        """
        route, remedy = hold.route, failure.remedy
        self._accounts.learn(route.key, account, "error")

        def change(document: Document) -> None:
            now = self._clock.time()
            spent = _spent_by_failure(hold, failure)
            alone = ledger.settle(document, route.model, hold.id, spent, now, hold.at)
            self._learn(document, route, failure.observations, now, alone)
            entry = document["models"][route.model]
            if remedy is Remedy.WAIT_FOR_LIMIT:
                wait = self._wait_for_limit(document, hold, failure, now)
                ledger.close(entry, str(failure), now, wait, hold.at)
            elif remedy is Remedy.TOP_UP_ACCOUNT:
                ledger.close(document, str(failure), now, _ACCOUNT_RECHECK_SECONDS, hold.at)
            elif remedy is Remedy.CHANGE_PLAN:
                ledger.close(entry, str(failure), now, _ACCOUNT_RECHECK_SECONDS, hold.at)
            elif remedy is Remedy.REPLACE_KEY:
                keys = document.setdefault("keys", {})
                key = keys.setdefault(route.key.fingerprint, {"label": route.key.label})
                ledger.close(key, str(failure), now, None, hold.at)

        def change_provider(document: Document) -> None:
            now = self._clock.time()
            if remedy is Remedy.CHANGE_MODEL:
                models = document.setdefault("models", {})
                model = models.setdefault(route.model, {})
                ledger.close(model, str(failure), now, _MODEL_RECHECK_SECONDS, hold.at)
                return
            seconds = failure.retry_after
            if seconds is None:
                doubled = _FIRST_OUTAGE_SECONDS * 2 ** ledger.strikes(document, hold.at)
                seconds = min(doubled, _LONGEST_OUTAGE_SECONDS) * self._jitter.uniform(0.8, 1.2)
            ledger.close(document, str(failure), now, seconds, hold.at)

        self._update_held(hold, change)
        if remedy in (Remedy.CHANGE_MODEL, Remedy.RETRY_LATER):
            self.storage.update(_provider(route), change_provider)
        _, document = self._accounts.find(route.key)
        return self._state(document, route, hold.amounts, self._clock.time())

    def note_check(
        self, key: Key, began: float, refusal: str | None, account: str | None = None
    ) -> None:
        """Close a key that its provider refused when only asked about it, or open it again.

        `began` is when it was asked; `account` is the account the answer named, if any.
        """
        self._accounts.learn(key, account, "header")

        def change(document: Document) -> None:
            document["provider"] = key.provider
            entry = document.setdefault("keys", {}).setdefault(key.fingerprint, {})
            entry["label"] = key.label
            if refusal is None:
                ledger.reopen(entry, began)
            else:
                ledger.close(entry, refusal, self._clock.time(), None, began)

        self._accounts.update(key, change)

    def closure(self, key: Key) -> Closure | None:
        """Why none of the key's routes is open, apart from limits that refill; None if any may be.

        Either the key itself is refused, or its account has no credit.
        """
        now = self._clock.time()
        _, document = self._accounts.find(key)
        places = (document.get("keys", {}).get(key.fingerprint, {}), document)
        for closed in (place.get("closed") for place in places):
            if closed and (closed["until"] is None or closed["until"] > now):
                return Closure(closed["reason"], closed["since"], closed["until"])
        return None

    def account(self, key: Key) -> str | None:
        """The account whose quota a key spends; None as long as nobody has named it."""
        name = self._accounts.account(key)
        return None if name == key.fingerprint else name

    def reopen(self, key: str) -> None:
        """Forget why a key, its account and its models are shut, and what was spent.

        For a user who topped up, replaced or re-enabled something; `key` is a label.

        Raises:
            ConfigurationError: no key has that label.
        """
        routes = [route for route in self.configuration.routes() if route.key.label == key]
        if not routes:
            labels = ", ".join(known.label for known in self.configuration.keys)
            raise ConfigurationError(f"no key is called {key!r}; there are {labels or 'none'}")
        self._accounts.update(routes[0].key, ledger.forget)
        self.storage.update(_provider(routes[0]), ledger.forget)

    def standings(self, provider: str | None = None, now: float | None = None) -> list[Standing]:
        """Every limit of every route of the configuration, and of models used besides."""
        now = self._clock.time() if now is None else now
        rows = []
        for route in self._all_routes(provider):
            document = self._read(route, now)
            entry = document.get("models", {}).get(route.model, {})
            provider_document = self.storage.read(_provider(route))
            closed, reason = ledger.closed_until(document, provider_document, route, now)
            for limit in self._limits(document, route).values():
                stored = entry.get("limits", {}).get(limit.name, {})
                counter = stored.get("counter", {})
                next_call = windows.opens_at(limit, counter, min(1.0, limit.amount), now)
                rows.append(
                    Standing(
                        provider=route.provider,
                        key=route.key.label,
                        account=self._accounts.account(route.key),
                        model=route.model,
                        limit=limit.name,
                        amount=limit.amount,
                        used=windows.used(limit, counter, now),
                        opens_at=max(next_call, closed),
                        resets_at=windows.resets_at(limit, counter, now),
                        evidence=limit.evidence,
                        evidence_at=stored.get("evidence_at", now),
                        shut_by=reason,
                        window=limit.window,
                        time_zone=limit.time_zone,
                    )
                )
        return rows

    def get_usage_summary(self, provider: str | None = None) -> dict[str, Any]:
        """Usage per provider, key and limit; with `provider`, per key and limit of that one.

        `{"groq": {"groq_key_1": {"tokens_per_day": {"used", "limit", "remaining",
        "usage_percent", "available", "reset_time", "last_updated", "model", "evidence"}}}}`.
        `reset_time` and `last_updated` are aware datetimes in UTC. A key that used several models
        is shown with the tightest of them per limit, named in `model`.
        """
        if provider is not None:
            self.configuration.provider(provider)
        now = self._clock.time()
        summary: dict[str, dict[str, dict[str, Any]]] = {}
        for row in self.standings(provider, now):
            limits = summary.setdefault(row.provider, {}).setdefault(row.key, {})
            percent = 100.0 * row.used / row.amount if row.amount else 100.0
            if row.limit in limits and limits[row.limit]["usage_percent"] >= percent:
                continue
            limits[row.limit] = {
                "used": round(row.used, 3),
                "limit": row.amount,
                "remaining": round(row.remaining, 3),
                "usage_percent": round(percent, 2),
                "available": row.opens_at <= now,
                "reset_time": utc(row.resets_at),
                "last_updated": utc(row.evidence_at),
                "model": row.model,
                "evidence": row.evidence,
            }
        return summary.get(provider, {}) if provider is not None else summary

    def shared_keys(self) -> dict[str, str]:
        """Labels of keys that add no quota, each with the first key's label of the same account.

        `{"groq_key_3": "groq_key_1"}`. An account is known from the configuration, or once the
        provider has named it.
        """
        return self._accounts.shared_keys()

    def _read(self, route: Route, now: float) -> Document:
        """The account's document, after calls that never ended have been charged."""
        _, document = self._accounts.find(route.key)
        if not ledger.has_expired_holds(document, now):
            return document
        self._accounts.update(route.key, lambda found: ledger.expire_holds(found, now))
        return self._accounts.find(route.key)[1]

    def _update_held(self, hold: Hold, change: Callable[[Document], T]) -> T:
        """Change the document of the route's account, with the hold in it wherever it was made."""
        route = hold.route
        taken = self._accounts.take_hold(route.key, route.model, hold.id, hold.document)

        def change_with_hold(document: Document) -> T:
            if taken:
                defaults, now = self._default_limits(route), self._clock.time()
                place = (hold.id, hold.amounts, now, taken["expires"])
                ledger.place_hold(document, route, defaults, *place)
            return change(document)

        return self._accounts.update(route.key, change_with_hold)[0]

    def _all_routes(self, provider: str | None) -> list[Route]:
        routes = list(self.configuration.routes())
        for route in tuple(routes):
            for model in self._accounts.find(route.key)[1].get("models", {}):
                other = Route(route.provider, route.key, model, route.paid)
                if other not in routes and self.configuration.is_on(route.key, model):
                    routes.append(other)
        return [route for route in routes if provider in (None, route.provider)]

    def _default_limits(self, route: Route) -> tuple[Limit, ...]:
        if route not in self._defaults:
            self._defaults[route] = self.configuration.default_limits(route)
        return self._defaults[route]

    def _limits(self, document: Document, route: Route) -> dict[str, Limit]:
        defaults = self._default_limits(route)
        return ledger.limits_of(document, route.model, defaults)

    def _state(self, document: Document, route: Route, amounts: Amounts, now: float) -> RouteState:
        provider = self.storage.read(_provider(route))
        defaults = self._default_limits(route)
        return ledger.route_state(document, provider, route, defaults, amounts, now)

    def _learn(
        self,
        document: Document,
        route: Route,
        seen: Iterable[Observation],
        now: float,
        alone: bool,
    ) -> None:
        provider = self.configuration.providers[route.provider]

        def window_of(name: str) -> Limit:
            metric, period = split_limit_name(name)
            return Limit(metric, period, 0.0, provider.window, provider.time_zone)

        defaults = self._default_limits(route)
        ledger.learn(document, route.model, defaults, window_of, seen, now, alone)

    def _wait_for_limit(
        self, document: Document, hold: Hold, failure: AttemptFailed, now: float
    ) -> float:
        """Seconds until the provider's time; unnamed, until our windows have room."""
        if failure.retry_after is not None:
            return failure.retry_after
        route = hold.route
        entry = document["models"][route.model]
        named = self._limits(document, route).get(failure.limit or "")
        if named and named.window == "calendar":
            # A refused token limit leaves room in our own count, and still turns only then.
            return windows.period_end(named.period, named.time_zone, now) - now
        # By the windows alone: what is closed or on hold says nothing about them.
        counts: Document = {"models": {route.model: {"limits": entry.get("limits", {})}}}
        defaults = self._default_limits(route)
        one = ledger.as_amounts(1, 0)
        wait = ledger.route_state(counts, {}, route, defaults, one, now).opens_at - now
        if 0 < wait < math.inf:
            return wait
        doubled: float = _UNNAMED_LIMIT_SECONDS * 2 ** ledger.strikes(entry, hold.at)
        return min(doubled, _LONGEST_UNNAMED_SECONDS)

    def _tightest(self, document: Document, route: Route, now: float) -> str:
        entry = document["models"][route.model].get("limits", {})
        best: tuple[float, str] = (2.0, "")
        for name, limit in self._limits(document, route).items():
            if limit.amount <= 0 or name not in entry:
                continue
            left = max(0.0, limit.amount - windows.used(limit, entry[name]["counter"], now))
            words = f"{left:,.0f} of {limit.amount:,.0f} {limit.metric.replace('_', ' ')}"
            when = "today" if limit.period == "day" else f"this {limit.period}"
            best = min(best, (left / limit.amount, f"{words} left {when}"))
        return best[1]


def get_quota_tracker(configuration: Configuration | None = None) -> QuotaTracker:
    """The ledger for a configuration (the one in use if not given).

    Asking again gives the same counts: nothing is ever reset by asking.

    Raises:
        ConfigurationError: the configured store cannot be used.
    """
    configuration = configuration or get_configuration()
    try:
        storage = open_storage(
            configuration.store,
            older_documents,
            lambda before, ours, theirs: merge(before, ours, theirs, configuration.clock.time()),
        )
    except ValueError as error:
        raise ConfigurationError(f"ARCHE_QUOTA_STORE: {error}") from None
    return QuotaTracker(storage, configuration)


def _provider(route: Route) -> str:
    return f"{route.provider}"


def _spent_by_failure(hold: Hold, failure: AttemptFailed) -> Amounts:
    """What a failed call counts for: the provider's count, or else the most it can be."""
    if failure.usage:
        return ledger.as_amounts(failure.usage.input_tokens, failure.usage.output_tokens)
    if failure.remedy in (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT):
        return hold.amounts
    return {}
