"""Check the configuration: keys, files, network, models and the ledger.

`local_checks` has the checks of this machine, and `service_checks` those that ask services.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from ..catalog import Provider, published_providers
from ..config import Configuration, get_configuration, how_to_turn_on, list_services
from ..errors import LLMProviderError
from ..files import working_directory
from ..quota_tracker import QuotaTracker, get_quota_tracker
from ..storage import StorageTimeout, lock_deadline
from ..text.wording import did_you_mean
from .local_checks import Finding, check_files, check_network, check_packages, unread_keys
from .service_checks import (
    KeyCheck,
    check_answers,
    check_clock,
    check_keys,
    check_models,
    key_finding,
)

__all__ = ["Finding", "KeyCheck", "check_keys", "examine"]

_LOCK_SECONDS = 2.0


def examine(*, send: bool = False) -> list[Finding]:
    """Examine packages, network, files, addresses, keys, models, clock and ledger, in this order.

    Keys that a service refuses are closed from then on, and keys that it accepts are open again.

    Args:
        send: also send one short prompt to each model; this spends quota, and money on paid routes.
    """
    findings = [*check_packages(), *check_network(), *check_files(working_directory())]
    try:
        configuration = get_configuration()
        tracker = get_quota_tracker(configuration)
    except LLMProviderError as error:
        problem, advice = str(error), "no request can be sent until this is fixed"
        # The message begins with the file that is wrong, so that file is not listed as ok.
        findings = [finding for finding in findings if not problem.startswith(finding.found)]
        return [*findings, Finding("wrong", "settings", problem, advice)]
    checks = check_keys(configuration.keys, tracker)
    findings += [*_missing_keys(configuration), *_off(configuration)]
    findings += unread_keys(configuration.providers.values(), working_directory())
    for provider in configuration.providers.values():
        of_it = [check for check in checks if check.key.provider == provider.name]
        if of_it:
            findings.append(_address(provider))
            findings += (key_finding(check, provider, tracker) for check in of_it)
            findings += check_models(of_it, provider, configuration)
    findings += [*_private(configuration), *check_clock(checks), *_ledger(tracker)]
    findings += (Finding("ok", "budget", str(use)) for use in tracker.budget())
    if send:
        findings += check_answers(checks, configuration)
    return findings


def _missing_keys(configuration: Configuration) -> Iterator[Finding]:
    owners = {key.provider for key in configuration.keys}
    without = [p for p in configuration.providers.values() if p.name not in owners]
    if not owners:
        free = [provider for provider in without if provider.key_page and not provider.paid]
        first = (free or without)[0]
        page = f"; free: {first.key_page}" if free else ""
        advice = f"set {first.key_variables[0]} in the environment or in .env{page}"
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
        if service.state == "off" and service.turn_on:
            provider = service.provider
            found = f"{', '.join(service.keys)} is set, but {provider.title} is off"
            costs = "; it costs money" if provider.paid else ""
            advice = f"to use it, {how_to_turn_on(service)}{costs}"
            yield Finding("ok" if provider.paid else "look", provider.name, found, advice)


def _address(provider: Provider) -> Finding:
    said = "" if provider.url in provider.services else provider.base_url_from
    return Finding("ok", provider.name, f"{provider.url} ({said})" if said else provider.url)


def _private(configuration: Configuration) -> Iterator[Finding]:
    """Check that each mark in `[private]` matches a route, and report the providers' terms."""
    providers, marks = configuration.providers, configuration.private_routes
    names = {f"{key.provider}:{key.fingerprint}": key.label for key in configuration.keys}
    for mark in sorted(marks):
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
    if configuration.always_private and not marks:
        found = "every prompt is private, and no route is marked, so none can be answered"
        yield Finding("wrong", "[private]", found, "mark routes in your own settings")


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
        advice = "it was repaired; find out what else writes to it"
        yield Finding("wrong", "ledger", f"{place} {found}", advice)
    if "://" in place:
        lost = ", but is lost when this process ends" if place.startswith("memory:") else ""
        yield Finding("ok", "ledger", f"{place} answers{lost}")
        return
    path = Path(place)
    size = f", {max(1, path.stat().st_size // 1000):,} kB" if path.exists() else ", still empty"
    yield Finding("ok", "ledger", f"{path}{size}")
    for aside in sorted(path.parent.glob(f"{escape(path.stem)}.*-*{path.suffix}")):
        kept = f"an earlier ledger could not be read and is kept as {aside.name}"
        yield Finding("look", "ledger", kept, "delete it if you do not need it")
