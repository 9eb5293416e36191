"""Run the sandbox by itself: `python -m arche_magic.sandbox --keys groq=2 --seed 7`.

It prints the variables for a shell or a `.env` file, and serves until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

from .accounts import DEFAULT_KEYS
from .sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _number(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"{place} must be a whole number, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _count(text: str) -> tuple[str, int]:
    name, value = _pair(text)
    return name, _number(value, name)


def _limit(text: str) -> tuple[str, str, int | None]:
    place, value = _pair(text)
    # From the right: model names contain dots, names of limits do not.
    target, dot, name = place.rpartition(".")
    if not dot:
        raise argparse.ArgumentTypeError(f"expected TARGET.LIMIT=NUMBER, got {text!r}")
    return target, name, None if value == "none" else _number(value, place)


def _left(text: str) -> tuple[str, str, int]:
    target, name, amount = _limit(text)
    if amount is None:
        raise argparse.ArgumentTypeError(f"{target}.{name} must be a whole number, got 'none'")
    return target, name, amount


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arche_magic.sandbox",
        description="Simulate Groq, Mistral, Gemini and OpenAI on 127.0.0.1.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port to listen on (default: any free one)")
    add("--seed", type=int, default=0, help="seed for replies and failures")
    add("--time-scale", type=float, default=1.0, help="how many times faster its clock runs")
    add("--latency", type=float, default=0.0, help="seconds before each reply")
    add("--seconds-per-chunk", type=float, default=0.0, help="pause between chunks of a stream")
    add(
        "--keys",
        type=_count,
        action="append",
        metavar="PROVIDER=COUNT",
        help="how many keys a provider gives out (default: groq=3, one for the others)",
    )
    add(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="TARGET.LIMIT=NUMBER",
        help="a limit of a provider, provider/model or key, such as groq.requests_per_day=5; "
        "'none' removes it",
    )
    add(
        "--left",
        type=_left,
        action="append",
        default=[],
        metavar="KEY.LIMIT=NUMBER",
        help="how much is left at the start, such as groq_key_1.requests_per_day=2",
    )
    add(
        "--account",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=NAME",
        help="keys of one account share their limits",
    )
    return parser


def _nested(entries: Sequence[tuple[str, str, T]]) -> dict[str, dict[str, T]]:
    result: dict[str, dict[str, T]] = {}
    for target, name, number in entries:
        result.setdefault(target, {})[name] = number
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Return 0, or 2 for invalid arguments."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        sandbox = Sandbox(
            keys=DEFAULT_KEYS | dict(chosen.keys) if chosen.keys else None,
            limits=_nested(chosen.limit),
            left=_nested(chosen.left),
            accounts=dict(chosen.account),
            seed=chosen.seed,
            time_scale=chosen.time_scale,
            latency=chosen.latency,
            seconds_per_chunk=chosen.seconds_per_chunk,
            port=chosen.port,
        )
        sandbox.start()
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with sandbox:
        lines = [f"# Simulated providers on {sandbox.url}; Ctrl-C stops them."]
        lines += [f"export {name}={value}" for name, value in sandbox.environment().items()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        # In short steps, because Ctrl-C does not end an unlimited wait on Windows.
        while not stop.wait(0.5):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
