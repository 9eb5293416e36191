"""Converts the ledger's state to documents and back, and removes invalid values.

A document is read from a file or from Redis, where an editor, a merge of two branches or a bug may
have put anything. Storages call `mend` on every document they load, so that the rules never meet a
value of another type, or one that no clock and no provider can mean. What a newer version wrote is
not read.

Documents of accounts from versions 1 and 2 are converted. Version 1 has the format of this version,
without a version number in the document. Version 2 omitted values that were as published, and used
short names:

    at          when something was last charged: `last_charged`, and the counters' moment too
    answered    false if nothing that was charged was answered
    charged     [requests, input tokens, output tokens]
    estimates   [input ratio, output tokens]: `calibration`
    limits      limit name -> those of these fields that are not as published:
        used        units at `at`, or slots, by their number
        amount, window, time_zone
        header | error | configured     since when that is known, epoch seconds
        recent      slot -> units charged
        proven, inferred
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..bounded import library, uninterrupted
from ..catalog import Provider, published_providers
from ..storage import FILE_VERSION, Document
from ..types import Limit
from .state import AccountState, BudgetState, DirectoryState, JobsState, OlderCounts, ProviderState

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Path = tuple[Any, ...]
S = TypeVar("S")

BUDGET = "budget of all providers"
JOBS = "bounds of jobs"
OLDER_COUNTS = "older counts"
_DIRECTORY = "accounts of "
_GONE = object()
_adapters: dict[Any, TypeAdapter[Any]] = {}
# Each round removes the parts that lost a required field in the round before.
_MOST_ROUNDS = 10
_LEARNED = ("header", "error", "configured")
_KEPT = ("amount", "window", "time_zone", "recent", "proven", "inferred")


def directory_name(provider: str) -> str:
    """The storage's name for the document that says which account each key spends."""
    return f"{_DIRECTORY}{provider}"


def read(kind: type[S], document: Document) -> S:
    """The state of that kind, from a mended document of this version or an older one."""
    return _read(kind, _of_this_version(document) if kind is AccountState else document)[0]


def write(state: Any) -> Document:
    """The document of a state; fields that are as in a new one are left out.

    Counts are rounded in the state too, so that this process goes on from what others read.
    """
    if isinstance(state, AccountState):
        for model in state.models.values():
            for limit in model.limits.values():
                counter = limit.counter
                counter.used = _rounded_up(counter.used)
                if counter.slots:
                    slots = counter.slots.items()
                    counter.slots = {slot: _rounded_up(units) for slot, units in slots}
    document: Document = _adapter(type(state)).dump_python(
        state, mode="json", exclude_defaults=True
    )
    is_account = isinstance(state, AccountState) and document
    return {"version": FILE_VERSION, **document} if is_account else document


def _rounded_up(units: float) -> float:
    # Values that were rounded before do not change. (`round(units, 6)` is slower.)
    millionths = units * 1e6
    return units if round(millionths) / 1e6 == units else math.ceil(millionths) / 1e6


def put(document: Document, state: Any) -> None:
    """Replace the content of a document by a state."""
    content = write(state)
    # If a document does not change, the storage keeps its own object.
    if content != document:
        document.clear()
        document.update(content)


def mend(name: str, document: Any) -> tuple[Document, list[str]]:
    """The document without its wrong values, and their paths; itself if nothing is wrong."""
    if not isinstance(document, dict):
        return {}, [name]
    kind = kind_of(name)
    state, wrong = _read(kind, _of_this_version(document) if kind is AccountState else document)
    if isinstance(state, AccountState) and state.moved:
        if state.moved.to == name:
            state.moved = None
            wrong.append(("moved", "to"))
        else:
            content, found = _read(AccountState, _of_this_version(state.moved.content))
            state.moved.content = write(content)
            wrong += [("moved", "content", *path) for path in found]
    if not wrong:
        return document, []
    return write(state), [".".join((name, *map(str, path))) for path in wrong]


def kind_of(name: str) -> Any:
    """The kind of state that the document of a name holds."""
    kinds: dict[str, type[Any]] = {BUDGET: BudgetState, JOBS: JobsState, OLDER_COUNTS: OlderCounts}
    if name in kinds:
        return kinds[name]
    if name.startswith(_DIRECTORY):
        return DirectoryState
    return AccountState if ":" in name else ProviderState


