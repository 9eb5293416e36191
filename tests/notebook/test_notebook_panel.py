"""`%llm_panel` in a real kernel, with this test as the page that shows it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
from kernel_versions import kernel_variables
from notebook_kernel import Cell, Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"
STRIPPED = re.compile(r"<(style|script|svg|link)|\sid=|\son\w+=", re.IGNORECASE)


LATER = """
import time
from dataclasses import replace
from arche_magic.llm_providers.config import get_configuration, use_configuration

class Later:
    seconds = 0.0

    def time(self):
        return time.time() + self.seconds

    def sleep(self, seconds):
        time.sleep(seconds)

later = Later()
use_configuration(replace(get_configuration(), clock=later))"""


class Page:
    """Keeps the state of all widgets of a kernel, and changes them, as a page does."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.widgets: dict[str, dict[str, Any]] = {}
        self.closed: list[str] = []
        self.messages: list[tuple[float, str]] = []
        self.records: list[str] = []

    def run(self, code: str) -> Cell:
        """Execute a cell, and record what widgets do meanwhile."""
        self._kernel.elsewhere.clear()
        cell = self._kernel.run(code)
        for message in self._kernel.elsewhere:
            self._take(message["msg_type"], message["content"])
        for _, kind, content in cell.messages:
            self._take(kind, content)
        return cell

    def panel(self) -> Panel:
        """Run `%llm_panel` and return the panel that it displays."""
        cell = self.run("%llm_panel")
        assert cell.status == "ok", cell.error[-1]
        (shown,) = (d["data"][WIDGET]["model_id"] for d in cell.displays if WIDGET in d["data"])
        self.send(shown, _view_count=1)
        return Panel(self, shown)

    def send(self, widget: str, **state: Any) -> None:
        """Send what a page sends when a user changes or clicks a widget."""
        clicked = not state
        data = (
            {"method": "custom", "content": {"event": "click"}}
            if clicked
            else {"method": "update", "state": state, "buffer_paths": []}
        )
        session = self._kernel.client.session
        message = session.msg("comm_msg", {"comm_id": widget, "data": data})
        self._kernel.client.shell_channel.send(message)
        self.widgets[widget].update(state)

    def listen(self, until: Callable[[], bool] = lambda: False, seconds: float = 20.0) -> None:
        """Read messages from the kernel until a condition holds, or for a time without one."""
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            try:
                message = self._kernel.client.get_iopub_msg(timeout=0.1)
            except Empty:
                continue
            self._take(message["msg_type"], message["content"])

    def _take(self, kind: str, content: dict[str, Any]) -> None:
        if kind.startswith("comm_"):
            self.messages.append((time.monotonic(), kind))
        if kind == "update_display_data":
            self.records.append(content["data"]["text/plain"])
        if kind == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_msg" and content["data"]["method"] == "update":
            self.widgets[content["comm_id"]].update(content["data"]["state"])
        elif kind == "comm_close":
            self.closed.append(content["comm_id"])
            self.widgets.pop(content["comm_id"], None)


