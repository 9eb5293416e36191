"""Stopping a request of another thread, like the panel's Stop button and interrupted cells."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from cancelling import cancelled, timed_out, until
from loopback import full_queue
from promptness import in_time

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.stopping import stopped_by

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Start


@pytest.mark.parametrize("name", ["groq", "mistral", "google", "openai"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stopped_request_ends_and_is_counted(start: Start, name: str, stream: bool) -> None:
    """It may wait for anything; here, for a server that takes half a minute to answer."""
    sandbox = start(keys={name: 1})
    provider = get_llm_provider(name)
    provider.generate("The first call also loads the SDK.")
    sandbox.latency = 30
    stop = threading.Event()

    def ask() -> None:
        with stopped_by(stop):
            if stream:
                list(provider.stream("Hello"))
            else:
                provider.generate("Hello")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        while len(sandbox.requests) < 2:
            time.sleep(0.01)
        began = time.monotonic()
        stop.set()
        with pytest.raises(KeyboardInterrupt):
            asked.result(timeout=20)
    in_time("an interrupt", time.monotonic() - began)
    attempts = attempt_log(get_configuration().store).session()
    assert [attempt.outcome for attempt in attempts] == ["served", "interrupted"]
    used = get_quota_tracker().get_usage_summary(name)[name][f"{name}_key_1"]
    daily = next(limit for limit in used if limit.startswith(("requests", "tokens")))
    assert used[daily]["used"] > 0
    assert len(sandbox.requests) == 2


def test_stopping_does_not_affect_later_requests(start: Start) -> None:
    """A thread that starts other work can send requests as usual."""
    start(keys={"groq": 1})
    stop = threading.Event()
    with stopped_by(stop):
        get_llm_provider("groq").generate("Hello")
    stop.set()
    assert get_llm_provider("groq").generate("Hello again")


def test_a_request_is_stopped_while_it_connects(tmp_path: Path) -> None:
    """No other provider is called, and the thread does not wait for the connection."""
    with full_queue() as address:
        variables = {
            "GROQ_API_KEY": "gsk-of-nobody-12345", "GROQ_BASE_URL": address,
            "MISTRAL_API_KEY": "of-nobody-12345", "MISTRAL_BASE_URL": "http://127.0.0.1:9",
        }  # fmt: skip
        use_configuration(load_configuration(variables, tmp_path))
        stop = threading.Event()

        def ask() -> None:
            with stopped_by(stop):
                get_llm_provider().generate("Hello")

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            time.sleep(0.8)
            assert not asked.done()
            began = time.monotonic()
            stop.set()
            with pytest.raises(KeyboardInterrupt):
                asked.result(timeout=20)
            in_time("an interrupt", time.monotonic() - began)
    attempts = attempt_log(get_configuration().store).session()
    assert [(a.provider, a.outcome) for a in attempts] == [("groq", "interrupted")]


# --- async requests


async def in_a_group(request: Awaitable[Any], sent: Callable[[], bool]) -> None:
    """Let another task of its group fail."""

    async def fail() -> None:
        await until(sent)
        raise RuntimeError("the other task failed")

    async with asyncio.TaskGroup() as group:
        group.create_task(request)  # type: ignore[arg-type]
        group.create_task(fail())


@pytest.mark.parametrize("name", ["groq", "mistral", "google", "openai"])
@pytest.mark.parametrize("way", [cancelled, timed_out, in_a_group])
def test_a_cancelled_request_calls_no_other_provider(start: Start, name: str, way: Any) -> None:
    """When the cancellation returns, its connection is closed and its call is counted."""
    other = "mistral" if name != "mistral" else "groq"
    sandbox = start(keys={name: 1, other: 1})
    provider = IntelligentLLMOrchestrator(preferred_provider=name)
    provider.generate("The first call also loads the SDK.")
    sandbox.latency = 30
    ended: list[float] = []

    reported: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        request = provider.agenerate("Hello")
        try:
            await way(request, lambda: len(sandbox.requests) == 2)
        finally:
            ended.append(time.monotonic())
            attempts = attempt_log(get_configuration().store).session()
            assert [attempt.outcome for attempt in attempts] == ["served", "interrupted"]

    began = time.monotonic()
    with pytest.raises((asyncio.CancelledError, TimeoutError, ExceptionGroup)):
        asyncio.run(main())
    in_time("an interrupt", time.monotonic() - began)
    gc.collect()
    assert reported == []
    assert len(sandbox.requests) == 2
    sandbox.latency = 0
    assert provider.generate("Hello again").provider == name


def test_a_request_cancelled_before_its_thread_started_sends_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there are more requests than threads, the waiting ones end immediately."""
    monkeypatch.setattr("arche_magic.llm_providers.stopping._MOST_THREADS", 1)
    sandbox = start(keys={"groq": 1})
    provider = get_llm_provider("groq")
    provider.generate("The first call also loads the SDK.")
    sandbox.latency = 30

    async def main() -> None:
        tasks = [asyncio.ensure_future(provider.agenerate(f"Hello {n}")) for n in range(3)]
        await until(lambda: len(sandbox.requests) == 2)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*tasks, return_exceptions=True)
        )

    began = time.monotonic()
    asyncio.run(main())
    in_time("an interrupt", time.monotonic() - began)
    assert len(sandbox.requests) == 2


def test_many_awaited_requests_run_at_the_same_time(start: Start) -> None:
    """Forty that hang do not hold up the next one, on a machine with few processors too."""
    sandbox = start(keys={"openai": 1})
    provider = get_llm_provider("openai")
    provider.generate("The first call also loads the SDK.")
    sandbox.latency = 30

    async def main() -> str:
        hanging = [provider.agenerate("Hello") for _ in range(40)]
        tasks = [asyncio.ensure_future(request) for request in hanging]
        await until(lambda: len(sandbox.requests) == 41)
        sandbox.latency = 0
        try:
            return await provider.agenerate("Hello")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    assert asyncio.run(main())


def test_requests_stop_when_their_event_loop_ends(start: Start) -> None:
    """Nobody would read the reply."""
    sandbox = start(keys={"groq": 1, "mistral": 1})
    provider = get_llm_provider()
    provider.generate("The first call also loads the SDK.")
    sandbox.latency = 30

    async def main() -> None:
        task = asyncio.ensure_future(provider.agenerate("Hello"))
        await until(lambda: len(sandbox.requests) == 2)
        assert not task.done()

    began = time.monotonic()
    asyncio.run(main())
    in_time("an interrupt", time.monotonic() - began)
    assert len(sandbox.requests) == 2
