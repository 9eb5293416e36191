"""Finding keys, labelling them, and adding or removing keys for this session.

A key of the session gets the next free label of its provider and keeps that label until it is
removed, even if other keys come and go. Only this process holds it, and it is written nowhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING

from ..catalog import Provider
from ..errors import ConfigurationError, InvalidRequest
from ..secrets import Secret, key_in, without_locals
from ..text.wording import suggestion
from ..types import Key
from .env_file import clean
from .sources import Sources

if TYPE_CHECKING:
    from .configuration import Configuration

_LABEL = re.compile(r"[\w-]+_key_\d{1,4}")
COLAB = "Colab's secrets"
NO_KEY_NEEDED = "no key needed"
PLACEHOLDER_KEY = "any"
"""Sent as the key to a server that needs none, because the SDK requires a key."""

_added: tuple[Key, ...] = ()
# Secrets that Colab returned; "" for one that does not exist or is not shared.
_secrets: dict[str, str] = {}


def find_keys(provider: Provider, sources: Sources, accounts: Mapping[str, str]) -> list[Key]:
    """Return the keys of a provider; `accounts` has the account of a key by its label."""
    own = sources.of_process
    variables: Mapping[str, str] = sources.variables
    in_colab: Mapping[str, str] = {}
    # Colab is only asked for keys of providers that have none yet, because each question is slow.
    if own and not numbered_names(variables, provider.key_variables):
        variables = in_colab = _colab_secrets(provider.key_variables)
    of_session = [
        replace(key, account=accounts.get(key.label, key.account))
        for key in (_added if own else ())
        if key.provider == provider.name
    ]
    names = [
        name
        for name in numbered_names(variables, provider.key_variables)
        if variables[name] not in (key.secret() for key in of_session)
    ]
    taken = {key.number for key in of_session}
    labelled = label_keys(provider.name, (variables[name] for name in names), accounts, taken)
    keys = [
        replace(key, source=f"{name} in {COLAB}" if name in in_colab else sources.named(name))
        for key, name in zip(labelled, names, strict=True)
    ]
    if not keys and not of_session and provider.needs_no_key:
        placeholder = Key.of(provider.name, f"{provider.name}_key_1", PLACEHOLDER_KEY)
        return [replace(placeholder, source=NO_KEY_NEEDED)]
    return sorted([*keys, *of_session], key=lambda key: key.number)


def numbered_names(variables: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Return the variables NAME, NAME_1, NAME_2, … that are set and differ, in numerical order."""
    found: dict[str, str] = {}
    for name in names:
        numbered = sorted(
            (int(match[1] or -1), variable)
            for variable in variables
            if (match := re.fullmatch(re.escape(name) + r"(?:_(\d+))?", variable))
        )
        for _, variable in numbered:
            if value := variables[variable]:
                found.setdefault(value, variable)
    return list(found.values())


@without_locals
def label_keys(
    provider: str,
    texts: Iterable[str],
    accounts: Mapping[str, str] | None = None,
    taken: Collection[int] = (),
) -> tuple[Key, ...]:
    """Return keys with their labels, `groq_key_1`, `groq_key_2`, …, in the given order.

    `accounts` has the account of a key by its label; keys of one account share their limits.
    `taken` are the numbers that other keys of the provider have.
    """
    accounts = accounts or {}
    numbers = (number for number in count(1) if number not in taken)
    labelled = []
    for text in texts:
        label = f"{provider}_key_{next(numbers)}"
        labelled.append(Key.of(provider, label, text, accounts.get(label)))
    return tuple(labelled)


@without_locals
def with_keys(configuration: Configuration, provider: str, texts: Sequence[str]) -> Configuration:
    """Return a configuration in which a provider has these keys and no others.

    Raises:
        ConfigurationError: one of them cannot be a key.
    """
    # A text would be treated as a list of keys of one character each.
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ConfigurationError("api_keys must be a list of keys")
    texts = list(texts)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            name = "api_key" if len(texts) == 1 else f"api_keys: key {number}"
            raise ConfigurationError(
                f"{name} is {'blank' if isinstance(text, str) else 'not text'}"
            )
    accounts = {key.fingerprint: key.account for key in configuration.keys}
    keys = label_keys(provider, dict.fromkeys(text.strip() for text in texts))
    given = (replace(key, account=accounts.get(key.fingerprint, key.account)) for key in keys)
    others = (key for key in configuration.keys if key.provider != provider)
    return replace(configuration, keys=(*others, *given))


