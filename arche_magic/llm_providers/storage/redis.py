"""Documents in Redis: one ledger for many machines.

While Redis is away the process goes on in memory, from the documents it saw last, and says so
once; when Redis is back, what was counted meanwhile is added to what the others counted. A Redis
that comes back empty gets the documents back from the processes that remember them.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..types import Location, Secret
from .base import Change, Document, LedgerWarning, Merge, T
from .memory import MemoryStorage

_PREFIX = "arche_magic:"
_TIMEOUT_SECONDS = 2.0
# A refused connection costs nothing and is tried again soon; one that hangs makes calls wait.
_SHORTEST_ABSENCE_SECONDS, _ABSENCE_PER_WAIT = 1.0, 10.0


@dataclass
class _Stored:
    """What a Redis key holds.

    Attributes:
        document: the document itself.
        revision: counts its changes.
        lineage: a Redis that lost the document gets a new one.
        basis, basis_revision: what was remembered of it when this lineage began.
    """

    document: Document = field(default_factory=dict)
    revision: int = 0
    lineage: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    basis: Document = field(default_factory=dict)
    basis_revision: int = 0


class RedisStorage:
    """Named JSON documents in Redis, changed by optimistic transactions (WATCH, then retry).

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py takes it. It may hold a password,
            so no message shows it.
        merge: `merge(before, ours, theirs)` adds to `theirs` what happened between `before`, the
            last document seen, and `ours`, the one that was changed in memory while Redis was
            away.

    Raises:
        ConfigurationError: redis-py is missing, or it does not take the URL.
    """

    def __init__(self, url: str, merge: Merge) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ConfigurationError(
                "a ledger in Redis needs a package more: pip install 'arche_magic[redis]'"
            ) from None
        taken = False
        try:
            self._client: Any = redis.Redis.from_url(
                Location(url).url(),
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                # Once more at once, for a connection that a restart has cut.
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
            pool = self._client.connection_pool
            names = [pool.connection_kwargs.pop(name, None) for name in ("username", "password")]
            if any(names):
                provider = _Credentials(*(Secret(name) for name in names if name))
                pool.connection_kwargs["credential_provider"] = provider
            # Options of the URL are looked at only here.
            pool.connection_class(**pool.connection_kwargs)
            taken = True
        except (ValueError, TypeError, redis.RedisError):
            # Their messages quote the URL, or the part of it that they took for a port.
            pass
        if not taken:
            raise ConfigurationError(
                "the ledger's place is no Redis URL such as redis://localhost:6379/0"
            )
        self._failures = redis.RedisError
        self._merge = merge
        # Threads of one process queue here instead of failing each other's transactions.
        self._lock = threading.RLock()
        self._seen: dict[str, _Stored] = {}
        self._away: MemoryStorage | None = None
        self._changed_away: set[str] = set()
        self._changing_away = False
        self._try_again_at = 0.0

    def __repr__(self) -> str:
        return "RedisStorage()"

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. It is not to be changed."""
        with self._lock:
            away = self._memory_while_away()
            if away:
                return away.read(name)
            began = time.monotonic()
            try:
                stored = _parse(_interruptible(partial(self._client.get, _PREFIX + name)))
                seen = self._seen.get(name)
                if seen and (stored is None or stored.lineage != seen.lineage):
                    self._transact(name, lambda document: None)
                    stored = self._seen[name]
            except self._failures as error:
                return self._leave(error, began).read(name)
            if stored is None:
                return {}
            self._seen[name] = stored
            return stored.document

    def update(self, name: str, change: Change[T]) -> T:
        """Run `change` on the document, alone and atomically; return what it returns.

        `change` runs again if another machine was faster.
        """
        with self._lock:
            away = self._memory_while_away()
            if not away:
                began = time.monotonic()
                try:
                    return self._transact(name, change)
                except self._failures as error:
                    away = self._leave(error, began)
            self._changed_away.add(name)
            self._changing_away = True
            try:
                return away.update(name, change)
            finally:
                self._changing_away = False

    def _transact(self, name: str, change: Change[T]) -> T:
        key = _PREFIX + name
        stored = _Stored()

        def attempt(pipe: Any) -> T:
            nonlocal stored
            text = pipe.get(key)
            stored = self._with_what_was_lost(_parse(text), self._seen.get(name))
            result = change(stored.document)
            pipe.multi()
            if _text(stored) != text and (text or stored.document):
                stored.revision += 1
                pipe.set(key, _text(stored))
            return result

        result: T = _interruptible(
            partial(self._client.transaction, attempt, key, value_from_callable=True)
        )
        self._seen[name] = stored
        if self._away:
            self._away.put(name, stored.document)
        return result

    def _with_what_was_lost(self, stored: _Stored | None, seen: _Stored | None) -> _Stored:
        """What Redis holds, after what it lost of it is put back from what we have seen."""
        if stored and (
            not seen or seen.lineage == stored.lineage or seen.revision <= stored.basis_revision
        ):
            return stored
        if not seen:
            return _Stored()
        document = deepcopy(seen.document)
        if stored:
            # Somebody else began anew, from an older copy than ours or from nothing.
            self._merge(stored.basis, stored.document, document)
        return _Stored(
            document,
            max(seen.revision, stored.revision if stored else 0),
            stored.lineage if stored else uuid.uuid4().hex[:12],
            deepcopy(seen.document),
            seen.revision,
        )

    def _leave(self, error: Exception, began: float) -> MemoryStorage:
        """Go on in memory, from what was seen last."""
        self._wait_for_redis(began)
        if self._away is None:
            warnings.warn(
                f"the ledger's Redis does not answer ({type(error).__name__}); counting in memory "
                "until it is back",
                LedgerWarning,
                stacklevel=3,
            )
            self._away = MemoryStorage()
            for name, stored in self._seen.items():
                self._away.put(name, stored.document)
        return self._away

    def _memory_while_away(self) -> MemoryStorage | None:
        """Where to count while Redis is away; asks it now and then, and catches up once back."""
        # What a change reads belongs to the memory it is made in.
        early = self._changing_away or time.monotonic() < self._try_again_at
        if self._away is None or early:
            return self._away
        began = time.monotonic()
        try:
            _interruptible(self._client.ping)
            for name in sorted(self._changed_away):
                seen = self._seen.get(name)
                before = deepcopy(seen.document) if seen else {}
                self._transact(name, partial(self._merge, before, self._away.read(name)))
                self._changed_away.discard(name)
        except self._failures:
            self._wait_for_redis(began)
            return self._away
        self._away = None
        return None

    def _wait_for_redis(self, began: float) -> None:
        now = time.monotonic()
        waited = _ABSENCE_PER_WAIT * (now - began)
        self._try_again_at = now + max(_SHORTEST_ABSENCE_SECONDS, waited)


class _Credentials:
    """User name and password where redis-py asks for them: its own options are easily printed."""

    def __init__(self, *secrets: Secret) -> None:
        self._secrets = secrets

    def get_credentials(self) -> tuple[str, ...]:
        return tuple(secret.reveal() for secret in self._secrets)


def _interruptible(call: Callable[[], T]) -> T:
    """What the call returns; an interrupt comes without redis-py's frames, which hold passwords."""
    try:
        return call()
    except KeyboardInterrupt:
        pass
    raise KeyboardInterrupt


def _text(stored: _Stored) -> str:
    return json.dumps(asdict(stored))


def _parse(text: str | None) -> _Stored | None:
    """What a key holds; None for nothing, or for what somebody else put there."""
    try:
        return _Stored(**json.loads(text)) if text else None
    except (ValueError, TypeError):
        return None
