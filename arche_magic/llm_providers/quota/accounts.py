"""Finds, reads and changes the states of accounts in the documents of the ledger.

Until a provider names an account, a key's state is stored under the key's fingerprint. Then the
name is recorded in a directory, one per provider, and the key's counts are added to those of the
account. The key's own document remains, marked as moved, and gets no more holds; but a machine that
was disconnected may still add to it. In `absorbed`, the account records how much of each of these
documents it has added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..config import Configuration
from ..storage import Document, Storage, StorageTimeout, lock_deadline
from ..types import Key
from . import codec
from .codec import directory_name
from .merging import absorb, merge_accounts
from .state import (
    AccountState,
    DirectoryState,
    HeldCall,
    Moved,
    NamedAccount,
    ProviderState,
)

if TYPE_CHECKING:
    from .booking import Hold

T = TypeVar("T")
Change = Callable[[AccountState, ProviderState], T]
"""Changes the states of an account and its provider."""

_UNKNOWN: Document = {"": "not read yet"}
_NOTHING: tuple[Document, Any] = _UNKNOWN, None
_MOST_MOVES = 5


@dataclass(frozen=True)
class _Location:
    """The document in which a key's account is counted, as far as this process knows.

    Attributes:
        name: name of the account's document.
        directory: the provider's directory when that was found.
        belongs: the result of `Accounts._resolve` at that time.
        absorbed: the documents that were added to it, with their digests.
    """

    name: str
    directory: DirectoryState
    belongs: tuple[str, list[str]]
    absorbed: dict[str, str]


class Reading(NamedTuple):
    """A key's account as it was read last, and the documents that it was decoded from."""

    account: AccountState
    name: str
    document: Document
    directory: DirectoryState


