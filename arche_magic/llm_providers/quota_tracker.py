"""The ledger: hold before a call, settle after it, learn from the reply, close what fails.

`QuotaTracker` connects the pure rules of `quota` to a storage and a clock. All kernels that use the
same storage share one ledger.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .catalog import parse_limits
from .config import Configuration, find_key, get_configuration
from .errors import ConfigurationError
from .options import json_number
from .provider_failure import NOT_SENT, ProviderFailure
from .quota import booking, codec, counting, opening, standings
from .quota.booking import Hold as Hold
from .quota.booking import Settlement as Settlement
from .quota.budget import BudgetUse as BudgetUse
from .quota.budget import SpendingBounds as SpendingBounds
from .quota.codec import mend
from .quota.merging import merge_documents
from .quota.older_package import older_documents, take_over_older_counts
from .quota.opening import RouteState
from .quota.route_records import RouteRecords
from .quota.spending import Shares, Spending, later_of
from .quota.state import AccountState, Amounts, ProviderState
from .quota.state import Closure as Closure
from .request import Request
from .storage import (
    Document,
    MemoryStorage,
    Storage,
    StorageTimeout,
    lock_deadline,
    open_storage,
    warn_once,
)
from .types import Key, Route, Standing, Usage
from .wire_fields import may_be_unsuitable

# How long a user's command, or an unimportant note, waits for a locked ledger.
_COMMAND_SECONDS, _NOTE_SECONDS = 10.0, 2.0
_latest: QuotaTracker | None = None


class QuotaTracker:
    """The ledger: what every route has left, when it opens, and the evidence for it.

    Args:
        storage: where the documents are stored.
        configuration: keys, models and initial limits; its clock is used.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self.storage = storage
        self.configuration = configuration
        self._clock = configuration.clock
        # Other generators give the same numbers in a forked child.
        self._jitter = random.SystemRandom()
        self._records = RouteRecords(storage, configuration)
        self._spending = Spending(storage, configuration)
        take_over_older_counts(storage, configuration)

    @property
    def job(self) -> SpendingBounds | None:
        """The bounds of the job whose calls are held here; None without a job."""
        return self._spending.job

    @job.setter
    def job(self, bounds: SpendingBounds | None) -> None:
        self._spending.job = bounds

    def check_store(self) -> None:
        """Check that the configured store takes changes.

        A Redis that does not answer passes: this process counts in memory until it is back.

        Raises:
            ConfigurationError: Redis answers but refuses changes, and `on_store_failure` is not
                `count-alone`.
        """
        refusal = self.storage.refusal
        if not refusal:
            return
        if self.configuration.on_store_failure == "count-alone":
            warn_once(f"the ledger's Redis refuses changes: {refusal}; counting in this process")
            return
        raise ConfigurationError(
            f"the ledger's Redis refuses changes: {refusal}. Nothing was sent; correct the server "
            'or ARCHE_QUOTA_STORE, or set on_store_failure = "count-alone" in arche_magic.toml to '
            "count in each process alone"
        )

    def state(self, route: Route, request: Request, now: float) -> RouteState:
        """When the route can take this request, and why not earlier."""
        record = self._records.read(route, now)
        if unfit := opening.lacking(record, request, self.configuration, now):
            return unfit
        amounts = counting.estimate(record.model, request)
        state = opening.route_state(record, amounts, now, request.reserve)
        bound_of = self._spending.bound_of(request, now)
        return later_of(state, bound_of(route, amounts) if bound_of else None)

    def states_for(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """`state` of many routes of the configuration, for a choice among them.

        The ledger is read once per provider, or per route of an account with calls in progress. A
        state is computed when it is asked for, and after a change. A headroom can be a second old.
        """
        state_of = self._records.states(request, now)
        bound_of = self._spending.bound_of(request, now)
        if bound_of is None and not may_be_unsuitable(request):
            return state_of

        def of_request(route: Route) -> RouteState:
            state, record = state_of(route), self._records.known(route)
            unfit = opening.lacking(record, request, self.configuration, now)
            if unfit or bound_of is None:
                return unfit or state
            return later_of(state, bound_of(route, counting.estimate(record.model, request)))

        return of_request

    def job_bounds(
        self, max_cost: float, max_tokens: float, name: str = ""
    ) -> SpendingBounds | None:
        """The bounds of one job, in USD and tokens (inf if there is none); None without bounds.

        Jobs with the same name share their bounds through this ledger's storage, in all processes
        and on all machines. Without a name the bounds belong to the caller alone.
        """
        if min(max_cost, max_tokens) == math.inf:
            return None
        storage = self.storage if name else MemoryStorage()
        return SpendingBounds(storage, max_cost=max_cost, max_tokens=max_tokens, job=name)

    def job_refuses(self, route: Route, request: Request) -> str:
        """Why the bounds of the job never admit the request to the route; "" if they do."""
        now = self._clock.time()
        amounts = counting.estimate(self._records.read(route, now).model, request)
        return self._spending.refusal(route, request, amounts, now)

    def estimate(self, route: Route, request: Request) -> Usage:
        """The tokens that the request will probably use, based on earlier calls of the model."""
        amounts = counting.estimate(self._records.read(route, self._clock.time()).model, request)
        return Usage(int(amounts["input_tokens"]), int(amounts["output_tokens"]))

    def room(self, route: Route) -> float:
        """The maximum input tokens of one request on the route; inf if unknown.

        This is the smallest of its token limits and of the model's context window.
        """
        limits = self._records.read(route, self._clock.time()).limits
        window = self.configuration.providers[route.provider].context_windows.get(route.model)
        amounts = [
            limit.amount for limit in limits.values() if limit.metric in ("tokens", "input_tokens")
        ]
        return min([window or math.inf, *amounts])

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """Reserve what the request will probably use, on every limit of the route or on none.

        Returns the hold, or the route's state if it is not open.
        """
        held = self.hold_all(route, [request])
        return held if isinstance(held, RouteState) else held[0]

    def hold_all(self, route: Route, requests: Sequence[Request]) -> list[Hold] | RouteState:
        """Hold several requests in one change, in their order, until the route is full.

        Returns their holds, or the route's state if it does not take the first one. With a budget,
        or in a job with bounds, only the first request is held.

        Raises:
            ConfigurationError: see `check_store`.
            StorageTimeout: the ledger was locked until this thread's deadline.
        """
        self.check_store()
        shares: Shares = ()
        if self._spending.bounds(route):
            requests = requests[:1]
            now = self._clock.time()
            amounts = counting.estimate(self._records.read(route, now).model, requests[0])
            expires = now + requests[0].timeout + booking.HOLD_MARGIN_SECONDS
            taken = self._spending.hold(route, requests[0], amounts, now, expires)
            if isinstance(taken, RouteState):
                return taken
            shares = taken
        held = False
        try:
            result = booking.hold(self._records, route, requests)
            held = not isinstance(result, RouteState)
        finally:
            if not held:
                self._spending.give_back(shares, self._clock.time())
        if isinstance(result, RouteState):
            return result
        holds = [replace(hold, shares=shares) for hold in result] if shares else result
        try:
            self.check_store()
        except ConfigurationError:
            # Redis refused this change: it was made in memory.
            for hold in holds:
                self.fail(hold, NOT_SENT)
            raise
        return holds

    def settle(self, *calls: Settlement) -> str:
        """Charge the usage of calls of one route, in one change, and learn from their replies.

        Returns what is left of the route's tightest limit, in words.
        """
        left = booking.settle(self._records, calls)
        for call in calls:
            counted = call.usage is not None and call.is_whole
            uses = self._pay(call.hold, booking.spent(call), counted=counted)
        return " · ".join([*filter(None, [left]), *(use.left for use in uses[:1])])

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None = None) -> RouteState:
        """Charge a failed call as the provider would, and close what its remedy names.

        `account` is the account that the reply named, if any. Returns the route's new state.
        """
        spent = booking.failed_units(hold.amounts, failure)
        jitter = self._jitter.uniform(0.8, 1.2)
        state = booking.fail(self._records, hold, failure, spent, account, jitter)
        self._pay(hold, spent, counted=failure.usage_is_known)
        return state

    def note_check(
        self,
        key: Key,
        began: float,
        refusal: str | None,
        account: str | None = None,
        models: Iterable[str] = (),
    ) -> None:
        """Note the result of a key check: close a refused key, or reopen one that works.

        Nothing is noted if the ledger is locked for two seconds.

        Args:
            key: the key that was checked.
            began: when the check began, epoch seconds.
            refusal: why the provider refused the key; None if it accepted it.
            account: the account that the answer named, if any.
            models: the models that it listed. They, and the address, are open again.
        """
        with suppress(StorageTimeout), lock_deadline(_NOTE_SECONDS):
            booking.note_check(self._records, key, began, refusal, account, models)

    def missing_models(self) -> dict[str, list[str]]:
        """The models, by provider, that the provider did not have when they were last asked."""
        return standings.missing_models(self._records, self._clock.time())

    def budget(self) -> list[BudgetUse]:
        """The cost of paid routes, per budget; [] if no budget is set."""
        return self._spending.uses(self._clock.time())

    def closure(self, key: Key) -> Closure | None:
        """Return why all routes of the key are closed, for reasons other than limits, or None.

        The provider rejects the key, or its account has no credit.
        """
        return standings.closure_of_key(self._records, key, self._clock.time())

    def account(self, key: Key) -> str | None:
        """Return the account whose quota the key uses, or None if it is not known yet."""
        name = self._records.accounts.account(key)
        return None if name == key.fingerprint else name

    def reopen(self, key: str) -> None:
        """Reset a key, its account and its models: they are open, and nothing counts as used.

        For example after the user has added credit; `key` is a label. Limits that were learned or
        set at run time are forgotten too, except those of other keys.

        Raises:
            ConfigurationError: no key has that label.
            StorageTimeout: the ledger was locked for ten seconds.
        """
        known = find_key(self.configuration, key)

        def forget(account: AccountState, provider: ProviderState) -> None:
            counting.forget(account)
            provider.models, provider.closed = {}, None
            others = [s for s in provider.limits if s.split("/")[0] not in (known.provider, key)]
            provider.limits = {scope: provider.limits[scope] for scope in others}

        with lock_deadline(_COMMAND_SECONDS):
            self._records.accounts.update(known, forget)
        self.check_store()

    def set_limits(self, scope: str, **limits: Any) -> None:
        """Set limits for every kernel that uses this ledger; they override `arche_magic.toml`.

        `tracker.set_limits("groq_key_2", requests_per_day=500)`. Limits are written as in the file.
        None removes a limit, and a call without limits removes all limits of the scope. If the
        provider states a smaller figure, that one counts.

        Args:
            scope: a provider, `provider/model`, a key's label, or `label/model`.
            **limits: amounts by name.

        Raises:
            ConfigurationError: the scope or a limit is unknown.
            StorageTimeout: the ledger was locked for ten seconds.
        """
        try:
            # As the ledger stores them.
            limits = json.loads(json.dumps(limits, default=json_number))
            owner = self.configuration.scope_owner(scope)
            parse_limits({name: given for name, given in limits.items() if given is not None})
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"set_limits({scope!r}): {error}") from None
        if scope.startswith(f"{owner}_key_"):
            find_key(self.configuration, scope.partition("/")[0])

        def change(document: Document) -> None:
            provider = codec.read(ProviderState, document)
            before = provider.limits.pop(scope, {})
            table = {**before, **limits} if limits else {}
            if table := {name: given for name, given in table.items() if given is not None}:
                provider.limits[scope] = table
            codec.put(document, provider)

        with lock_deadline(_COMMAND_SECONDS):
            self.storage.update(owner, change)
        self.check_store()

    def standings(self, provider: str | None = None, now: float | None = None) -> list[Standing]:
        """Every limit of every configured route, and of other models that were used.

        Whether it is open is for a short prompt and a usual reply; calls in progress count as used.
        """
        now = self._clock.time() if now is None else now
        return standings.standings(self._records, self._spending, provider, now)

    def get_usage_summary(self, provider: str | None = None) -> dict[str, Any]:
        """Return the usage per provider, key and limit, of all providers or only one.

        `{"groq": {"groq_key_1": {"tokens_per_day": {"used", "limit", "remaining", "usage_percent",
        "available", "reset_time", "last_updated", "model", "evidence", "source"}}}}`, which
        `json.dumps` takes. `used`, `limit` and `remaining` are whole requests or tokens: `used`
        includes calls in progress and is rounded up, `remaining` is rounded down. `available` says
        whether a short prompt fits now. `reset_time` (when the whole limit is available again) and
        `last_updated` are ISO 8601 strings in UTC, or None. For a key with several models, each
        limit is that of the tightest model, which `model` names.
        """
        if provider is not None:
            self.configuration.provider(provider)
        now = self._clock.time()
        return standings.usage_summary(self.standings(provider, now), now)

    def shared_keys(self) -> dict[str, str]:
        """Return the keys that add no quota, each with the first key of the same account.

        `{"groq_key_3": "groq_key_1"}`. An account is known from the configuration, or after the
        provider has named it.
        """
        return self._records.accounts.shared_keys()

    def _pay(self, hold: Hold, spent: Amounts, *, counted: bool) -> list[BudgetUse]:
        now = self._clock.time()
        return self._spending.pay(hold.route, hold.shares, spent, now, counted=counted)


def get_quota_tracker(configuration: Configuration | None = None) -> QuotaTracker:
    """Return the ledger for a configuration (by default the one in use); this resets nothing.

    Raises:
        ConfigurationError: the configured store cannot be used.
    """
    global _latest
    configuration = configuration or get_configuration()
    # Each cell asks for it, and a new one would have to read the ledger again.
    if (latest := _latest) is not None and latest.configuration is configuration:
        return latest

    def merge_copies(name: str, before: Document, ours: Document, theirs: Document) -> None:
        merge_documents(name, before, ours, theirs, configuration.clock.time())

    try:
        storage = open_storage(configuration.store, older_documents, merge_copies, mend)
    except ValueError as error:
        store = configuration.set_by.get("store", "store")
        raise ConfigurationError(f"{store}: {error}") from None
    _latest = tracker = QuotaTracker(storage, configuration)
    return tracker
