"""What the ledger's documents may hold, as a table, and how a wrong value is taken out of them.

A document is read from a file or from Redis, where an editor, a merge of two branches or a bug may
have put anything. Storages call `mend` on every document they load, so that the rules of `quota`
never meet a value of another type, or one that no clock and no provider can mean. Fields that the
table does not name are left alone: a newer version may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from ..catalog import parse_limits
from ..types import MOST_UNITS, PERIOD_SECONDS
from .budget import DOCUMENT as BUDGET
from .budget import JOBS

Document = dict[str, Any]
# Takes a value and its path, and notes the paths of what is wrong in it. Returns the value without
# that, or `_WRONG` if nothing of it can stay.
Shape = Callable[[Any, str, list[str]], Any]

_WRONG = object()
_METRICS = ("requests", "tokens", "input_tokens", "output_tokens")
_LIMITS = {f"{metric}_per_{period}" for metric in _METRICS for period in PERIOD_SECONDS}
# The year 5138: later moments are no moments, and some later ones no `datetime`.
_LATEST = 1e11
_LONGEST_HOLD_SECONDS = 31 * 86_400.0
# See `failing`: no provider means more than two months.
_LONGEST_CLOSURE_SECONDS = 63 * 86_400.0
_LONGEST_TEXT = 10_000


def mend(name: str, document: Any) -> tuple[Document, list[str]]:
    """A document without what is wrong in it, and the paths of that; none: it is as it was."""
    wrong: list[str] = []
    mended = _shape_of(name)(document, name, wrong)
    return ({} if mended is _WRONG else mended), wrong


def _shape_of(name: str) -> Shape:
    if name == BUDGET:
        return _BUDGET
    if name == JOBS:
        return _JOBS
    if name == "older counts":
        return _OLDER
    if name.startswith("accounts of "):
        return _DIRECTORY
    return _ACCOUNT if ":" in name else _PROVIDER


def _is_number(value: Any, least: float, most: float) -> bool:
    # True is an int, and nan is in no range.
    return type(value) in (int, float) and least <= value <= most


def _is_text(value: Any) -> bool:
    """Whether it is a text that a file, a table or a terminal takes: no half characters."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _leaf(is_right: Callable[[Any], bool]) -> Shape:
    def check(value: Any, path: str, wrong: list[str]) -> Any:
        if is_right(value):
            return value
        wrong.append(path)
        return _WRONG

    return check


def _number(least: float = 0.0, most: float = MOST_UNITS) -> Shape:
    return _leaf(lambda value: _is_number(value, least, most))


def _or_null(shape: Shape) -> Shape:
    def check(value: Any, path: str, wrong: list[str]) -> Any:
        return None if value is None else shape(value, path, wrong)

    return check


def _row(*shapes: Shape) -> Shape:
    """A list of fixed length."""

    def check(value: Any, path: str, wrong: list[str]) -> Any:
        if not isinstance(value, list) or len(value) != len(shapes):
            wrong.append(path)
            return _WRONG
        found = [
            shape(entry, f"{path}[{number}]", wrong)
            for number, (shape, entry) in enumerate(zip(shapes, value, strict=True))
        ]
        return _WRONG if any(entry is _WRONG for entry in found) else value

    return check


def _each(shape: Shape, is_key: Callable[[str], bool] = _is_text) -> Shape:
    """A mapping whose values are alike; wrong ones are taken out."""

    def check(value: Any, path: str, wrong: list[str]) -> Any:
        if not isinstance(value, dict):
            wrong.append(path)
            return _WRONG
        before = len(wrong)
        right = {}
        for key, entry in value.items():
            if not is_key(key):
                wrong.append(f"{path}.{key[:60]}")
                continue
            found = shape(entry, f"{path}.{key}", wrong)
            if found is not _WRONG:
                right[key] = found
        return value if len(wrong) == before else right

    return check


