"""Keys, their accounts, and how much of each account's limits is used."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .models import MODELS, PROVIDERS
from .types import Breach
from .windows import KINDS, OF_PROVIDER, SECONDS, Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

UNITS = ("requests", "tokens", "input_tokens", "output_tokens")
COUNTED = ("requests", "input_tokens", "output_tokens", "refused", "failed")
LIMIT_NAMES = tuple(f"{unit}_per_{period}" for unit in UNITS for period in SECONDS)
_MOST_KEYS = 10_000
DEFAULT_KEYS = {"groq": 3, "mistral": 1, "google": 1, "openai": 1}


@dataclass(frozen=True, slots=True)
class Key:
    """One credential that the sandbox issues. `text` is what a client sends."""

    provider: str
    label: str
    text: str
    account: str
    variable: str


def _key_text(provider: str, number: int) -> str:
    """A key shaped like the provider's own, the same in every sandbox."""
    digest = hashlib.sha256(f"{provider} {number}".encode()).hexdigest()
    return {
        "groq": f"gsk_sandbox_{number}_{digest[:40]}",
        "mistral": f"sandbox{number}{digest[:24]}",
        "google": f"AIzaSy_sandbox_{number}_{digest[:22]}",
        "openai": f"sk-proj-sandbox-{number}-{digest[:48]}",
    }[provider]


def _keys(provider: str, given: int | Sequence[str], accounts: Mapping[str, str]) -> Iterator[Key]:
    """The keys of a provider, from their number or their texts."""
    texts = [_key_text(provider, n + 1) for n in range(given)] if isinstance(given, int) else given
    for number, text in enumerate(texts, 1):
        label = f"{provider}_key_{number}"
        variable = f"{provider.upper()}_API_KEY" + (f"_{number}" if len(texts) > 1 else "")
        yield Key(provider, label, text, accounts.get(label, label), variable)


def check_known(what: str, name: str, names: Collection[str]) -> None:
    """Raise ValueError if a name is not among those that are known."""
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(names))}")


def _check_not_negative(what: str, number: int) -> None:
    if number < 0:
        raise ValueError(f"{what} must be at least 0, not {number}")


