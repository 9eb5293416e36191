"""The state that each account's keys share, read and changed in the documents of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..config import Configuration
from ..storage import Document, Storage
from ..types import Key
from . import codec
from .codec import directory_name
from .holds import Hold
from .locations import AccountLocation, Locations, named_account
from .state import (
    AccountState,
    DirectoryState,
    HeldCall,
    NamedAccount,
    ProviderState,
    States,
)

T = TypeVar("T")
Change = Callable[[AccountState, ProviderState, States | None], T]
"""Changes the states of an account and its provider. Its third argument is the same states as they
were read last; None if they have changed since then.
"""

_UNKNOWN: Document = {"": "not read yet"}
_NOTHING: tuple[Document, Any] = _UNKNOWN, None


class Reading(NamedTuple):
    """A key's account as it was read last, and the documents that it was decoded from."""

    account: AccountState
    name: str
    document: Document
    directory: DirectoryState


class Accounts:
    """Finds and changes the state of a key's account.

    Args:
        storage: where the documents are stored.
        configuration: an account named there takes precedence over the provider's name for it.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self._storage = storage
        self._configuration = configuration
        self._locations = Locations(storage, configuration, self._state)
        # The documents that were read last, with their states. A storage never changes a document
        # that it has returned, so the same object has the same content.
        self._states: dict[str, tuple[Document, Any]] = {}
        # The accounts as this process changed them last, for its next change. Their states are
        # separate from those of readers, because other threads must not see half a change.
        self._changed: dict[str, tuple[Document, AccountState]] = {}
        # By provider and label of the key.
        self._readings: dict[str, dict[str, Reading]] = {}
        self._keys: dict[str, list[Key]] = {}
        for key in configuration.keys:
            self._keys.setdefault(key.provider, []).append(key)

    def read(self, key: Key) -> tuple[AccountState, ProviderState]:
        """The states of the key's account and its provider. Callers must not change them.

        This waits for no lock: if the ledger is locked, counts of the key in another document are
        not added yet.
        """
        location = self._locations.last(key)
        if location is not None:
            reading, provider = self._read(location.name, key)
            if self._locations.is_current(location, key, reading.account, reading.directory):
                return reading.account, provider
        reading, provider = self._read(self._locations.name_now(key), key)
        return reading.account, provider

    def read_all(self, provider: str) -> tuple[Mapping[str, Reading], ProviderState]:
        """The accounts of all keys of a provider, by the keys' labels, and the provider's state.

        The storage is read once, and an account is decoded only if its document has changed since
        it was read last.
        """
        readings = self._readings.get(provider)
        if readings is None:
            # The first call finds the document in which each key's account is counted.
            readings = {key.label: self._reading(key) for key in self._of(provider)}
            self._readings[provider] = readings
        known = list(readings.values())
        names = [reading.name for reading in known]
        found = self._storage.read_all(directory_name(provider), provider, *names)
        directory = self._state(DirectoryState, directory_name(provider), found[0])
        provider_state = self._state(ProviderState, provider, found[1])
        for key, reading, document in zip(self._of(provider), known, found[2:], strict=True):
            before = reading.document
            # As in `_is_same`, without a function call.
            is_new = before is not document and (before or document)
            if is_new or reading.directory is not directory:
                readings[key.label] = self._read_again(key, reading.name, document, directory)
        return readings, provider_state

    def name(self, key: Key) -> str:
        """The name of the account's document, as this process read or changed it last."""
        location = self._locations.last(key)
        return location.name if location else self._locations.name_now(key)

    def update(self, key: Key, change: Change[T], holds: Sequence[Hold] = ()) -> tuple[T, str]:
        """Change the states of the key's account and its provider together.

        If the key's account is now counted in another document, the holds of one call, or of calls
        that were held together, are moved there first, in the same change.

        Returns the result, and the name of the account's document.
        """
        while True:
            location = self._locations.of(key)
            result = self._update_at(location, key, change, holds)
            if result is not None:
                return result[0], location.name
            self._locations.find(key)

    def _update_at(
        self, location: AccountLocation, key: Key, change: Change[T], holds: Sequence[Hold]
    ) -> tuple[T] | None:
        """Change the states, or return None if the account is now counted elsewhere."""

        def change_documents(
            of_account: Document, of_directory: Document, of_provider: Document, *of_holds: Document
        ) -> tuple[T] | None:
            # Removed from the cache, so that another thread cannot change the same state, and
            # nothing is left of a change that an error or an interrupt has ended.
            ours, account = self._changed.pop(location.name, _NOTHING)
            if ours != of_account:
                account = codec.read(AccountState, of_account)
            if not self._locations.is_current(
                location, key, account, self._directory(key, of_directory)
            ):
                return None
            provider = codec.read(ProviderState, of_provider)
            as_read = self._as_read(location.name, of_account, key.provider, of_provider)
            for document in of_holds:
                _move_holds(holds, document, account)
            result = change(account, provider, as_read)
            for document, state in ((of_account, account), (of_provider, provider)):
                # If a document does not change, the storage keeps its own object.
                if (content := codec.write(state)) != document:
                    codec.replace(document, content)
            self._changed[location.name] = dict(of_account), account
            return (result,)

        names = [directory_name(key.provider), key.provider]
        names += {hold.document for hold in holds} - {location.name}
        return self._storage.update(location.name, change_documents, *names)

    def note_name(self, key: Key, account: str | None, evidence: str) -> None:
        """Record the account that the provider named for a key, if it is new."""
        location = self._locations.of(key)
        known = named_account(location.directory, key)
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
        self._locations.find(key)

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

    def _as_read(
        self, name: str, of_account: Document, provider: str, of_provider: Document
    ) -> States | None:
        """The states that were read last, if their documents have not changed."""
        account, at_provider = (
            self._states.get(name, _NOTHING),
            self._states.get(provider, _NOTHING),
        )
        if account[0] != of_account or at_provider[0] != of_provider:
            return None
        return account[1], at_provider[1]

    def _of(self, provider: str) -> list[Key]:
        return self._keys.get(provider, [])

    def _read(self, name: str, key: Key) -> tuple[Reading, ProviderState]:
        """The account of that name, and the state of the key's provider, as of now."""
        names = name, directory_name(key.provider), key.provider
        documents = self._storage.read_all(*names)
        account, directory, provider = (
            self._state(kind, name, document)
            for kind, name, document in zip(
                (AccountState, DirectoryState, ProviderState), names, documents, strict=True
            )
        )
        return Reading(account, name, documents[0], directory), provider

    def _read_again(
        self, key: Key, name: str, document: Document, directory: DirectoryState
    ) -> Reading:
        """The key's account, if its document or its provider's directory has changed."""
        location, account = (
            self._locations.last(key),
            self._state(AccountState, name, document),
        )
        if (
            location
            and location.name == name
            and self._locations.is_current(location, key, account, directory)
        ):
            return Reading(account, name, document, directory)
        return self._reading(key)

    def _reading(self, key: Key) -> Reading:
        """Find the key's account again."""
        reading, _ = self._read(self._locations.name_now(key), key)
        # Without a location, the ledger was locked: the next reading looks again.
        return reading if self._locations.last(key) else reading._replace(document=_UNKNOWN)

    def _directory(self, key: Key, document: Document) -> DirectoryState:
        """The state of the directory of a key's provider, which rarely changes."""
        known = self._states.get(directory_name(key.provider))
        state: DirectoryState = (
            known[1] if known and known[0] == document else codec.read(DirectoryState, document)
        )
        return state

    def _state(self, kind: Any, name: str, document: Document) -> Any:
        known = self._states.get(name)
        if known is None or not _is_same(known[0], document):
            known = self._states[name] = document, codec.read(kind, document)
        return known[1]


def _move_holds(holds: Sequence[Hold], document: Document, account: AccountState) -> None:
    """Move holds from their document to the account's state.

    Those that moved with the key stay in the document: the account has settled them, or charged
    them as lost.
    """
    model, source = holds[0].route.model, codec.read(AccountState, document)
    there = source.models[model].holds if model in source.models else {}
    went: Mapping[str, HeldCall] = {}
    if source.moved:
        went = codec.read(AccountState, source.moved.content).model(model).holds
    moving = [hold.id for hold in holds if hold.id in there and hold.id not in went]
    for hold_id in moving:
        account.model(model).holds[hold_id] = there.pop(hold_id)
    if moving:
        codec.put(document, source)


def _is_same(known: Document, document: Document) -> bool:
    """Whether a document is the known one; two empty documents are the same."""
    return known is document or not (known or document)
