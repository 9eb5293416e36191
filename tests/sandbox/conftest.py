"""Sandboxes, their clock, and clients for them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from sdk_clients import PROVIDERS, Client

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clock:
    """Time that moves only when a test says so."""

    def __init__(self, start: str = "2026-11-23T12:00:00+00:00") -> None:
        self.now = datetime.fromisoformat(start).timestamp()

    def __call__(self) -> float:
        return self.now

    def set(self, moment: str) -> None:
        self.now = datetime.fromisoformat(moment).timestamp()

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock set to noon UTC on a Monday."""
    return Clock()


@pytest.fixture
def start() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that end with the test."""
    started: list[Sandbox] = []

    def begin(**options: Any) -> Sandbox:
        started.append(Sandbox(**options).start())
        return started[-1]

    yield begin
    for sandbox in started:
        sandbox.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    """One sandbox without limits, for tests that need no settings and read no counts."""
    names = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day",
             "tokens_per_month", "input_tokens_per_minute")  # fmt: skip
    with Sandbox(limits=dict.fromkeys(PROVIDERS, dict.fromkeys(names))) as started:
        yield started


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Make SDK clients that are closed with the test."""
    clients: list[Client] = []

    def make(*arguments: Any, **options: Any) -> Client:
        clients.append(Client(*arguments, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