class Panel:
    """One panel on the page, whose widgets are found by their words."""

    def __init__(self, page: Page, root: str) -> None:
        self.page, self.root = page, root

    def find(self, kind: str, words: str) -> str:
        """The widget of this kind with these words, such as `Checkbox`, `key 2`."""
        for name in self._inside(self.root):
            state = self.page.widgets[name]
            said = (state.get("description"), state.get("tooltip"), state.get("placeholder"))
            if state["_model_name"] == f"{kind}Model" and words in said:
                return name
        raise AssertionError(f"no {kind} {words!r}")

    def has(self, kind: str, words: str) -> bool:
        """Whether such a widget exists."""
        with suppress(AssertionError):
            return bool(self.find(kind, words))
        return False

    def state(self, kind: str, words: str) -> dict[str, Any]:
        return self.page.widgets[self.find(kind, words)]

    def names(self) -> list[str]:
        """How a screen reader names each control: its words, or its tooltip."""
        inside = (self.page.widgets[name] for name in self._inside(self.root))
        controls = (
            s for s in inside if {"value", "icon"} & s.keys() and "HTML" not in s["_model_name"]
        )
        return [state["description"] or state["tooltip"] for state in controls]

    def click(self, words: str) -> None:
        self.page.send(self.find("Button", words))

    @property
    def html(self) -> str:
        """All HTML in the panel."""
        inside = (self.page.widgets[name] for name in self._inside(self.root))
        return "\n".join(s["value"] for s in inside if s["_model_name"] == "HTMLModel")

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs below the prompt."""
        inside = (self.page.widgets[name] for name in self._inside(self.root))
        (output,) = (state for state in inside if state["_model_name"] == "OutputModel")
        return [shown["data"] for shown in output["outputs"]]

    def wait(self, until: Callable[[], bool]) -> None:
        self.page.listen(until)
        assert until(), self.html

    def _inside(self, name: str) -> Iterator[str]:
        yield name
        for child in self.page.widgets[name].get("children", ()):
            yield from self._inside(child.removeprefix("IPY_MODEL_"))


@pytest.fixture(scope="module", params=["6.30.1", "7.4.0"])
def running_kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """Instead of the installed kernel, one of each supported line of versions."""
    variables = kernel_variables(request.param)
    kernel = Kernel(tmp_path_factory.mktemp("kernel"), **variables)
    yield kernel
    kernel.stop()


@pytest.fixture
def page(kernel: Kernel) -> Iterator[Page]:
    yield Page(kernel)
    kernel.run(
        "from arche_magic.notebook.panel import close_all\nclose_all()\n"
        "from arche_magic.llm_providers.config import use_configuration\nuse_configuration(None)"
    )


def answered(page: Page, kernel: Kernel) -> str:
    """The key that answers a prompt now."""
    assert page.run("r = %llm -q hi").status == "ok"
    key: str = kernel.value("r.key")
    return key


def test_a_panel_saves_a_table(kernel: Kernel, page: Page, sandboxed) -> None:
    """A widget and, in a separate display, a table that needs no kernel; both have a text form."""
    sandboxed(keys={"groq": 2, "mistral": 1})
    widget, table = kernel.run("%llm_panel").displays
    assert set(widget["data"]) == {WIDGET, "text/plain"}
    assert "works while" in widget["data"]["text/plain"]
    assert "groq · key 2 · gpt-oss-120b · open" in table["data"]["text/plain"]
    assert "requests per day: 1,000 of 1,000 left" in table["data"]["text/html"]
    assert "As of " in table["data"]["text/html"]
    assert not STRIPPED.search(table["data"]["text/html"])


def test_the_saved_table_is_updated(kernel: Kernel, page: Page, sandboxed) -> None:
    """Half a minute after a prompt, it shows the usage; without prompts, it does not change."""
    sandboxed(keys={"groq": 1})
    page.run(LATER)
    panel = page.panel()
    page.run("later.seconds = 60")
    page.listen(seconds=1.5)
    assert page.records == []
    page.run("%llm -q hi")
    page.run("later.seconds = 120")
    panel.wait(lambda: bool(page.records))
    assert "999 of 1,000" in page.records[0]


def test_costs_are_shown(kernel: Kernel, page: Page, sandboxed) -> None:
    """Beside the route, among the attempts, and in the saved table."""
    sandboxed(keys={"openai": 1})
    panel = page.panel()
    page.run("r = %llm -q hi")
    cost = f"paid · ${kernel.value('r.cost'):.4f}"
    panel.wait(lambda: f"{cost} in this session" in panel.html)
    panel.wait(lambda: f" s, {cost}" in panel.html)
    assert f"{cost} in this session" in kernel.run("%llm_panel").displays[1]["data"]["text/plain"]


def test_the_next_route_is_shown_with_the_reason(kernel: Kernel, page: Page, sandboxed) -> None:
    """It is updated after cells have changed it."""
    sandboxed(keys={"groq": 1, "mistral": 1}, left={"groq": {"requests_per_day": 1}})
    panel = page.panel()
    assert "goes to <b>groq · key 1 · gpt-oss-120b</b>" in panel.html
    assert answered(page, kernel) == "groq_key_1"
    panel.wait(lambda: "goes to <b>mistral · key 1 · mistral-small-latest</b>" in panel.html)
    assert "groq · key 1 · gpt-oss-120b is waiting (0 of 1,000 requests per day left" in panel.html
    panel.wait(
        lambda: (
            re.search(r"◐</span> waiting</span><div[^>]*>opens in \d+ s", panel.html) is not None
        )
    )


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


def test_with_everything_off_the_panel_says_so(kernel: Kernel, page: Page, sandboxed) -> None:
    """The panel and the cell name what is off."""
    sandboxed(keys={"groq": 1})
    panel = page.panel()
    page.send(panel.find("Checkbox", "groq · gpt-oss-120b"), value=False)
    panel.wait(lambda: "No route would answer" in panel.html)
    message = "switched off are groq · gpt-oss-120b"
    assert message in panel.html
    assert page.run("%llm -q hi").message == (
        f"NoRouteAvailable: No available LLM providers: {message}"
    )
    none, _, off = kernel.run("q = %llm_quota").data()[0].splitlines()
    assert none == "no route can take prompts"
    assert off == "Switched off in this session: groq · gpt-oss-120b"
    panel.click("Turn everything on")
    panel.wait(lambda: "goes to <b>groq · key 1" in panel.html)
    panel.wait(lambda: panel.state("Checkbox", "groq · gpt-oss-120b")["value"] is True)


def test_the_panel_sets_the_order(kernel: Kernel, page: Page, sandboxed) -> None:
    """A provider that moves up is asked earlier; the first one cannot move further."""
    sandboxed(keys={"groq": 1, "mistral": 1, "google": 1})
    panel = page.panel()
    panel.click("Ask Groq earlier")
    for _ in range(3):
        panel.click("Ask Google Gemini earlier")
    panel.wait(lambda: "goes to <b>google · key 1" in panel.html)
    assert answered(page, kernel) == "google_key_1"


def test_many_routes_are_grouped_by_provider(kernel: Kernel, page: Page, sandboxed) -> None:
    """A line per provider with its totals, which opens to its routes and their limits.

    Every control has its own name.
    """
    sandboxed(keys={"groq": 20, "mistral": 2, "google": 1})
    panel = page.panel()
    page.send(panel.find("Checkbox", "groq · key 2"), value=False)
    panel.wait(lambda: "20 routes · " in panel.html and "○ 1 off" in panel.html)
    assert "requests/min 570 of 570 left" in panel.html
    assert "2 routes · " in panel.html
    assert "<table" not in panel.html.partition("Order and")[0]
    page.send(panel.find("ToggleButton", "Groq"), value=True)
    panel.wait(lambda: panel.html.count("3 more") == 20)
    page.send(panel.find("ToggleButton", "All limits of Groq"), value=True)
    panel.wait(lambda: panel.html.count("tokens/day") == 20)
    assert "mistral · key 1" not in panel.html
    names = panel.names()
    assert "Ask Groq later" in names
    assert len(set(names)) == len(names) > 30


def test_preference_and_patience_apply_to_cells(kernel: Kernel, page: Page, sandboxed) -> None:
    """A preferred provider may be paid; with a patience of 0, a closed route is an error."""
    sandboxed(keys={"groq": 1, "openai": 1})
    panel = page.panel()
    preferred = panel.find("Dropdown", "Prefer")
    options = page.widgets[preferred]["_options_labels"]
    page.send(preferred, index=options.index("openai"))
    panel.wait(lambda: "goes to <b>openai · key 1" in panel.html)
    assert answered(page, kernel) == "openai_key_1"
    kernel.run("%config ArcheMagics.patience = 7.0")
    page.send(panel.find("BoundedFloatText", "Patience, seconds"), value=0.0)
    panel.wait(lambda: panel.state("BoundedFloatText", "Patience, seconds")["value"] == 0.0)
    configured = "__import__('arche_magic.llm_providers.config').llm_providers.get_configuration()"
    assert kernel.value(f"{configured}.patience") == 0.0
    assert kernel.value("get_ipython().magics_manager.registry['ArcheMagics'].patience") is None


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
    """At once; its connection is closed, its tokens are counted, and another prompt can start."""
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


def test_untrusted_text_is_harmless_in_the_panel(kernel: Kernel, page: Page, sandboxed) -> None:
    """Neither HTML in a reply nor the name of a model or an error has any effect."""
    said = "<img src=x onerror=alert(1)>"
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: said)
    kernel.run(f"%config ArcheMagics.model = {f'groq/{said}'!r}")
    panel = page.panel()
    page.send(panel.find("Textarea", "Prompt"), value="hi")
    panel.click("Send")
    panel.wait(lambda: "model not found" in panel.html)
    kernel.run("%config ArcheMagics.model = ''")
    panel.click("Send")
    panel.wait(lambda: len(panel.outputs) == 2)
    assert "<img" not in panel.html
    assert "<img" not in panel.outputs[0]["text/markdown"]
    panel.wait(lambda: "&lt;img" in panel.html)
    assert len(sandbox.requests) == 2


def test_an_idle_panel_sends_almost_nothing(kernel: Kernel, page: Page, sandboxed) -> None:
    """Nothing without changes, and little during a countdown."""
    sandboxed(keys={"groq": 2}, left={"groq_key_1": {"requests_per_day": 0}})
    panel = page.panel()
    page.listen(seconds=1.5)
    page.messages.clear()
    page.listen(seconds=2.2)
    assert page.messages == []
    page.run("%llm -q hi")
    panel.wait(lambda: "opens in" in panel.html)
    page.messages.clear()
    page.listen(seconds=3)
    assert 2 <= len(page.messages) < 5 * 3


def test_an_invisible_panel_is_not_drawn(kernel: Kernel, page: Page, sandboxed) -> None:
    """After its page was closed or its cell ran again; when it is visible again, it is drawn."""
    sandboxed(keys={"groq": 1})
    panel = page.panel()
    page.listen(seconds=1.5)
    page.send(panel.root, _view_count=0)
    page.run("%llm -q hi")
    page.messages.clear()
    page.listen(seconds=2.5)
    assert page.messages == []
    page.send(panel.root, _view_count=1)
    panel.wait(lambda: "999 of 1,000" in panel.html)


def test_the_switches_follow_the_configuration(kernel: Kernel, page: Page, sandboxed) -> None:
    """For example when a sandbox starts."""
    sandboxed(keys={"groq": 1})
    panel = page.panel()
    page.run("%llm_sandbox --keys groq=1 --keys mistral=2")
    panel.wait(lambda: "mistral · key 2" in panel.html and panel.has("Checkbox", "mistral · key 2"))
    assert panel.state("Checkbox", "mistral · mistral-small-latest")["value"] is True
    assert page.widgets[panel.find("Dropdown", "Prefer")]["_options_labels"][-1] == "mistral"


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


def test_the_panel_takes_no_text_and_needs_a_key(kernel: Kernel, page: Page, sandboxed) -> None:
    """One line each."""
    sandboxed(keys={"groq": 1})
    assert "%llm_panel takes no text" in kernel.run("%llm_panel groq").message
    kernel.forget_keys()
    assert kernel.run("%llm_panel").message.startswith("NoKeys: ")
