"""A page that shows panels: the state of their widgets, and clicks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


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
