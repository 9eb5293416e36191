"""`%llm_sandbox`: rehearse on simulated providers."""

from __future__ import annotations

import math

from ..command import Session, Shown, Typed, command, option


@command(
    option("--keys PROVIDER=N", "Number of keys for a provider.", action="append"),
    option(
        "--limit SCOPE.LIMIT=N",
        "Change a limit of a provider, provider/model or key label.",
        action="append",
    ),
    option(
        "--left SCOPE.LIMIT=N",
        "Amount of a limit that is left at the start, for a provider or key label: "
        "groq_key_1.requests_per_day=2.",
        action="append",
    ),
    option("--latency SECONDS", "Delay before each reply.", type=float, default=0.0),
    option(
        "--tokens-per-second N",
        "Speed of the replies (default: 100; 0: immediately).",
        type=float,
        default=100.0,
    ),
    option(
        "--time-scale N",
        "Speed up limits and waits N times: with 1440, a day takes a minute.",
        type=float,
        default=1.0,
    ),
    option("--seed N", "Seed for replies and failures.", type=int, default=0),
)
def llm_sandbox(session: Session, typed: Typed) -> Shown:
    """Rehearse without keys, with four simulated providers in this kernel.

    The ledger of the real keys does not change.

    Usage:
      %llm_sandbox [OPTIONS] [start]
      %llm_sandbox [OPTIONS] auto      start only if no key is configured
      %llm_sandbox status
      %llm_sandbox stop                go back to the real keys

    Examples:
      %llm_sandbox
      %llm_sandbox --keys groq=2 --left groq_key_1.requests_per_day=2 start
      %llm_sandbox --latency 5 --tokens-per-second 40
      %llm_sandbox --keys groq=1 --time-scale 1440
    """
    from arche_magic.llm_providers.errors import InvalidRequest

    from .. import sandbox_switch

    options, verb = typed.options, typed.text.strip() or "start"
    if verb not in ("start", "auto", "stop", "status"):
        raise InvalidRequest(f"%llm_sandbox: {verb!r} is not start, auto, stop or status")
    if verb in ("stop", "status") and options != llm_sandbox.parser.parse_args([]):
        raise InvalidRequest(f"%llm_sandbox: {verb} takes no options")
    speed, scale = options.tokens_per_second, options.time_scale
    for name, value, rule, fits in (
        ("latency", options.latency, "a number of seconds, 0 or more", options.latency >= 0),
        ("tokens-per-second", speed, "a number of tokens, 0 or more", speed >= 0),
        ("time-scale", scale, "a number more than 0", scale > 0),
    ):
        if not fits or not math.isfinite(value):
            raise InvalidRequest(f"%llm_sandbox: --{name} {value:g} is not {rule}")
    settings = {
        "keys": sandbox_switch.parse_keys(options.keys),
        "limits": sandbox_switch.parse_amounts(options.limit, "--limit"),
        "left": sandbox_switch.parse_amounts(options.left, "--left"),
        "latency": options.latency,
        "seconds_per_chunk": 1 / speed if speed else 0.0,
        "time_scale": scale,
        "seed": options.seed,
    }
    if verb == "stop":
        return sandbox_switch.stop(), None
    if verb == "status" or (verb == "auto" and not sandbox_switch.wanted()):
        return sandbox_switch.status(), None
    return sandbox_switch.start(**settings), None