def is_placeholder(key: Key) -> bool:
    """Return whether this is only a placeholder, for a server that needs no key."""
    return key.source == NO_KEY_NEEDED


@without_locals
def add_key(configuration: Configuration, provider: str, text: str) -> Key:
    """Also use this key in this process, from the next request on.

    Raises:
        ConfigurationError: there is no such provider.
        InvalidRequest: the text cannot be a key, or the key is already in use.
    """
    global _added
    typed = Secret(clean(text))
    # A traceback that lists local variables would show the text.
    del text
    configuration.provider(provider)
    keys = [key for key in configuration.keys if key.provider == provider]
    number = 1 + max((known.number for known in keys), default=0)
    key = Key.of(provider, f"{provider}_key_{number}", typed.reveal())
    key = replace(key, source="this session")
    if not key.secret():
        raise InvalidRequest("no key was given")
    if not re.fullmatch(r"[!-~]+", key.secret()):
        raise InvalidRequest(
            "that is not a key: it contains spaces or other characters that are not allowed"
        )
    for known in keys:
        if known.fingerprint == key.fingerprint:
            raise InvalidRequest(f"that key is already in use: {known.label}, from {known.source}")
    _added = (*_added, key)
    return key


def remove_key(configuration: Configuration, label: str) -> Key:
    """Stop using a key that was added for this session; returns the key.

    Raises:
        ConfigurationError: there is no such key, or it was not added for this session.
    """
    global _added
    key = find_key(configuration, label)
    if label not in {other.label for other in _added}:
        raise ConfigurationError(
            f"{label} was not added for this session; remove it from {key.source}"
        )
    _added = tuple(other for other in _added if other.label != label)
    return key


def find_key(configuration: Configuration, label: str) -> Key:
    """Return the key with that label.

    Raises:
        ConfigurationError: there is none; the message lists the labels, and shows no key.
    """
    for key in configuration.keys:
        if key.label == label:
            return key
    if given := key_in(label, configuration.keys):
        raise ConfigurationError(f"that is a key itself; its label is {given.label}")
    labels = suggestion("", [key.label for key in configuration.keys])
    # Anything else may be a key, so the message does not repeat it.
    if not _LABEL.fullmatch(label):
        raise ConfigurationError(f"that is not the label of a key{labels}")
    raise ConfigurationError(f"no key is called {label!r}{labels}")


def keys_of_session() -> tuple[object, ...]:
    """Return a value that changes with the keys of the session and of Colab."""
    return _added, _secrets, "google.colab" in sys.modules


def _colab_secrets(names: Iterable[str]) -> Mapping[str, str]:
    """Return Colab's secrets with these names, and numbered ones; {} outside Colab.

    Colab cannot list its secrets, so each is requested by name, once per process.
    """
    found: dict[str, str] = {}
    if "google.colab" not in sys.modules:
        return found
    for name in names:
        for number in count():
            variable = f"{name}_{number}" if number else name
            if secret := _secret(variable):
                found[variable] = secret
            elif number > 1 or (number == 1 and name not in found):
                break
    return found


def forget_secrets() -> None:
    """Ask Colab again the next time."""
    global _secrets
    _secrets = {}


def _secret(name: str) -> str:
    if name not in _secrets:
        try:
            userdata = import_module("google.colab.userdata")
            _secrets[name] = clean(str(userdata.get(name)))
        # The secret does not exist, the notebook may not see it, or no browser answers. Colab has
        # its own exception for each, renames them, and they can be imported only there.
        except Exception:  # noqa: BLE001  # without a secret, the other sources of keys still count
            _secrets[name] = ""
    return _secrets[name]
