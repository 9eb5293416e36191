"""A route is open, waiting or closed, and every display says so with the same word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from panel_page import Page
from test_notebook_status import StatusPage

from arche_magic.notebook.words import state_at

if TYPE_CHECKING:
    from notebook_kernel import Kernel

NOW = 1_795_514_400.0


@pytest.mark.parametrize(
    ("opens_at", "state"),
    [(NOW - 1, "open"), (NOW, "open"), (NOW + 1, "waiting"), (float("inf"), "closed")],
)
def test_the_time_it_opens_decides(opens_at: float, state: str) -> None:
    """A past time means open, and a time that never comes means closed."""
    assert state_at(opens_at, NOW) == state


def test_every_display_has_the_same_word_for_a_state(kernel: Kernel, sandboxed: Any) -> None:
    """Groq waits for its next day, Mistral refuses the key, and Google answers."""
    left = {"groq": {"requests_per_day": 0}, "google": {"requests_per_day": 3}}
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1, "google": 1}, left=left)
    sandbox.fail("mistral", "unauthorized", times=None)
    kernel.run("%llm -q one")
    kernel.run("%llm -q two")
    page = Page(kernel)
    shown = {
        "quota": kernel.run("%llm_quota").data("text/plain")[0],
        "quota in HTML": as_text(kernel.run("%llm_quota").data("text/html")[0]),
        "why": kernel.run("%llm_why").data()[0],
        "panel": as_text(page.panel().html),
    }
    for display in ("quota", "quota in HTML", "panel"):
        assert re.search(r"google · key 1.{0,40}\bopen\b", shown[display], re.DOTALL), display
    # The status bar names the routes that are not open only if none is.
    kernel.run("%llm -q three\n%llm -q --patience 0 four")
    status = StatusPage(kernel).want("status", "status")
    assert status["sign"] == "waiting"
    shown["status bar"] = "\n".join(status["details"])
    for display, text in shown.items():
        assert re.search(r"groq · key 1.{0,40}\bwaiting\b", text, re.DOTALL), (display, text)
        assert re.search(r"mistral · key 1.{0,45}\bclosed\b", text, re.DOTALL), (display, text)
        assert not re.search(r"groq · key 1[^\n]{0,40}\bclosed\b", text), (display, text)
    keys = kernel.run("%llm_keys").data()[0].splitlines()
    assert re.search(r"groq_key_1 .* open$", keys[1]), keys
    assert re.search(r"mistral_key_1 .* closed since ", keys[2]), keys


def as_text(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)
