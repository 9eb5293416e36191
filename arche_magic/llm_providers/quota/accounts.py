"""Which account each key spends, as providers name it, and the document the account's keys share.

Until a provider names an account, a key's document goes by its fingerprint. Then the name is kept
in a directory, one per provider:

    accounts    fingerprint -> {account, evidence, at}

and the key's document is moved into the account's. No change covers two documents at once, so it
goes in steps that can be repeated: the key's document is marked with `moved` (`to`, and its
`content` then), from when on no hold is made in it; the account's document takes it in and notes
that in `absorbed` (name -> digest). Whoever finds a step missing does it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from typing import TypeVar

from ..config import Configuration
from ..storage import Storage
from ..types import Key
from .ledger import Document, release
from .merging import absorb, merge

T = TypeVar("T")

_MOST_MOVES = 5


class Accounts:
    """Finds and changes the document of the account a key spends.

    Args:
        storage: where the documents live.
        configuration: an account named there wins over the provider's name for it.
    """

    def __init__(self, storage: Storage, configuration: Configuration) -> None:
        self._storage = storage
        self._configuration = configuration
        self._joined: dict[tuple[str, str], str] = {}

    def find(self, key: Key) -> tuple[str, Document]:
        """The name of the document of the key's account, and the document, not to be changed."""
        name, sources = self._resolve(key)
        document = self._storage.read(name)
        for _ in range(_MOST_MOVES):
            if "moved" not in document:
                break
            name = document["moved"]["to"]
            document = self._storage.read(name)
        for source in sources:
            digest = document.get("absorbed", {}).get(source)
            if source != name and (digest is None or self._joined.get((source, name)) != digest):
                self._join(source, name)
                document = self._storage.read(name)
        return name, document

    def update(self, key: Key, change: Callable[[Document], T]) -> tuple[T, str]:
        """Change the document of the key's account; returns the result, and its name."""
        while True:
            name, _ = self.find(key)

            def unless_moved(document: Document) -> tuple[T] | None:
                return None if "moved" in document else (change(document),)

            result = self._storage.update(name, unless_moved)
            if result is not None:
                return result[0], name

    def take_hold(self, key: Key, model: str, hold_id: str, name: str) -> Document | None:
        """Take back a hold made in the document `name`, if the key's is another one by now.

        None if it is where it belongs, or nowhere any more.
        """
        current, document = self.find(key)
        holds = document.get("models", {}).get(model, {}).get("holds", {})
        if current == name or hold_id in holds:
            return None
        return self._storage.update(name, lambda found: release(found, model, hold_id))

    def learn(self, key: Key, account: str | None, evidence: str) -> None:
        """Note what account the provider named for a key, if it says something new."""
        known = self._named(key)
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
            lambda document: document.setdefault("accounts", {}).update({key.fingerprint: entry}),
        )

    def account(self, key: Key) -> str:
        """The account's name: configured, or the provider's; until known, the key's fingerprint."""
        return self.find(key)[0].removeprefix(f"{key.provider}:")

    def shared_keys(self) -> dict[str, str]:
        """Labels of keys that add no quota, each with that of the first key of its account."""
        first: dict[str, str] = {}
        shared = {}
        for key in self._configuration.keys:
            name, _ = self.find(key)
            label = first.setdefault(name, key.label)
            if label != key.label:
                shared[key.label] = label
        return shared

    def _named(self, key: Key) -> str | None:
        directory = self._storage.read(_directory(key.provider)).get("accounts", {})
        name: str | None = directory.get(key.fingerprint, {}).get("account")
        return name

    def _resolve(self, key: Key) -> tuple[str, list[str]]:
        """The name of the account's document, and of those whose counts belong into it."""
        if _is_configured(key):
            return f"{key.provider}:{key.account}", []
        own, named = f"{key.provider}:{key.fingerprint}", self._named(key)
        if named is None:
            return own, []
        name = f"{key.provider}:{named}"
        for other in self._configuration.keys:
            configured = other.provider == key.provider and _is_configured(other)
            if configured and self._named(other) == named:
                return f"{key.provider}:{other.account}", [own, name]
        return name, [own]

    def _join(self, source: str, target: str) -> None:
        """Take a key's document into the account's, or what was added to it since."""
        now = self._configuration.clock.time()

        def mark(document: Document) -> Document:
            if "moved" not in document:
                document["moved"] = {"to": target, "content": deepcopy(document)}
            return deepcopy(document)

        content = self._storage.update(source, mark)
        moved = content.pop("moved")
        digest = _digest(content)

        def take_in(document: Document) -> None:
            absorbed = document.setdefault("absorbed", {})
            # A key that was of another account before leaves its counts there.
            if moved["to"] == target and absorbed.get(source) != digest:
                if source in absorbed:
                    merge(moved["content"], content, document, now)
                else:
                    absorb(content, document, now)
            absorbed[source] = digest

        self._storage.update(target, take_in)
        if moved["content"] != content:
            self._storage.update(source, lambda document: document["moved"].update(content=content))
        self._joined[source, target] = digest


def _is_configured(key: Key) -> bool:
    return key.account != key.fingerprint


def _directory(provider: str) -> str:
    return f"accounts of {provider}"


def _digest(content: Document) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
