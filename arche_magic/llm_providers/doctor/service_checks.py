"""Checks that ask services: their answers to keys, their models and clocks, and prompts.

Services are asked for their lists of models, which uses no quota; only `check_answers` uses any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from ..adapters import build_adapter
from ..catalog import Provider, published_providers
from ..config import Configuration
from ..config.keys import is_placeholder
from ..errors import LLMProviderError
from ..network import is_loopback
from ..orchestrator import IntelligentLLMOrchestrator
from ..provider_failure import AttemptFailed, ProviderFailure, Remedy
from ..quota_tracker import QuotaTracker
from ..stopping import stopped_by
from ..text.wording import did_you_mean, plural
from ..types import Key, RouteId, in_seconds
from .local_checks import Finding, FindingState

T = TypeVar("T")
R = TypeVar("R")

# Seconds within which a service has to list its models.
_TIMEOUT = 15.0
_NO_LIST = "it lists no models"
_FOR_ANYONE = "the service lists its models for any key"
# A service without a list of models answers with one of these, or with a 404 or 405.
_NO_LIST_REMEDIES = (Remedy.CHANGE_MODEL, Remedy.FIX_REQUEST)
_SWITCHED_OFF, _TURN_ON = "is switched off in this session", "turn it on in %llm_panel"
# Services state the time in whole seconds, and an answer may take a few.
_CLOCK_SECONDS = 10.0
_PROMPT, _PROMPT_TOKENS, _PROMPT_SECONDS = "Reply with the word ok.", 16, 60.0
_CHECKS_AT_ONCE, _PROMPTS_AT_ONCE = 8, 4
_SHOWN_MODELS = 6


@dataclass(frozen=True)
class KeyCheck:
    """A provider's answer to a key.

    Attributes:
        key: the key.
        works: True if the key is accepted, False if it is refused, None if that is unknown.
        models: the models that the key may use.
        reason: why the key does not work, or why that is unknown.
        clock_ahead: seconds by which our clock was ahead of the provider's, if it stated the time.
    """

    key: Key
    works: bool | None
    models: tuple[str, ...] = ()
    reason: str = ""
    clock_ahead: float | None = None


def check_keys(keys: Iterable[Key], tracker: QuotaTracker) -> list[KeyCheck]:
    """Request the list of models with each key, and record the results in the ledger.

    A key that was refused and is accepted now is opened again, unless an invalid key is accepted
    too. So is a missing model that is listed now.
    """
    return _at_once(_CHECKS_AT_ONCE, lambda key: _check(key, tracker), keys)


def _at_once(most: int, ask: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what `ask` returns for each item, in `most` threads; an interrupt ends them all."""
    stop = threading.Event()

    def stoppable(item: T) -> R:
        with stopped_by(stop):
            return ask(item)

    with ThreadPoolExecutor(most, thread_name_prefix="arche-doctor") as pool:
        try:
            return list(pool.map(stoppable, items))
        except BaseException:
            stop.set()
            raise


def _check(key: Key, tracker: QuotaTracker) -> KeyCheck:
    provider, clock = tracker.configuration.providers[key.provider], tracker.configuration.clock
    began = clock.time()
    models: tuple[str, ...] = ()
    failure: ProviderFailure | None = None
    with closing(build_adapter(provider.wire, key, provider.url)) as adapter:
        try:
            models = adapter.models(_TIMEOUT)
        except AttemptFailed as error:
            failure = error.failure
    ahead = None if adapter.served_at is None else clock.time() - adapter.served_at
    if failure is None:
        is_proof = not _lists_for_anyone(provider)
        # The list does not show that a closed key works again.
        if is_proof or tracker.closure(key) is None:
            tracker.note_check(key, began, None, adapter.account, models)
        reason = "" if is_proof else _FOR_ANYONE
        return KeyCheck(key, is_proof or None, models, reason, ahead)
    if failure.remedy is Remedy.REPLACE_KEY:
        tracker.note_check(key, began, failure.summary)
        return KeyCheck(key, False, reason=str(failure), clock_ahead=ahead)
    no_address = failure.summary.startswith("no such address")
    reason = _NO_LIST if failure.remedy in _NO_LIST_REMEDIES or no_address else str(failure)
    return KeyCheck(key, None, reason=reason, clock_ahead=ahead)


def _lists_for_anyone(provider: Provider) -> bool:
    """Return whether a service lists its models even for an invalid key, as OpenRouter does."""
    # A server on this machine may need no key at all.
    if provider.name in published_providers() or is_loopback(provider.url):
        return False
    made_up = Key.of(provider.name, f"{provider.name}_key_1", "made-up-key")
    adapter = build_adapter(provider.wire, made_up, provider.url)
    with closing(adapter), suppress(AttemptFailed):
        adapter.models(_TIMEOUT)
        return True
    return False


