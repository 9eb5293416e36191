"""Kept replies and vectors, in one SQLite file, by address.

A row contains the address instead of the prompt (see `replay.address`), and the key's label
instead of the key. A vector says much about its text, so the file needs the same care as the texts.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..files import NotOurs, absolute, check_sqlite
from ..processes import new_lock
from ..reply import Reply
from ..storage import warn, warn_of_file
from ..tools import ToolCall
from ..types import Usage, little_endian, utc

K = TypeVar("K")
V = TypeVar("V")

FILE_VERSION = 1
_BUSY_SECONDS = 10.0
# `more` is JSON with the calls of tools and the choices of a reply that has them. Misfits are the
# texts of replies that do not fit a schema.
_TABLES = {
    "replies": """
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
        request TEXT NOT NULL,
        seconds REAL NOT NULL,
        more TEXT NOT NULL
    """,
    "claims": """
        address TEXT PRIMARY KEY NOT NULL, claimed_by TEXT NOT NULL, claimed_until REAL NOT NULL
    """,
    "failures": "address TEXT PRIMARY KEY NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL",
    "misfits": "address TEXT PRIMARY KEY NOT NULL, text TEXT NOT NULL",
    "vectors": "address BLOB PRIMARY KEY NOT NULL, vector BLOB NOT NULL, kept_at REAL NOT NULL",
}
# Addresses are passed as one JSON array, because statements have few parameters.
_LOOK_UP = """
SELECT {columns} FROM json_each(?) AS asked CROSS JOIN {table} ON address = asked.value
"""
_DELETE = "DELETE FROM {table} WHERE address = ?"
_KEEP = "INSERT OR REPLACE INTO replies ({columns}) VALUES ({values})"


@dataclass(frozen=True)
class KeptFailure:
    """Why a request would fail again; `raw` is the text of a reply that does not fit its schema."""

    error: str
    raw: str | None = None


class ReplyStore:
    """Replies by address, shared by all threads and kernels that open the same file.

    Several workers on one job `claim` what they are about to ask, so that nothing is asked twice.
    A claim ends with `finish` or `release`. If its worker is killed, the claim expires.

    It uses SQLite's rollback journal, not the write-ahead log, so the file can be copied or
    committed while kernels run, and read from a network share or a read-only disk. Each operation
    opens its own connection (less than 0.1 ms), so threads and forked processes never share one.
    If the disk refuses, there is one warning, lookups find nothing and nothing is kept.

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
        return self._read(lambda connection: _replies(addresses, connection))

    def failures(self, addresses: Iterable[str]) -> dict[str, KeptFailure]:
        """Return the failures recorded at these addresses."""

        def read(connection: sqlite3.Connection) -> dict[str, KeptFailure]:
            errors = dict(_rows(addresses, "failures", "address, error", connection))
            texts = dict(_rows(errors, "misfits", "address, text", connection))
            return {at: KeptFailure(error, texts.get(at)) for at, error in errors.items()}

        return self._read(read)

    def vectors(self, addresses: Iterable[bytes]) -> dict[bytes, array[float]]:
        """Return the kept vectors at these addresses."""

        def read(connection: sqlite3.Connection) -> dict[bytes, array[float]]:
            found = {}
            # One transaction: otherwise each look-up locks the file anew.
            connection.execute("BEGIN")
            for address in addresses:
                query = "SELECT vector FROM vectors WHERE address = ?"
                if row := connection.execute(query, [address]).fetchone():
                    found[address] = little_endian(array("f", row["vector"]))
            return found

        return self._read(read)

    def claim(
        self, addresses: Iterable[str], owner: str, now: float, until: float, *, again: bool = False
    ) -> set[str]:
        """Claim addresses for `owner`, and return those that it may ask.

        Addresses that another owner has claimed are not returned. Addresses with a kept reply are
        returned only if `again` is set. Claiming an address again extends the claim. `now` and
        `until`, when the claim expires, are in epoch seconds.
        """
        wanted = set(addresses)
        with self._complaining(), self._change() as connection:
            taken = {
                row["address"]
                for row in _rows(wanted, "claims", "claims.*", connection)
                if row["claimed_by"] != owner and row["claimed_until"] > now
            }
            if not again:
                taken |= _replies(wanted, connection).keys()
            free = wanted - taken
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
            for address, reply in replies.items():
                row = _row(address, reply, now)
                query = _KEEP.format(columns=", ".join(row), values=", ".join("?" * len(row)))
                connection.execute(query, [*row.values()])
            _delete(replies, "claims", connection)

    def keep_vectors(self, vectors: Mapping[bytes, array[float]], now: float) -> None:
        """Keep vectors at their addresses, replacing older ones."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [(at, little_endian(vector).tobytes(), now) for at, vector in vectors.items()],
            )

    def fail(self, failures: Mapping[str, KeptFailure], now: float) -> None:
        """Record failures that would happen again, and end the claims on them."""
        with self._complaining(), self._change() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
                [(address, failure.error, now) for address, failure in failures.items()],
            )
            _delete(failures, "misfits", connection)
            connection.executemany(
                "INSERT INTO misfits VALUES (?, ?)",
                [(at, failure.raw) for at, failure in failures.items() if failure.raw],
            )
            _delete(failures, "claims", connection)

    def forget(self, addresses: Iterable[str]) -> None:
        """Delete the replies at these addresses."""
        with self._complaining(), self._change() as connection:
            _delete(addresses, "replies", connection)

    def owners(self, addresses: Iterable[str]) -> dict[str, str]:
        """Return the owners of the claims on these addresses."""
        return self._read(
            lambda connection: dict(_rows(addresses, "claims", "address, claimed_by", connection))
        )

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
            # The last three are raised for lone surrogates and numbers that SQLite cannot store.
            self.complain(error)
        except (AttributeError, LookupError):
            self.complain(sqlite3.DatabaseError("it has other columns or values than this version"))

    def _connect(self) -> sqlite3.Connection:
        check_sqlite(self.path)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _read(self, read: Callable[[sqlite3.Connection], dict[K, V]]) -> dict[K, V]:
        """Return what `read` finds; {} if nothing is kept yet, or the disk refuses."""
        with self._complaining():
            if self.path.exists():
                with closing(self._connect()) as connection:
                    return read(connection) if self._version(connection) else {}
        return {}

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction, which is rolled back if it does not complete."""
        check_sqlite(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Threads wait here, because SQLite polls its lock only at intervals.
        with self._lock, closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._version(connection):
                for name, columns in _TABLES.items():
                    connection.execute(f"CREATE TABLE {name} ({columns})")
                connection.execute(f"PRAGMA user_version = {FILE_VERSION}")
            yield connection
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file's layout; 0 for an empty file."""
        # Tables first: another kernel may create everything between these two statements.
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FILE_VERSION):
            raise sqlite3.DatabaseError(f"its layout is version {version}, not {FILE_VERSION}")
        # The version alone is not enough, because other programs use version numbers too.
        if names and not (version and _TABLES.keys() <= names):
            if {"replies", "claims"} <= names:
                raise NotOurs(self.path, "has an older layout; move it away to start a new one")
            raise NotOurs(self.path, "is a database of another program; set ARCHE_REPLIES")
        return int(version)

    def complain(self, error: Exception) -> None:
        """Record why the file could not be used, and warn the first time."""
        name = getattr(error, "sqlite_errorname", "")
        self.problem = str(getattr(error, "strerror", None) or error)
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            self.problem += "; move it away to start a new one"
        if self._complained:
            return
        self._complained = True
        message = (
            f"replies cannot be kept in {self.path} ({self.problem}); calls continue without "
            "keeping replies"
        )
        refused = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
        if isinstance(error, OSError) or name.startswith(refused):
            error = error if isinstance(error, OSError) else OSError(self.problem)
            warn_of_file(self.path, error, message)
        else:
            warn(message)


