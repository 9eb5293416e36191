"""Listing keys, adding and removing keys of the session, and checking keys with their provider."""

from __future__ import annotations

import getpass
import warnings
from datetime import datetime
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import (
    add_key,
    find_key,
    forget_secrets,
    get_configuration,
    remove_key,
)
from arche_magic.llm_providers.doctor import KeyCheck, check_keys
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.secrets import Hidden, without_locals
from arche_magic.llm_providers.types import in_seconds

from . import sandbox_switch
from .frames import KeyRow, checks_frame, keys_frame
from .interrupts import CellInterrupted
from .meters import shared_notes
from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers.config import Configuration


def list_keys() -> tuple[dict[str, str], pd.DataFrame]:
    """Every key, its source and whether it is open; as a table and as a frame."""
    forget_secrets()
    configuration = get_configuration()
    rows = _rows(configuration)
    now = configuration.clock.time()
    # The column would only puzzle a user who marked nothing as private.
    marked = ("private",) if configuration.private.routes else ()
    heads = ("key", "fingerprint", "account", "from", "state", *marked)
    cells = [
        (
            Cell(row.key.label),
            Cell(row.key.fingerprint),
            Cell(row.account or "not known yet"),
            Cell(row.key.source),
            Cell(_state(row, now)),
            *(Cell(", ".join(row.private)) for _ in marked),
        )
        for row in rows
    ]
    notes = shared_notes(get_quota_tracker(configuration).shared_keys())
    return table_bundle(heads, cells, notes), keys_frame(rows)


def add(provider: str) -> str:
    """Ask for a key at a prompt that hides it, and use it; returns what to print.

    Raises:
        ConfigurationError: there is no such provider.
        InvalidRequest: no prompt can be shown, or what was typed is not a new key.
    """
    configuration = get_configuration()
    entry = configuration.provider(provider)
    if sandbox_switch.is_running():
        raise InvalidRequest("%llm_keys: the sandbox has its own keys; %llm_sandbox stop ends it")
    key = add_key(configuration, provider, _ask(entry.title, entry.key_variables[0]))
    if key.label not in {known.label for known in get_configuration().keys}:
        remove_key(configuration, key.label)
        raise InvalidRequest("%llm_keys: the configuration in use was given by use_configuration()")
    return (
        f"{key.label} is used until this session ends (fingerprint {key.fingerprint}).\n"
        f"%llm_keys check {key.label} asks {entry.title} whether it works."
    )


def remove(label: str) -> str:
    """Stop using a key of this session; returns what to print.

    Raises:
        ConfigurationError: there is no such key, or it was not added in this session.
    """
    return f"{remove_key(get_configuration(), label).label} is no longer used."


def check(label: str | None = None) -> tuple[dict[str, str], pd.DataFrame]:
    """Ask the provider of a key, or of every key, whether it works; as a table and as a frame.

    Raises:
        ConfigurationError: there is no such key.
    """
    configuration = get_configuration()
    keys = [find_key(configuration, label)] if label else list(configuration.keys)
    checks = check_keys(keys, get_quota_tracker(configuration))
    cells = [
        (Cell(one.key.label), Cell(one.key.fingerprint), Cell(_outcome(one))) for one in checks
    ]
    return table_bundle(("key", "fingerprint", "outcome"), cells), checks_frame(checks)


@without_locals
def _ask(title: str, variable: str) -> str:
    nowhere = InvalidRequest(
        f"%llm_keys: a key cannot be typed here; put {variable} into the environment or a .env file"
    )
    with warnings.catch_warnings():
        # If the prompt cannot hide the typed text, no key must be typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return Hidden(getpass.getpass(f"{title} key (not shown): "))
        except KeyboardInterrupt:
            raise CellInterrupted("no key was added") from None
        # A kernel without a frontend raises NotImplementedError.
        except (NotImplementedError, EOFError, OSError, getpass.GetPassWarning):
            raise nowhere from None


def _rows(configuration: Configuration) -> list[KeyRow]:
    tracker = get_quota_tracker(configuration)
    rows = []
    for key in configuration.keys:
        routes = [configuration.route(key, m) for m in configuration.providers[key.provider].models]
        private = tuple(route.model for route in routes if configuration.is_private(route))
        rows.append(KeyRow(key, tracker.account(key), tracker.closure(key), private))
    return rows


def _state(row: KeyRow, now: float) -> str:
    closed = row.closure
    if closed is None:
        return "open"
    since = datetime.fromtimestamp(closed.since).astimezone()
    words = f"{since:%d %b %H:%M}" if now - closed.since > 86_400 / 2 else f"{since:%H:%M}"
    if closed.until is None:
        return f"refused since {words}, {closed.reason.removeprefix('key refused ')}"
    return f"closed since {words}: {closed.reason}; tried again {in_seconds(closed.until - now)}"


def _outcome(check: KeyCheck) -> str:
    if check.works:
        return f"works, {len(check.models)} models"
    return check.reason if check.works is False else f"not known: {check.reason}"
