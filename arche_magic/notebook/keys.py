"""Lists, adds, removes and checks keys, and keeps them out of messages.

Users without a key see the first steps.
"""

from __future__ import annotations

import getpass
import math
import warnings
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from arche_magic.llm_providers.config import (
    add_key,
    find_key,
    forget_secrets,
    get_configuration,
    remove_key,
)
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest, NoKeys
from arche_magic.llm_providers.quota_tracker import Closure, get_quota_tracker
from arche_magic.llm_providers.secrets import Hidden, without_key_like, without_locals
from arche_magic.llm_providers.text.wording import did_you_mean, plural
from arche_magic.llm_providers.types import Key, in_seconds

from . import sandbox_switch
from .command import CellInterrupted
from .quota import shared_notes
from .styles import table_bundle
from .words import clock_time, state_at

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers.doctor import KeyCheck

FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  For this session only, typed at a hidden prompt:  %llm_keys add groq
  To try it now without a key, run:  %llm_sandbox"""
_SWITCHED_OFF = "switched off in this session"
# The error for a line that may contain a key, so it does not repeat the line.
HOW_TO_ADD = (
    "usage: %llm_keys add PROVIDER, which then asks for the key. If this line contains "
    "a key, delete the line: it is in the history and will be in the saved notebook"
)


# A key; the account whose quota it spends, if known; why it is closed, if it is; and the default
# models that private prompts may use with it.
KeyRow = tuple[Key, str | None, Closure | None, tuple[str, ...]]


def require_keys(replay: bool = False) -> None:
    """Raise NoKeys if no key is configured and no kept reply may answer either."""
    configuration = get_configuration()
    if not configuration.keys and not replay and configuration.replay == "off":
        raise NoKeys(FIRST_STEPS)


@without_locals
def without_keys(text: str) -> str:
    """The text without the keys of this session, and without words that look like keys."""
    configuration = None
    with suppress(ConfigurationError):
        configuration = get_configuration()
    # Its keys are left out as long as it exists, and it may have been read only here.
    text = without_key_like(text)
    del configuration
    return text


def list_keys() -> tuple[dict[str, str], pd.DataFrame]:
    """Every key, its source and whether it is open; as a table and as a frame."""
    forget_secrets()
    configuration = get_configuration()
    tracker = get_quota_tracker(configuration)
    rows: list[KeyRow] = []
    for key in configuration.keys:
        routes = [configuration.route(key, m) for m in configuration.providers[key.provider].models]
        private = tuple(route.model for route in routes if configuration.is_private(route))
        rows.append((key, tracker.account(key), tracker.closure(key), private))
    now = configuration.clock.time()
    # The column would only confuse a user who has marked nothing as private.
    marked = ("private",) if configuration.private_routes else ()
    heads = ("key", "fingerprint", "account", "from", "state", *marked)
    cells = [
        (
            key.label,
            key.fingerprint,
            account or "not known yet",
            key.source,
            _SWITCHED_OFF if key.label in configuration.off else _state(closure, now),
            *(", ".join(private) for _ in marked),
        )
        for key, account, closure, private in rows
    ]
    return table_bundle(heads, cells, shared_notes(tracker.shared_keys())), keys_frame(
        rows, configuration.off
    )


def add(provider: str) -> str:
    """Ask for a key at a prompt that hides it, and use it; returns what to print."""
    configuration = get_configuration()
    if provider not in configuration.providers and not did_you_mean(
        provider, configuration.providers
    ):
        raise InvalidRequest(HOW_TO_ADD)
    entry = configuration.provider(provider)
    if sandbox_switch.is_running():
        raise InvalidRequest("%llm_keys: the sandbox has its own keys; %llm_sandbox stop ends it")
    key = add_key(configuration, provider, _ask(entry.title, entry.key_variables[0]))
    if key.label not in {known.label for known in get_configuration().keys}:
        remove_key(configuration, key.label)
        raise InvalidRequest(
            "%llm_keys: the configuration was set with use_configuration(); add the key there, or "
            "call use_configuration(None) to use files and variables again"
        )
    return (
        f"{key.label} is used until this session ends (fingerprint {key.fingerprint}).\n"
        f"%llm_keys check {key.label} asks {entry.title} whether it works."
    )


def check(label: str | None = None) -> tuple[dict[str, str], pd.DataFrame]:
    """Ask the provider of a key, or of every key, whether it works; as a table and as a frame."""
    from arche_magic.llm_providers.doctor import check_keys

    configuration = get_configuration()
    keys = [find_key(configuration, label)] if label else list(configuration.keys)
    checks = check_keys(keys, get_quota_tracker(configuration))
    cells = [
        (one.key.label, one.key.fingerprint, _outcome(one, configuration.off)) for one in checks
    ]
    return table_bundle(("key", "fingerprint", "outcome"), cells), checks_frame(checks)


@without_locals
def _ask(title: str, variable: str) -> str:
    with warnings.catch_warnings():
        # If the prompt cannot hide the typed text, do not ask for a key.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return Hidden(getpass.getpass(f"{title} key (not shown): "))
        except KeyboardInterrupt:
            raise CellInterrupted("no key was added") from None
        # A kernel without a frontend raises NotImplementedError.
        except (NotImplementedError, EOFError, OSError, getpass.GetPassWarning):
            raise InvalidRequest(
                f"%llm_keys: a key cannot be typed here; put {variable} into the environment or a "
                ".env file"
            ) from None


def _state(closed: Closure | None, now: float) -> str:
    """`open`, or `closed since 14:32: key refused (401 …)`."""
    if closed is None:
        return "open"
    opens_at = math.inf if closed.until is None else closed.until
    again = f"; tried again {in_seconds(opens_at - now)}" if closed.until is not None else ""
    since = clock_time(closed.since, now)
    return f"{state_at(opens_at, now)} since {since}: {closed.reason}{again}"


def _outcome(check: KeyCheck, off: Collection[str]) -> str:
    if check.works:
        models = f"works, {plural(len(check.models), 'model')}"
        return f"{models}; {_SWITCHED_OFF}" if check.key.label in off else models
    return check.reason if check.works is False else f"could not be checked: {check.reason}"


def keys_frame(rows: Iterable[KeyRow], off: Collection[str] = ()) -> pd.DataFrame:
    """One row per key; `since` and `reason` say since when and why it is not open.

    `off` has the labels of keys that are switched off.
    """
    from .frames import TIME, time_of, typed_frame

    records = [
        (key.provider, key.label, key.fingerprint, account, key.source,
         closure is None and key.label not in off,
         time_of(closure.since) if closure else None,
         _SWITCHED_OFF if key.label in off else closure and closure.reason, private)
        for key, account, closure, private in rows
    ]  # fmt: skip
    types = dict.fromkeys(("provider", "key", "fingerprint", "account", "source"), "str")
    types |= {"open": "bool", "since": TIME, "reason": "str", "private": "object"}
    return typed_frame(types, records)


def checks_frame(checks: Iterable[KeyCheck]) -> pd.DataFrame:
    """One row per key that was checked; `works` is missing if the check was not conclusive."""
    from .frames import typed_frame

    records = [
        (one.key.provider, one.key.label, one.works, one.models, one.reason or None)
        for one in checks
    ]
    types = {"provider": "str", "key": "str", "works": "boolean", "models": "object"}
    return typed_frame({**types, "reason": "str"}, records)
