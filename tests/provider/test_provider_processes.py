"""One provider object used by many threads, and by forked or spawned processes."""

from __future__ import annotations

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from loopback import Handler, serving
from provider_parts import PROVIDERS, Start, run_script, server_count

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempt_file import attempts_of, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
PLENTY = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "requests_per_day"))


def test_many_threads_share_one_object(start: Start) -> None:
    """Each gets the reply to its own prompt, and the ledger's count equals the server's."""
    sandbox = start(limits=dict.fromkeys(PROVIDERS, PLENTY))
    provider = get_llm_provider()
    barrier = threading.Barrier(32)

    def ask(number: int) -> int:
        barrier.wait(20)
        tokens = 0
        for turn in range(4):
            prompt = f"Thread {number}, turn {turn}"
            if turn % 2:
                reply = provider.generate(prompt, patience=1e3)
                text, usage = str(reply), reply.usage
            else:
                stream = provider.stream(prompt, patience=1e3)
                text = "".join(stream)
                assert stream.reply is not None
                usage = stream.reply.usage
            assert f"“{prompt}”" in text
            tokens += usage.total_tokens
        return tokens

    with ThreadPoolExecutor(32) as pool:
        tokens = sum(pool.map(ask, range(32)))
    assert server_count(sandbox, "requests") == 128
    assert tokens == server_count(sandbox, "input_tokens") + server_count(sandbox, "output_tokens")
    stats = provider.get_stats()
    assert (stats["total_calls"], stats["errors"]) == (128, 0)


class Telltale(Handler):
    """Answers as Groq does, and records which process used which connection."""

    seen: dict[Any, set[str]]

    def do_POST(self) -> None:
        body = json.loads(self.body())
        prompt = body["messages"][-1]["content"]
        self.seen.setdefault(self.client_address, set()).add(prompt.split()[0])
        message = {"role": "assistant", "content": prompt}
        reply = {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 5},
        }
        self.answer(200, json.dumps(reply).encode())


@pytest.fixture
def telltale() -> Iterator[tuple[str, dict[Any, set[str]]]]:
    seen: dict[Any, set[str]] = {}
    with serving(type("Handler", (Telltale,), {"seen": seen})) as url:
        yield url, seen


# The parent's threads send requests all the time, so that forks happen while locks are held.
FORKING = """
import multiprocessing, os, threading
from arche_magic.llm_providers import get_llm_provider

provider = get_llm_provider("groq")
stop = threading.Event()

def keep_asking():
    while not stop.is_set():
        provider.generate(f"{os.getpid()} parent")

def child(number):
    for turn in range(5):
        prompt = f"{os.getpid()} child {number} {turn}"
        assert provider.generate(prompt) == prompt

provider.generate(f"{os.getpid()} parent")
threads = [threading.Thread(target=keep_asking) for _ in range(4)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for number in range(12):
    children = [context.Process(target=child, args=(number,)) for _ in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join(20)
        if process.is_alive():
            process.kill()
            print("a child hangs")
        elif process.exitcode:
            print("a child failed")
stop.set()
for thread in threads:
    thread.join()
print("done", os.getpid())
"""


@forks
def test_a_forked_child_shares_no_connections_or_locks(
    telltale: tuple[str, dict[Any, set[str]]], tmp_path: Path
) -> None:
    """Other threads of the parent are in the middle of requests."""
    url, seen = telltale
    limits = "\n".join(f"{name} = 1_000_000_000" for name in [*PLENTY, "tokens_per_day"])
    (tmp_path / "arche_magic.toml").write_text(f"[limits.groq]\n{limits}\n")
    variables = {"GROQ_API_KEY": "gsk-of-nobody-1234567", "GROQ_BASE_URL": url}
    out, err = run_script(FORKING, tmp_path, variables)
    assert out.startswith("done "), err
    assert max(len(processes) for processes in seen.values()) == 1
    assert len({process for processes in seen.values() for process in processes}) == 25
    attempts = list(attempts_of(read_lines(tmp_path / "outputs" / "llm_calls.jsonl")))
    assert {attempt.outcome for attempt in attempts} == {"served"}
    assert len({attempt.request for attempt in attempts}) == len(attempts)


# The main thread forks in the middle of four imports of another thread. An import goes on when the
# fork is done, or after a moment if the fork waits for it.
FORKS_DURING_IMPORTS = """
import multiprocessing, queue, sys, threading
from arche_magic.llm_providers import get_llm_provider

slow = {"arche_magic.llm_providers.orchestrator", "pydantic.main", "pydantic.types", "groq._client"}
importing, forked = queue.SimpleQueue(), threading.Event()

class Slow:
    def find_spec(name, path, target=None):
        if name in slow:
            slow.discard(name)
            importing.put(name)
            forked.wait(0.2)

def ask():
    return get_llm_provider("groq").generate("Hello")

def child():
    slow.clear()
    assert "Hello" in ask()

sys.meta_path.insert(0, Slow)
first = threading.Thread(target=ask)
first.start()
context = multiprocessing.get_context("fork")
for _ in range(4):
    name = importing.get(timeout=20)
    process = context.Process(target=child)
    forked.clear()
    process.start()
    forked.set()
    process.join(10)
    print(name.rpartition(".")[2], process.exitcode)
    process.kill()
first.join()
"""


@forks
def test_a_child_forked_during_the_first_call_can_ask(start: Start, tmp_path: Path) -> None:
    """A fork waits for imports: otherwise the child has half a module, or waits without end."""
    variables = start(keys={"groq": 1}).environment()
    out, err = run_script(FORKS_DURING_IMPORTS, tmp_path, variables)
    assert out.splitlines() == ["orchestrator 0", "main 0", "types 0", "_client 0"], err