def _of_this_version(document: Document) -> Document:
    if not document or document.get("version") == FILE_VERSION:
        return document
    upgraded = {**document, "version": FILE_VERSION}
    models = document.get("models")
    if isinstance(models, dict):
        provider = published_providers().get(str(document.get("provider")))
        upgraded["models"] = {name: _model(x, name, provider) for name, x in models.items()}
    return upgraded


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        # Loaded when a ledger is first read, and not when this package is imported.
        adapters = library("pydantic.type_adapter")
        # This imports more of pydantic.
        _adapters[kind] = uninterrupted(partial(adapters.TypeAdapter, kind))
    return _adapters[kind]


def _read(kind: type[S], document: Document) -> tuple[S, list[Path]]:
    """The state, and the paths of invalid values, which are omitted."""
    wrong: list[Path] = []
    adapter = _adapter(kind)
    for number in range(_MOST_ROUNDS):
        try:
            return adapter.validate_python(document), wrong
        except library("pydantic").ValidationError as error:
            document = document if number else deepcopy(document)
            for problem in error.errors(include_url=False, include_input=False):
                path = problem["loc"]
                # A part that lacks a required field is removed as a whole, and so is an entry with
                # a wrong key.
                if problem["type"] == "missing" or path[-1:] == ("[key]",):
                    path = path[:-1]
                is_known = any(known[: len(path)] == path for known in wrong)
                if _take_out(document, path) and not is_known:
                    wrong.append(path)
    return kind(), [*wrong, ()]


def _take_out(document: Document, path: Path) -> bool:
    """Remove the value at a path; False if it was already removed."""
    if not path:
        gone = bool(document)
        document.clear()
        return gone
    for name in path[:-1]:
        inner = document.get(name)
        if not isinstance(inner, dict):
            return _take_out_half_characters(document)
        document = inner
    return document.pop(path[-1], _GONE) is not _GONE or _take_out_half_characters(document)


def _take_out_half_characters(document: Document) -> bool:
    """Remove keys with lone surrogates, which no path of an error can name."""
    wrong = [key for key in document if key.encode(errors="ignore").decode() != key]
    for key in wrong:
        del document[key]
    return bool(wrong)


# --- documents of older versions


def _model(entry: Any, name: str, provider: Provider | None) -> Any:
    if not isinstance(entry, dict):
        return entry
    full = dict(entry)
    at = full.pop("at", None)
    if at is not None:
        full["last_charged"] = at
    full.setdefault("answered", "last_charged" in full)
    charged, estimates = full.get("charged"), full.pop("estimates", None)
    if isinstance(charged, list) and len(charged) == 3:
        requests, input_tokens, output_tokens = charged
        full["charged"] = {
            "requests": requests,
            "tokens": _sum(input_tokens, output_tokens),
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
        }
    if isinstance(estimates, list) and len(estimates) == 2:
        full["calibration"] = dict(zip(("input_ratio", "output_tokens"), estimates, strict=True))
    published = {x.name: x for x in provider.limits.get(name, ())} if provider else {}
    if isinstance(full.get("limits"), dict):
        full["limits"] = {
            limit: _limit(stored, published.get(limit), provider, at)
            for limit, stored in full["limits"].items()
        }
    return full


def _sum(one: Any, other: Any) -> float | None:
    try:
        return float(one) + float(other)
    except (OverflowError, TypeError, ValueError):
        return None


def _limit(stored: Any, published: Limit | None, provider: Provider | None, at: Any) -> Any:
    if not isinstance(stored, dict) or "counter" in stored:
        return stored
    rule = published or provider
    full = {
        "amount": published.amount if published else None,
        "window": rule.window if rule else None,
        "time_zone": rule.time_zone if rule else "UTC",
        "evidence": "published",
        "evidence_at": 0.0,
        "counter": {},
        **{what: stored[what] for what in _KEPT if what in stored},
    }
    for evidence in _LEARNED:
        if evidence in stored:
            full |= {"evidence": evidence, "evidence_at": stored[evidence]}
    if "slots" in stored:
        full["counter"] = {"slots": stored["slots"]}
    elif "used" in stored:
        full["counter"] = {"used": stored["used"], "at": stored.get("at", at)}
    return full
