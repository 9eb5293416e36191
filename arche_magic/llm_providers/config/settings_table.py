"""The contents of `arche_magic.toml`: every setting with its valid values, in one table."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Union, get_args

from ..network import is_base_url
from ..secrets import without_key_like
from ..text.wording import did_you_mean, shortened, suggestion
from ..types import (
    PERIOD_SECONDS,
    TOKEN_LIMIT_NAMES,
    Budget,
    OnStoreFailure,
    ReplayMode,
    Timeouts,
)

ANY_NAME = "*"
"""Stands in a table for every name that the user chooses."""

_SHOWN_CHARACTERS = 100
TRUST_BASE_URLS, TRUST_KEY_VARIABLES = "trust_base_urls", "trust_key_variables"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        rule: what a message says of a wrong value, such as "must be true or false".
        allows: whether a value is right.
        shows_value: False where a wrong value may be a secret; a message then names its type.
        names: all values, where they are names.
    """

    rule: str
    allows: Callable[[Any], bool]
    shows_value: bool = True
    names: tuple[str, ...] = ()


Table = Mapping[str, Union[Setting, "Table"]]


def _is_number(value: Any) -> bool:
    # In Python, True is a number. Larger integers cannot be converted to floats.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (value <= sys.float_info.max or value == math.inf)


def _is_price(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"input", "output"}
        and all(_is_number(amount) and 0 <= amount < math.inf for amount in value.values())
    )


def _is_prompt(value: Any) -> bool:
    if isinstance(value, dict):
        is_known = bool(value) and set(value) <= {"prompt", "system"}
        return is_known and all(map(_is_filled, value.values()))
    return _is_filled(value)


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_model(name: str) -> bool:
    # A key in the wrong place would be shown in every table and sent as a model's name.
    is_name = name == name.strip() != "" and name.isprintable()
    return is_name and without_key_like(name) == name


def _is_mark(text: str) -> bool:
    # The label of a key can be another key in another folder.
    label = r"[a-z][a-z0-9_-]*_key_\d+(?:/.*)?"
    mark = r"[a-z][a-z0-9_-]{0,31}(?:/[!-~]+|:[0-9a-f]{12})?"
    return bool(re.fullmatch(mark, text)) and not re.fullmatch(label, text)


def _list_of(is_right: Callable[[str], Any]) -> Callable[[Any], bool]:
    def is_list(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) and is_right(v) for v in value)

    return is_list


def _one_of(*names: str) -> Setting:
    words = f"{', '.join(names[:-1])} or {names[-1]}"
    return Setting(f"can be {words}", lambda value: value in names, names=names)


