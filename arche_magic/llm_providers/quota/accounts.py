"""Which account each key spends, as providers name it, and the document the account's keys share.

Until a provider names an account, a key's document goes by its fingerprint. Then the name is kept
in a directory, one per provider:

    accounts    fingerprint -> {account, evidence, at}

and the key's document goes into the account's. It stays where it was, marked with `moved` (`to`,
and its `content` then), and no hold is made in it any more; but a machine that was cut off may
still add to it. The account's document notes in `absorbed` (name -> digest) up to where it has
taken it in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ..catalog import Provider
from ..config import Configuration
from ..storage import Storage, StorageTimeout, lock_deadline
from ..types import Key
from .folding import fold, unfold, unfolded
from .holds import release
from .ledger import Amounts, Document
from .merging import absorb, merge

T = TypeVar("T")

_MOST_MOVES = 5


@dataclass(frozen=True)
class Place:
    """Where a key's account is counted, as far as this process knows.

    Attributes:
        name: of the account's document.
        directory: the provider's directory when that was found.
        absorbed: the documents that went into it, with their digests.
    """

    name: str
    directory: Document
    absorbed: dict[str, str]


class Accounts:
    """Finds and changes the document of the account a key spends.

    Args:
        storage: where the documents live.
        configuration: an account named there wins over the provider's name for it.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self._storage = storage
        self._configuration = configuration
        self._places: dict[Key, Place] = {}

    def read(self, key: Key) -> tuple[Document, Document]:
        """The document of the key's account and that of its provider, not to be changed.

        Waits for no lock: counts of the key that still lie elsewhere are left there if the ledger
        is locked.
        """
        place = self._places.get(key)
        if place is not None:
            names = (place.name, _directory(key.provider), key.provider)
            document, directory, provider = self._storage.read_all(*names)
            if _holds(place, document, directory):
                return document, provider
        document, provider = self._storage.read_all(self._name_now(key), key.provider)
        return document, provider

    def name(self, key: Key) -> str:
        """The name of the account's document, as this process read or changed it last."""
        place = self._places.get(key)
        return place.name if place else self._name_now(key)

    def _name_now(self, key: Key) -> str:
        """The name of the account's document, found without waiting for a lock."""
        try:
            with lock_deadline(0):
                return self._find(key).name
        except StorageTimeout:
            return self._target(key)[0]

    def update(self, key: Key, change: Callable[[Document, Document], T]) -> tuple[T, str]:
        """Change the documents of the key's account and its provider together.

        Returns the result, and the name of the account's document.
        """
        while True:
            place = self._place(key)
            result = self.update_at(place, key, change)
            if result is not None:
                return result[0], place.name
            self._find(key)

    def update_held(
        self, key: Key, model: str, held: Sequence[tuple[str, Amounts]], held_in: str,
        change: Callable[[Document, Document, Mapping[str, Document]], T],
    ) -> T:  # fmt: skip
        """The same, for calls that `held` amounts, each in a hold of the document `held_in`.

        `change` is also given the holds, taken back, if the key belongs elsewhere by now.
        """
        taken: dict[str, Document] = {}
        while True:
            place = self._place(key)
            if place.name != held_in and not taken:
                taken = self._take_holds(key, model, held, held_in)
            result = self.update_at(place, key, partial(_with_holds, change, taken))
            if result is not None:
                return result[0]
            self._find(key)

    def update_at(
        self, place: Place, key: Key, change: Callable[[Document, Document], T]
    ) -> tuple[T] | None:
        """Change the documents, or return None if the account is counted elsewhere by now."""

        def if_so(document: Document, directory: Document, provider: Document) -> tuple[T] | None:
            return (change(document, provider),) if _holds(place, document, directory) else None

        names = (_directory(key.provider), key.provider)
        return self._storage.update(place.name, if_so, *names)

    def learn(self, key: Key, account: str | None, evidence: str) -> None:
        """Note what account the provider named for a key, if it says something new."""
        known = _named(self._place(key).directory, key)
        # An organization with and without its project is one name, told more or less fully.
        if account is None or f"{account}/".startswith(f"{known}/"):
            return
        if known and f"{known}/".startswith(f"{account}/"):
            return
        entry = {
            "account": account,
            "evidence": evidence,
            "at": self._configuration.clock.time(),
        }
        self._storage.update(
            _directory(key.provider),
            lambda directory: directory.setdefault("accounts", {}).update({key.fingerprint: entry}),
        )
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

    def _place(self, key: Key) -> Place:
        return self._places.get(key) or self._find(key)

    def _find(self, key: Key) -> Place:
        """Where the key's account is counted now, with all that belongs there taken in."""
        name, sources, directory = self._target(key)
        absorbed = {source: self._join(key, source, name) for source in sources if source != name}
        place = self._places[key] = Place(name, directory, absorbed)
        return place

    def _target(self, key: Key) -> tuple[str, list[str], Document]:
        """The account's document, those whose counts belong into it, and the directory."""
        directory = self._storage.read(_directory(key.provider))
        name, sources = self._resolve(key, directory)
        for _ in range(_MOST_MOVES):
            document = self._storage.read(name)
            if "moved" not in document:
                break
            name = document["moved"]["to"]
        return name, sources, directory

    def _take_holds(
        self, key: Key, model: str, held: Iterable[tuple[str, Amounts]], name: str
    ) -> dict[str, Document]:
        """Take back holds made in the document `name`, of those that did not move with the key."""
        document, _ = self.read(key)
        moved = document.get("models", {}).get(model, {}).get("holds", {})
        taken = {}
        for hold_id, amounts in held:
            if hold_id not in moved:
                back = partial(release, model=model, hold_id=hold_id, amounts=amounts)
                hold = self._storage.update(name, back)
                if hold is not None:
                    taken[hold_id] = hold
        return taken

    def _resolve(self, key: Key, directory: Document) -> tuple[str, list[str]]:
        """The name of the account's document, and of those whose counts belong into it."""
        if _is_configured(key):
            return f"{key.provider}:{key.account}", []
        own, named = f"{key.provider}:{key.fingerprint}", _named(directory, key)
        if named is None:
            return own, []
        name = f"{key.provider}:{named}"
        for other in self._configuration.keys:
            configured = other.provider == key.provider and _is_configured(other)
            if configured and _named(directory, other) == named:
                return f"{key.provider}:{other.account}", [own, name]
        return name, [own]

    def _join(self, key: Key, source: str, target: str) -> str:
        """Take a key's document into the account's, or what was added to it since.

        Returns the digest of what is taken in.
        """
        now = self._configuration.clock.time()
        provider = self._configuration.providers[key.provider]

        def take_in(account: Document, own: Document) -> str:
            content = {name: value for name, value in own.items() if name != "moved"}
            moved = own.setdefault("moved", {"to": target, "content": deepcopy(content)})
            digest = _digest(content)
            absorbed = account.setdefault("absorbed", {})
            # A key that was of another account before leaves its counts there.
            if moved["to"] == target and absorbed.get(source) != digest:
                unfold(account, provider)
                full = _full_copy(content, provider)
                if source in absorbed:
                    merge(_full_copy(moved["content"], provider), full, account, now)
                else:
                    absorb(full, account, now)
                fold(account, provider, now)
            absorbed[source] = digest
            moved["content"] = content
            return digest

        return self._storage.update(target, take_in, source)


def _holds(place: Place, document: Document, directory: Document) -> bool:
    """Whether what was found is still so, and nothing waits to be taken in."""
    absorbed = document.get("absorbed", {})
    return (
        "moved" not in document
        and directory == place.directory
        and all(absorbed.get(source) == digest for source, digest in place.absorbed.items())
    )


def _with_holds(
    change: Callable[[Document, Document, Mapping[str, Document]], T],
    taken: Mapping[str, Document],
    document: Document,
    provider: Document,
) -> T:
    return change(document, provider, taken)


def _full_copy(content: Document, provider: Provider) -> Document:
    return unfolded(deepcopy(content), provider)


def _is_configured(key: Key) -> bool:
    return key.account != key.fingerprint


def _directory(provider: str) -> str:
    return f"accounts of {provider}"


def _named(directory: Document, key: Key) -> str | None:
    name: str | None = directory.get("accounts", {}).get(key.fingerprint, {}).get("account")
    return name


def _digest(content: Document) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
