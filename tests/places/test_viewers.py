"""The notebook in Notebook 7, and saved notebooks in other viewers.

Pictures are left in `build/screens/`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML
from place_parts import CELLS, LIKE_GITHUB, outputs, write
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from lab_session import SCREENS, Screen, chromium, find_chromium, jupyter_lab

if TYPE_CHECKING:
    import nbformat
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium: apt-get install chromium"
)

# As VS Code shows outputs: HTML as it is saved, in a page with its own colours and no Jupyter.
BARE = """<!doctype html><meta charset="utf-8"><body style="font: 13px sans-serif;
background: {paper}; color: {ink}; margin: 20px">{body}</body>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def picture(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENS / f"place-{name}.png", full_page=True)


def test_notebook_7_shows_replies_receipts_and_tables(browser: Browser, tmp_path: Path) -> None:
    """Run All fills every cell, the receipt unfolds, tables fit, and Tab works."""
    with jupyter_lab(tmp_path, "notebook") as server:
        write(server.notebooks / "place.ipynb", CELLS)
        page = browser.new_page(viewport={"width": 1100, "height": 900}, reduced_motion="reduce")
        page.set_default_timeout(60_000)
        page.goto(f"{server.url}notebooks/place.ipynb?token={server.token}")
        page.get_by_text("Python 3 (ipykernel)").first.wait_for()
        screen = Screen(page)
        screen.run_all()
        receipt = screen.cell("%%llm").locator("details")
        receipt.locator("summary").click()
        assert "groq · key 2 · gpt-oss-120b" in receipt.locator("summary").inner_text()
        assert receipt.locator("div > div").first.is_visible()
        table = screen.cell("%llm_quota").locator(".jp-RenderedHTML")
        assert table.get_by_text("0 of 1,000", exact=True).is_visible()
        assert screen.cell("%llm_panel").locator(".jupyter-widgets").first.is_visible()
        picture(page, "notebook-7")
        # With any fonts, elements that are too wide scroll by themselves, and the page does not.
        page.add_style_tag(content=".jp-RenderedHTML { letter-spacing: 1px }")
        for width in (1100, 700):
            page.set_viewport_size({"width": width, "height": 900})
            for output in page.locator(".jp-RenderedHTML").all():
                assert output.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        assert page.locator(".jp-RenderedHTML").filter(has=page.locator("table")).count() > 5
        editor = page.locator(".jp-CodeCell .cm-content").last
        editor.click()
        page.keyboard.press("Control+a")
        editor.press_sequentially("%llm_sandbox st")
        page.keyboard.press("Tab")
        offers = page.locator(".jp-Completer .jp-Completer-match")
        offers.first.wait_for()
        assert offers.all_inner_texts()[:3] == ["start", "status", "stop"]
        page.close()


@pytest.mark.parametrize(
    ("theme", "paper", "ink"), [("light", "white", "#222"), ("dark", "#1e1e1e", "#ddd")]
)
def test_outputs_need_no_style_of_jupyter(
    browser: Browser,
    executed: nbformat.NotebookNode,
    tmp_path: Path,
    theme: str,
    paper: str,
    ink: str,
) -> None:
    """In a page without Jupyter, like VS Code's, receipt and tables look right."""
    parts = [
        output.data["text/html"]
        for source in ("%%llm", "%llm_quota", "%llm_why", "%llm_keys", "%llm_models")
        for output in outputs(executed, source)
        if "text/html" in output.get("data", {})
    ]
    (tmp_path / "bare.html").write_text(BARE.format(paper=paper, ink=ink, body="<hr>".join(parts)))
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    page.goto(f"file://{tmp_path}/bare.html")
    color = page.locator("details").first.evaluate("e => getComputedStyle(e).color")
    assert color == "rgb(121, 121, 121)"
    page.locator("summary").first.click()
    assert page.locator("details div > div").first.is_visible()
    assert page.locator("td").last.evaluate("e => getComputedStyle(e).fontSize") != "16px"
    picture(page, f"bare-{theme}")
    page.close()


def test_a_page_like_githubs_is_readable(
    browser: Browser, executed: nbformat.NotebookNode, tmp_path: Path
) -> None:
    """Without styles, the receipt unfolds and the figures are in tables."""
    config = Config({"SanitizeHTML": LIKE_GITHUB})
    html, _ = HTMLExporter(preprocessors=[SanitizeHTML], config=config).from_notebook_node(executed)
    (tmp_path / "page.html").write_text(html)
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    # nbconvert's template requests MathJax from another server; here, such requests are blocked.
    page.route("http*://**", lambda route: route.abort())
    page.goto(f"file://{tmp_path}/page.html", wait_until="domcontentloaded")
    page.locator("summary").first.click()
    assert page.locator("details div > div").first.is_visible()
    assert page.get_by_role("cell", name=re.compile(r"(?<!\d)0 of 1,000")).first.is_visible()
    picture(page, "like-github")
    page.close()