def _fields(shapes: Mapping[str, Shape], together: tuple[str, ...] = ()) -> Shape:
    """A mapping with named fields; wrong ones are taken out.

    Of the fields that belong `together`, all are taken out where one is wrong.
    """

    def check(value: Any, path: str, wrong: list[str]) -> Any:
        if not isinstance(value, dict):
            wrong.append(path)
            return _WRONG
        before = len(wrong)
        right = {}
        spoiled = False
        for name, entry in value.items():
            shape = shapes.get(name)
            found = shape(entry, f"{path}.{name}", wrong) if shape else entry
            if found is not _WRONG:
                right[name] = found
            elif name in together:
                spoiled = True
        if len(wrong) == before:
            return value
        return {n: entry for n, entry in right.items() if not (spoiled and n in together)}

    return check


def _whole(
    required: Mapping[str, Shape],
    optional: Mapping[str, Shape] | None = None,
    is_right: Callable[[Document], bool] = lambda value: True,
) -> Shape:
    """A mapping that means nothing without all of its fields; it stays or goes as a whole."""
    shapes = {**required, **(optional or {})}

    def check(value: Any, path: str, wrong: list[str]) -> Any:
        if not isinstance(value, dict):
            wrong.append(path)
            return _WRONG
        before = len(wrong)
        for name, entry in value.items():
            if name in shapes:
                shapes[name](entry, f"{path}.{name}", wrong)
        if len(wrong) == before and not (required.keys() <= value.keys() and is_right(value)):
            wrong.append(path)
        return value if len(wrong) == before else _WRONG

    return check


@lru_cache(maxsize=64)
def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (OSError, ValueError):
        return False
    return True


def _is_limits_table(value: Any) -> bool:
    try:
        parse_limits(value)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        return False
    return True


_AMOUNT, _TIME = _number(), _number(0.0, _LATEST)
_FLAG = _leaf(lambda value: isinstance(value, bool))
_TEXT = _leaf(_is_text)
_ZONE = _leaf(lambda value: isinstance(value, str) and _is_zone(value))
_WINDOW = _leaf(lambda value: value in ("bucket", "calendar", "rolling"))
_EVIDENCE = _leaf(lambda value: value in ("published", "configured", "header", "error"))
_SLOTS = _each(_AMOUNT, lambda key: key.isascii() and key.isdigit() and len(key) < 16)
_BY_METRIC = _each(_AMOUNT, lambda key: key in _METRICS)

_CLOSED = _whole(
    {"until": _or_null(_TIME), "reason": _TEXT, "since": _TIME, "strikes": _number(0, 1e6)},
    {"tried": _TIME, "remedy": _TEXT, "address": _TEXT},
    lambda c: c["until"] is None or c["until"] <= c["since"] + _LONGEST_CLOSURE_SECONDS,
)
_HOLD = _whole(
    {"at": _TIME, "expires": _TIME, "amounts": _BY_METRIC},
    {"key": _TEXT, "by": _TEXT},
    lambda hold: hold["expires"] <= hold["at"] + _LONGEST_HOLD_SECONDS,
)


def _counter(value: Any, path: str, wrong: list[str]) -> Any:
    if isinstance(value, dict) and "slots" in value:
        return _whole({"slots": _SLOTS})(value, path, wrong)
    return value if value == {} else _whole({"used": _AMOUNT, "at": _TIME})(value, path, wrong)


# As in the file of version 1.
_FULL_LIMIT = _whole(
    {
        "amount": _or_null(_AMOUNT), "window": _WINDOW, "time_zone": _ZONE, "evidence": _EVIDENCE,
        "evidence_at": _TIME, "counter": _counter,
    },
    {"recent": _SLOTS, "proven": _AMOUNT, "inferred": _FLAG},
)  # fmt: skip
# Without its amount it is not known what a provider said of the limit.
_SHORT_LIMIT = _fields(
    {
        "used": _AMOUNT, "at": _TIME, "slots": _SLOTS, "amount": _or_null(_AMOUNT),
        "window": _WINDOW, "time_zone": _ZONE, "header": _TIME, "error": _TIME,
        "configured": _TIME, "recent": _SLOTS, "proven": _AMOUNT, "inferred": _FLAG,
    },
    together=("amount", "header", "error", "configured", "inferred"),
)  # fmt: skip


def _limit(value: Any, path: str, wrong: list[str]) -> Any:
    is_full = isinstance(value, dict) and "counter" in value
    return (_FULL_LIMIT if is_full else _SHORT_LIMIT)(value, path, wrong)