def _rows(
    addresses: Iterable[str], table: str, columns: str, connection: sqlite3.Connection
) -> Iterable[Any]:
    """Return the rows at these addresses."""
    query = _LOOK_UP.format(table=table, columns=columns)
    return connection.execute(query, [json.dumps(list(addresses))])


def _delete(addresses: Iterable[str], table: str, connection: sqlite3.Connection) -> None:
    connection.executemany(_DELETE.format(table=table), [(address,) for address in addresses])


def _replies(addresses: Iterable[str], connection: sqlite3.Connection) -> dict[str, Reply]:
    """Return the replies at these addresses."""
    found = {}
    for row in _rows(addresses, "replies", "replies.*", connection):
        # The file may come from somebody else: a row that cannot be read counts as missing.
        with suppress(AttributeError, OverflowError, RecursionError, TypeError, ValueError):
            found[row["address"]] = _reply(row)
    return found


def _row(address: str, reply: Reply, now: float) -> dict[str, object]:
    """Return the values of a reply by their columns."""
    more = {"tool_calls": list(map(asdict, reply.tool_calls)), "choices": list(reply.choices)}
    return {
        "address": address,
        "text": str(reply),
        "provider": reply.provider,
        "key": reply.key,
        "model": reply.model,
        "input_tokens": reply.usage.input_tokens,
        "output_tokens": reply.usage.output_tokens,
        "finish_reason": reply.finish_reason,
        "cost_usd": reply.cost,
        "parsed": reply.parsed is not None,
        "created_at": now,
        "request": reply.request,
        "seconds": reply.seconds,
        "more": json.dumps(more) if any(more.values()) else "",
    }


def _reply(row: sqlite3.Row) -> Reply:
    """Return the reply in a row."""
    more = json.loads(row["more"] or "{}")
    return Reply(
        row["text"],
        provider=row["provider"],
        key=row["key"],
        model=row["model"],
        usage=Usage(int(row["input_tokens"]), int(row["output_tokens"])),
        finish_reason=row["finish_reason"],
        cost=None if row["cost_usd"] is None else float(row["cost_usd"]),
        from_memory=utc(row["created_at"]),
        request=row["request"],
        seconds=float(row["seconds"]),
        tool_calls=tuple(ToolCall(**call) for call in more.get("tool_calls", ())),
        choices=tuple(more.get("choices", ())),
    )


_opened: dict[Path, ReplyStore] = {}


def reply_store(path: Path) -> ReplyStore:
    """Return the store for a file, the same one for all threads of this process."""
    path = absolute(path)
    return _opened.setdefault(path, ReplyStore(path))
