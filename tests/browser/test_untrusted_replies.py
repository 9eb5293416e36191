"""Hostile replies in a real JupyterLab, in saved notebooks and in their HTML have no effect.

A server on loopback acts as a tracker. It must receive nothing, no script may run, and the page
must contain only text, links and tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_session import (
    SCREENS,
    Lab,
    Screen,
    open_notebook,
)
from loopback import Handler, serving
from nasty_replies import LARGE, MARK, replies
from nbconvert import HTMLExporter

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Elements that a page of text does not need, searched for in all outputs.
SUSPICIOUS = r"""root => [...document.querySelectorAll(root)].flatMap(output =>
  [...output.querySelectorAll("*")].filter(element => {
    // Jupyter's own: diagrams drawn by Mermaid as data, formulas by MathJax.
    if (element.closest("mjx-container, .jp-RenderedMermaid, .MathJax, .anchor-link")) {
      return element.matches("a[href]:not([href^=http]):not([href^='#'])");
    }
    if (element.matches("img, script, iframe, svg, object, embed, video, audio, link, style," +
        "form, button, input, base, meta, math, canvas, [contenteditable]")) return true;
    for (const {name, value} of element.attributes) {
      if (name.startsWith("on") || name.startsWith("data-commandlinker")) return true;
      if (name === "href" && !/^(https?:|mailto:|#)/i.test(value.trim())) return true;
      if (name === "style" && /url\(|position|expression/i.test(value)) return true;
    }
    return false;
  }).map(element => element.outerHTML.slice(0, 200)))"""


@dataclass
class Tracker:
    """A server that records every request and answers with active content."""

    url: str
    heard: list[str]


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    heard: list[str] = []

    class Recorder(Handler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.answer(200, f"{MARK};".encode(), {"content-type": "text/javascript"})

    with serving(Recorder) as url:
        yield Tracker(url, heard)


@pytest.fixture(scope="module")
def folder(lab: Lab) -> str:
    """The folder of the notebooks, whose limits allow a hundred prompts in a minute."""
    many = "requests_per_minute = 1000\ntokens_per_minute = 1e9\ntokens_per_day = 1e9\n"
    (lab.notebooks / "untrusted").mkdir()
    (lab.notebooks / "untrusted" / "arche_magic.toml").write_text(f"[limits.groq]\n{many}")
    return "untrusted"


@pytest.fixture(scope="module")
def hostile(tracker: Tracker) -> Iterator[Sandbox]:
    """A sandbox whose model answers `KIND N` with hostile reply number N of that kind."""

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        kind, number = messages[-1]["content"].split()
        return list(replies(tracker.url, kind))[int(number)]

    limits = {"groq": {"requests_per_minute": None, "tokens_per_minute": None,
                       "tokens_per_day": None}}  # fmt: skip
    with Sandbox(keys={"groq": 1}, limits=limits, reply=answer) as sandbox:
        yield sandbox


def cells(sandbox: Sandbox, *prompts: str) -> list[str]:
    """The cells of a notebook: one that starts the sandbox, and one per prompt."""
    variables = sandbox.environment() | {"ARCHE_QUOTA_STORE": "memory://"}
    start = f"%load_ext arche_magic\nimport os\nos.environ.update({variables!r})"
    return [start, *(f"%%llm\n{p}" for p in prompts)]


class Watch:
    """Records forbidden actions of a page: dialogs, other pages, traces of scripts."""

    def __init__(self, page: Page, tracker: Tracker) -> None:
        self._page, self._tracker = page, tracker
        self._seen: list[str] = []
        tracker.heard.clear()
        page.on("dialog", lambda dialog: (self._seen.append(dialog.message), dialog.dismiss()))
        page.context.on("page", lambda other: self._seen.append(other.url))

    def assert_quiet(self, root: str, seconds: float = 1.5) -> None:
        """Check that nothing was loaded, run or opened, or could be."""
        self._page.wait_for_timeout(1000 * seconds)  # for things that a page loads later
        assert self._tracker.heard == []
        assert self._seen == []
        assert self._page.evaluate("() => window.attacked ?? null") is None
        assert self._page.evaluate(SUSPICIOUS, root) == []


OUTPUTS = ".jp-OutputArea-output"


def test_the_watch_notices_forbidden_actions(tracker: Tracker, browser: Browser) -> None:
    """On an unprotected page, all three are noticed."""
    page = browser.new_page()
    watch = Watch(page, tracker)
    page.set_content(
        f"<div class=x><img src='{tracker.url}/x.png' onerror=\"{MARK};alert(1)\"></div>"
    )
    page.wait_for_function("() => window.attacked")
    assert tracker.heard == ["/x.png"]
    assert watch._seen == ["1"]
    assert len(page.evaluate(SUSPICIOUS, ".x")) == 1
    page.close()


@pytest.fixture(scope="module")
def shown(
    lab: Lab, folder: str, browser: Browser, hostile: Sandbox, tracker: Tracker
) -> Iterator[tuple[Screen, Watch]]:
    """All hostile replies except the large ones, each in a cell that was just run."""
    kinds = ("html", "markdown", "tex", "hidden", "witness")
    prompts = [f"{k} {n}" for k in kinds for n, _ in enumerate(replies(tracker.url, k))]
    lab.write(f"{folder}/hostile.ipynb", cells(hostile, *prompts))
    lab.set_theme("JupyterLab Light")
    with open_notebook(browser, lab, f"{folder}/hostile.ipynb") as screen:
        watch = Watch(screen.page, tracker)
        screen.run_all()
        screen.show_whole_notebook(1200)
        yield screen, watch


def test_replies_have_no_effect_when_displayed(shown: tuple[Screen, Watch]) -> None:
    """No request, no script and no active element, in cells that the user ran."""
    screen, watch = shown
    watch.assert_quiet(OUTPUTS)
    assert screen.hosts() == {"127.0.0.1"}
    screen.photograph("untrusted", 1200)
    assert screen.page.locator(".jp-RenderedMarkdown").count() > 60
    errors = screen.page.locator('[data-mime-type*="stderr"], [data-mime-type*="error"]')
    assert errors.all_inner_texts() == []


def test_clicking_runs_nothing(shown: tuple[Screen, Watch]) -> None:
    """Links show their target and lead only to the web."""
    screen, watch = shown
    links = screen.page.locator(f"{OUTPUTS}.jp-RenderedMarkdown a[href]")
    addresses = {link.get_attribute("href") for link in links.all()}
    assert addresses
    assert all(a.startswith(("http://", "https://", "#")) for a in addresses if a), addresses
    picture = screen.page.get_by_role("link", name="image: a picture (127.0.0.1")
    assert picture.first.get_attribute("href").endswith("/picture.png?secret=1")
    for label in screen.page.locator(f"{OUTPUTS} :text('press')").all()[:40]:
        label.dispatch_event("click")
    watch.assert_quiet(OUTPUTS)


def test_formulas_of_other_cells_keep_their_meaning(shown: tuple[Screen, Watch]) -> None:
    """A reply that redefines TeX commands does not change other cells."""
    screen, _ = shown
    formula = screen.cell("witness 0").locator("mjx-container mjx-c")
    drawn = formula.evaluate_all("signs => signs.map(s => s.className)")
    assert len(drawn) == 4
    assert len(set(drawn)) == 4


def test_a_saved_notebook_has_no_effect(
    shown: tuple[Screen, Watch], lab: Lab, folder: str, browser: Browser, tracker: Tracker
) -> None:
    """The notebook is opened again, trusted and untrusted."""
    screen, _ = shown
    screen.save()
    saved = nbformat.read(lab.notebooks / folder / "hostile.ipynb", as_version=4)
    lab.write(f"{folder}/stranger.ipynb", [*saved.cells, nbformat.v4.new_markdown_cell("End")])
    for name in ("hostile.ipynb", "stranger.ipynb"):
        with open_notebook(browser, lab, f"{folder}/{name}") as again:
            watch = Watch(again.page, tracker)
            again.show_whole_notebook(1200)
            assert again.page.locator(".jp-RenderedMarkdown").count() > 60
            watch.assert_quiet(OUTPUTS)


def test_exported_html_has_no_effect(
    shown: tuple[Screen, Watch], lab: Lab, folder: str, browser: Browser, tracker: Tracker,
    tmp_path: Path,
) -> None:  # fmt: skip
    """By default, nbconvert does not sanitize, so the page must be harmless itself."""
    shown[0].save()
    saved = nbformat.read(lab.notebooks / folder / "hostile.ipynb", as_version=4)
    page_file = tmp_path / "hostile.html"
    page_file.write_text(HTMLExporter().from_notebook_node(saved)[0], encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    watch = Watch(page, tracker)
    asked: list[str] = []
    page.route("https://**", lambda route: (asked.append(route.request.url), route.abort()))
    page.goto(page_file.as_uri())
    assert page.locator(".jp-RenderedMarkdown").count() > 60
    watch.assert_quiet(OUTPUTS)
    # Jupyter's template loads its own scripts, but none from a reply.
    assert all("cdnjs.cloudflare.com" in address for address in asked), asked
    page.set_viewport_size({"width": 1200, "height": 1600})
    page.screenshot(path=SCREENS / "untrusted-export.png")
    context.close()


def test_names_and_reasons_have_no_effect(
    lab: Lab, browser: Browser, hostile: Sandbox, tracker: Tracker
) -> None:
    """Route names from a project's file, and errors with them, in all outputs."""
    name = f"<img src=x onerror={MARK}>$\\def\\alpha{{\\beta}}\\alpha$"
    folder = lab.notebooks / "named"
    folder.mkdir()
    models = f'models = ["{name}", "openai/gpt-oss-120b"]'.replace("\\", "\\\\")
    (folder / "arche_magic.toml").write_text(f"[providers.groq]\n{models}\n")
    start, ask = cells(hostile, "witness 0")
    more = ("%llm_quota", "%llm_why", "%llm_stats", "%llm_keys", f"%llm -m '{name}' hi")
    lab.write("named/x.ipynb", [start, ask, *more])
    with open_notebook(browser, lab, "named/x.ipynb") as screen:
        watch = Watch(screen.page, tracker)
        screen.run_all()
        screen.show_whole_notebook(1200)
        watch.assert_quiet(OUTPUTS)
        screen.photograph("untrusted-names", 1200)
        outputs = screen.page.locator(OUTPUTS)
        assert outputs.filter(has_text="<img src=x").count() >= 4
        formulas = outputs.locator("mjx-container")
        assert formulas.count() == 1  # the reply's own text


@pytest.mark.parametrize("first", range(4))
def test_a_large_reply_does_not_hang_the_page(
    lab: Lab, folder: str, browser: Browser, hostile: Sandbox, tracker: Tracker, first: int
) -> None:
    """A million brackets, or five megabytes in a line, appear within seconds."""
    prompts = [f"large {number}" for number in range(first, len(LARGE), 4)]
    lab.write(f"{folder}/large-{first}.ipynb", cells(hostile, *prompts))
    with open_notebook(browser, lab, f"{folder}/large-{first}.ipynb") as screen:
        watch = Watch(screen.page, tracker)
        for number in range(1 + len(prompts)):
            # Deleted afterwards, so that each reply is alone on the page.
            cell = screen.page.locator(".jp-CodeCell").nth(min(number, 1))
            cell.locator(".jp-InputArea-editor").click()
            screen.page.keyboard.press("Control+Enter")
            cell.locator(".jp-InputPrompt", has_text=f"[{number + 1}]:").wait_for()
            screen.assert_it_answers()
            if number:
                assert cell.locator(f"{OUTPUTS}.jp-RenderedMarkdown").count() == 1
                watch.assert_quiet(OUTPUTS, seconds=0.3)
                screen.page.keyboard.press("d")
                screen.page.keyboard.press("d")
                screen.page.locator(".jp-CodeCell").nth(len(prompts) - number + 1).wait_for(
                    state="detached"
                )
        watch.assert_quiet(OUTPUTS)
