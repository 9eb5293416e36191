"""Ctrl-C at any moment of a call ends it, although SDKs drop some interrupts."""

from __future__ import annotations

import random
import signal
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from adapter_calls import HELLO, MODELS, SECRET, WIRES, complete
from tool_answers import ANSWERED

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.provider_failure import AttemptFailed
from arche_magic.llm_providers.types import Key, Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

INTERRUPTS = 50
# Preparing and sending a request takes a few milliseconds at most.
SECONDS_OF_PREPARING = 0.003
ONE_SECOND = Timeouts(total=1.0)
REQUESTS = {"chat": HELLO, "tools": ANSWERED, "embeddings": replace(HELLO, inputs=("one", "two"))}


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """The address of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def waiting(silent: str) -> Iterator[dict[str, Adapter]]:
    """One adapter per wire for the silent server; its SDK is imported."""
    built = {}
    for wire in WIRES:
        built[wire] = build_adapter(wire, Key.of(wire, f"{wire}_key_1", SECRET), silent)
        with pytest.raises(AttemptFailed):
            complete(built[wire], MODELS[wire], timeouts=Timeouts(total=0.1))
    yield built
    for adapter in built.values():
        adapter.close()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("kind", "stream"),
    [("chat", False), ("chat", True), ("tools", False), ("tools", True), ("embeddings", False)],
)
@pytest.mark.parametrize("wire", WIRES)
def test_an_interrupt_at_any_moment_of_a_call_ends_it(
    waiting: dict[str, Adapter], wire: str, kind: str, stream: bool
) -> None:
    """Python drops a KeyboardInterrupt in a finalizer, and pydantic in a serializer."""
    main = threading.main_thread().ident
    assert main is not None
    moments = random.Random(f"{wire} {kind} {stream}")
    for _ in range(INTERRUPTS):
        moment = moments.random() * SECONDS_OF_PREPARING
        timer = threading.Timer(moment, signal.pthread_kill, (main, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it may come at once
            timer.start()
            complete(
                waiting[wire], MODELS[wire], REQUESTS[kind], stream=stream, timeouts=ONE_SECOND
            )
        timer.join()


def test_the_programs_own_handler_decides_what_an_interrupt_does(
    waiting: dict[str, Adapter], request: pytest.FixtureRequest
) -> None:
    presses = []

    def handler(number: int, frame: FrameType | None) -> None:
        presses.append(number)

    before = signal.signal(signal.SIGINT, handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(AttemptFailed):
        complete(waiting["openai"], MODELS["openai"], timeouts=Timeouts(total=0.3))
    assert presses == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler
