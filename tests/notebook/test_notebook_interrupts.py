"""Kernel → Interrupt at any stage of a prompt, in each supported ipykernel."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_versions import kernel_variables
from loopback import full_queue
from notebook_kernel import Cell, Kernel
from promptness import in_time

from arche_magic.llm_providers.storage.locks import KernelLock
from arche_magic.sandbox import Sandbox

PROVIDERS = ("groq", "mistral", "google", "openai")
VERSIONS = ("6.30.1", "7.3.0", "7.4.0")
WORDS = " ".join(f"word{number}" for number in range(60))
Sandboxed = Callable[..., Sandbox]
# Interrupts half a second later, during a finalizer, where Python ignores exceptions.
DROPPED_PRESS = """
import os, signal, time

class Finalizer:
    def __del__(self):
        global pressed
        pressed = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGALRM, lambda *_: Finalizer())
signal.setitimer(signal.ITIMER_REAL, 0.5)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def running_kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """Instead of the installed kernel, one of each version."""
    variables = kernel_variables(request.param)
    kernel = Kernel(tmp_path_factory.mktemp("kernel"), **variables)
    assert kernel.value("__import__('ipykernel').__version__") == request.param
    yield kernel
    kernel.stop()


@pytest.fixture(params=[0, 1])
def provider(request: pytest.FixtureRequest, kernel: Kernel) -> str:
    """Two providers for each version of the kernel, so that each is tried with one at least."""
    version = VERSIONS.index(kernel.value("__import__('ipykernel').__version__"))
    return PROVIDERS[(2 * version + request.param) % len(PROVIDERS)]


def connections(kernel: Kernel, port: int) -> list[str]:
    """The states of the kernel's connections to a port of this machine."""
    process = psutil.Process(kernel.manager.provisioner.pid)
    return [c.status for c in process.net_connections("tcp") if c.raddr and c.raddr.port == port]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def streaming(cell: Cell) -> bool:
    return sum(kind == "update_display_data" for _, kind, _ in cell.messages) > 2


def assert_stopped_at_once(cell: Cell) -> None:
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.status == "error"
    assert cell.message.startswith("Interrupted: ")


def test_an_interrupt_while_it_streams_keeps_the_text(
    kernel: Kernel, sandboxed: Sandboxed, tmp_path: Path, provider: str
) -> None:
    """The text so far stays and is marked, its tokens are counted, the connection is closed."""
    sandbox = sandboxed(keys={provider: 1}, seconds_per_chunk=0.1, reply=lambda *_: WORDS)
    ledger = tmp_path / "ledger.json"
    kernel.use(sandbox, str(ledger))
    cell = kernel.run("%llm hi", interrupt_when=streaming)
    assert connections(kernel, port_of(sandbox.url)) == []
    assert_stopped_at_once(cell)
    text, mark = cell.data()
    assert text
    assert WORDS.startswith(text)
    assert mark.startswith("interrupted: the reply is not complete · " + provider)
    assert re.search(r" · [1-9]\d* tokens · \d+\.\d s", mark)
    assert ("paid · $0.0" in mark) == (provider == "openai")
    assert kernel.run("%llm_stats").status == "ok"
    assert kernel.value("list(_.outcome)") == ["interrupted"]
    assert kernel.value("int(_.output_tokens.iloc[0])") > 0
    (account,) = (d for d in documents(ledger) if "models" in d and "moved" not in d)
    (model,) = account["models"].values()
    assert not model.get("holds")
    assert model["charged"]["requests"] == 1
    assert model["charged"]["output_tokens"] > 0


def test_an_interrupt_ends_the_wait_for_a_silent_server(
    kernel: Kernel, sandboxed: Sandboxed, provider: str
) -> None:
    """The connection is closed, and the next prompt calls the server again."""
    sandbox = sandboxed(keys={provider: 1}, latency=60)
    since: list[float] = []

    def thinking(_: Cell) -> bool:
        if connections(kernel, port_of(sandbox.url)) == ["ESTABLISHED"]:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() > since[0] + 0.2

    assert_stopped_at_once(kernel.run("%llm hi", interrupt_when=thinking))
    assert connections(kernel, port_of(sandbox.url)) == []
    sandbox.latency = 0
    assert kernel.run("%llm -q again").status == "ok"


def test_an_interrupt_ends_a_connection_attempt(
    kernel: Kernel, sandboxed: Sandboxed, provider: str
) -> None:
    """A connection that is not accepted is closed too."""
    sandboxed(keys={provider: 1})
    with full_queue() as url:
        port = port_of(url)
        kernel.run(
            f"for name in [n for n in os.environ if n.endswith('BASE_URL')]:\n"
            f"    os.environ[name] = '{url}/v1'"
        )
        cell = kernel.run(
            "%llm hi", interrupt_when=lambda _: connections(kernel, port) == ["SYN_SENT"]
        )
        assert_stopped_at_once(cell)
        assert connections(kernel, port) == []


def test_an_interrupt_ends_the_wait_for_a_route(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The countdown disappears."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_day": 0}})
    cell = kernel.run(
        "%llm --patience 1e6 hi",
        interrupt_when=lambda cell: any("waiting" in text for text in cell.data()),
    )
    assert_stopped_at_once(cell)
    assert "".join(cell.data()) == ""


