"""What a kernel sends to JupyterLab's status bar; this test acts as the page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest
from notebook_kernel import Kernel

from arche_magic.sandbox import Sandbox

TARGET = "arche_magic.status"


class StatusPage:
    """Finds the comm of the kernel, asks, and keeps what the kernel sends over it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        (self.comm,) = comms(kernel)
        self.heard: list[dict[str, Any]] = []
        self.printed = ""
        self.closed = False

    def want(self, what: str, key: str) -> Any:
        """What the kernel answers, or has sent on its own before that."""
        kernel, count = self._kernel, len(self.heard)
        data = {"wants": what}
        message = kernel.client.session.msg("comm_msg", {"comm_id": self.comm, "data": data})
        kernel.client.shell_channel.send(message)
        return self.wait_for(lambda: any(key in one for one in self.heard[count:]))[key]

    def wait_for(self, until: Callable[[], bool], seconds: float = 20.0) -> dict[str, Any]:
        """Listen until a condition holds; returns the last message."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.heard
            self.listen(0.1)
        return self.heard[-1]

    def run(self, code: str) -> None:
        """Run a cell, and keep what is sent meanwhile."""
        self._kernel.elsewhere.clear()
        cell = self._kernel.run(code)
        assert cell.status == "ok", cell.error
        for _, kind, _ in cell.messages:
            assert not kind.startswith("comm"), "it belongs to no cell"
        for message in self._kernel.elsewhere:
            self._take(message)

    def listen(self, seconds: float) -> None:
        """Record the messages of this time, or only the first one."""
        try:
            self._take(self._kernel.client.get_iopub_msg(timeout=seconds))
        except Empty:
            return

    def _take(self, message: dict[str, Any]) -> None:
        if message["content"].get("comm_id") == self.comm:
            self.closed = self.closed or message["msg_type"] == "comm_close"
            if message["msg_type"] == "comm_msg":
                self.heard.append(message["content"]["data"])
        if message["msg_type"] == "stream":
            self.printed += message["content"]["text"]


def comms(kernel: Kernel) -> list[str]:
    """The ids of the kernel's comms for the status bar, as a page finds them."""
    request = kernel.client.comm_info(TARGET)
    while True:
        reply = kernel.client.get_shell_msg(timeout=20)
        if reply["parent_header"].get("msg_id") == request:
            return list(reply["content"]["comms"])


def test_only_a_kernel_with_the_extension_has_a_comm(kernel: Kernel) -> None:
    """Unloading closes it; a second load makes no second one."""
    page = StatusPage(kernel)
    kernel.run("%load_ext arche_magic")
    assert comms(kernel) == [page.comm]
    page.run("%unload_ext arche_magic")
    assert page.closed
    assert comms(kernel) == []
    kernel.run("%load_ext arche_magic")
    assert len(comms(kernel)) == 1


def test_a_page_costs_a_kernel_nothing_before_the_first_command(tmp_path: Any) -> None:
    """Nothing of the engine is imported, and neither `_` nor the history changes."""
    kernel = Kernel(tmp_path)
    try:
        kernel.run("40 + 2")
        status = StatusPage(kernel).want("status", "status")
        assert status["text"] == "arche_magic: nothing asked yet"
        assert kernel.run("(_, len(In))").results == ["(42, 4)"]
        engine = "import sys; [name for name in sys.modules if 'llm_providers' in name]"
        assert kernel.run(engine).results == ["[]"]
    finally:
        kernel.stop()


def test_changes_are_sent_while_a_cell_runs(kernel: Kernel, sandboxed: Any) -> None:
    """They hold no key and no prompt, and belong to no cell."""
    sandbox: Sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    page = StatusPage(kernel)
    page.run("%llm -q A secret question")
    assert page.want("status", "status")["text"] == "groq 29 of 30 requests left this minute"
    page.run("import time\n%llm -q A secret question\ntime.sleep(2.5)")
    texts = [one["status"]["text"] for one in page.heard]
    assert "groq 28 of 30 requests left this minute" in texts
    table = page.want("table", "table")
    assert "mistral · key 1" in table["text/plain"]
    assert "<table" in table["text/html"]
    sent = json.dumps(page.heard)
    assert "secret question" not in sent
    assert not any(key in sent for key in sandbox.environment().values() if "KEY" in key)


@pytest.mark.parametrize(
    ("provider", "left", "failure", "sign", "text", "counts_down"),
    [
        ("openai", {}, "", "open", r"openai · paid \d+ of \d+ requests left this minute", False),
        ("groq", {"requests_per_day": 1}, "", "waiting", "waiting: groq opens", True),
        ("google", {"requests_per_day": 1}, "", "waiting", r"waiting: google opens .*\d\d", False),
        ("groq", {}, "unauthorized", "closed", "arche_magic: every route is closed", False),
        ("", {}, "", "closed", "arche_magic: no API key", False),
    ],
)
def test_it_says_whether_a_prompt_would_be_answered(
    kernel: Kernel,
    sandboxed: Any,
    provider: str,
    left: dict[str, int],
    failure: str,
    sign: str,
    text: str,
    counts_down: bool,
) -> None:
    """Open, waiting or closed, in words. Only an opening that is near counts down."""
    if provider:
        sandbox: Sandbox = sandboxed(keys={provider: 1}, left={provider: left})
        if failure:
            sandbox.fail(provider, failure, times=None)
        for _ in range(2):
            kernel.run("%llm -q Hello")
    status = StatusPage(kernel).want("status", "status")
    assert status["sign"] == sign
    assert re.fullmatch(text, status["text"])
    assert (status["opens_in"] is not None) == counts_down
    assert status["details"]


@pytest.mark.parametrize("data", [[], None, {}, {"wants": []}, {"wants": "?"}, {"wants": {}}])
def test_messages_that_no_page_sends_are_ignored(kernel: Kernel, data: Any) -> None:
    """They print no traceback into the notebook."""
    page = StatusPage(kernel)
    session, channel = kernel.client.session, kernel.client.shell_channel
    channel.send(session.msg("comm_msg", {"comm_id": page.comm, "data": data}))
    page.want("status", "status")
    assert page.printed == ""


def test_nothing_is_sent_to_pages_that_are_gone(kernel: Kernel, sandboxed: Any) -> None:
    """Updates end some minutes after a page last asked for them; in this test, immediately."""
    sandboxed(keys={"groq": 1})
    page = StatusPage(kernel)
    page.run("%llm -q Hello")
    kernel.run("from arche_magic.notebook import status_bar; status_bar._WATCHED_SECONDS = 0.5")
    page.want("status", "status")
    page.run("import time; time.sleep(1.5)")
    count = len(page.heard)
    page.run("%llm -q Hello\ntime.sleep(2)")
    kernel.run("status_bar._WATCHED_SECONDS = 600.0")
    assert len(page.heard) == count
