"""Starts the four simulated providers, uses them in this kernel, and returns to the real ones."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.text.wording import did_you_mean, plural
from arche_magic.llm_providers.types import Metric, Period

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arche_magic.llm_providers.config import Configuration
    from arche_magic.sandbox import Sandbox


@dataclass(frozen=True)
class SandboxClock:
    """The clock of a sandbox, so that the ledger's windows turn when the sandbox's do."""

    sandbox: Sandbox

    def time(self) -> float:
        """Epoch seconds on the sandbox's clock."""
        return self.sandbox.clock()

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds of this clock."""
        time.sleep(seconds / self.sandbox.time_scale)


LIMITS = [f"{metric}_per_{period}" for metric in get_args(Metric) for period in get_args(Period)]
# Python refuses to read numbers of thousands of digits.
_MOST_DIGITS = 15
_running: Sandbox | None = None


def start(**settings: Any) -> str:
    """Start a new sandbox and use it for every request of this kernel; returns what to print.

    The process's environment, the ledger and the kept replies of the real keys do not change: the
    sandbox has its ledger in memory and its kept replies in a separate file.

    Raises:
        InvalidRequest: a setting is wrong.
        ConfigurationError: the settings of the real providers are; nothing was started or stopped.
    """
    global _running
    from arche_magic.sandbox import Sandbox

    # The sandbox applies the privacy rules, aliases and prompts of the real configuration.
    real = load_configuration() if is_running() else get_configuration()
    try:
        sandbox = Sandbox(**settings)
        sandbox.start()
    except (ValueError, ImportError, OSError) as error:
        raise InvalidRequest(f"%llm_sandbox: {error}") from None
    stop()
    _running = sandbox
    environment = sandbox.environment()
    configuration = load_configuration(environment)
    use_configuration(
        replace(
            configuration,
            private_routes=real.private_routes,
            always_private=real.always_private,
            aliases=_known(real.aliases, configuration),
            prompts=real.prompts,
            settings_folder=real.settings_folder,
            store=f"memory://sandbox-{id(sandbox)}",
            clock=SandboxClock(sandbox) if sandbox.time_scale != 1 else configuration.clock,
            # Simulated replies must never be mixed with real ones.
            replies=configuration.replies.with_suffix(".sandbox.sqlite"),
        )
    )
    counts = Counter(key.provider for key in configuration.keys)
    keys = ", ".join(
        f"{configuration.providers[name].title} ({plural(count, 'key')})"
        for name, count in counts.items()
    )
    return (
        f"Sandbox on: simulated {keys}.\nNo prompt leaves this machine. %llm_sandbox stop ends it."
    )


def _known(aliases: Mapping[str, str], configuration: Configuration) -> dict[str, str]:
    """The aliases of models that the sandbox has."""
    known = {}
    for name, model in aliases.items():
        with contextlib.suppress(ConfigurationError):
            configuration.resolve_model(model)
            known[name] = model
    return known


def stop() -> str:
    """Stop the sandbox and go back to the real keys; returns what to print."""
    global _running
    if _running is None:
        return "The sandbox is not running."
    _running.stop()
    _running = None
    use_configuration(None)
    return "Sandbox off: requests go to the configured providers again."


def status() -> str:
    """A sentence that says whether the sandbox is running."""
    if is_running():
        return "The sandbox is running; %llm_sandbox stop ends it."
    return "The sandbox is not running; %llm_sandbox start starts it."


def is_running() -> bool:
    """Whether this kernel uses the sandbox."""
    return _running is not None


def wanted() -> bool:
    """Whether `auto` should start it: no key is configured, and kept replies are not replayed."""
    configuration = get_configuration()
    return _running is None and not configuration.keys and configuration.replay != "only"


def parse_amounts(entries: list[str] | None, option: str) -> dict[str, dict[str, int]]:
    """`["groq_key_1.requests_per_day=2"]` as `{"groq_key_1": {"requests_per_day": 2}}`."""
    amounts: dict[str, dict[str, int]] = {}
    for entry in entries or ():
        name, _, amount = entry.partition("=")
        scope, _, limit = name.rpartition(".")
        if not scope or not amount.isdecimal():
            raise InvalidRequest(
                f"%llm_sandbox: {option} {entry!r} is not like groq_key_1.requests_per_day=2"
            )
        if limit not in LIMITS:
            hint = did_you_mean(limit, LIMITS) or "; try requests_per_minute or tokens_per_day"
            raise InvalidRequest(f"%llm_sandbox: unknown limit {limit!r}{hint}")
        amounts.setdefault(scope, {})[limit] = _number(amount, f"{option} {name}")
    return amounts


def parse_keys(entries: list[str] | None) -> dict[str, int] | None:
    """`["groq=2", "mistral=1"]` as a dict; None if nothing was given."""
    if not entries:
        return None
    keys = {}
    for entry in entries:
        provider, _, count = entry.partition("=")
        if not count.isdecimal():
            raise InvalidRequest(f"%llm_sandbox: --keys {entry!r} is not like groq=2")
        keys[provider] = _number(count, f"--keys {provider}")
    if not any(keys.values()):
        raise InvalidRequest("%llm_sandbox: --keys leaves no provider with a key")
    return keys


def _number(digits: str, of: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise InvalidRequest(
            f"%llm_sandbox: {of}: the number is too large; it may have {_MOST_DIGITS} digits"
        )
    return int(digits)
