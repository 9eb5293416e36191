"""Merges two copies, or two accounts, of the ledger without losing any charges.

Where the order of two charges cannot be known, the count comes out higher, never lower than the
provider's own.
"""

from __future__ import annotations

from copy import deepcopy

from ..storage import Document
from ..types import MOST_UNITS
from . import codec, windows
from .closures import Closable
from .counting import limit_state
from .state import (
    LEARNED,
    AccountState,
    Amounts,
    BudgetState,
    Closure,
    DirectoryState,
    Highest,
    JobsState,
    KeyState,
    LimitState,
    ModelAtProvider,
    ModelState,
    ProviderState,
)


def merge_documents(
    name: str, before: Document, ours: Document, theirs: Document, now: float
) -> None:
    """Add to `theirs` what happened to a document between `before`, the common copy, and `ours`."""
    kind = codec.kind_of(name)
    then, mine, other = (codec.read(kind, document) for document in (before, ours, theirs))
    if kind is AccountState:
        merge_accounts(then, mine, other, now)
    elif kind is ProviderState:
        _merge_providers(then, mine, other)
    elif kind is DirectoryState:
        _merge_directories(mine, other)
    elif kind is BudgetState:
        _merge_budgets(then, mine, other)
    elif kind is JobsState:
        _merge_jobs(then, mine, other)
    else:
        return
    codec.put(theirs, other)


def merge_accounts(
    before: AccountState, ours: AccountState, theirs: AccountState, now: float
) -> None:
    """Add to `theirs` what happened to an account between `before` and `ours`.

    `moved` and `absorbed` are not merged: `accounts` sets them again where they are missing.
    """
    theirs.provider = ours.provider or theirs.provider
    _merge_closure(before.closed, ours, theirs)
    # A closure that is missing in `ours` was removed there: the part is open again.
    for name, key in ({name: KeyState() for name in before.keys} | ours.keys).items():
        known_key = theirs.key(name, key.label)
        _merge_closure(before.keys.get(name, KeyState()).closed, key, known_key)
        known_key.answered |= key.answered
    for name, model in ({name: ModelState() for name in before.models} | ours.models).items():
        known, earlier = theirs.model(name), before.models.get(name, ModelState())
        _merge_closure(earlier.closed, model, known)
        known.answered |= model.answered
        _merge_model(earlier, model, known, now)


def absorb(source: AccountState, target: AccountState, now: float) -> None:
    """Add all of one key's state to the state of the account the key turned out to spend.

    The totals of `target` stay: they tell what was charged to that account itself.
    """
    target.provider = source.provider or target.provider
    _keep_longer_closure(source, target)
    for name, key in source.keys.items():
        known_key = target.key(name, key.label)
        _keep_longer_closure(key, known_key)
        known_key.answered |= key.answered
    for name, model in source.models.items():
        known = target.model(name)
        _keep_longer_closure(model, known)
        known.answered |= model.answered
        _absorb_model(model, known, now)


def _merge_providers(before: ProviderState, ours: ProviderState, theirs: ProviderState) -> None:
    _merge_closure(before.closed, ours, theirs)
    for name, model in ({name: ModelAtProvider() for name in before.models} | ours.models).items():
        known = theirs.model(name)
        _merge_closure(before.models.get(name, ModelAtProvider()).closed, model, known)
        known.lacks |= deepcopy(model.lacks)
    for scope in before.limits | ours.limits:
        table = ours.limits.get(scope)
        if table != before.limits.get(scope):
            theirs.limits.pop(scope, None)
            if table:
                theirs.limits[scope] = table


def _merge_directories(ours: DirectoryState, theirs: DirectoryState) -> None:
    for fingerprint, named in ours.accounts.items():
        known = theirs.accounts.get(fingerprint)
        if known is None or known.at < named.at:
            theirs.accounts[fingerprint] = named


def _merge_budgets(before: BudgetState, ours: BudgetState, theirs: BudgetState) -> None:
    """Add the usage, and the calls in progress."""
    for name, amount in ours.spent.items():
        gained = max(0.0, amount - before.spent.get(name, 0.0))
        theirs.spent[name] = _sum(theirs.spent.get(name, 0.0), gained)
    for hold in before.held.keys() - ours.held.keys():
        theirs.held.pop(hold, None)
    for hold in ours.held.keys() - before.held.keys():
        theirs.held[hold] = ours.held[hold]
    for kind, highest in ours.seen.items():
        known = theirs.seen.setdefault(kind, Highest())
        known.input = max(known.input, highest.input)
        known.output = max(known.output, highest.output)


def _merge_jobs(before: JobsState, ours: JobsState, theirs: JobsState) -> None:
    for name, job in ours.jobs.items():
        known = theirs.jobs.setdefault(name, BudgetState())
        known.at = max(known.at, job.at)
        _merge_budgets(before.jobs.get(name, BudgetState()), job, known)


