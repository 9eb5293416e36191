"""Documents in Redis: one ledger for many machines.

While Redis does not answer, the process continues in memory, from the documents it read last, and
says so once. A thread tries Redis every second. As soon as it answers, what was counted meanwhile
is added to what others counted; at the end of the process, this is tried for two seconds. A Redis
that comes back empty gets the documents from the processes that remember them.

A Redis that answers but refuses (a wrong password, a read-only replica, full memory) is not an
outage: `refusal` says why, and the user of the storage decides what happens to requests.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

from ..bounded import library
from ..errors import ConfigurationError
from ..processes import new_rlock, reset_in_children
from ..secrets import Secret
from ..types import Location
from .documents import Change, Document, Mend, Merge, StorageTimeout, T, only_mappings, warn
from .locks import acquire
from .memory import RETRY_SECONDS, OfflineDocuments, offline_storages
from .redis_documents import Stored, has_lost

_PREFIX = "arche_magic:"
_NO_ENTRY = "it does not accept the user name or the password"
_TIMEOUT_SECONDS = 2.0
_LAST_RETRY_NAP_SECONDS = 0.1
# Writes the values if the beginning of each key has not changed since it was read; otherwise
# returns the current contents.
_WRITE_IF_UNCHANGED = """
local now = {}
local same = true
for i, key in ipairs(KEYS) do
  local text = redis.call('GET', key)
  local seen = ARGV[i]
  if text == false or text == '' or seen == '' then
    same = same and (text == false or text == '') and seen == ''
  else
    same = same and string.sub(text, 1, #seen) == seen
  end
  now[i] = text
end
if not same then return now end
for i = #KEYS + 1, #ARGV, 2 do redis.call('SET', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
return 1
"""


class RedisStorage:
    """Named JSON documents in Redis, with optimistic locking.

    One script compares and writes, so that changing what this process read last takes one round
    trip. The documents are on one Redis server; Sentinel and Cluster need other clients.

    `url` begins with `redis://`, `rediss://` or `unix://`. It may contain a password, so no message
    shows it. For the other arguments see `documents`.

    Raises:
        ConfigurationError: redis-py is missing.
        ValueError: it does not accept the URL.
    """

    may_hang = True

    def __init__(self, url: str, merge: Merge, mend: Mend = only_mappings) -> None:
        try:
            for name in ("redis", "redis.backoff", "redis.retry"):
                library(name)
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ConfigurationError(
                "a ledger in Redis needs one more package: pip install 'arche_magic[redis]'"
            ) from None
        taken = False
        try:
            self._client: Any = redis.Redis.from_url(
                Location(url).url(),
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                # One immediate retry, for a connection that a restart has dropped; none after a
                # timeout.
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
                decode_responses=True,
                # Bytes that are not text are read, compared and replaced like other wrong values.
                encoding_errors="surrogateescape",
            )
            pool = self._client.connection_pool
            user, password = (pool.connection_kwargs.pop(n, None) for n in ("username", "password"))
            if user or password:
                # Without a name, the password is that of the default user.
                names = [Secret(text or "") for text in ((user, password) if user else (password,))]
                pool.connection_kwargs["credential_provider"] = _Credentials(*names)
            # Only this checks the options of the URL.
            pool.connection_class(**pool.connection_kwargs)
            taken = True
        except (ValueError, TypeError, redis.RedisError):
            # Their messages quote the URL, or a part of it.
            pass
        if not taken:
            raise ValueError(
                "the Redis URL has an invalid host, port or option; write redis://localhost:6379/0"
            )
        self._write = self._client.register_script(_WRITE_IF_UNCHANGED)
        self._failures = redis.RedisError
        self._merge, self._mend = merge, mend
        self.findings: list[str] = []
        # Threads of one process wait for each other here, instead of repeating their changes.
        self._lock = new_rlock()
        self._seen: dict[str, Stored] = {}
        self._offline: OfflineDocuments | None = None
        self._is_probed = False
        self.refusal = ""
        reset_in_children(self)

    @property
    def trouble(self) -> str:
        """Why this process counts in memory; "" while Redis answers and accepts changes."""
        if self.refusal:
            return f"{self.refusal}; counting in memory until that is corrected"
        return "it does not answer; counting in memory until it does" if self._offline else ""

    def begin_child(self) -> None:
        """Wait for Redis in the child too, if it does not answer."""
        if self._offline is not None:
            self._offline.begin_child()
            self._watch()

    def read(self, name: str) -> Document:
        """The document, empty if there is none yet. Callers must not change it."""
        return self.read_all(name)[0]

    def read_all(self, *names: str) -> list[Document]:
        """Several documents, in their states at the same time. Callers must not change them.

        If another thread waits for a Redis that hangs, they are as they were read last.
        """
        if not self._lock.acquire(timeout=_TIMEOUT_SECONDS):
            return [self._seen.get(name, Stored()).document for name in names]
        try:
            if self._offline is not None:
                return self._offline.read_all(*names)
            keys = [_PREFIX + name for name in names]
            try:
                self._probe_once()
                texts = _interruptible(partial(self._client.mget, keys))
                for name, text in zip(names, texts, strict=True):
                    stored = self._read(name, text)
                    seen = self._seen.get(name)
                    if seen and (stored is None or has_lost(stored, seen)):
                        self._transact((name,), lambda document: None)
                    else:
                        self._remember(name, stored)
            except self._failures as error:
                return self._go_offline(error).read_all(*names)
            return [self._seen.get(name, Stored()).document for name in names]
        finally:
            self._lock.release()

    def update(self, name: str, change: Change[T], *others: str) -> T:
        """Run `change` on the documents, atomically; return its result.

        `change` runs again if another machine changed them meanwhile.

        Raises:
            StorageTimeout: another thread held the lock until this thread's deadline.
        """
        names = (name, *others)
        if not acquire(self._lock):
            raise StorageTimeout("the ledger in Redis is busy, so nothing was changed; try again")
        try:
            offline = self._offline
            if offline is None:
                try:
                    self._probe_once()
                    return self._transact(names, change)
                except self._failures as error:
                    offline = self._go_offline(error)
            # Redis cannot come back during the change, because that needs the lock.
            return offline.update(name, change, *others)
        finally:
            self._lock.release()

    def _transact(self, names: tuple[str, ...], change: Change[T]) -> T:
        keys = [_PREFIX + name for name in names]
        bases = [self._seen.get(name, Stored()) for name in names]
        while True:
            documents = [dict(base.document) for base in bases]
            result = change(*documents)
            after: list[Stored] = []
            writes: list[Any] = []
            for number, (base, document) in enumerate(zip(bases, documents, strict=True), 1):
                is_changed = base.must_write or document != base.document
                after.append(base.followed_by(document) if is_changed else base)
                if is_changed:
                    writes += [number, after[-1].text]
            stamps = [base.stamp for base in bases]
            found = _interruptible(partial(self._write, keys=keys, args=[*stamps, *writes]))
            # If Redis has our texts, they were written, but a lost connection dropped the answer.
            if found == 1 or [text or "" for text in found] == [s.text for s in after]:
                break
            # Others have changed the documents.
            bases = [self._base(name, text) for name, text in zip(names, found, strict=True)]
        for name, stored in zip(names, after, strict=True):
            self._remember(name, stored if stored.text else None)
        return result

    def _base(self, name: str, text: str | None) -> Stored:
        """The state from which a change starts: that in Redis, with lost amounts added again."""
        stored, seen = self._read(name, text), self._seen.get(name)
        if not seen or (stored and not has_lost(stored, seen)):
            return stored or Stored(text=text or "")
        document = deepcopy(seen.document)
        if stored:
            # Another process started again from an older copy than ours, or from nothing.
            self._merge(name, stored.basis, stored.document, document)
        return Stored(
            document,
            max(seen.revision, stored.revision if stored else 0),
            stored.lineage if stored else "",
            deepcopy(seen.document),
            seen.revision,
            text or "",
            must_write=True,
        )

    def _read(self, name: str, text: str | None) -> Stored | None:
        """The contents of a key; warns once if part of them is wrong."""
        seen = self._seen.get(name)
        if seen and text == seen.text:
            return seen
        stored, wrong = Stored.of(text, name, self._mend)
        if wrong:
            why = f"{wrong[0]} has a wrong value; counting continues without it"
            if why not in self.findings:
                self.findings.append(why)
                warn(f"the ledger in Redis: {why}")
        return stored

    def _remember(self, name: str, stored: Stored | None) -> None:
        if stored is None:
            self._seen.pop(name, None)
            return
        self._seen[name] = stored
        if self._offline:
            self._offline.put(name, stored.document)

    def _probe_once(self) -> None:
        if not self._is_probed:
            self._probe()
            self._is_probed = True

    def _probe(self) -> None:
        """Write and delete a key: reading would also work on a replica or a full Redis."""
        name = f"{_PREFIX}probe of {uuid.uuid4().hex[:12]}"
        _interruptible(self._client.pipeline().set(name, 1, ex=60).delete(name).execute)

    def _go_offline(self, error: Exception) -> OfflineDocuments:
        """Continue in memory, from what was read last."""
        self.refusal = _refusal(error)
        if self._offline is None:
            seen = {name: stored.document for name, stored in self._seen.items()}
            self._offline = OfflineDocuments(seen, seen)
            offline_storages.add(self)
            self._watch()
            if not self.refusal:
                warn(
                    f"the ledger's Redis does not answer ({type(error).__name__}); counting in "
                    "memory until it is back"
                )
        return self._offline

    def _watch(self) -> None:
        """Start a thread that tries Redis until it answers."""
        with suppress(RuntimeError):  # no more threads, as at the end of the process
            threading.Thread(
                target=_wait_for, args=(ref(self),), name="arche-redis", daemon=True
            ).start()

    def reconnect(self) -> bool:
        """Add what was counted in memory to Redis, if it answers; False if it does not."""
        try:
            # Without the lock, so that other threads can count in memory meanwhile.
            self._probe()
            with self._lock:
                offline = self._offline
                if offline is None:
                    return True
                for name in offline.changed:
                    self._transact((name,), partial(offline.add_to, name, merge=self._merge))
                self._offline, self._is_probed, self.refusal = None, True, ""
        except self._failures as error:
            self.refusal = _refusal(error)
            return False
        offline_storages.discard(self)
        return True

    def last_retry(self, until: float) -> None:
        """Until that time (`time.monotonic`), try to write to Redis what was counted in memory."""
        while self._offline and self._offline.changed and not self.reconnect():
            if time.monotonic() + _LAST_RETRY_NAP_SECONDS > until:
                return
            time.sleep(_LAST_RETRY_NAP_SECONDS)


def _wait_for(found: ReferenceType[RedisStorage]) -> None:
    while True:
        time.sleep(RETRY_SECONDS)
        storage = found()
        if storage is None or storage.reconnect():
            return
        del storage


class _Credentials:
    """User name and password for redis-py, which would show them among its own options."""

    def __init__(self, *secrets: Secret) -> None:
        self._secrets = secrets

    def get_credentials(self) -> tuple[str, ...]:
        return tuple(secret.reveal() for secret in self._secrets)


def _interruptible(call: Callable[[], T]) -> T:
    """Make the call; an interrupt is raised without redis-py's frames, which contain passwords."""
    try:
        return call()
    except KeyboardInterrupt:
        pass
    raise KeyboardInterrupt


def _refusal(error: Exception) -> str:
    """Why Redis refuses, without the server's own words; "" for an outage, which is temporary."""
    from redis import exceptions

    for kind, words in (
        (exceptions.AuthenticationError, _NO_ENTRY),
        (exceptions.AuthorizationError, _NO_ENTRY),
        (exceptions.NoPermissionError, "its user may not read and write the keys arche_magic:*"),
        (exceptions.ReadOnlyError, "it is a read-only replica; name its primary"),
        (exceptions.OutOfMemoryError, "its memory is full (maxmemory)"),
    ):
        if isinstance(error, kind):
            return words
    # The server is starting, or its primary or slot is changing.
    passing = (exceptions.TryAgainError, exceptions.MasterDownError)
    if not isinstance(error, exceptions.ResponseError) or isinstance(error, passing):
        return ""
    code = re.match(r"[A-Z]{3,20}\b", str(error))
    if code and code[0] in ("NOAUTH", "WRONGPASS"):
        return _NO_ENTRY
    if "DB index" in str(error):
        return "it has no database of the number in the URL"
    return f"it refuses the change ({code[0] if code else type(error).__name__})"