IMPORTS_WHILE_LOCKED = """
import fcntl, sys
from arche_magic.llm_providers import get_llm_provider

locked, found = [], []

def note(event, values):
    if event == "fcntl.flock":
        if values[1] == fcntl.LOCK_UN:
            locked.clear()
        else:
            locked.append(values)
    elif event == "import" and locked:
        found.append(values[0])

sys.addaudithook(note)
provider = get_llm_provider("groq")
provider.generate("Hello")
provider.generate("Hello")
print("imported", *found)
"""


@forks
def test_nothing_is_imported_while_the_ledger_is_locked(start: Start, tmp_path: Path) -> None:
    """A child forked while another thread imports hangs at an import, and would keep the lock."""
    sandbox = start(keys={"groq": 1})
    out, err = run_script(IMPORTS_WHILE_LOCKED, tmp_path, sandbox.environment())
    assert out.split() == ["imported"], err


AT_SHUTDOWN = """
from arche_magic.llm_providers import get_llm_provider

class Asks:
    def __init__(self):
        self.provider = get_llm_provider("groq")
    def __del__(self):
        for options in ({}, {"schema": "a int"}):
            try:
                self.provider.generate("Hello", **options)
            except Exception as error:
                print(error)

asks = Asks()
"""


@pytest.mark.parametrize("before", ["", "asks.provider.generate('Hello')"])
def test_a_request_at_the_end_of_python_is_refused(
    start: Start, tmp_path: Path, before: str
) -> None:
    """Threads and imports no longer work then, and the process must end."""
    out, err = run_script(AT_SHUTDOWN + before, tmp_path, start(keys={"groq": 1}).environment())
    assert out.splitlines() == [
        "Python is shutting down; no request can be sent",
        "sys.meta_path is None, Python is likely shutting down",
    ]
    assert err == ""


FORK_IN_A_STREAM = """
import os, sys
from arche_magic.llm_providers import LLMProviderError, get_llm_provider

provider = get_llm_provider("groq")
provider.generate("Hello")
stream = provider.stream("Hello [tokens=2000]")
text = next(stream)
sys.stdout.flush()
child = os.fork()
if not child:
    try:
        next(stream)
    except LLMProviderError as error:
        assert "belongs to the parent process" in str(error)
    else:
        os._exit(1)
    stream.close()
    assert provider.generate("Hello").provider == "groq"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
text += "".join(stream)
assert text == stream.reply
print(len(text))
"""


@forks
def test_a_child_does_not_end_its_parents_stream(start: Start, tmp_path: Path) -> None:
    """It cannot read its copy. The parent reads everything, and counts it once."""
    sandbox = start(keys={"groq": 1})
    sandbox.seconds_per_chunk = 0.002
    out, _ = run_script(FORK_IN_A_STREAM, tmp_path, sandbox.environment())
    assert int(out) > 7000
    attempts = list(attempts_of(read_lines(tmp_path / "outputs" / "llm_calls.jsonl")))
    assert [attempt.outcome for attempt in attempts] == ["served"] * 3
    charged = sum(attempt.output_tokens for attempt in attempts)
    assert charged == server_count(sandbox, "output_tokens")


JITTER = """
import multiprocessing
from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider

provider = get_llm_provider("groq")

def ask(results):
    try:
        provider.generate("Hello", patience=0)
    except NoRouteAvailable as error:
        (attempt,) = error.attempts
        results.put(round(attempt.opens_at - attempt.at, 3))

context = multiprocessing.get_context("fork")
results = context.SimpleQueue()
children = [context.Process(target=ask, args=(results,)) for _ in range(6)]
for process in children:
    process.start()
print(*(results.get() for _ in children))
"""


@forks
def test_forked_children_do_not_retry_at_the_same_time(start: Start, tmp_path: Path) -> None:
    """After an outage that each of them met, their waits differ."""
    sandbox = start(keys={"groq": 1})
    sandbox.fail("groq", "server_error", times=None)
    variables = {**sandbox.environment(), "ARCHE_QUOTA_STORE": "memory://"}
    out, _ = run_script(JITTER, tmp_path, variables)
    waits = [float(wait) for wait in out.split()]
    assert len(waits) == 6
    assert max(waits) - min(waits) > 0.02


SPAWNING = """
import multiprocessing
from arche_magic.llm_providers import get_llm_provider

def ask(number):
    return get_llm_provider("mistral").generate(f"Number {number}")

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number, reply in enumerate(pool.map(ask, range(6))):
            assert f"“Number {number}”" in reply, reply
            print(reply.provider, reply.attempts[0].outcome)
"""


def test_spawned_processes_share_the_ledger(start: Start, tmp_path: Path) -> None:
    """Each creates its own provider; replies are returned with all attributes."""
    sandbox = start(keys={"mistral": 1})
    script = tmp_path / "spawning.py"
    script.write_text(SPAWNING)
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    # A spawned process imports the main module from its file.
    code = f"import sys; sys.argv = [{str(script)!r}]\n" + code
    out, _ = run_script(code, tmp_path, sandbox.environment())
    assert out.split() == ["mistral", "served"] * 6
    assert server_count(sandbox, "requests") == 6


def test_a_provider_cannot_be_pickled(start: Start) -> None:
    """It contains keys; the error says what to do instead."""
    start()
    with pytest.raises(TypeError, match="create it in the other process"):
        pickle.dumps(get_llm_provider())
