"""Threads and kernels find a spent or failing route with one call each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

from env_file import write_env_file
from provider_parts import (
    MODELS,
    FastClock,
    Start,
    run_script,
    start_script,
)

from arche_magic.llm_providers import Reply, get_llm_provider

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox

SPENT = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 5)}
ASK_AT_ONCE = """
import json
from concurrent.futures import ThreadPoolExecutor
from arche_magic.llm_providers import get_llm_provider
provider = get_llm_provider("groq")
with ThreadPoolExecutor(6) as pool:
    replies = list(pool.map(lambda n: provider.generate(f"Prompt {n}", timeout=60), range(7)))
print(json.dumps([reply.key for reply in replies]))
"""


def ask_at_once(name: str | None, prompts: int, threads: int = 8, **options: float) -> list[Reply]:
    provider = get_llm_provider(name)

    def ask(number: int) -> Reply:
        return provider.generate(f"Prompt {number}", **options)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, range(prompts)))


def refusals(sandbox: Sandbox) -> dict[str, int]:
    """How often each key was refused."""
    return {
        key: sum(count["refused"] for count in models.values())
        for key, models in sandbox.usage().items()
    }


def test_all_threads_together_call_each_spent_key_once(start: Start, tmp_path: Path) -> None:
    """Every prompt is answered; a restarted kernel and another one do not call the spent keys."""
    sandbox = start(keys={"groq": 5}, left=SPENT)
    write_env_file(tmp_path, sandbox)
    replies = ask_at_once("groq", 12)
    kernels = [start_script(ASK_AT_ONCE, tmp_path) for _ in range(2)]
    answered = [reply.key for reply in replies]
    for kernel in kernels:
        out, err = kernel.communicate(timeout=120)
        assert kernel.returncode == 0, err
        answered += json.loads(out)
    assert answered == ["groq_key_5"] * 26
    keys = [request.key for request in sandbox.requests]
    assert {key: keys.count(key) for key in SPENT} == dict.fromkeys(SPENT, 1)


def test_kernels_that_start_together_call_a_spent_key_once(start: Start, tmp_path: Path) -> None:
    """They share one ledger."""
    sandbox = start(keys={"groq": 5}, left=SPENT)
    write_env_file(tmp_path, sandbox)
    kernels = [start_script(ASK_AT_ONCE, tmp_path) for _ in range(3)]
    for kernel in kernels:
        _, err = kernel.communicate(timeout=120)
        assert kernel.returncode == 0, err
    keys = [request.key for request in sandbox.requests]
    assert {key: keys.count(key) for key in SPENT} == dict.fromkeys(SPENT, 1)
    assert keys.count("groq_key_5") == 21


def test_threads_meet_an_unknown_limit_once(start: Start) -> None:
    """Groq's real rate is a third of the published one, and Gemini's is not published."""
    clock = FastClock(speed=4)
    sandbox = start(
        keys={"groq": 2, "google": 1},
        clock=clock,
        limits={"groq": {"requests_per_minute": 10}, "google": {"requests_per_minute": 5}},
    )
    replies = ask_at_once(None, 32, patience=1e6, timeout=1e6)
    assert len(replies) == 32
    refused = refusals(sandbox)
    assert max(refused.values()) <= 1
    assert sum(refused.values()) >= 2


def test_an_outage_is_tested_by_one_call_at_a_time(start: Start) -> None:
    """After each wait, which doubles, one of the eight threads tries."""
    clock = FastClock(speed=80)
    sandbox = start(keys={"mistral": 1}, clock=clock)
    ask_at_once("mistral", 1)
    before = len(sandbox.requests)
    sandbox.fail("mistral", "overloaded", times=12)
    replies = ask_at_once("mistral", 16, patience=1e6, timeout=1e6)
    assert len(replies) == 16
    requests = list(sandbox.requests)[before:]
    failed = [request for request in requests if request.status == 503]
    assert len(failed) == 12
    # At most eight were running when it began; then one follows each wait.
    trials = [request.at for request in failed[8:]]
    assert all(later - sooner > 1 for sooner, later in pairwise(trials))


def test_patience_zero_still_waits_for_the_first_reply(start: Start) -> None:
    """It is for users who do not want to wait for quota, and here there is quota."""
    start(keys={"mistral": 1})
    replies = ask_at_once("mistral", 16, patience=0)
    assert len(replies) == 16


def test_threads_with_one_key_are_hardly_slowed_down(start: Start) -> None:
    """After the first reply, eight run at once, because the provider states its rate."""
    sandbox = start(keys={"mistral": 1}, latency=0.2)
    replies = ask_at_once("mistral", 33)
    began = [request.at for request in sandbox.requests]
    assert len(replies) == 33
    # One, then four rounds of eight; one at a time they would take 6.6 seconds.
    assert began[-1] - began[0] < 2.5
    assert MODELS["mistral"] == replies[0].model


def test_a_ledger_of_version_1_is_read(start: Start, tmp_path: Path) -> None:
    """Its counts are kept, and the file is written in the new version from then on."""
    write_env_file(tmp_path, start(keys={"groq": 1}))
    configuration = get_llm_provider("groq").configuration
    (key,) = configuration.keys
    now = configuration.clock.time()
    limit = {
        "amount": 200_000.0, "window": "bucket", "time_zone": "UTC", "evidence": "error",
        "evidence_at": now - 60, "counter": {"used": 150_000.0, "at": now}, "recent": {},
    }  # fmt: skip
    model = {
        "limits": {"tokens_per_day": limit},
        "holds": {},
        "charged": {"requests": 400.0, "tokens": 9.0, "input_tokens": 5.0, "output_tokens": 4.0},
        "last_charged": now,
    }
    document = {
        "provider": "groq",
        "keys": {key.fingerprint: {"label": "groq_key_1"}},
        "models": {MODELS["groq"]: model},
    }
    ledger = tmp_path / "outputs" / "llm_quota_tracker.json"
    ledger.parent.mkdir()
    content = {
        "version": 1, "revision": 7, "complete": 7,
        "documents": {f"groq:{key.fingerprint}": document},
    }  # fmt: skip
    ledger.write_text(json.dumps(content))
    code = (
        "from arche_magic.llm_providers import get_llm_provider\n"
        "provider = get_llm_provider('groq')\n"
        "provider.generate('Hello')\n"
        "row = provider.get_stats()['quota_summary']['groq']['groq_key_1']['tokens_per_day']\n"
        "print(row['used'], row['limit'])"
    )
    out, err = run_script(code, tmp_path)
    used, allowed = map(float, out.split())
    assert 149_000 < used < 151_000
    assert allowed == 200_000
    assert err == ""
    assert json.loads(ledger.read_text())["version"] == 3