@pytest.mark.parametrize("waits_for", ["an answer", "a route"])
def test_an_interrupt_that_python_ignores_ends_the_request(
    kernel: Kernel, sandboxed: Sandboxed, waits_for: str
) -> None:
    """It still ends the request; one that waits for a route checks twice a second."""
    left = {"groq": {"requests_per_day": 0}} if waits_for == "a route" else {}
    sandboxed(keys={"groq": 1}, latency=60, left=left)
    cell = kernel.run(f"{DROPPED_PRESS}%llm --patience 1e6 hi")
    assert "Exception ignored in" in cell.printed
    assert cell.status == "error"
    assert cell.message.startswith("Interrupted: ")
    if waits_for == "an answer":
        in_time("an interrupt", cell.ended - kernel.value("pressed"))


def test_an_interrupt_before_anything_is_sent_ends_the_cell(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """For example, a prompt waits for the reply that it contains."""
    sandboxed(keys={"groq": 1}, latency=60)
    kernel.run("%llm -b -o answer hi")
    cell = kernel.run(
        "print('waits')\n%llm Shorter: {{answer}}",
        interrupt_when=lambda cell: bool(cell.printed) and time.monotonic() > cell.started + 1,
    )
    assert cell.message == "Interrupted: %llm was stopped"
    kernel.run("%llm_jobs stop all")


def test_o_keeps_the_text_of_an_interrupted_reply(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """An assignment does not take place."""
    sandboxed(keys={"groq": 1}, seconds_per_chunk=0.1, reply=lambda *_: WORDS)
    kernel.run("kept = quiet = 'before'")
    cell = kernel.run("%llm -o part hi", interrupt_when=streaming)
    assert_stopped_at_once(cell)
    assert kernel.value("str(part)") == cell.data()[0]
    assert kernel.value(
        "(type(part).__name__, part.finish_reason, part.provider, part.key, "
        "part.attempts[-1].outcome, part.usage.output_tokens > 0, part.seconds > 0, part.cost)"
    ) == ("Reply", "interrupted", "groq", "groq_key_1", "interrupted", True, True, 0.0)
    assert "was interrupted" in kernel.run("%llm_why part").data()[0]
    since: list[float] = []

    def after_a_second(_: Cell) -> bool:
        since.append(time.monotonic())
        return time.monotonic() > since[0] + 1

    assert_stopped_at_once(kernel.run("%llm -q -o quiet hi", interrupt_when=after_a_second))
    assert kernel.value("(quiet.finish_reason, bool(quiet))") == ("interrupted", True)
    for line in ("kept = %llm hi", "new = %llm hi"):
        assert_stopped_at_once(kernel.run(line, interrupt_when=streaming))
    assert kernel.value("(kept, 'new' in globals())") == ("before", False)


def test_o_does_not_change_its_variable_without_any_text(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """Here, the request is interrupted while it waits for a route."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_day": 0}})
    kernel.run("kept = 'before'")
    kernel.run(
        "%llm --patience 1e6 -o kept hi",
        interrupt_when=lambda cell: any("waiting" in text for text in cell.data()),
    )
    assert kernel.value("kept") == "before"


def test_an_interrupted_comparison_keeps_the_text_of_its_columns(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """With `--compare -o`, the frame has the text so far of each reply."""

    def both_streaming(cell: Cell) -> bool:
        updates = [content for _, kind, content in cell.messages if kind == "update_display_data"]
        return bool(updates) and updates[-1]["data"]["text/plain"].count("word0") == 2

    sandboxed(keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.1, reply=lambda *_: WORDS)
    cell = kernel.run("%llm --compare groq,mistral -o both hi", interrupt_when=both_streaming)
    assert cell.status == "error"
    assert kernel.value("list(both.error)") == ["interrupted", "interrupted"]
    assert all(WORDS.startswith(text) for text in kernel.value("list(both.reply)"))


def test_an_interrupt_stops_queued_cells(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """An interrupt during Run All also stops the cells below."""
    sandbox = sandboxed(keys={"groq": 1}, latency=60)
    client = kernel.client
    queued = [client.execute(code) for code in ("%llm hi", "ran = 1", "ran = 2")]
    for _ in range(1000):
        if connections(kernel, port_of(sandbox.url)) == ["ESTABLISHED"]:
            break
        time.sleep(0.02)
    kernel.manager.interrupt_kernel()
    replies = {}
    while len(replies) < len(queued):
        message = client.get_shell_msg(timeout=60)
        replies[message["parent_header"]["msg_id"]] = message["content"]["status"]
    assert [replies[request] for request in queued] == ["error", "aborted", "aborted"]
    assert kernel.value("'ran' in globals()") is False


def test_a_second_interrupt_has_no_effect_at_first(
    kernel: Kernel, sandboxed: Sandboxed, tmp_path: Path
) -> None:
    """It comes while the first one is being handled."""
    sandbox = sandboxed(keys={"groq": 1}, seconds_per_chunk=0.05, reply=lambda *_: WORDS)
    ledger = tmp_path / "ledger.json"
    kernel.use(sandbox, str(ledger))
    lock, since = KernelLock(f"{ledger}.lock"), []

    def twice(cell: Cell) -> bool:
        """Interrupts while another kernel holds the lock, so that nothing can be counted yet."""
        if not since and streaming(cell):
            lock.acquire()
            since.append(time.monotonic())
            kernel.manager.interrupt_kernel()
            threading.Timer(0.2, lock.release).start()
        return bool(since) and time.monotonic() > since[0] + 0.1

    assert_stopped_at_once(kernel.run("%llm hi", interrupt_when=twice))
    assert kernel.run("%llm_stats").status == "ok"
    assert kernel.value("list(_.outcome)") == ["interrupted"]
    (model,) = (model for d in documents(ledger) for model in d["models"].values())
    assert not model.get("holds")


def documents(ledger: Path) -> list[dict[str, Any]]:
    return list(json.loads(ledger.read_text(encoding="utf-8"))["documents"].values())
