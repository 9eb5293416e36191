"""A saved notebook in VS Code, with VS Code's renderers of Markdown, formulas and HTML.

code-server is VS Code for a browser, from the npm registry; `make places` installs it and runs
these tests. It has no kernel here: the extension that runs notebooks is not in that registry.
Pictures are left in `build/screens/`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from loopback import free_port
from place_parts import CELLS, Run, write

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from lab_session import ROOT, SCREENS, chromium, find_chromium
from nasty_replies import MARK, replies

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    import nbformat
    from playwright.sync_api import Browser, Frame, Page

PACKAGES = ROOT / ".code-server" / "node_modules"
NODE, PROGRAM = PACKAGES / "node" / "bin" / "node", PACKAGES / "code-server/out/node/entry.js"
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs code-server: make places"),
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium"),
]

ELSEWHERE = "https://tracker.example"
REPLY = r"""The mean is \(\bar{x} = \frac{1}{n}\sum_i x_i\), and it costs $5 to $10.

$$\int_0^1 x^2\,dx = \frac{1}{3}$$

| month | sold |
|:--|--:|
| Jan | 3 |

```python
def add(a: int, b: int) -> int:
    return a + b
```

> A <b>quote</b> with `a < b`, ![a picture](https://example.org/a.png) and ~~nothing~~.
"""
# Elements that are wider than the page scroll by themselves.
FITS = """table => table.getBoundingClientRect().right <= document.documentElement.clientWidth ||
  getComputedStyle(table.parentElement).overflowX === 'auto'"""
START = """%load_ext arche_magic
import os
os.environ.update({variables})
from arche_magic import get_quota_tracker
get_quota_tracker().set_limits(
    "groq", requests_per_minute=1000, tokens_per_minute=10**9, tokens_per_day=10**9)"""
SETTINGS = {
    "chat.disableAIFeatures": True,
    "notebook.output.scrolling": False,
    "security.workspace.trust.startupPrompt": "never",
    "telemetry.telemetryLevel": "off",
    "window.autoDetectColorScheme": True,
    "workbench.editorAssociations": {"*.ipynb": "jupyter-notebook"},
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def vscode(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[str]:
    """Address of a VS Code that shows the folder."""
    own = tmp_path_factory.mktemp("vscode")
    settings = own / "data" / "User" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    port = free_port()
    server = subprocess.Popen(
        [
            *(NODE, PROGRAM, "--auth", "none", "--bind-addr", f"127.0.0.1:{port}"),
            *("--disable-telemetry", "--disable-update-check", "--disable-workspace-trust"),
            *("--user-data-dir", own / "data", "--extensions-dir", own / "extensions"),
        ],
        env={**os.environ, "HOME": str(own)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}/?folder={folder}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urlopen(address)
            return
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"{address} does not answer")


def executed_with(reply: object, prompts: list[str], path: Path, run: Run) -> None:
    """Ask these prompts a model that answers with `reply(model, messages)`; save the notebook."""
    many = {"requests_per_minute": None, "tokens_per_minute": None, "tokens_per_day": None}
    with Sandbox(keys={"groq": 1}, limits={"groq": many}, reply=reply) as sandbox:
        variables = sandbox.environment() | {"ARCHE_QUOTA_STORE": "memory://"}
        start = START.format(variables=variables)
        ask = f"for prompt in {prompts}:\n    get_ipython().run_cell_magic('llm', '', prompt)"
        write(path, (start, ask))
        done = run("jupyter", "execute", "--inplace", path)
    assert done.returncode == 0, done.stderr


def opened(browser: Browser, vscode: str, name: str, height: int, theme: str = "light") -> Page:
    """VS Code with this notebook, in a window so high that it needs no scrolling."""
    context = browser.new_context(
        viewport={"width": 1200, "height": height}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(vscode)
    page.locator(".explorer-folders-view").get_by_text(name, exact=True).dblclick()
    page.locator(".notebookOverlay").wait_for()
    return page


def outputs_of(page: Page) -> Frame:
    """The frame in which VS Code shows all outputs."""
    for _ in range(300):
        for frame in page.frames:
            if frame.locator(".output_container").count():
                return frame
        page.wait_for_timeout(100)
    pytest.fail("no outputs are shown")


def picture(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENS / f"place-vscode-{name}.png")


def test_a_reply_is_shown_as_markdown_with_formulas(
    browser: Browser, vscode: str, folder: Path, run: Run
) -> None:
    """Formulas are typeset, prices are not, code is coloured, and HTML of the model is text."""
    executed_with(lambda *_: REPLY, ["Anything"], folder / "reply.ipynb", run)
    page = opened(browser, vscode, "reply.ipynb", 1300)
    shown = outputs_of(page)
    shown.locator(".katex").first.wait_for()
    assert shown.locator(".katex").count() == 2
    assert shown.locator(".katex-error").count() == 0
    assert shown.locator("p", has_text="and it costs $5 to $10.").is_visible()
    assert shown.get_by_role("cell", name="3", exact=True).is_visible()
    assert shown.locator("pre code span").filter(has_text="def").first.is_visible()
    assert shown.locator("p", has_text="A <b>quote</b> with").is_visible()
    assert shown.get_by_role("link", name="image: a picture (example.org)").is_visible()
    assert shown.locator("img").count() == 0
    picture(page, "reply")
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_receipts_tables_and_the_saved_panel_are_complete(
    browser: Browser, vscode: str, executed: nbformat.NotebookNode, theme: str
) -> None:
    """HTML is shown in the colours of VS Code, nothing is cut, and the receipt unfolds."""
    assert len(executed.cells) == len(CELLS)
    page = opened(browser, vscode, "executed.ipynb", 3600, theme)
    shown = outputs_of(page)
    receipt = shown.locator("details").filter(has_text="groq · key 2 · gpt-oss-120b").first
    receipt.locator("summary").click()
    assert receipt.locator("div > div").first.is_visible()
    assert shown.get_by_text("0 of 1,000", exact=True).first.is_visible()
    picture(page, f"tables-{theme}")
    for table in shown.locator("table").all():
        assert table.is_visible()
        assert table.evaluate(FITS)
    assert shown.get_by_text(
        "The panel works while this notebook's kernel is running."
    ).is_visible()
    assert shown.locator("em", has_text="Simulated reply").first.is_visible()
    color = shown.locator("td").first.evaluate("e => getComputedStyle(e).color")
    red = int(color.removeprefix("rgb(").split(",")[0])
    assert red < 100 if theme == "light" else red > 150
    page.wait_for_timeout(500)  # until the unfolded receipt is laid out
    picture(page, f"tables-{theme}")
    page.context.close()


def test_hostile_replies_do_nothing(browser: Browser, vscode: str, folder: Path, run: Run) -> None:
    """No script runs, nothing is loaded from elsewhere, and no dialog opens."""
    texts = list(replies(ELSEWHERE, "html", "markdown", "tex", "hidden"))
    prompts = [str(number) for number in range(len(texts))]
    executed_with(
        lambda _, messages: texts[int(messages[-1]["content"])],
        prompts, folder / "hostile.ipynb", run,
    )  # fmt: skip
    page = opened(browser, vscode, "hostile.ipynb", 3000)
    shown = outputs_of(page)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown.locator("details").nth(len(texts) - 1).wait_for(state="attached")
    page.wait_for_timeout(2000)  # for anything that a page loads later
    picture(page, "hostile")
    loaded = "() => performance.getEntriesByType('resource').map(entry => entry.name)"
    for frame in page.frames:
        assert not [address for address in frame.evaluate(loaded) if ELSEWHERE in address]
        assert frame.evaluate(f"() => {MARK.partition('=')[0]} ?? null") is None
    assert shown.locator("script[src*=tracker], img, iframe, form, svg image").count() == 0
    assert dialogs == []
    page.context.close()