class Accounts:
    """Finds and changes the state of a key's account.

    An account named in the configuration takes precedence over the provider's name for it.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self._storage = storage
        self._configuration = configuration
        self._locations: dict[Key, _Location] = {}
        # The documents that were read last, with their states. A storage never changes a document
        # that it has returned, so the same object has the same content.
        self._states: dict[str, tuple[Document, Any]] = {}
        # The accounts as this process changed them last, for its next change. Their states are
        # separate from those of readers, because other threads must not see half a change.
        self._changed: dict[str, tuple[Document, AccountState]] = {}
        # By provider and label of the key.
        self._readings: dict[str, dict[str, Reading]] = {}
        self._configured = [key for key in configuration.keys if _is_configured(key)]
        self._keys: dict[str, list[Key]] = {}
        for key in configuration.keys:
            self._keys.setdefault(key.provider, []).append(key)

    def read(self, key: Key) -> tuple[AccountState, ProviderState]:
        """The states of the key's account and its provider. Callers must not change them.

        If the ledger is locked, counts of the key in another document are not added yet.
        """
        name = self.name(key)
        names = directory_name(key.provider), key.provider, name
        of_directory, of_provider, document = self._storage.read_all(*names)
        directory = self._state(DirectoryState, names[0], of_directory)
        provider = self._state(ProviderState, key.provider, of_provider)
        return self._reading(key, name, document, directory).account, provider

    def read_all(self, provider: str) -> tuple[Mapping[str, Reading], ProviderState]:
        """The accounts of all keys of a provider, by the keys' labels, and the provider's state.

        The storage is read once, and an account is decoded only if its document has changed since
        it was read last.
        """
        keys = self._keys.get(provider, [])
        readings = self._readings.get(provider)
        if readings is None:
            # The first call finds the document in which each key's account is counted.
            new = AccountState(), DirectoryState()
            readings = {
                key.label: Reading(new[0], self.name(key), _UNKNOWN, new[1]) for key in keys
            }
            self._readings[provider] = readings
        known = list(readings.values())
        names = [reading.name for reading in known]
        found = self._storage.read_all(directory_name(provider), provider, *names)
        directory = self._state(DirectoryState, directory_name(provider), found[0])
        provider_state = self._state(ProviderState, provider, found[1])
        for key, reading, document in zip(keys, known, found[2:], strict=True):
            before = reading.document
            # Two empty documents are the same.
            is_new = before is not document and (before or document)
            if is_new or reading.directory is not directory:
                readings[key.label] = self._reading(key, reading.name, document, directory)
        return readings, provider_state

    def name(self, key: Key) -> str:
        """The name of the account's document, as this process read or changed it last."""
        location = self._locations.get(key)
        return location.name if location else self._name_now(key)

    def update(self, key: Key, change: Change[T], holds: Sequence[Hold] = ()) -> tuple[T, str]:
        """Change the states of the key's account and its provider together.

        If the key's account is now counted in another document, the holds of one call, or of calls
        that were held together, are moved there first, in the same change.

        Returns the result, and the name of the account's document.
        """
        while True:
            location = self._locations.get(key) or self._find(key)
            names = [directory_name(key.provider), key.provider]
            names += {hold.document for hold in holds} - {location.name}
            change_documents = partial(self._change, location, key, change, holds)
            result = self._storage.update(location.name, change_documents, *names)
            if result is not None:
                return result[0], location.name
            self._find(key)

    def note_name(self, key: Key, account: str | None, evidence: str) -> None:
        """Record the account that the provider named for a key, if it is new."""
        location = self._locations.get(key) or self._find(key)
        known = _named_account(location.directory, key)
        # An organization with and without its project is one name, given more or less fully.
        if account is None or f"{account}/".startswith(f"{known}/"):
            return
        if known and f"{known}/".startswith(f"{account}/"):
            return
        named = NamedAccount(account, self._configuration.clock.time(), evidence)

        def change(document: Document) -> None:
            directory = codec.read(DirectoryState, document)
            directory.accounts[key.fingerprint] = named
            codec.put(document, directory)

        self._storage.update(directory_name(key.provider), change)
        self._find(key)

    def account(self, key: Key) -> str:
        """The account's name: configured, or the provider's; until known, the key's fingerprint."""
        return self.name(key).removeprefix(f"{key.provider}:")

    def shared_keys(self) -> dict[str, str]:
        """Labels of keys that add no quota, each with that of the first key of its account."""
        first: dict[str, str] = {}
        shared = {}
        for key in self._configuration.keys:
            self.read(key)
            label = first.setdefault(self.name(key), key.label)
            if label != key.label:
                shared[key.label] = label
        return shared

    def _state(self, kind: Any, name: str, document: Document) -> Any:
        """The state in a document that was read. Callers must not change it."""
        known = self._states.get(name)
        if known is None or (known[0] is not document and known[0] != document):
            known = self._states[name] = document, codec.read(kind, document)
        return known[1]

    def _reading(
        self, key: Key, name: str, document: Document, directory: DirectoryState
    ) -> Reading:
        """The key's account in a document of that name, or in the one where it is counted now."""
        location, account = self._locations.get(key), self._state(AccountState, name, document)
        if (
            location is None
            or location.name != name
            or not self._is_current(location, key, account, directory)
        ):
            name = self._name_now(key)
            document = self._storage.read(name)
            account = self._state(AccountState, name, document)
            if (location := self._locations.get(key)) is None:
                # The ledger was locked: the next reading looks again.
                document = _UNKNOWN
            else:
                directory = location.directory
        return Reading(account, name, document, directory)

    def _change(
        self, location: _Location, key: Key, change: Change[T], holds: Sequence[Hold],
        of_account: Document, of_directory: Document, of_provider: Document, *of_holds: Document,
    ) -> tuple[T] | None:  # fmt: skip
        """Change the states, or return None if the account is now counted elsewhere."""
        # Removed from the cache, so that another thread cannot change the same state, and nothing
        # is left of a change that an error or an interrupt has ended.
        ours, account = self._changed.pop(location.name, _NOTHING)
        if ours != of_account:
            account = codec.read(AccountState, of_account)
        directory = self._state(DirectoryState, directory_name(key.provider), of_directory)
        if not self._is_current(location, key, account, directory):
            return None
        provider = codec.read(ProviderState, of_provider)
        for document in of_holds:
            _move_holds(holds, document, account)
        result = change(account, provider)
        codec.put(of_account, account)
        codec.put(of_provider, provider)
        self._changed[location.name] = dict(of_account), account
        return (result,)

    # --- where the account of a key is counted

    def _name_now(self, key: Key) -> str:
        """The name of the account's document, found without waiting for a lock."""
        try:
            with lock_deadline(0):
                return self._find(key).name
        except StorageTimeout:
            return self._target(key)[0]

    def _find(self, key: Key) -> _Location:
        """Find the document of the key's account, after adding everything that belongs there."""
        name, directory = self._target(key)
        belongs = self._resolve(key, directory)
        absorbed = {source: self._join(source, name) for source in belongs[1] if source != name}
        location = self._locations[key] = _Location(name, directory, belongs, absorbed)
        return location

    def _is_current(
        self, location: _Location, key: Key, account: AccountState, directory: DirectoryState
    ) -> bool:
        """Whether the account is still counted there, and no document has to be added to it.

        `account` and `directory` are the current states.
        """
        return (
            account.moved is None
            and (
                directory is location.directory or self._resolve(key, directory) == location.belongs
            )
            # The account includes these documents as this process read them last.
            and location.absorbed.items() <= account.absorbed.items()
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
        own, named = f"{key.provider}:{key.fingerprint}", _named_account(directory, key)
        if named is None:
            return own, []
        name = f"{key.provider}:{named}"
        for other in self._configured:
            if other.provider == key.provider and _named_account(directory, other) == named:
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
            text = json.dumps(content, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
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


def _move_holds(holds: Sequence[Hold], document: Document, account: AccountState) -> None:
    """Move holds from their document to the account's state."""
    model, source = holds[0].route.model, codec.read(AccountState, document)
    there = source.models[model].holds if model in source.models else {}
    went: Mapping[str, HeldCall] = {}
    if source.moved:
        went = codec.read(AccountState, source.moved.content).model(model).holds
    # Those that moved with the key were settled by the account, or charged as lost.
    moving = [hold.id for hold in holds if hold.id in there and hold.id not in went]
    for hold_id in moving:
        account.model(model).holds[hold_id] = there.pop(hold_id)
    if moving:
        codec.put(document, source)


def _named_account(directory: DirectoryState, key: Key) -> str | None:
    """The provider's name for the key's account, or None."""
    named = directory.accounts.get(key.fingerprint)
    return named.account if named else None


def _is_configured(key: Key) -> bool:
    return key.account != key.fingerprint
