"""The ledger: hold before a call, settle after it, learn from the reply, close what is shut.

`QuotaTracker` joins the pure rules of `quota` to a storage and a clock. All kernels of a machine
that use the same storage see one ledger.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .catalog import parse_limits
from .config import Configuration, get_configuration
from .errors import NOT_SENT, ConfigurationError, ProviderFailure, Remedy
from .quota import booking, closures, codec, failing, ledger, opening, views
from .quota.budget import BudgetUse
from .quota.budget import Purse as Purse
from .quota.codec import Document, mend
from .quota.key_states import Closure as Closure
from .quota.key_states import KeyStates
from .quota.merging import merge_documents
from .quota.older_package import older_documents, take_over_older_counts
from .quota.opening import RouteState
from .quota.route_records import Hold as Hold
from .quota.route_records import RouteRecords
from .quota.route_records import Settlement as Settlement
from .quota.route_states import RouteStates
from .quota.spending import Shares, Spending
from .quota.standings import standings
from .quota.state import AccountState, Amounts, ProviderState
from .storage import (
    MemoryStorage,
    Storage,
    StorageTimeout,
    lock_deadline,
    open_storage,
    warn_once,
)
from .types import Key, Observation, Request, Route, Standing, Usage

# So long a user's command waits for a ledger that is locked.
_COMMAND_SECONDS = 10.0
# What is only noted by the way waits no longer than this.
_NOTE_SECONDS = 2.0


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
        # Unlike others, not the same in a forked child.
        self._jitter = random.SystemRandom()
        self._records = RouteRecords(storage, configuration)
        self._states = RouteStates(self._records)
        self._keys = KeyStates(self._records.accounts, configuration)
        self._spending = Spending(storage, configuration)
        take_over_older_counts(storage, configuration)

    @property
    def job(self) -> Purse | None:
        """What bounds the job whose calls are held here; None for calls of no job."""
        return self._spending.job

    @job.setter
    def job(self, purse: Purse | None) -> None:
        self._spending.job = purse

    def check_store(self) -> None:
        """Check that the ledger is where it was configured to be.

        A Redis that does not answer is an outage: calls are counted here until it is back.

        Raises:
            ConfigurationError: Redis answers and takes no changes, and `on_store_failure` is not
                `count-alone`.
        """
        refusal = self.storage.refusal
        if not refusal:
            return
        if self.configuration.on_store_failure == "count-alone":
            warn_once(f"the ledger's Redis takes no changes: {refusal}; counting in this process")
            return
        raise ConfigurationError(
            f"the ledger's Redis takes no changes: {refusal}. Nothing was sent; correct the server "
            'or ARCHE_QUOTA_STORE, or set on_store_failure = "count-alone" in arche_magic.toml to '
            "count in each process alone"
        )

    def state(self, route: Route, request: Request, now: float) -> RouteState:
        """When the route takes this request, and what keeps it shut until then."""
        if request.images and not self.configuration.takes_images(route):
            return RouteState(math.inf, "takes no images", 0.0, remedy=Remedy.FIX_REQUEST.name)
        record = self._records.read(route, now)
        if request.images and closures.lacks(record, "images", now):
            return RouteState(math.inf, "takes no images", 0.0, remedy=Remedy.FIX_REQUEST.name)
        amounts = ledger.estimate(record.model, request)
        state = opening.route_state(record, amounts, now, request.reserve)
        bound_of = self._spending.bound_of(request, now)
        return _later(state, bound_of(route, amounts) if bound_of else None)

    def states_for(self, request: Request, now: float) -> Callable[[Route], RouteState]:
        """`state` for a choice among routes of the configuration.

        A state is worked out when it is asked for, from one reading of the ledger per provider,
        and only if something has changed. A headroom may be a second old.
        """
        if request.images:
            return lambda route: self.state(route, request, now)
        state_of = self._states.of(request, now)
        bound_of = self._spending.bound_of(request, now)
        if bound_of is None:
            return state_of

        def bounded(route: Route) -> RouteState:
            state = state_of(route)
            amounts = ledger.estimate(self._states.model(route), request)
            return _later(state, bound_of(route, amounts))

        return bounded

    def job_purse(self, max_cost: float, max_tokens: float, name: str = "") -> Purse | None:
        """What bounds the calls of one job, in USD and tokens (inf: no bound); None without bounds.

        Jobs of one name share their bounds through this ledger's storage, whichever process or
        machine they run on. Without a name they are those of the caller alone.
        """
        if min(max_cost, max_tokens) == math.inf:
            return None
        storage = self.storage if name else MemoryStorage()
        return Purse(storage, max_cost=max_cost, max_tokens=max_tokens, job=name)

    def job_refuses(self, route: Route, request: Request) -> str:
        """The bound of the job that keeps the request from the route for good; "" if none does."""
        now = self._clock.time()
        amounts = ledger.estimate(self._records.read(route, now).model, request)
        return self._spending.refusal(route, request, amounts, now)

    def estimate(self, route: Route, request: Request) -> Usage:
        """Tokens the request will probably spend there, by the model's own record."""
        amounts = ledger.estimate(self._records.read(route, self._clock.time()).model, request)
        return Usage(int(amounts["input_tokens"]), int(amounts["output_tokens"]))

    def room(self, route: Route) -> float:
        """Input tokens that one request may have at most there; inf if nothing is known.

        Its limits say that, and the model's window, which has to hold the reply too.
        """
        limits = self._records.read(route, self._clock.time()).limits
        window = self.configuration.providers[route.provider].context_windows.get(route.model)
        amounts = [
            limit.amount for limit in limits.values() if limit.metric in ("tokens", "input_tokens")
        ]
        return min([window or math.inf, *amounts])

    def hold(self, route: Route, request: Request) -> Hold | RouteState:
        """Reserve what the request will probably spend on every limit of the route, or on none.

        Returns the hold, or, if the route is shut, its state.
        """
        held = self.hold_all(route, [request])
        return held if isinstance(held, RouteState) else held[0]

    def hold_all(self, route: Route, requests: Sequence[Request]) -> list[Hold] | RouteState:
        """The same for several requests, in one change: for as many of the first as it takes.

        Returns their holds, or, if the route is shut for the first, its state. With a budget, or
        in a job with bounds, one is held at a time.

        Raises:
            ConfigurationError: see `check_store`.
            StorageTimeout: the ledger was locked until this thread's deadline.
        """
        self.check_store()
        shares: Shares = ()
        if self._spending.bounds(route):
            requests = requests[:1]
            now = self._clock.time()
            amounts = ledger.estimate(self._records.read(route, now).model, requests[0])
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
        holds = [replace(hold, shares=shares) for hold in result]
        try:
            self.check_store()
        except ConfigurationError:
            # This very change was refused, and made in memory.
            for hold in holds:
                self.fail(hold, NOT_SENT)
            raise
        return holds

    def settle(
        self,
        hold: Hold,
        usage: Usage | None,
        observations: Iterable[Observation] = (),
        account: str | None = None,
        *,
        answered: bool = True,
        is_whole: bool = True,
    ) -> str:
        """Book what a call spent, by the provider's count (None: by the estimate), and learn.

        `account` is the account the reply named, if any; for the rest see `Settlement`. Returns
        what is left of the route's tightest limit, in words.
        """
        ended = Settlement(hold, usage, tuple(observations), account, answered, is_whole)
        return self.settle_all([ended])

    def settle_all(self, calls: Sequence[Settlement]) -> str:
        """The same for calls of one route that were held together, in one change."""
        left = booking.settle(self._records, calls)
        for call in calls:
            counted = call.usage is not None and call.is_whole
            uses = self._pay(call.hold, booking.spent(call), counted=counted)
        return " · ".join([*filter(None, [left]), *(use.left for use in uses[:1])])

    def fail(self, hold: Hold, failure: ProviderFailure, account: str | None = None) -> RouteState:
        """Book a failed attempt as the provider would count it, and close what its remedy says.

        `account` is the account the reply named, if any. Returns the state of the route after it.
        """
        spent = failing.spent(hold.amounts, failure)
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
        """Close a key that its provider refused when only asked about it, or open it again.

        `began` is when it was asked; `account` is the account the answer named, if any, and
        `models` those that it listed: one of them that was taken for missing is open again, and so
        is the address. Nothing is noted if the ledger is locked for two seconds.
        """
        with suppress(StorageTimeout), lock_deadline(_NOTE_SECONDS):
            self._keys.note_check(key, began, refusal, account, models)

    def missing_models(self) -> dict[str, list[str]]:
        """By provider, the models that were missing when they were last asked for."""
        return self._keys.missing_models(self._clock.time())

    def budget(self) -> list[BudgetUse]:
        """What paid routes have cost of each budget that is set; [] without any."""
        return self._spending.uses(self._clock.time())

    def closure(self, key: Key) -> Closure | None:
        """Why none of the key's routes is open, apart from limits that refill; None if any may be.

        Either the key itself is refused, or its account has no credit.
        """
        return self._keys.closure(key, self._clock.time())

    def account(self, key: Key) -> str | None:
        """The account whose quota a key spends; None as long as nobody has named it."""
        name = self._records.accounts.account(key)
        return None if name == key.fingerprint else name

    def reopen(self, key: str) -> None:
        """Forget why a key, its account and its models are shut, and what was spent.

        For a user who topped up, replaced or re-enabled something; `key` is a label. Limits that
        were learned or set at run time are forgotten too.

        Raises:
            ConfigurationError: no key has that label.
            StorageTimeout: the ledger was locked for ten seconds.
        """
        known = self._key(key)

        def forget(account: AccountState, provider: ProviderState) -> None:
            ledger.forget(account)
            provider.models, provider.closed, provider.limits = {}, None, {}

        with lock_deadline(_COMMAND_SECONDS):
            self._records.accounts.update(known, forget)
        self.check_store()

    def set_limits(self, scope: str, **limits: Any) -> None:
        """Set limits for every kernel that uses this ledger, over those of `arche_magic.toml`.

        `tracker.set_limits("groq_key_2", requests_per_day=500)`. Limits are named and written as
        in the file; None takes one back, and no limits at all take back all of the scope. A figure
        that the provider states counts where it is smaller.

        Args:
            scope: a provider, `provider/model`, a key's label, or `label/model`.
            **limits: amounts by name.

        Raises:
            ConfigurationError: there is no such scope or limit.
            StorageTimeout: the ledger was locked for ten seconds.
        """
        try:
            owner = self.configuration.scope_owner(scope)
            parse_limits({name: given for name, given in limits.items() if given is not None})
        except ValueError as error:
            raise ConfigurationError(f"set_limits({scope!r}): {error}") from None
        if scope.startswith(f"{owner}_key_"):
            self._key(scope.partition("/")[0])

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
        """Every limit of every route of the configuration, and of models used besides.

        Each is as routing sees it for a short prompt with a reply of the usual length: what is
        used includes what calls in flight hold.
        """
        now = self._clock.time() if now is None else now
        return standings(self._records, self._spending, self.configuration, provider, now)

    def get_usage_summary(self, provider: str | None = None) -> dict[str, Any]:
        """Usage per provider, key and limit; with `provider`, of that one alone.

        `{"groq": {"groq_key_1": {"tokens_per_day": {"used", "limit", "remaining",
        "usage_percent", "available", "reset_time", "last_updated", "model", "evidence",
        "source"}}}}`, which `json.dumps` takes. `used`, `limit` and `remaining` are whole requests
        or tokens: `used` includes calls in flight and is rounded up, `remaining` is rounded down.
        `available` says whether a short prompt fits now. `reset_time`, when all of the limit is
        back, and `last_updated` are ISO 8601 text in UTC, or None where there is no such moment. A
        key that used several models is shown with the tightest of them per limit, named in
        `model`.
        """
        if provider is not None:
            self.configuration.provider(provider)
        now = self._clock.time()
        return views.usage_summary(self.standings(provider, now), now)

    def shared_keys(self) -> dict[str, str]:
        """Labels of keys that add no quota, each with the first key's label of the same account.

        `{"groq_key_3": "groq_key_1"}`. An account is known from the configuration, or once the
        provider has named it.
        """
        return self._records.accounts.shared_keys()

    def _pay(self, hold: Hold, spent: Amounts, *, counted: bool) -> list[BudgetUse]:
        now = self._clock.time()
        return self._spending.pay(hold.route, hold.shares, spent, now, counted=counted)

    def _key(self, label: str) -> Key:
        for key in self.configuration.keys:
            if key.label == label:
                return key
        labels = ", ".join(known.label for known in self.configuration.keys)
        raise ConfigurationError(f"no key is called {label!r}; there are {labels or 'none'}")


def _later(state: RouteState, bound: RouteState | None) -> RouteState:
    """Of the state by limits and that by the bounds of cost, the one that opens later."""
    return bound if bound and bound.opens_at > state.opens_at else state


def get_quota_tracker(configuration: Configuration | None = None) -> QuotaTracker:
    """The ledger for a configuration (the one in use if not given).

    Asking again gives the same counts: nothing is ever reset by asking.

    Raises:
        ConfigurationError: the configured store cannot be used.
    """
    configuration = configuration or get_configuration()

    def merge_copies(name: str, before: Document, ours: Document, theirs: Document) -> None:
        merge_documents(name, before, ours, theirs, configuration.clock.time())

    try:
        storage = open_storage(configuration.store, older_documents, merge_copies, mend)
    except ValueError as error:
        raise ConfigurationError(f"ARCHE_QUOTA_STORE: {error}") from None
    return QuotaTracker(storage, configuration)