def _charged(value: Any, path: str, wrong: list[str]) -> Any:
    row = isinstance(value, list)
    return (_row(_AMOUNT, _AMOUNT, _AMOUNT) if row else _BY_METRIC)(value, path, wrong)


_MODEL_FIELDS = _fields(
    {
        "at": _TIME,
        "last_charged": _TIME,
        "answered": _FLAG,
        "charged": _charged,
        "estimates": _row(_number(0.01, 100.0), _AMOUNT),
        "calibration": _whole({"input_ratio": _number(0.01, 100.0), "output_tokens": _AMOUNT}),
        "limits": _each(_limit, lambda key: key in _LIMITS),
        "holds": _each(_HOLD),
        "closed": _CLOSED,
    }
)


def _model(value: Any, path: str, wrong: list[str]) -> Any:
    found = _MODEL_FIELDS(value, path, wrong)
    if found is _WRONG or "at" in found:
        return found
    # A count whose moment is unknown cannot be continued.
    limits = found.get("limits", {})
    undated = [n for n, limit in limits.items() if "used" in limit and "at" not in limit]
    if not undated:
        return found
    wrong += [f"{path}.limits.{name}.used" for name in undated]
    for name in undated:
        limits = {**limits, name: {p: entry for p, entry in limits[name].items() if p != "used"}}
    return {**found, "limits": limits}


_KEY = _fields({"label": _TEXT, "answered": _FLAG, "closed": _CLOSED})
_CONTENT: dict[str, Shape] = {
    "provider": _TEXT,
    "keys": _each(_KEY),
    "closed": _CLOSED,
    "models": _each(_model),
    "absorbed": _each(_TEXT),
}
_MOVED_TO = _leaf(lambda value: isinstance(value, str) and ":" in value)
_ACCOUNT_FIELDS = _fields(
    {**_CONTENT, "moved": _whole({"to": _MOVED_TO, "content": _fields(_CONTENT)})}
)


def _account(value: Any, path: str, wrong: list[str]) -> Any:
    found = _ACCOUNT_FIELDS(value, path, wrong)
    if found is not _WRONG and found.get("moved", {}).get("to") == path:
        wrong.append(f"{path}.moved")
        return {name: entry for name, entry in found.items() if name != "moved"}
    return found


_ACCOUNT: Shape = _account
_PROVIDER = _fields(
    {
        "models": _each(
            _fields({"closed": _CLOSED, "lacks": _each(_whole({"at": _TIME}, {"address": _TEXT}))})
        ),
        "closed": _CLOSED,
        "limits": _each(_leaf(_is_limits_table)),
    }
)
_DIRECTORY = _fields(
    {"accounts": _each(_whole({"account": _TEXT, "at": _TIME}, {"evidence": _TEXT}))}
)
_OLDER = _each(_each(_whole({"used": _AMOUNT, "reset_at": _TIME, "at": _TIME})))
_PURSE_HOLD = _whole(
    {"usd": _AMOUNT, "expires": _TIME},
    {
        "tokens": _AMOUNT, "most_usd": _or_null(_AMOUNT), "most_tokens": _or_null(_AMOUNT),
        "kind": _TEXT, "plain": _AMOUNT, "scale": _number(1e-9), "at": _TIME, "by": _TEXT,
    },
    lambda hold: (
        ("kind" not in hold or {"plain", "scale"} <= hold.keys())
        and hold["expires"] <= hold.get("at", _LATEST) + _LONGEST_HOLD_SECONDS
    ),
)  # fmt: skip
_PURSE: dict[str, Shape] = {
    "spent": _each(_AMOUNT),
    "held": _each(_PURSE_HOLD),
    "seen": _each(_whole({"input": _AMOUNT, "output": _AMOUNT})),
}
_BUDGET = _fields(_PURSE)
_JOB_FIELDS = _fields({**_PURSE, "at": _TIME})


def _job(value: Any, path: str, wrong: list[str]) -> Any:
    found = _JOB_FIELDS(value, path, wrong)
    if found is not _WRONG and "at" not in found:
        wrong.append(f"{path}.at")
        return _WRONG
    return found


_JOBS = _fields({"jobs": _each(_job)})
