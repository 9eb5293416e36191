"""What the panel needs from the kernel, in each supported line of versions of ipykernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_versions import kernel_variables
from notebook_kernel import Kernel
from panel_page import Page, answered, page

__all__ = ["page"]


@pytest.fixture(scope="module", params=["6.30.1", "7.4.0"])
def running_kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """Instead of the installed kernel, one of each supported line of versions."""
    variables = kernel_variables(request.param)
    kernel = Kernel(tmp_path_factory.mktemp("kernel"), **variables)
    yield kernel
    kernel.stop()


def test_a_key_that_is_off_is_not_used(kernel: Kernel, page: Page, sandboxed) -> None:
    """By any cell, and every panel shows it; when it is on again, it is used."""
    sandboxed(keys={"groq": 2})
    one, two = page.panel(), page.panel()
    page.send(one.find("Checkbox", "groq · key 1"), value=False)
    one.wait(
        lambda: "○ off" in one.html and two.state("Checkbox", "groq · key 1")["value"] is False
    )
    assert "○ off" in two.html
    assert answered(page, kernel) == "groq_key_2"
    assert "Switched off in this session: groq · key 1" in kernel.run("%llm_quota").data()[0]
    page.send(two.find("Checkbox", "groq · key 1"), value=True)
    one.wait(lambda: one.state("Checkbox", "groq · key 1")["value"] is True)
    assert answered(page, kernel) == "groq_key_1"


def test_a_prompt_does_not_block_the_kernel(kernel: Kernel, page: Page, sandboxed) -> None:
    """The reply grows while cells run. Then its receipt follows, and `%llm_why` explains it."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "word " * 40, seconds_per_chunk=0.05)
    panel = page.panel()
    page.send(panel.find("Textarea", "Prompt"), value="Say something")
    panel.click("Send")
    panel.wait(lambda: bool(panel.outputs))
    panel.click("Send")
    grown = len(panel.outputs[0]["text/markdown"])
    assert kernel.value("1 + 1") == 2
    panel.wait(lambda: len(panel.outputs) == 2)
    text, receipt = panel.outputs
    assert text["text/markdown"] == "word " * 40
    assert grown < 200
    assert receipt["text/html"].count("groq · key 1 · gpt-oss-120b · ") == 1
    assert panel.page.run("s = %llm_stats").status == "ok"
    assert kernel.value("len(s)") == 1
    assert "answered" in kernel.run("%llm_why").data()[0]


def test_stop_ends_a_reply(kernel: Kernel, page: Page, sandboxed) -> None:
    """It ends immediately.

    The connection is closed, tokens are counted, and another prompt can start.
    """
    sandboxed(keys={"groq": 1}, reply=lambda *_: "word " * 2_000, seconds_per_chunk=0.05)
    panel = page.panel()
    page.send(panel.find("Textarea", "Prompt"), value="Say something")
    panel.click("Send")
    panel.wait(lambda: bool(panel.outputs))
    panel.click("Stop")
    panel.wait(lambda: "stopped: the reply is not complete" in panel.html)
    panel.wait(lambda: "interrupted" in panel.html)
    kernel.run("s = %llm_stats")
    assert kernel.value("list(s.outcome)")[-1] == "interrupted"
    before = len(panel.outputs[0]["text/markdown"])
    page.listen(seconds=0.5)
    assert len(panel.outputs[0]["text/markdown"]) == before


def test_unloading_closes_all_panels(kernel: Kernel, page: Page, sandboxed) -> None:
    """No widget and no thread is left."""
    sandboxed(keys={"groq": 1})
    page.panel()
    panel = page.panel()
    names = "[t.name for t in __import__('threading').enumerate()]"
    assert "arche_magic panel" in kernel.value(names)
    cell = kernel.run("%unload_ext arche_magic\nimport time; time.sleep(0.3)")
    closed = [c["comm_id"] for _, kind, c in cell.messages if kind == "comm_close"]
    assert panel.root in closed
    assert "arche_magic panel" not in kernel.value(names)
    assert kernel.value("len(__import__('ipywidgets').widgets.widget._instances)") == 0
    kernel.run("%load_ext arche_magic")
