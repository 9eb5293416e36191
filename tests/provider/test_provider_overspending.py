"""A budget is exceeded by at most one reply: by threads, by processes, and through Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from paid_service import MODEL, Answer, PaidService, environment, paid_service, use
from provider_parts import NOON, Clock, start_script
from redis_server import RedisServer

from arche_magic.llm_providers import (
    NoRouteAvailable,
    get_llm_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.errors import SchemaMismatch
from arche_magic.llm_providers.quota_tracker import Hold
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.stopping import stopped_by
from arche_magic.llm_providers.types import Budget

# USD: in these tests, a thousand tokens cost this much.
REPLY = 3.02
SPENDER = """
import threading
from arche_magic.llm_providers import LLMProviderError, get_llm_provider
def ask(thread):
    try:
        for number in range(20):
            get_llm_provider("openai").generate(f"NAME {thread} {number}", patience=0)
    except LLMProviderError:
        pass
threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def ask_until_refused(thread: int, **options: object) -> None:
    with suppress(NoRouteAvailable):
        for number in range(50):
            with suppress(SchemaMismatch):
                prompt = f"Prompt {thread} {number}"
                get_llm_provider("openai").generate(prompt, patience=0, **options)


def spent(service: PaidService) -> float:
    return service.tokens / 1000


@pytest.mark.parametrize("options", [{}, {"max_tokens": 4000}], ids=["open", "max_tokens"])
def test_threads_without_max_tokens_keep_the_budget(options: dict[str, int]) -> None:
    """Sixteen threads share ten USD, and each reply costs three USD."""
    with paid_service() as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda n: ask_until_refused(n, **options), range(16)))
        assert 6.0 < spent(service) <= 10.0
        (used,) = get_quota_tracker().budget()
    assert used.spent == pytest.approx(spent(service))


def test_growing_replies_exceed_the_budget_by_at_most_one() -> None:
    """The usual length so far does not predict the next one."""
    with paid_service(answer=lambda number: Answer(10 if number < 30 else 4000)) as service:
        use(service, Path.cwd(), budget=Budget(per_day=20.0))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(ask_until_refused, range(16)))
        assert 10.0 < spent(service) <= 24.02


def test_replies_that_do_not_fit_the_schema_count_in_the_budget() -> None:
    """Each of them was paid for."""
    with paid_service(answer=lambda number: Answer(1000, text="no JSON")) as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: ask_until_refused(n, schema="mood good|bad"), range(8)))
        assert 8.0 < spent(service) <= 11.02
        (used,) = get_quota_tracker().budget()
    assert used.spent == pytest.approx(spent(service))


def test_replies_without_a_count_count_in_the_budget() -> None:
    """They count by the length of their text."""
    silent = Answer(3000, text="word " * 2400, says_usage=False)
    with paid_service(answer=lambda number: silent) as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(ask_until_refused, range(16)))
        assert 6.0 < spent(service) <= 10.0 + REPLY


def test_an_interrupted_request_counts_in_the_budget() -> None:
    """The service may have written a whole reply that was never received."""
    with paid_service(answer=lambda number: Answer(1000), seconds=1.0) as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        stop = threading.Event()
        timer = threading.Timer(0.4, stop.set)
        timer.start()
        with stopped_by(stop), pytest.raises(KeyboardInterrupt):
            get_llm_provider("openai").generate("Hello", max_tokens=1000)
        (used,) = get_quota_tracker().budget()
    assert used.spent >= 1.0


def test_abandoned_streams_count_in_the_budget() -> None:
    """Each as a usual reply, because the service may have reasoned before the first piece."""
    with paid_service() as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        llm = get_llm_provider("openai")
        llm.generate("Hello")
        for number in range(2):
            pieces = llm.stream(f"Prompt {number}", patience=0)
            assert next(pieces)
            pieces.close()
        with pytest.raises(NoRouteAvailable, match="the budget"):
            next(llm.stream("Prompt 3", patience=0))
        assert spent(service) == pytest.approx(3 * REPLY)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with RedisServer(tmp_path / "redis") as server:
        yield server.url


@pytest.mark.parametrize("store", ["file", "redis"])
def test_processes_together_keep_the_budget(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The ledger is in a file or in Redis."""
    variables = {}
    if store == "redis":
        variables["ARCHE_QUOTA_STORE"] = request.getfixturevalue("redis_url")
    prices = f'[providers.openai.prices]\n"{MODEL}" = {{ input = 1000, output = 1000 }}\n'
    (tmp_path / "arche_magic.toml").write_text(f"{prices}\n[budget]\nper_day = 10\n")
    with paid_service(seconds=0.1) as service:
        processes = [
            start_script(SPENDER.replace("NAME", name), tmp_path, variables | environment(service))
            for name in ("one", "two", "three")
        ]
        for process in processes:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
    assert 6.0 < spent(service) <= 10.0


def test_yesterdays_longest_reply_does_not_block_today(clock: Clock) -> None:
    """A kernel that was killed during a call does not either, once its hold has expired."""
    with paid_service(answer=lambda number: Answer(600 if number else 2000)) as service:
        use(service, Path.cwd(), budget=Budget(per_day=3.0), clock=clock)
        llm, tracker = get_llm_provider("openai"), get_quota_tracker()
        assert llm.generate("Hello", patience=0).cost == pytest.approx(2.02)
        with pytest.raises(NoRouteAvailable, match="budget"):
            llm.generate("Hello again", patience=0)
        clock.now = NOON + 86_400.0
        request = Request((Message("user", "Hello"),))
        assert isinstance(tracker.hold(tracker.configuration.routes()[0], request), Hold)
        clock.now += request.timeout + 60
        assert llm.generate("Good morning", patience=0).cost == pytest.approx(0.62)


def test_a_reply_that_came_too_late_counts_as_a_usual_one() -> None:
    """The service wrote it and charges for it, although its count was never received."""
    with paid_service() as service:
        use(service, Path.cwd(), budget=Budget(per_day=10.0))
        llm = get_llm_provider("openai")
        llm.generate("Hello")
        service.seconds = 1.0
        with pytest.raises(NoRouteAvailable):
            llm.generate("Hello again", timeout=0.5, patience=0)
        (used,) = get_quota_tracker().budget()
    assert 2 * REPLY <= used.spent < 2.1 * REPLY
