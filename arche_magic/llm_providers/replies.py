"""Kept replies, in one SQLite file: by address, each with the route it came from.

A row holds no prompt, only its address (`replay.address`), and no key, only its label.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .folders import absolute
from .forks import new_lock
from .reply import Reply
from .safe_files import NotOurs, check_sqlite
from .storage import LedgerWarning, warn_of_file
from .types import Usage, utc

FILE_VERSION = 1
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    address TEXT PRIMARY KEY NOT NULL,
    text TEXT NOT NULL,
    provider TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    cost_usd REAL,
    parsed INTEGER NOT NULL,
    created_at REAL NOT NULL,
    request TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS claims (
    address TEXT PRIMARY KEY NOT NULL,
    claimed_by TEXT NOT NULL,
    claimed_until REAL NOT NULL
) WITHOUT ROWID;
"""
# Files of earlier versions get these when a reply is kept; they read files that have them.
_ADDED = {"request": "TEXT NOT NULL DEFAULT ''", "seconds": "REAL NOT NULL DEFAULT 0"}
# Many addresses go in as one JSON array: statements take few parameters. Files
# may hold empty texts that earlier versions took for answers.
_LOOK_UP = """
SELECT address, text, provider, replies.key, model, input_tokens, output_tokens, finish_reason,
    cost_usd, created_at, {added}
FROM json_each(?) AS asked CROSS JOIN replies ON address = asked.value AND text != ''
"""
_KEPT = """
SELECT address FROM json_each(?1) AS asked
CROSS JOIN replies ON address = asked.value AND text != ''
"""
_CLAIMED = """
SELECT address FROM json_each(?1) AS asked CROSS JOIN claims ON address = asked.value
WHERE claimed_by != ?2 AND claimed_until > ?3
"""
# Made when the first request fails for good: files of earlier versions have none. The texts are
# apart, as earlier versions write into failures.
_FAILURES = """
CREATE TABLE IF NOT EXISTS failures (
    address TEXT PRIMARY KEY NOT NULL,
    error TEXT NOT NULL,
    failed_at REAL NOT NULL
) WITHOUT ROWID
"""
_MISFITS = """
CREATE TABLE IF NOT EXISTS misfits (
    address TEXT PRIMARY KEY NOT NULL,
    text TEXT NOT NULL
)
"""
_KEEP = """
INSERT OR REPLACE INTO replies (
    address, text, provider, key, model, input_tokens, output_tokens, finish_reason, cost_usd,
    parsed, created_at, request, seconds
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True)
class Failure:
    """Why a request failed that would fail again.

    Attributes:
        error: in words.
        raw: the text of a reply that does not fit its schema, or None.
    """

    error: str
    raw: str | None = None


class ReplyStore:
    """Replies by address, shared by all threads and kernels that open the same file.

    Several workers on one job `claim` what they are about to ask, so that nothing is asked twice;
    a claim ends with `finish` or `release`, or by itself at its time if its worker was killed.

    SQLite's rollback journal rather than its write-ahead log: the file is whole after each change,
    so it can be copied or committed while kernels run, and read from a network share or a
    read-only disk. A connection lives for one operation (it costs less than a tenth of a
    millisecond), so threads and forked processes share none. Where the disk refuses, that is said
    once, lookups find nothing and nothing is kept.

    Args:
        path: the file; it and its folder are made when the first reply is kept.

    Attributes:
        problem: why the file could not be used the last time, or "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._lock = new_lock()
        self._complained = False

    def __repr__(self) -> str:
        return f"ReplyStore({str(self.path)!r})"

    def lookup_many(self, addresses: Iterable[str]) -> dict[str, Reply]:
        """The kept replies among these addresses, each with the time it was kept."""
        asked = json.dumps(list(addresses))
        with self._complaining():
            if not self.path.exists():
                return {}
            with closing(self._connect()) as connection:
                if not self._version(connection):
                    return {}
                added = ", ".join(_ADDED) if _has_added(connection) else "'', 0.0"
                rows = connection.execute(_LOOK_UP.format(added=added), [asked])
                return {address: _reply(*row) for address, *row in rows}
        return {}

    def failures(self, addresses: Iterable[str]) -> dict[str, Failure]:
        """Why those of these addresses failed that would fail again."""
        asked = json.dumps(list(addresses))
        with self._complaining():
            if not self.path.exists():
                return {}
            with closing(self._connect()) as connection:
                self._version(connection)
                tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
                if ("failures",) not in tables:
                    return {}
                found = {
                    address: Failure(error)
                    for address, error in connection.execute(
                        "SELECT address, error FROM json_each(?) AS asked "
                        "CROSS JOIN failures ON address = asked.value",
                        [asked],
                    )
                }
                if found and ("misfits",) in tables:
                    texts = connection.execute(
                        "SELECT address, text FROM json_each(?) AS asked "
                        "CROSS JOIN misfits ON address = asked.value",
                        [json.dumps(list(found))],
                    )
                    found |= {at: Failure(found[at].error, text) for at, text in texts}
                return found
        return {}

    def claim(
        self,
        addresses: Iterable[str],
        owner: str,
        now: float,
        until: float,
        *,
        again: bool = False,
    ) -> set[str]:
        """Those of the addresses that `owner` is to ask from now on, others leaving them alone.

        Not among them: what is kept already, and what another owner's claim still covers.
        Claiming again what one holds prolongs it.

        Args:
            addresses: what is to be asked.
            owner: a name that no other worker has.
            now: epoch seconds.
            until: epoch seconds after which others may claim it.
            again: what is kept may be claimed too, to be asked once more.
        """
        wanted = set(addresses)
        asked = json.dumps(list(wanted))
        with self._complaining(), self._change() as connection:
            rows = connection.execute(_CLAIMED, [asked, owner, now]).fetchall()
            if not again:
                rows += connection.execute(_KEPT, [asked]).fetchall()
            free = wanted - {address for (address,) in rows}
            connection.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)",
                [(address, owner, until) for address in free],
            )
            return free
        # Without the file there is nobody to share with.
        return wanted

    def finish(self, replies: Mapping[str, Reply], now: float) -> None:
        """Keep replies by their addresses, in place of older ones, and end the claims on them."""
        with self._complaining(), self._change() as connection:
            rows = [_row(address, reply, now) for address, reply in replies.items()]
            connection.executemany(_KEEP, rows)
            connection.executemany(
                "DELETE FROM claims WHERE address = ?", [(address,) for address in replies]
            )

    def fail(self, failures: Mapping[str, Failure], now: float) -> None:
        """Keep why requests failed that would fail again, and end the claims on them."""
        addresses = [(address,) for address in failures]
        with self._complaining(), self._change() as connection:
            connection.execute(_FAILURES)
            connection.execute(_MISFITS)
            connection.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
                [(address, failure.error, now) for address, failure in failures.items()],
            )
            connection.executemany("DELETE FROM misfits WHERE address = ?", addresses)
            connection.executemany(
                "INSERT INTO misfits VALUES (?, ?)",
                [(at, failure.raw) for at, failure in failures.items() if failure.raw],
            )
            connection.executemany("DELETE FROM claims WHERE address = ?", addresses)

    def forget(self, addresses: Iterable[str]) -> None:
        """Keep the replies at these addresses no longer."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "DELETE FROM replies WHERE address = ?", [(address,) for address in addresses]
            )

    def owners(self, addresses: Iterable[str]) -> dict[str, str]:
        """Who has claimed those of these addresses that are claimed."""
        asked = json.dumps(list(addresses))
        with self._complaining(), closing(self._connect()) as connection:
            return dict(
                connection.execute(
                    "SELECT address, claimed_by FROM json_each(?) AS asked "
                    "CROSS JOIN claims ON address = asked.value",
                    [asked],
                )
            )
        return {}

    def release(self, addresses: Iterable[str], owner: str) -> None:
        """Give up claims of `owner`, so that others may ask."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "DELETE FROM claims WHERE address = ? AND claimed_by = ?",
                [(address, owner) for address in addresses],
            )

    def end_claims(self, owner: str) -> bool:
        """Give up all claims of `owner`; False if the disk refuses that now."""
        with self._complaining(), self._change() as connection:
            connection.execute("DELETE FROM claims WHERE claimed_by = ?", [owner])
            return True
        return False

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """What the disk refuses is left out, and said."""
        try:
            yield
        except (OSError, sqlite3.Error, OverflowError, TypeError, ValueError) as error:
            # The last three: half a character, or a number that SQLite does not take.
            self.complain(error)

    def _connect(self) -> sqlite3.Connection:
        check_sqlite(self.path)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction; what it did is undone if it does not come to its end."""
        check_sqlite(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Threads wait here rather than in SQLite, which looks again only now and then.
        with self._lock, closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._version(connection):
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
            elif not _has_added(connection):
                for name, kind in _ADDED.items():
                    connection.execute(f"ALTER TABLE replies ADD COLUMN {name} {kind}")
            yield connection
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        """The layout of the file, 0 for an empty one."""
        # The tables first: another kernel may make all of it between these two statements.
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FILE_VERSION):
            raise sqlite3.DatabaseError(f"its layout is version {version}, not {FILE_VERSION}")
        # A version alone does not make it ours: other programs count theirs, too.
        if names and not (version and {"replies", "claims"} <= names):
            raise NotOurs(self.path, "is a database of another program; set ARCHE_REPLIES")
        return int(version)

    def complain(self, error: Exception) -> None:
        """Note why the file could not be used, and warn of it the first time."""
        self.problem = str(getattr(error, "strerror", None) or error)
        message = f"replies cannot be kept in {self.path} ({self.problem}); calls go on without"
        if self._complained:
            return
        self._complained = True
        refused = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
        name = getattr(error, "sqlite_errorname", "")
        if isinstance(error, OSError) or name.startswith(refused):
            error = error if isinstance(error, OSError) else OSError(self.problem)
            warn_of_file(self.path, error, message)
        else:
            warnings.warn(message, LedgerWarning, stacklevel=2)


def _has_added(connection: sqlite3.Connection) -> bool:
    found = "SELECT count(*) FROM pragma_table_info('replies') WHERE name IN ('request', 'seconds')"
    return bool(connection.execute(found).fetchone()[0] == len(_ADDED))


def _row(address: str, reply: Reply, now: float) -> tuple[object, ...]:
    return (
        address, str(reply), reply.provider, reply.key, reply.model, reply.usage.input_tokens,
        reply.usage.output_tokens, reply.finish_reason, reply.cost, reply.parsed is not None, now,
        reply.request, reply.seconds,
    )  # fmt: skip


def _reply(
    text: str,
    provider: str,
    key: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    finish_reason: str,
    cost: float | None,
    created_at: float,
    request: str,
    seconds: float,
) -> Reply:
    return Reply(
        text,
        provider=provider,
        key=key,
        model=model,
        usage=Usage(input_tokens, output_tokens),
        finish_reason=finish_reason,
        cost=cost,
        from_memory=utc(created_at),
        request=request,
        seconds=seconds,
    )


_opened: dict[Path, ReplyStore] = {}
_opening = new_lock()


def reply_store(path: Path) -> ReplyStore:
    """The store of this process for a file; asking again gives the same one."""
    path = absolute(path)
    with _opening:
        return _opened.setdefault(path, ReplyStore(path))
