"""The ledger's state of keys, independent of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..config import Configuration
from ..provider_failure import Remedy
from ..types import Key
from . import closures
from .accounts import Accounts
from .state import AccountState, ProviderState


@dataclass(frozen=True)
class Closure:
    """Why a key is closed, and from when until when (epoch seconds; None: until the user acts)."""

    reason: str
    since: float
    until: float | None


class KeyStates:
    """Reads and changes what closes whole keys.

    Args:
        accounts: finds the account of a key.
        configuration: addresses and keys; its clock is used.
    """

    def __init__(self, accounts: Accounts, configuration: Configuration) -> None:
        self._accounts, self._configuration = accounts, configuration

    def note_check(
        self, key: Key, began: float, refusal: str | None, account: str | None,
        models: Iterable[str],
    ) -> None:  # fmt: skip
        """See `QuotaTracker.note_check`.

        Raises:
            StorageTimeout: the ledger was locked until this thread's deadline.
        """
        address, listed = self._address(key), frozenset(models)

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
                now, remedy = self._configuration.clock.time(), Remedy.REPLACE_KEY.name
                closures.close(entry, refusal, now, None, began, remedy, address)

        self._accounts.learn(key, account, "header")
        self._accounts.update(key, change)

    def missing_models(self, now: float) -> dict[str, list[str]]:
        """By provider, the models that were missing when they were last asked for."""
        missing: dict[str, list[str]] = {}
        for key in self._configuration.keys:
            _, provider = self._accounts.read(key)
            for model, state in provider.models.items():
                closed = closures.closure_of(state, self._address(key))
                if closed and closed.remedy == closures.MISSING and closed.ends > now:
                    names = missing.setdefault(key.provider, [])
                    names += [model] if model not in names else []
        return missing

    def closure(self, key: Key, now: float) -> Closure | None:
        """See `QuotaTracker.closure`."""
        account, _ = self._accounts.read(key)
        for part in (account.keys.get(key.fingerprint), account):
            closed = closures.closure_of(part, self._address(key)) if part else None
            if closed and closed.ends > now:
                return Closure(closed.reason, closed.since, closed.until)
        return None

    def _address(self, key: Key) -> str:
        return self._configuration.providers[key.provider].base_url or ""
