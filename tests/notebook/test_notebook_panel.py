"""`%llm_panel` in a real kernel, with this test as the page that shows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from panel_page import WIDGET, Page, answered, page

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_kernel import Kernel

__all__ = ["page"]
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
    """They are beside the route, among the attempts, and in the saved table."""
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
    # While the cell ran, the panel may have drawn the request's hold, for another reason.
    spent = "groq · key 1 · gpt-oss-120b is waiting (0 of 1,000 requests per day left"
    panel.wait(lambda: spent in panel.html)
    panel.wait(
        lambda: (
            re.search(r"◐</span> waiting</span><div[^>]*>opens in \d+ s", panel.html) is not None
        )
    )


def test_with_everything_off_the_panel_says_so(kernel: Kernel, page: Page, sandboxed) -> None:
    """The panel and the cell name what is off."""
    sandboxed(keys={"groq": 1})
    panel = page.panel()
    page.send(panel.find("Checkbox", "groq · gpt-oss-120b"), value=False)
    panel.wait(lambda: "No route would answer" in panel.html)
    message = "these are switched off: groq · gpt-oss-120b"
    assert message in panel.html
    assert page.run("%llm -q hi").message == (
        f"NoRouteAvailable: No available LLM providers: {message}"
    )
    why = f"the last prompt was not sent: No available LLM providers: {message}"
    assert kernel.run("%llm_why").data() == [why]
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
    patience = panel.find("BoundedFloatText", "Patience, seconds")
    default = "get_ipython().magics_manager.registry['ArcheMagics'].patience"
    # The default of a cell wins over the settings, until the panel sets another value.
    for value in (30.0, 0.0):
        page.run("%config ArcheMagics.patience = 7.0")
        panel.wait(lambda: page.widgets[patience]["value"] == 7.0)
        page.send(patience, value=value)
        panel.wait(lambda value=value: page.widgets[patience]["value"] == value)
        assert kernel.value(default) is None
    configured = "__import__('arche_magic.llm_providers.config').llm_providers.get_configuration()"
    assert kernel.value(f"{configured}.patience") == 0.0


def test_the_panel_asks_with_the_defaults_of_cells(
    kernel: Kernel, page: Page, sandboxed, tmp_path: Path
) -> None:
    """Its second prompt is answered from memory; in the receipt, prices are not formulas."""
    sandbox = sandboxed(keys={"openai": 1})
    kernel.run(f"os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'kept.sqlite')!r}")
    page.run("%config ArcheMagics.keep = True")
    panel = page.panel()
    page.send(panel.find("Textarea", "Prompt"), value="hi")
    panel.click("Send")
    panel.wait(lambda: len(panel.outputs) == 2)
    assert '<div class="mathjax_ignore tex2jax_ignore">' in panel.outputs[1]["text/html"]
    panel.click("Send")
    panel.wait(lambda: len(panel.outputs) == 2 and "memory" in panel.outputs[1]["text/plain"])
    assert "came from memory" in kernel.run("%llm_why").data()[0]
    page.send(panel.find("Textarea", "Prompt"), value=" ")
    panel.click("Send")
    panel.wait(lambda: "InvalidRequest: " in panel.html)
    assert kernel.run("%llm_why").data()[0].startswith("the last prompt was not sent: ")
    assert len(sandbox.requests) == 1


def test_a_prompt_inserts_variables(kernel: Kernel, page: Page, sandboxed) -> None:
    """It works as in a cell. If a name does not exist, the panel says so and nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("city = 'Oslo'")
    panel = page.panel()
    prompt = panel.find("Textarea", "Prompt")
    page.send(prompt, value="Where is {{citi}}?")
    panel.click("Send")
    panel.wait(lambda: "did you mean &#x27;city&#x27;?" in panel.html)
    assert kernel.run("%llm_why").data()[0].startswith("the last prompt was not sent: ")
    page.send(prompt, value="Where is {{city}}?")
    panel.click("Send")
    panel.wait(lambda: len(panel.outputs) == 2)
    sent = [request.body["messages"][-1]["content"] for request in sandbox.requests]
    assert sent == ["Where is Oslo?"]


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
    """A closed page or a new run of its cell makes it invisible.

    It is drawn when it is visible again.
    """
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
    """For example, they change when a sandbox starts."""
    sandboxed(keys={"groq": 1})
    panel = page.panel()
    page.run("%llm_sandbox --keys groq=1 --keys mistral=2")
    panel.wait(lambda: "mistral · key 2" in panel.html and panel.has("Checkbox", "mistral · key 2"))
    assert panel.state("Checkbox", "mistral · mistral-small-latest")["value"] is True
    assert page.widgets[panel.find("Dropdown", "Prefer")]["_options_labels"][-1] == "mistral"


def test_the_panel_takes_no_text_and_needs_a_key(kernel: Kernel, page: Page, sandboxed) -> None:
    """Both errors are one line."""
    sandboxed(keys={"groq": 1})
    assert "%llm_panel takes no text" in kernel.run("%llm_panel groq").message
    kernel.forget_keys()
    assert kernel.run("%llm_panel").message.startswith("NoKeys: ")
