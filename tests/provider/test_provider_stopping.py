"""Stopping a request that another thread makes, as a panel's Stop and an interrupted cell do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from promptness import in_time

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.stopping import stopped_by

if TYPE_CHECKING:
    from provider_parts import Start


@pytest.mark.parametrize("name", ["groq", "mistral", "google", "openai"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stopped_request_ends_and_is_booked(start: Start, name: str, stream: bool) -> None:
    """Whatever it waits for: here a server that takes half a minute to say anything."""
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


def test_a_request_is_not_stopped_by_what_ended_before(start: Start) -> None:
    """A thread that goes on to other work makes its requests as ever."""
    start(keys={"groq": 1})
    stop = threading.Event()
    with stopped_by(stop):
        get_llm_provider("groq").generate("Hello")
    stop.set()
    assert get_llm_provider("groq").generate("Hello again")
