"""The ledger's state of keys, independent of models."""

from __future__ import annotations

from collections.abc import Iterable

from ..config import Configuration
from ..provider_failure import Remedy
from ..types import Key
from . import closures
from .accounts import Accounts
from .state import AccountState, Closure, ProviderState


def note_check(
    accounts: Accounts, configuration: Configuration, key: Key, began: float, refusal: str | None,
    account: str | None, models: Iterable[str],
) -> None:  # fmt: skip
    """See `QuotaTracker.note_check`.

    Raises:
        StorageTimeout: the ledger was locked until this thread's deadline.
    """
    address, listed = _address(configuration, key), frozenset(models)

    def change(account_state: AccountState, provider: ProviderState) -> None:
        account_state.provider = key.provider
        entry = account_state.key(key.fingerprint)
        entry.label = key.label
        if refusal is None:
            closures.reopen(entry, began)
            closures.reopen(provider, began)
            for model, at_provider in provider.models.items():
                # Ollama lists `llama3.2:latest` for what is asked for as `llama3.2`.
                if not listed.isdisjoint((model, f"{model}:latest")):
                    closures.reopen(at_provider, began)
        else:
            now, remedy = configuration.clock.time(), Remedy.REPLACE_KEY.name
            closures.close(entry, refusal, now, None, began, remedy, address)

    accounts.learn(key, account, "header")
    accounts.update(key, change)


def missing_models(
    accounts: Accounts, configuration: Configuration, now: float
) -> dict[str, list[str]]:
    """By provider, the models that were missing when they were last asked for."""
    missing: dict[str, list[str]] = {}
    for key in configuration.keys:
        _, provider = accounts.read(key)
        for model, state in provider.models.items():
            closed = closures.closure_of(state, _address(configuration, key))
            if closed and closed.remedy == closures.MISSING and closed.ends > now:
                names = missing.setdefault(key.provider, [])
                names += [model] if model not in names else []
    return missing


def closure(
    accounts: Accounts, configuration: Configuration, key: Key, now: float
) -> Closure | None:
    """See `QuotaTracker.closure`."""
    account, _ = accounts.read(key)
    for part in (account.keys.get(key.fingerprint), account):
        closed = closures.closure_of(part, _address(configuration, key)) if part else None
        if closed and closed.ends > now:
            return closed
    return None


def _address(configuration: Configuration, key: Key) -> str:
    return configuration.providers[key.provider].base_url or ""
