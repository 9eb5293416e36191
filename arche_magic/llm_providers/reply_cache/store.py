"""Kept replies, in one SQLite file, by address.

A row contains the address instead of the prompt (see `replay.address`), and the key's label
instead of the key.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..files import NotOurs, absolute, check_sqlite
from ..processes import new_lock
from ..reply import Reply
from ..storage import LedgerWarning, warn_of_file
from ..tools import ToolCall
from ..types import Usage, utc

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
    seconds REAL NOT NULL DEFAULT 0,
    more TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS claims (
    address TEXT PRIMARY KEY NOT NULL,
    claimed_by TEXT NOT NULL,
    claimed_until REAL NOT NULL
) WITHOUT ROWID;
"""
# Columns added to files of earlier versions when a reply is kept. Those versions ignore them.
# `more` is JSON with the calls of tools and the choices of a reply that has them.
_ADDED = {
    "request": "TEXT NOT NULL DEFAULT ''",
    "seconds": "REAL NOT NULL DEFAULT 0",
    "more": "TEXT NOT NULL DEFAULT ''",
}
# Addresses are passed as one JSON array, because statements have few parameters. Files may contain
# empty texts that earlier versions kept as replies.
_LOOK_UP = """
SELECT address, text, provider, replies.key, model, input_tokens, output_tokens, finish_reason,
    cost_usd, created_at, {added}
FROM json_each(?) AS asked CROSS JOIN replies ON address = asked.value
WHERE text != '' OR {more} != ''
"""
_COLUMN = """
SELECT address, {column} FROM json_each(?) AS asked CROSS JOIN {table} ON address = asked.value
"""
_KEPT = """
SELECT address FROM json_each(?1) AS asked
CROSS JOIN replies ON address = asked.value AND (text != '' OR more != '')
"""
_CLAIMED = """
SELECT address FROM json_each(?1) AS asked CROSS JOIN claims ON address = asked.value
WHERE claimed_by != ?2 AND claimed_until > ?3
"""
# Created when the first request fails for good; files of earlier versions lack these tables. Texts
# have their own table, because earlier versions write into `failures`.
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
    parsed, created_at, request, seconds, more
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True)
class Failure:
    """Why a request failed in a way that would happen again.

    Attributes:
        error: the error message.
        raw: the text of a reply that does not fit its schema, or None.
    """

    error: str
    raw: str | None = None


Store = TypeVar("Store", bound="ReplyStore")