def _text(kind: str, *, shows_value: bool = True, pattern: str = ".*") -> Setting:
    def is_right(value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None

    return Setting(f"must be {kind}", is_right, shows_value)


_ANYTHING = Setting("", lambda value: True)
_YES_OR_NO = Setting("must be true or false", lambda value: isinstance(value, bool))
_SECONDS = Setting(
    "must be a number of seconds greater than 0, and 1e9 or less",
    # Sockets refuse timeouts that are much longer.
    lambda value: _is_number(value) and 0 < value <= 1e9,
)
_USD = Setting("must be USD, 0 or more", lambda value: _is_number(value) and 0 <= value < math.inf)
_PERIOD = _one_of(*PERIOD_SECONDS)
REPLAY_MODE = _one_of(*get_args(ReplayMode))

_MODELS = Setting("must be a list of model names", _list_of(_is_model), shows_value=False)

PROVIDER_SETTINGS: Table = {
    "models": _MODELS,
    "embedding_models": _MODELS,
    "paid": _YES_OR_NO,
    "tier": _one_of("free", "paid"),
    "base_url": _text("an address", shows_value=False),
    # In capitals, so that a key in its place does not count as a name and is not displayed.
    "key_variable": _text(
        "the name of a variable, in capitals, such as MY_SERVER_API_KEY",
        shows_value=False,
        pattern="[A-Z][A-Z0-9_]{0,99}",
    ),
    "prices": {
        ANY_NAME: Setting(
            "must be { input = …, output = … }, in USD for a million tokens", _is_price
        )
    },
    "limit_headers": {"requests": _PERIOD, "tokens": _PERIOD},
    "token_limit": _one_of(*TOKEN_LIMIT_NAMES),
}
SETTINGS: Table = {
    "default_provider": _text("a name"),
    "order": Setting("must be a list of provider names", _list_of(str)),
    "patience": Setting(
        "must be a number of seconds, 0 or more", lambda value: _is_number(value) and value >= 0
    ),
    "timeouts": {entry.name: _SECONDS for entry in fields(Timeouts)},
    "providers": {ANY_NAME: PROVIDER_SETTINGS},
    # `loading` checks that each names a model.
    "aliases": {ANY_NAME: _text("the name of a model, such as groq/openai/gpt-oss-20b")},
    "prompts": {
        ANY_NAME: Setting(
            "must be a text, or a table with a prompt, a system prompt or both", _is_prompt
        )
    },
    # `catalog.parse_limits` checks what is in it, as it does for the catalog.
    "limits": {ANY_NAME: {ANY_NAME: _ANYTHING}},
    "accounts": {
        ANY_NAME: Setting("must be a name", lambda value: _is_filled(value) or type(value) is int)
    },
    "replay": {"mode": REPLAY_MODE},
    "budget": {entry.name: _USD for entry in fields(Budget)},
    "on_store_failure": _one_of(*get_args(OnStoreFailure)),
    "private": {
        "routes": Setting(
            "must be a list of providers, models as provider/model, and keys as "
            "provider:fingerprint (%llm_keys shows it; labels differ between folders)",
            _list_of(_is_mark),
        ),
        "always": _YES_OR_NO,
    },
    TRUST_BASE_URLS: Setting(
        "must be true, or a list of addresses such as https://host",
        lambda value: isinstance(value, bool) or _list_of(is_base_url)(value),
        shows_value=False,
    ),
    TRUST_KEY_VARIABLES: Setting(
        'must be a list of variables such as ["MY_TOKEN"]', _list_of(_is_filled), shows_value=False
    ),
}


def check_settings(settings: Mapping[str, Any], table: Table = SETTINGS, *path: str) -> None:
    """Check names and values of settings; `path` has the names of the tables around them.

    Raises:
        ValueError: a name is unknown or a value is wrong; the message says what is allowed.
    """
    where = f"[{'.'.join(map(quoted, path))}]: " if path else ""
    for name, value in settings.items():
        if not name.strip():
            raise ValueError(f"{where}a name is blank")
        setting = table.get(name, table.get(ANY_NAME))
        if setting is None:
            raise ValueError(f"{where}unknown setting {_shown(name)}{_hint(name, table)}")
        if isinstance(setting, Mapping):
            if not isinstance(value, dict):
                raise ValueError(f"{where}{name} is {_shown(value)}; it must be a table")
            check_settings(value, setting, *path, name)
        elif not setting.allows(value):
            shown = _shown(value) if setting.shows_value else _kind(value)
            if isinstance(value, list) and not setting.shows_value and "a list of" in setting.rule:
                shown += " with a wrong entry"
            near = did_you_mean(value, setting.names) if isinstance(value, str) else ""
            raise ValueError(f"{where}{name} is {shown}; it {setting.rule}{near}")


def _hint(name: str, table: Table) -> str:
    near = did_you_mean(name, table)
    if "API_KEY" in name or ("key" in name.lower() and not near):
        return "; keys go into the environment or into .env"
    return suggestion(name, table, "known settings:")


def _shown(value: Any) -> str:
    # Booleans and dates as TOML has them.
    text = repr(value) if isinstance(value, str | list | dict) else str(value).lower()
    return shortened(text, _SHOWN_CHARACTERS)


def _kind(value: Any) -> str:
    """Return the type of a value, in words."""
    if isinstance(value, bool):
        return _shown(value)
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def quoted(name: str) -> str:
    """Return a name as TOML has it in the header of a table."""
    return name if re.fullmatch(r"[\w-]+", name) else json.dumps(name, ensure_ascii=False)
