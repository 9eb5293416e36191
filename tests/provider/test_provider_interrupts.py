"""Ctrl-C at any time ends a request immediately, drops its connection and counts its tokens."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from provider_parts import Start, run_script

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempt_log import Tally, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.loop import RequestRun
from arche_magic.llm_providers.types import Location

# The modules that a request goes through from its hold to its booking.
STEPS = {"loop.py", "attempt.py", "request_progress.py"}
Line = tuple[str, int]

# Sends SIGINT once, while this module is being imported.
INTERRUPTED_IMPORT = """
import os, signal, sys
from arche_magic.llm_providers import get_llm_provider

class Interrupting:
    done = False

    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupting())
provider = get_llm_provider({provider!r})
try:
    provider.generate("one")
except KeyboardInterrupt:
    print("interrupted")
print(provider.generate("two").provider)
"""


@pytest.mark.parametrize(
    ("provider", "module"),
    [
        ("groq", "asyncio.tasks"),
        ("mistral", "httpx2._urls"),
        ("google", "asyncio.locks"),
        ("openai", "asyncio.queues"),
    ],
)
def test_an_interrupt_never_leaves_an_sdk_half_imported(
    start: Start, tmp_path: Path, provider: str, module: str
) -> None:
    """The first call imports the SDK. After an interrupt there, the next call can use it."""
    code = INTERRUPTED_IMPORT.format(provider=provider, module=module)
    out, _ = run_script(code, tmp_path, start().environment())
    assert out.splitlines() == ["interrupted", provider]


@pytest.mark.parametrize("stream", [False, True])
def test_an_interrupt_that_an_sdk_wraps_is_still_an_interrupt(
    start: Start, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Pydantic wraps exceptions while it creates a class or serializes a request."""
    from mistralai.client.chat import Chat

    def interrupted(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as stop:
            raise RuntimeError("Error calling __set_name__ on 'FieldInfo'") from stop

    start(keys={"mistral": 1})
    provider = get_llm_provider("mistral")
    monkeypatch.setattr(Chat, "stream" if stream else "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(provider.stream("Hello")) if stream else provider.generate("Hello")
    (attempt,) = attempt_log(get_configuration().store).session()
    assert attempt.outcome == "interrupted"


def lines_of(call: Callable[[], object], interrupted: Line | None = None) -> list[Line]:
    """The lines of a request's steps that a call reaches; an interrupt may come at one of them."""
    reached: dict[Line, None] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.name not in STEPS or path.parent.name != "llm_providers":
            return None
        line = path.name, frame.f_lineno
        if event == "line" and line not in reached:
            reached[line] = None
            if line == interrupted:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return list(reached)


@pytest.mark.parametrize(("stream", "in_file"), [(False, False), (True, False), (False, True)])
def test_an_interrupt_at_any_line_leaves_no_hold(start: Start, in_file: bool, stream: bool) -> None:
    """A hold that no call uses would count as used until it expires."""
    start(keys={"groq": 20}, settings={} if in_file else {"store": Location("memory://")})
    provider = get_llm_provider("groq")

    def ask() -> None:
        list(provider.stream("Hi")) if stream else provider.generate("Hi")

    ask()
    lines = lines_of(ask)
    assert {name for name, _ in lines} == STEPS
    for line in lines:
        with pytest.raises(KeyboardInterrupt):
            lines_of(ask, line)
        store = Path(provider.configuration.store)
        ledger = store.read_text() if in_file else repr(vars(provider.quota_tracker.storage))
        assert "used" in ledger
        assert "holds" not in ledger, line


def test_a_second_interrupt_leaves_no_hold(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come at the next line of Python, while the first one ends the request."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    start(keys={"groq": 1}, settings={"store": Location("memory://")})
    provider = get_llm_provider("groq")
    monkeypatch.setattr(RequestRun, "_note_skipped", interrupted)
    monkeypatch.setattr(Tally, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        provider.generate("Hi")
    assert "holds" not in repr(vars(provider.quota_tracker.storage))