def _merge_model(before: ModelState, ours: ModelState, theirs: ModelState, now: float) -> None:
    gained: Amounts = {
        metric: max(0.0, total - before.charged.get(metric, 0.0))
        for metric, total in ours.charged.items()
    }
    _adopt_limits(ours, theirs, now)
    for name, state in theirs.limits.items():
        _add_gain(name, state, before, ours, gained, now)
    for metric, amount in gained.items():
        theirs.charged[metric] = _sum(theirs.charged.get(metric, 0.0), amount)
    for hold_id in before.holds.keys() - ours.holds.keys():
        theirs.holds.pop(hold_id, None)
    for hold_id, hold in ours.holds.items():
        # Calls with a common hold leave it one by one.
        if hold != before.holds.get(hold_id):
            theirs.holds[hold_id] = hold
    if ours.calibration and ours.calibration != before.calibration:
        theirs.calibration = ours.calibration
    _keep_last_charged(ours, theirs)


def _add_gain(
    name: str, state: LimitState, before: ModelState, ours: ModelState, gained: Amounts, now: float
) -> None:
    """Charge the units that were added since `before` to one limit, at the latest possible time."""
    limit, counter = state.limit(name), state.counter
    gain = gained.get(limit.metric, 0.0)
    mine = ours.limits.get(name)
    level = windows.used(mine.limit(name), mine.counter, now) if mine else 0.0
    if limit.window == "bucket":
        if gain:
            last = min(now, now if ours.last_charged is None else ours.last_charged)
            moment = last if counter.at is None or counter.at <= last else now
            windows.charge(limit, counter, gain, moment)
            windows.remember(limit, state, gain, moment)
        # The provider refuses what would overflow, so no more than the limit can be in it.
        most = max(limit.amount, level)
        if windows.used(limit, counter, now) > most:
            windows.set_used(limit, counter, most, now)
    elif mine:
        # These windows reset as a whole: what is left in our own count still counts.
        known = before.limits.get(name)
        left = windows.used(known.limit(name), known.counter, now) if known else 0.0
        windows.charge(limit, counter, max(0.0, level - left), now)
    elif gain:
        windows.charge(limit, counter, min(gain, limit.amount), now)
    if windows.used(limit, counter, now) < level:
        windows.set_used(limit, counter, level, now)


def _absorb_model(source: ModelState, target: ModelState, now: float) -> None:
    _adopt_limits(source, target, now)
    for name, state in target.limits.items():
        limit, counter, other = state.limit(name), state.counter, source.limits.get(name)
        if other is None:
            # The source did not count this limit: assume all that it ever used, or the whole limit.
            total = source.charged.get(limit.metric, 0.0)
            windows.charge(limit, counter, min(total, limit.amount), now)
            continue
        level = windows.used(other.limit(name), other.counter, now)
        if limit.window != "bucket":
            windows.charge(limit, counter, level, now)
            continue
        # Two buckets refill twice as fast as the single one that they really are, so their levels
        # cannot simply be added.
        recent = dict(state.recent)
        for slot, amount in other.recent.items():
            recent[slot] = _sum(recent.get(slot, 0.0), amount)
        level += windows.used(limit, counter, now)
        windows.set_used(limit, counter, max(level, windows.most_used(limit, recent, now)), now)
        state.recent = recent
    target.holds.update(source.holds)
    target.calibration = target.calibration or source.calibration
    _keep_last_charged(source, target)


def _adopt_limits(ours: ModelState, theirs: ModelState, now: float) -> None:
    """Take over limits that are not known there, or are known from older evidence."""
    for name, state in ours.limits.items():
        known = theirs.limits.get(name)
        if known and (state.evidence not in LEARNED or known.evidence_at >= state.evidence_at):
            continue
        taken = limit_state(state.limit(name), now, known, state.evidence_at)
        # It stays inferred, so that a later answer can refute it, unless a reply stated it there.
        was_stated = known is not None and known.evidence in LEARNED and not known.inferred
        taken.inferred = state.inferred and not was_stated
        if known is None:
            taken.proven = state.proven
        theirs.limits[name] = taken


def _sum(one: float, other: float) -> float:
    """The sum, at most the largest valid count; a larger figure would be dropped as invalid."""
    return min(one + other, MOST_UNITS)


def _merge_closure(before: Closure | None, ours: Closable, theirs: Closable) -> None:
    if ours.closed == before:
        return
    if theirs.closed == before:
        theirs.closed = None
    if ours.closed:
        _keep_longer_closure(ours, theirs)


def _keep_longer_closure(source: Closable, target: Closable) -> None:
    if source.closed and (not target.closed or target.closed.ends < source.closed.ends):
        target.closed = deepcopy(source.closed)


def _keep_last_charged(source: ModelState, target: ModelState) -> None:
    moments = [m for m in (source.last_charged, target.last_charged) if m is not None]
    target.last_charged = max(moments, default=None)