class Accounts:
    """Every account's windows, and the count per key. Not thread-safe: the service has a lock.

    Raises ValueError for an unknown provider, model, key label, limit name or kind of window, and
    for a negative number.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, int | Sequence[str]],
        limits: Mapping[str, Mapping[str, int | None]],
        left: Mapping[str, Mapping[str, int]],
        accounts: Mapping[str, str],
        windows: Mapping[str, str],
        now: float,
    ) -> None:
        for provider, given in keys.items():
            check_known("provider", provider, PROVIDERS)
            if isinstance(given, int):
                _check_not_negative(f"the number of keys of {provider}", given)
                if given > _MOST_KEYS:
                    raise ValueError(
                        f"the number of keys of {provider} must be at most {_MOST_KEYS:,}"
                    )
        self.keys = tuple(
            key
            for provider in PROVIDERS
            for key in _keys(provider, keys.get(provider, 0), accounts)
        )
        self._by_text = {(key.provider, key.text): key for key in self.keys}
        self._check(limits, left, accounts)
        for provider, kind in windows.items():
            check_known("provider", provider, PROVIDERS)
            check_known("kind of window", kind, KINDS)
        self._limits = limits
        self._left = left
        self._kinds = {**OF_PROVIDER, **windows}
        self.restart(now)

    def _check(
        self,
        limits: Mapping[str, Mapping[str, int | None]],
        left: Mapping[str, Mapping[str, int]],
        accounts: Mapping[str, str],
    ) -> None:
        labels = {key.label for key in self.keys}
        models = {f"{provider}/{model}" for provider in PROVIDERS for model in MODELS[provider]}
        for target, values in [*limits.items(), *left.items()]:
            for name, number in values.items():
                check_known("limit", name, LIMIT_NAMES)
                _check_not_negative(f"{target}.{name}", number or 0)
            if target not in PROVIDERS and target not in models:
                check_known("key, provider or model", target, labels)
        for target in left:
            check_known("key or provider", target, labels | set(PROVIDERS))
        for target in accounts:
            check_known("key", target, labels)

    def restart(self, now: float) -> None:
        """Reset everything: only what `left` implies is used, and nothing is counted."""
        self._started = now
        self._windows: dict[tuple[str, str, str], dict[str, Window]] = {}
        # {key label: {model: {what: how many}}}
        self.counts: dict[str, dict[str, dict[str, int]]] = {}

    def find(self, provider: str, text: str | None) -> Key | None:
        """The key with this text, or None if the sandbox did not issue it."""
        return self._by_text.get((provider, text or ""))

    def count(self, key: Key, model: str, what: str, amount: int = 1) -> None:
        """Count something of one key and model; `what` is one of COUNTED."""
        counts = self.counts.setdefault(key.label, {})
        counts.setdefault(model, dict.fromkeys(COUNTED, 0))[what] += amount

    def limits(self, provider: str, account: str, model: str) -> dict[str, int]:
        """The limits of one account and model: the published ones and every override."""
        merged: dict[str, int | None] = dict(MODELS[provider][model].limits)
        for target in (provider, f"{provider}/{model}", *self._labels(provider, account)):
            merged.update(self._limits.get(target, {}))
        return {name: limit for name, limit in merged.items() if limit is not None}

    def _labels(self, provider: str, account: str) -> list[str]:
        return [k.label for k in self.keys if (k.provider, k.account) == (provider, account)]

    def windows(self, key: Key, model: str) -> dict[str, Window]:
        """The windows of the key's account for a model, by the names of their limits."""
        place = (key.provider, key.account, model)
        windows = self._windows.get(place)
        if windows is None:
            windows = self._windows[place] = {}
            left: dict[str, int] = {}
            for target in (key.provider, *self._labels(key.provider, key.account)):
                left.update(self._left.get(target, {}))
            kind = KINDS[self._kinds[key.provider]]
            for name, limit in self.limits(*place).items():
                windows[name] = kind(limit, name.rpartition("_")[2])
                if name in left:
                    windows[name].add(self._started, max(0, limit - left[name]))
        return windows

    def admit(
        self, key: Key, model: str, input_tokens: int, now: float, requests: int = 1
    ) -> tuple[Breach, ...]:
        """Charge a request and its input tokens to every limit, or to none.

        `requests` is the number of requests that it counts as, if it has several parts. Returns the
        limits that refuse it, the longest wait first. Output is charged afterwards with `settle`
        and may exceed a limit, as in the real services.
        """
        windows = self.windows(key, model)
        found = []
        for name, window in windows.items():
            requested = _admitted(name, input_tokens, requests)
            wait = window.wait(now, requested)
            if wait > 0.0:
                used = math.ceil(window.used(now) - 1e-6)
                found.append(Breach(name, window.limit, used, requested, wait))
        if found:
            return tuple(sorted(found, key=lambda breach: -breach.wait_seconds))
        for name, window in windows.items():
            if not name.startswith("output_tokens"):
                window.add(now, _admitted(name, input_tokens, requests))
        self.count(key, model, "requests")
        self.count(key, model, "input_tokens", input_tokens)
        return ()

    def settle(self, key: Key, model: str, output_tokens: int, now: float) -> None:
        """Charge the output tokens of an admitted request."""
        for name, window in self.windows(key, model).items():
            if name.startswith(("tokens_", "output_tokens_")):
                window.add(now, output_tokens)
        self.count(key, model, "output_tokens", output_tokens)

    def quota(self, now: float) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """{account: {model: {limit: {"limit", "used"}}}}, for the models used so far."""
        result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for (_, account, model), windows in self._windows.items():
            result.setdefault(account, {})[model] = {
                name: {"limit": window.limit, "used": window.used(now)}
                for name, window in windows.items()
            }
        return result


def _admitted(name: str, input_tokens: int, requests: int) -> int:
    """How much of a limit a request needs; 1 output token, because the output is not known yet."""
    if name.startswith("requests"):
        return requests
    if name.startswith("output_tokens"):
        return 1
    return input_tokens