class ReplyStore:
    """Replies by address, shared by all threads and kernels that open the same file.

    Several workers on one job `claim` what they are about to ask, so that nothing is asked twice.
    A claim ends with `finish` or `release`. If its worker is killed, the claim expires.

    It uses SQLite's rollback journal, not the write-ahead log. The file is then complete after each
    change, so it can be copied or committed while kernels run, and read from a network share or a
    read-only disk. Each operation opens its own connection (less than 0.1 ms), so threads and
    forked processes never share one. If the disk refuses, there is one warning, lookups find
    nothing and nothing is kept.

    Args:
        path: the file. It and its folder are created when the first reply is kept.

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
        """Return the kept replies at these addresses, each with the time when it was kept."""
        asked = json.dumps(list(addresses))
        with self._complaining(), self._reading() as connection:
            if connection is not None:
                missing = _missing(connection)
                columns = {name: "''" if name in missing else name for name in _ADDED}
                added = ", ".join(columns.values())
                rows = connection.execute(_LOOK_UP.format(added=added, **columns), [asked])
                return {address: _reply(*row) for address, *row in rows}
        return {}

    def failures(self, addresses: Iterable[str]) -> dict[str, Failure]:
        """Return the failures recorded at these addresses."""
        with self._complaining(), self._reading() as connection:
            names = tables(connection) if connection is not None else set()
            if connection is None or "failures" not in names:
                return {}
            errors = _at(addresses, "failures", "error", connection)
            texts = _at(errors, "misfits", "text", connection) if "misfits" in names else {}
            return {at: Failure(error, texts.get(at)) for at, error in errors.items()}
        return {}

    def claim(
        self, addresses: Iterable[str], owner: str, now: float, until: float, *, again: bool = False
    ) -> set[str]:
        """Claim addresses for `owner`, and return those that it may ask.

        Addresses with a kept reply, and those claimed by another owner, are not returned. Claiming
        an address again extends the claim.

        Args:
            addresses: the requests to ask.
            owner: a name that no other worker has.
            now: epoch seconds.
            until: epoch seconds after which others may claim the addresses.
            again: whether addresses with a kept reply can be claimed too, to ask once more.
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
        # Without the file, no other worker can share the job.
        return wanted

    def finish(self, replies: Mapping[str, Reply], now: float) -> None:
        """Keep replies at their addresses, replacing older ones, and end the claims on them."""
        with self._complaining(), self._change() as connection:
            rows = [_row(address, reply, now) for address, reply in replies.items()]
            connection.executemany(_KEEP, rows)
            connection.executemany(
                "DELETE FROM claims WHERE address = ?", [(address,) for address in replies]
            )

    def fail(self, failures: Mapping[str, Failure], now: float) -> None:
        """Record failures that would happen again, and end the claims on them."""
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
        """Delete the replies at these addresses."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "DELETE FROM replies WHERE address = ?", [(address,) for address in addresses]
            )

    def owners(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return the owners of the claims on these addresses."""
        with self._complaining(), closing(self._connect()) as connection:
            return _at(addresses, "claims", "claimed_by", connection)
        return {}

    def release(self, addresses: Iterable[str], owner: str) -> None:
        """End claims of `owner`, so that others may ask."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "DELETE FROM claims WHERE address = ? AND claimed_by = ?",
                [(address, owner) for address in addresses],
            )

    def end_claims(self, owner: str) -> bool:
        """End all claims of `owner`; False if the disk refuses."""
        with self._complaining(), self._change() as connection:
            connection.execute("DELETE FROM claims WHERE claimed_by = ?", [owner])
            return True
        return False

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """Ignore what the disk refuses, with a warning."""
        try:
            yield
        except (OSError, sqlite3.Error, OverflowError, TypeError, ValueError) as error:
            # The last three: a lone surrogate, or a number that SQLite cannot store.
            self.complain(error)

    def _connect(self) -> sqlite3.Connection:
        check_sqlite(self.path)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection for reading; None if nothing is kept yet."""
        if not self.path.exists():
            yield None
            return
        with closing(self._connect()) as connection:
            yield connection if self._version(connection) else None

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which is rolled back if it does not complete."""
        check_sqlite(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Threads wait here, because SQLite polls its lock only at intervals.
        with self._lock, closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._version(connection):
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
            for name in _missing(connection):
                connection.execute(f"ALTER TABLE replies ADD COLUMN {name} {_ADDED[name]}")
            yield connection
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file's layout; 0 for an empty file."""
        # Tables first: another kernel may create everything between these two statements.
        names = tables(connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FILE_VERSION):
            raise sqlite3.DatabaseError(f"its layout is version {version}, not {FILE_VERSION}")
        # The version alone is not enough, because other programs use version numbers too.
        if names and not (version and {"replies", "claims"} <= names):
            raise NotOurs(self.path, "is a database of another program; set ARCHE_REPLIES")
        return int(version)

    def complain(self, error: Exception) -> None:
        """Record why the file could not be used, and warn the first time."""
        self.problem = str(getattr(error, "strerror", None) or error)
        message = (
            f"replies cannot be kept in {self.path} ({self.problem}); calls continue without "
            "keeping replies"
        )
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


def tables(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the file's tables and indexes."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def _at(
    addresses: Iterable[str], table: str, column: str, connection: sqlite3.Connection
) -> dict[str, str]:
    """Return a column of the rows at these addresses, by address."""
    query = _COLUMN.format(table=table, column=column)
    return dict(connection.execute(query, [json.dumps(list(addresses))]))


def _missing(connection: sqlite3.Connection) -> list[str]:
    """Return the added columns that a file of an earlier version does not have."""
    found = connection.execute("SELECT name FROM pragma_table_info('replies')").fetchall()
    return [name for name in _ADDED if (name,) not in found]


def _row(address: str, reply: Reply, now: float) -> tuple[object, ...]:
    return (
        address, str(reply), reply.provider, reply.key, reply.model, reply.usage.input_tokens,
        reply.usage.output_tokens, reply.finish_reason, reply.cost, reply.parsed is not None, now,
        reply.request, reply.seconds, _more(reply),
    )  # fmt: skip


def _more(reply: Reply) -> str:
    """Return the calls of tools and the choices of a reply as JSON; "" if it has none."""
    more = {"tool_calls": list(map(asdict, reply.tool_calls)), "choices": list(reply.choices)}
    return json.dumps(more) if any(more.values()) else ""


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
    more: str,
) -> Reply:
    further = json.loads(more) if more else {"tool_calls": [], "choices": []}
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
        seconds=seconds or 0.0,
        tool_calls=tuple(ToolCall(**call) for call in further["tool_calls"]),
        choices=tuple(further["choices"]),
    )


_opened: dict[tuple[type, Path], Any] = {}
_opening = new_lock()


def one_per_process(kind: type[Store], path: Path) -> Store:
    """Return the store of that kind for a file, the same one for all threads of this process."""
    path = absolute(path)
    with _opening:
        store: Store = _opened.setdefault((kind, path), kind(path))
        return store


def reply_store(path: Path) -> ReplyStore:
    """Return the store for a file, one per process."""
    return one_per_process(ReplyStore, path)
