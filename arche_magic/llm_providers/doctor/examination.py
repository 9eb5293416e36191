"""Check the whole configuration; returns what was found, and what to do about it.

Services are asked for their lists of models, which spends no quota; only `send` spends any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from statistics import median

from .. import network
from ..catalog import Provider, published_providers
from ..config import Configuration, get_configuration, how_to_turn_on, list_services
from ..config.keys import is_stand_in
from ..errors import LLMProviderError
from ..files import working_directory
from ..network import is_loopback
from ..orchestrator import IntelligentLLMOrchestrator
from ..quota_tracker import QuotaTracker, get_quota_tracker
from ..storage import StorageTimeout, lock_deadline
from ..text.hints import did_you_mean
from ..types import Key, RouteId, in_seconds
from .finding import Finding
from .key_checks import NO_LIST, KeyCheck, check_keys
from .settings_files import configuration_files, unread_keys

SDKS = ("openai", "groq", "mistralai", "google-genai", "httpx")
# Services state the time in whole seconds, and an answer may take a few.
_CLOCK_SECONDS = 10.0
_PROMPT, _PROMPT_TOKENS, _PROMPT_SECONDS, _AT_ONCE = "Reply with the word ok.", 16, 60.0, 4
_SHOWN_MODELS, _LOCK_SECONDS = 6, 2.0


def examine(*, send: bool = False) -> list[Finding]:
    """Examine packages, network, files, addresses, keys, models, clock and ledger, in this order.

    Keys that a service refuses are closed from then on, and keys that it accepts are open again.

    Args:
        send: also send one short prompt to each model; this spends quota, and money on paid routes.
    """
    findings = [*_packages(), *_machine(), *configuration_files(working_directory())]
    try:
        configuration = get_configuration()
        tracker = get_quota_tracker(configuration)
    except LLMProviderError as error:
        return [
            *findings,
            Finding("wrong", "settings", str(error), "no request can be sent until this is fixed"),
        ]
    checks = check_keys(configuration.keys, tracker)
    findings += [*_missing_keys(configuration), *_off(configuration)]
    findings += unread_keys(configuration.providers.values(), working_directory())
    for provider in configuration.providers.values():
        of_it = [check for check in checks if check.key.provider == provider.name]
        if of_it:
            findings.append(_address(provider))
            findings += (_key(check, provider, tracker) for check in of_it)
            findings += _models(of_it, provider, configuration)
    findings += [*_private(configuration), *_clock(checks), *_ledger(tracker)]
    findings += (Finding("ok", "budget", str(use)) for use in tracker.budget())
    if send:
        findings += _answers(checks, configuration)
    return findings


def _packages() -> Iterator[Finding]:
    try:
        needs = requires("arche_magic") or []
        own = version("arche_magic")
    except PackageNotFoundError:
        needs, own = [], "from its source"
    lowest = {m[1]: m[2] for need in needs if (m := re.match(r"([\w-]+)>=([\d.]+)$", need))}
    found = []
    for name in SDKS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("wrong", "packages", f"{name} is missing", f"pip install {name}")
            continue
        if name in lowest and _numbers(version(name)) < _numbers(lowest[name]):
            yield Finding(
                "wrong",
                "packages",
                f"{name} {version(name)} is older than {lowest[name]}",
                f"pip install --upgrade {name}",
            )
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "packages", f"arche_magic {own}, Python {python}, {', '.join(found)}")


def _machine() -> Iterator[Finding]:
    """Yield what this machine's variables say about proxies and certificates, if anything."""
    advice = "correct it, or remove it from the environment"
    wrong = [Finding("wrong", "network", problem, advice) for problem in network.problems()]
    yield from wrong
    names = [network.proxy_variable("https:"), network.certificate_variable()]
    if not wrong and any(names):
        yield Finding("ok", "network", f"set by {' and '.join(filter(None, names))}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


def _missing_keys(configuration: Configuration) -> Iterator[Finding]:
    owners = {key.provider for key in configuration.keys}
    without = [p for p in configuration.providers.values() if p.name not in owners]
    if not owners:
        first = without[0]
        variable = first.key_variables[0]
        advice = f"set {variable} in the environment or in .env; free: {first.key_page}"
        yield Finding("wrong", "keys", "no API key is configured", advice)
    built_in = [provider for provider in without if provider.name in published_providers()]
    if owners and built_in:
        names = ", ".join(f"{p.name} ({p.key_variables[0]})" for p in built_in)
        yield Finding("ok", "keys", f"none for {names}")
    for provider in without:
        # The user has added a table for it and probably wants to use it.
        if provider not in built_in:
            variable = provider.key_variables[0]
            advice = f"put one into {variable}, in the environment or in .env"
            yield Finding("look", provider.name, "no key is configured", advice)


def _off(configuration: Configuration) -> Iterator[Finding]:
    """Yield known services that have a key but no line in the settings."""
    for service in list_services(configuration):
        if service.state == "off":
            paid, name = service.provider.paid, service.provider.name
            found = f"{', '.join(service.keys)} is set, but {service.provider.title} is off"
            advice = f"to use it, {how_to_turn_on(service)}{'; it costs money' if paid else ''}"
            yield Finding("ok" if paid else "look", name, found, advice)


def _address(provider: Provider) -> Finding:
    said = f" ({provider.base_url_from})" if provider.base_url_from else ""
    if provider.url in provider.services:
        said = ""
    return Finding("ok", provider.name, f"{provider.url}{said}")


def _key(check: KeyCheck, provider: Provider, tracker: QuotaTracker) -> Finding:
    key = check.key
    source = key.source if is_stand_in(key) else f"from {key.source}"
    if check.works is False:
        advice = f"replace it{f': {provider.key_page}' if provider.key_page else ''}"
        if is_stand_in(key):
            advice = f"the server asks for a key: put it into {provider.key_variables[0]}"
        return Finding("wrong", key.label, f"{check.reason}, {source}", advice)
    if check.works is None:
        found = f"unknown whether it works: {check.reason}, {source}"
        return Finding("look", key.label, found, _unreached(check, provider))
    closed = tracker.closure(key)
    if closed:
        until = "" if closed.until is None else f", {_when(closed.until, tracker)}"
        found = f"accepted, but closed by the ledger: {closed.reason}"
        return Finding(
            "look", key.label, found, f"python -m arche_magic quota reset {key.label}{until}"
        )
    shared = tracker.shared_keys().get(key.label)
    if shared:
        found = f"works, but shares its account with {shared}"
        return Finding("look", key.label, found, "it adds no quota; one key per account is enough")
    return Finding("ok", key.label, f"works, {source}")


def _when(until: float, tracker: QuotaTracker) -> str:
    return f"or wait: it is tried again {in_seconds(until - tracker.configuration.clock.time())}"


def _unreached(check: KeyCheck, provider: Provider) -> str:
    if check.reason == NO_LIST:
        return f"is {provider.url} right? one short prompt will show it (--send)"
    if is_loopback(provider.url):
        return f"is the server running at {provider.url}?"
    return "check the network and its proxy, or try again later"


def _models(
    checks: Iterable[KeyCheck], provider: Provider, configuration: Configuration
) -> Iterator[Finding]:
    """Check that the models that are asked by default are in the service's list, if it has one."""
    working = [check for check in checks if check.works]
    if not working:
        return
    listed = list(dict.fromkeys(model for check in working for model in check.models))
    about = f"{provider.name} models"
    if not listed:
        yield Finding("look", about, "it lists no models", "does the server have a model yet?")
        return
    asked = [
        model for model in provider.models if f"{provider.name}/{model}" not in configuration.off
    ]
    absent = [model for model in asked if model not in listed]
    for model in absent:
        hint = did_you_mean(model, listed).removeprefix("; ")
        some = ", ".join(listed[:_SHOWN_MODELS]) + (", …" if len(listed) > _SHOWN_MODELS else "")
        advice = hint or f"name others in [providers.{provider.name}] models; there are {some}"
        yield Finding("look", about, f"{model} is not among the {len(listed)} it lists", advice)
    if present := [model for model in asked if model not in absent]:
        yield Finding("ok", about, f"{', '.join(present)}, of {len(listed)} it lists")


def _private(configuration: Configuration) -> Iterator[Finding]:
    """Check that the marks in `[private]` name something; say what the providers' terms are."""
    providers, private = configuration.providers, configuration.private
    names = {f"{key.provider}:{key.fingerprint}": key.label for key in configuration.keys}
    for mark in sorted(private.routes):
        owner = re.split("[/:]", mark)[0]
        if owner not in providers:
            hint = did_you_mean(owner, providers)
            yield Finding("look", "[private]", f"{mark}: no such provider here{hint}")
        elif ":" in mark:
            found = f"{mark} is {names[mark]}" if mark in names else f"{mark}: no key here"
            yield Finding("ok", "[private]", found)
        elif providers[owner].training.free == "yes":
            found = f"{mark} is marked, and {owner} {providers[owner].training}"
            advice = "keep the mark if this account pays or has opted out; otherwise remove it"
            yield Finding("look", "[private]", found, advice)
        else:
            yield Finding("ok", "[private]", f"{mark} is marked")
    if private.always and not private.routes:
        found = "every prompt is private, and no route is marked, so none can be answered"
        yield Finding("wrong", "[private]", found, "mark routes in your own settings")


def _clock(checks: Iterable[KeyCheck]) -> Iterator[Finding]:
    ahead = [check.clock_ahead for check in checks if check.clock_ahead is not None]
    if not ahead:
        yield Finding("ok", "clock", "not compared: no service stated the time")
        return
    seconds = median(ahead)
    if abs(seconds) <= _CLOCK_SECONDS:
        yield Finding("ok", "clock", f"within {_CLOCK_SECONDS:g} s of the services'")
        return
    side = "ahead of" if seconds > 0 else "behind"
    amount = in_seconds(abs(seconds)).removeprefix("in ")
    advice = "turn on automatic time; until then, limits seem to reset at the wrong time"
    yield Finding("wrong", "clock", f"{amount} {side} the services'", advice)


def _ledger(tracker: QuotaTracker) -> Iterator[Finding]:
    place = tracker.configuration.store
    try:
        with lock_deadline(_LOCK_SECONDS):
            tracker.storage.update("doctor", lambda document: None)
    except StorageTimeout:
        yield Finding(
            "wrong", "ledger", f"{place}: another process keeps it locked",
            "no request can be sent until it releases the lock; look for a kernel that was stopped",
        )  # fmt: skip
        return
    if trouble := tracker.storage.trouble:
        yield Finding(
            "wrong", "ledger", f"{place}: {trouble}",
            "other kernels do not see what this one uses; set ARCHE_QUOTA_STORE to another place",
        )  # fmt: skip
        return
    for found in tracker.storage.findings:
        yield Finding(
            "wrong", "ledger", f"{place} {found}",
            "it was repaired; find out what else writes to it",
        )  # fmt: skip
    if "://" in place:
        lost = ", and ends with this process" if place.startswith("memory:") else ""
        yield Finding("ok", "ledger", f"{place} answers{lost}")
        return
    path = Path(place)
    size = f", {max(1, path.stat().st_size // 1000):,} kB" if path.exists() else ", still empty"
    yield Finding("ok", "ledger", f"{path}{size}")
    for aside in sorted(path.parent.glob(f"{path.stem}.*-*{path.suffix}")):
        yield Finding(
            "look", "ledger", f"an earlier ledger could not be read and is kept as {aside.name}",
            "delete it if you do not need it",
        )  # fmt: skip


def _answers(checks: Sequence[KeyCheck], configuration: Configuration) -> list[Finding]:
    """Return the outcome of one short prompt to each model, with the first key that may work."""
    keys: dict[str, Key] = {}
    for check in checks:
        if check.works is not False:
            keys.setdefault(check.key.provider, check.key)
    tried = [
        (keys[name], model)
        for name, provider in configuration.providers.items()
        for model in provider.models
        if name in keys and configuration.is_on(keys[name], model)
    ]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="arche-doctor") as pool:
        return list(pool.map(lambda pair: _answer(pair[0], pair[1], configuration), tried))


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
        return Finding("wrong", about, f"no answer: {next(reasons, str(error))}", advice)
    cost = f", {reply.cost:.6f} USD" if reply.cost else ""
    found = f"answered in {reply.seconds:.1f} s, {reply.usage.total_tokens} tokens{cost}"
    return Finding("ok", about, found)
