"""Finds the document in which each key's account is counted, and moves counts there.

Until a provider names an account, a key's state is stored under the key's fingerprint. Then the
name is recorded in a directory, one per provider, and the key's counts are added to those of the
account. The key's own document remains, marked as moved, and gets no more holds; but a machine that
was disconnected may still add to it. In `absorbed`, the account records how much of each of these
documents it has added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ..config import Configuration
from ..storage import Document, Storage, StorageTimeout, lock_deadline
from ..types import Key
from . import codec
from .codec import directory_name
from .merging import absorb, merge_accounts
from .state import AccountState, DirectoryState, Moved

_MOST_MOVES = 5


@dataclass(frozen=True)
class AccountLocation:
    """The document in which a key's account is counted, as far as this process knows.

    Attributes:
        name: name of the account's document.
        directory: the provider's directory when that was found.
        belongs: the result of `Locations._resolve` at that time.
        absorbed: the documents that were added to it, with their digests.
    """

    name: str
    directory: DirectoryState
    belongs: tuple[str, list[str]]
    absorbed: dict[str, str]


class Locations:
    """Finds the document in which a key's account is counted.

    Args:
        storage: where the documents are stored.
        configuration: an account named there takes precedence over the provider's name for it.
        state: decodes a document, given the class of its state, its name and its content.
    """

    def __init__(
        self,
        storage: Storage,
        configuration: Configuration,
        state: Callable[[Any, str, Document], Any],
    ) -> None:
        self._storage, self._configuration, self._state = storage, configuration, state
        self._configured_keys: dict[str, list[Key]] = {}
        for key in configuration.keys:
            if _is_configured(key):
                self._configured_keys.setdefault(key.provider, []).append(key)
        self._known: dict[Key, AccountLocation] = {}

    def last(self, key: Key) -> AccountLocation | None:
        """The location of the key's account as this process last found it; None if it has not."""
        return self._known.get(key)

    def of(self, key: Key) -> AccountLocation:
        """The location of the key's account as this process last found it, or the current one."""
        return self._known.get(key) or self.find(key)

    def find(self, key: Key) -> AccountLocation:
        """The document of the key's account, after adding everything that belongs there."""
        name, directory = self._target(key)
        belongs = self._resolve(key, directory)
        absorbed = {source: self._join(source, name) for source in belongs[1] if source != name}
        location = self._known[key] = AccountLocation(name, directory, belongs, absorbed)
        return location

    def name_now(self, key: Key) -> str:
        """The name of the account's document, found without waiting for a lock."""
        try:
            with lock_deadline(0):
                return self.find(key).name
        except StorageTimeout:
            return self._target(key)[0]

    def is_current(
        self, location: AccountLocation, key: Key, account: AccountState, directory: DirectoryState
    ) -> bool:
        """Whether the account is still counted there, and no document has to be added to it.

        `account` and `directory` are the current states.
        """
        is_there = (
            directory is location.directory or self._resolve(key, directory) == location.belongs
        )
        absorbed = account.absorbed
        return (
            is_there
            and account.moved is None
            and all(absorbed.get(name) == digest for name, digest in location.absorbed.items())
        )

    def _target(self, key: Key) -> tuple[str, DirectoryState]:
        """The name of the account's document, and the provider's directory."""
        of_directory = self._storage.read(directory_name(key.provider))
        directory = self._state(DirectoryState, directory_name(key.provider), of_directory)
        name, _ = self._resolve(key, directory)
        for _ in range(_MOST_MOVES):
            account = self._state(AccountState, name, self._storage.read(name))
            if account.moved is None:
                break
            name = account.moved.to
        return name, directory

    def _resolve(self, key: Key, directory: DirectoryState) -> tuple[str, list[str]]:
        """The name of the account's document, and of those whose counts belong into it."""
        if _is_configured(key):
            return f"{key.provider}:{key.account}", []
        own, named = f"{key.provider}:{key.fingerprint}", named_account(directory, key)
        if named is None:
            return own, []
        name = f"{key.provider}:{named}"
        for other in self._configured_keys.get(key.provider, ()):
            if named_account(directory, other) == named:
                return f"{key.provider}:{other.account}", [own, name]
        return name, [own]

    def _join(self, source: str, target: str) -> str:
        """Add a key's document to the account's, or only the part that is new since last time.

        Returns the digest of what was added.
        """
        now = self._configuration.clock.time()

        def take_in(of_account: Document, of_key: Document) -> str:
            account, own = (codec.read(AccountState, found) for found in (of_account, of_key))
            moved, own.moved = own.moved, None
            content = codec.write(own)
            digest = _digest(content)
            # If the key belonged to another account before, its counts stay there.
            if (moved is None or moved.to == target) and account.absorbed.get(source) != digest:
                if moved and source in account.absorbed:
                    merge_accounts(codec.read(AccountState, moved.content), own, account, now)
                else:
                    absorb(deepcopy(own), account, now)
            account.absorbed[source] = digest
            own.moved = Moved(moved.to if moved else target, content)
            codec.put(of_account, account)
            codec.put(of_key, own)
            return digest

        return self._storage.update(target, take_in, source)


def named_account(directory: DirectoryState, key: Key) -> str | None:
    """The provider's name for the key's account, or None."""
    named = directory.accounts.get(key.fingerprint)
    return named.account if named else None


def _is_configured(key: Key) -> bool:
    return key.account != key.fingerprint


def _digest(content: Document) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
