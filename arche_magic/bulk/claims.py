"""The claims of a job: rows that it asks, so that no other job asks them at the same time.

Several kernels can share a job. The claims of a killed kernel end when they expire, or as soon as
another kernel of the same machine sees that their owner has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable

from arche_magic.llm_providers.processes import is_dead, this_process
from arche_magic.llm_providers.reply_cache.store import ReplyStore

# A kernel that has not renewed its claims for this long counts as dead.
_SECONDS = 90.0
_RENEW_SECONDS = _SECONDS / 3
# Seconds until a job tries again to end its claims on a full disk.
_TRY_AGAIN_SECONDS = 1.0

_at_work: set[str] = set()


class Claims:
    """The claims of one job, kept in the store of replies."""

    def __init__(self, store: ReplyStore) -> None:
        self._store = store
        # The name contains the process, so that others see whether it still runs.
        self._owner = f"{this_process()}:{os.urandom(6).hex()}"
        _at_work.add(self._owner)
        self._renewed_at = time.monotonic()

    def take(self, addresses: Collection[str], kept_too: set[str]) -> set[str]:
        """Claim addresses; returns those that no other job has claimed.

        An address whose reply is kept cannot be claimed, unless it is one of `kept_too`.
        """
        now, mine = time.time(), set[str]()
        again = kept_too.intersection(addresses)
        for part, is_again in ((set(addresses) - again, False), (again, True)):
            if part:
                mine |= self._store.claim(part, self._owner, now, now + _SECONDS, again=is_again)
        return mine

    def renew(self, claimed: Callable[[], Collection[str]]) -> None:
        """Renew the claims on the addresses that `claimed` returns, if it is time for that."""
        if time.monotonic() < self._renewed_at + _RENEW_SECONDS:
            return
        self._renewed_at = time.monotonic()
        if addresses := claimed():
            now = time.time()
            self._store.claim(addresses, self._owner, now, now + _SECONDS, again=True)

    def release(self, addresses: Iterable[str]) -> None:
        """Let other jobs ask these."""
        self._store.release(addresses, self._owner)

    def release_dead(self, addresses: Iterable[str]) -> None:
        """End the claims on these that belong to jobs that have ended."""
        owners = self._store.owners(addresses)
        for owner in filter(_is_dead, set(owners.values())):
            self._store.release([a for a, name in owners.items() if name == owner], owner)

    def end(self) -> None:
        """Note that the job has ended; if the disk is full, its claims are ended later."""
        _at_work.discard(self._owner)
        if self._store.problem:
            threading.Thread(target=self._end_later, name="arche-job", daemon=True).start()

    def _end_later(self) -> None:
        """Retry to end claims after a full disk; other kernels would wait for them."""
        until = time.monotonic() + _SECONDS
        while not self._store.end_claims(self._owner) and time.monotonic() < until:
            time.sleep(_TRY_AGAIN_SECONDS)


def _is_dead(owner: str) -> bool:
    """Whether the claim's job, or its process on this machine, has ended."""
    process = owner.rpartition(":")[0]
    return owner not in _at_work if process == this_process() else is_dead(process)