def key_finding(check: KeyCheck, provider: Provider, tracker: QuotaTracker) -> Finding:
    """Return what a check of a key, and the ledger, say about the key."""
    key = check.key
    source = key.source if is_placeholder(key) else f"from {key.source}"
    if check.works is False:
        advice = f"replace it{f': {provider.key_page}' if provider.key_page else ''}"
        if is_placeholder(key):
            advice = f"the server asks for a key: put it into {provider.key_variables[0]}"
        return Finding("wrong", key.label, f"{check.reason}, {source}", advice)
    if check.works is None:
        found = f"could not be checked: {check.reason}; {source}"
        return Finding("look", key.label, found, _unreached(check, provider))
    if closed := tracker.closure(key):
        found = f"accepted, but closed by the ledger: {closed.reason}"
        advice = f"python -m arche_magic quota reset {key.label}"
        if closed.until is not None:
            left = closed.until - tracker.configuration.clock.time()
            advice = f"{advice}, or wait: it is tried again {in_seconds(left)}"
        return Finding("look", key.label, found, advice)
    if key.label in tracker.configuration.off:
        return Finding("look", key.label, f"works, but {_SWITCHED_OFF}; {source}", _TURN_ON)
    if shared := tracker.shared_keys().get(key.label):
        found = f"works, but shares its account with {shared}"
        return Finding("look", key.label, found, "it adds no quota; one key per account is enough")
    return Finding("ok", key.label, f"works, {source}")


def _unreached(check: KeyCheck, provider: Provider) -> str:
    if check.reason == _NO_LIST:
        return f"is {provider.url} right? one short prompt will show it (--send)"
    if check.reason == _FOR_ANYONE:
        return "one short prompt will show whether it works (--send)"
    if is_loopback(provider.url):
        return f"is the server running at {provider.url}?"
    return "check the network and its proxy, or try again later"


def check_models(
    checks: Iterable[KeyCheck], provider: Provider, configuration: Configuration
) -> Iterator[Finding]:
    """Check that the models that are asked by default are in the service's list, if it has one."""
    working = [check for check in checks if check.works or check.models]
    if not working:
        return
    listed = list(dict.fromkeys(model for check in working for model in check.models))
    about = f"{provider.name} models"
    if not listed:
        yield Finding("look", about, _NO_LIST, "does the server have a model yet?")
        return
    off = [model for model in provider.models if f"{provider.name}/{model}" in configuration.off]
    for model in off:
        yield Finding("look", about, f"{model} {_SWITCHED_OFF}", _TURN_ON)
    asked = [model for model in provider.models if model not in off]
    absent = [model for model in asked if model not in listed]
    models = f"the {plural(len(listed), 'model')} it lists"
    for model in absent:
        hint = did_you_mean(model, listed).removeprefix("; ")
        some = ", ".join(listed[:_SHOWN_MODELS]) + (", …" if len(listed) > _SHOWN_MODELS else "")
        advice = hint or f"name others in [providers.{provider.name}] models; it lists {some}"
        yield Finding("look", about, f"{model} is not among {models}", advice)
    if present := [model for model in asked if model not in absent]:
        yield Finding("ok", about, f"{', '.join(present)}, among {models}")


def check_clock(checks: Iterable[KeyCheck]) -> Iterator[Finding]:
    """Check that this machine's clock agrees with those of the services."""
    ahead = [check.clock_ahead for check in checks if check.clock_ahead is not None]
    if not ahead:
        yield Finding("ok", "clock", "not compared: no service stated the time")
        return
    seconds = median(ahead)
    if abs(seconds) <= _CLOCK_SECONDS:
        yield Finding("ok", "clock", f"within {_CLOCK_SECONDS:g} s of the services' clocks")
        return
    side = "ahead of" if seconds > 0 else "behind"
    amount = in_seconds(abs(seconds)).removeprefix("in ")
    advice = "turn on automatic time; until then, limits seem to reset at the wrong time"
    yield Finding("wrong", "clock", f"{amount} {side} the services' clocks", advice)


def check_answers(checks: Sequence[KeyCheck], configuration: Configuration) -> list[Finding]:
    """Return the outcome of one short prompt to each model, with the first key that may work."""
    keys = [check.key for check in checks if check.works is not False]
    tried = []
    for name, provider in configuration.providers.items():
        for model in provider.models:
            usable = (k for k in keys if k.provider == name and configuration.is_on(k, model))
            if (key := next(usable, None)) is not None:
                tried.append((key, model))
    return _at_once(_PROMPTS_AT_ONCE, lambda pair: _answer(*pair, configuration), tried)


def _answer(key: Key, model: str, configuration: Configuration) -> Finding:
    about = str(RouteId(key.provider, key.label, model))
    try:
        asker = IntelligentLLMOrchestrator(
            providers=[key.provider],
            configuration=replace(configuration, keys=(key,), replay="off"),
        )
        reply = asker.generate(
            _PROMPT,
            model=f"{key.provider}/{model}",
            max_tokens=_PROMPT_TOKENS,
            patience=0,
            timeout=_PROMPT_SECONDS,
        )
    except LLMProviderError as error:
        reasons = (attempt.error for attempt in reversed(error.attempts) if attempt.error)
        opens = error.next_available_at
        left = opens.timestamp() - configuration.clock.time() if opens else 0.0
        advice = f"it is tried again {in_seconds(left)}" if left > 0 else ""
        # A used-up limit is not a mistake.
        is_limit = left > 0 and all(attempt.outcome != "failed" for attempt in error.attempts)
        state: FindingState = "look" if is_limit else "wrong"
        return Finding(state, about, f"no answer: {next(reasons, str(error))}", advice)
    cost = f", {reply.cost:.6f} USD" if reply.cost else ""
    found = f"answered in {reply.seconds:.1f} s, {reply.usage.total_tokens} tokens{cost}"
    return Finding("ok", about, found)
