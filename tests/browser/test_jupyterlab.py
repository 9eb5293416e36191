"""The quickstart in JupyterLab, in both themes and on a narrow page.

Pictures of every state are saved in `build/screens/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import nbformat
import pytest
from lab_session import QUICKSTART, Lab, Screen, open_notebook, too_wide

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROUTES_IN_ORDER = [
    "groq · key 1",
    "groq · key 2",
    "groq · key 3",
    "mistral · key 1",
    "google · key 1",
    "openai · key 1",
]
RECEIPT_LINES = """() => [...document.querySelectorAll(".jp-OutputArea-output.jp-RenderedHTML")]
  .map(output => (output.querySelector("summary") ?? output).innerText.trim())"""
# The contrast between a receipt and its page, as WCAG 2 measures it (1 to 21).
CONTRAST = r"""receipt => {
  const numbers = color => color.match(/[\d.]+/g).map(Number);
  const page = numbers(getComputedStyle(document.querySelector(".jp-Notebook")).backgroundColor);
  const [red, green, blue, alpha = 1] = numbers(getComputedStyle(receipt).color);
  const ink = [red, green, blue].map((part, i) => part * alpha + page[i] * (1 - alpha));
  const luminance = color => color
    .map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const [dark, light] = [luminance(ink), luminance(page.slice(0, 3))].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}"""


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[Screen]:
    """The quickstart and a failing cell, after Run All."""
    cells = nbformat.read(QUICKSTART, as_version=4).cells
    lab.write("quickstart.ipynb", [*cells, nbformat.v4.new_code_cell("%%llm -p grok\nHello")])
    with open_notebook(browser, lab, "quickstart.ipynb") as opened:
        opened.run_all()
        yield opened


@pytest.fixture(scope="module")
def page_of_another_user(page: Screen, lab: Lab, browser: Browser) -> Iterator[Screen]:
    """The same notebook, saved and opened where nobody has trusted it."""
    page.save()
    saved = nbformat.read(lab.notebooks / "quickstart.ipynb", as_version=4)
    # With another cell, it is a different notebook.
    lab.write("other.ipynb", [*saved.cells, nbformat.v4.new_markdown_cell("End")])
    with open_notebook(browser, lab, "other.ipynb") as opened:
        yield opened


@pytest.fixture(scope="module")
def screen(page: Screen, theme: str) -> Screen:
    """The notebook in one theme."""
    page.use_theme(theme)
    page.show_whole_notebook(1200)
    return page


def routes(screen: Screen) -> list[str]:
    """The route in each receipt on the page, from top to bottom."""
    matches = (re.match(r"\w+ · key \d+", line) for line in screen.page.evaluate(RECEIPT_LINES))
    return [match[0] for match in matches if match]


def test_each_receipt_names_the_route_that_answered(screen: Screen) -> None:
    """They name every Groq key, then Mistral, Google and OpenAI, in this order."""
    assert routes(screen) == ROUTES_IN_ORDER


def test_only_the_failing_cell_shows_an_error_in_one_line(screen: Screen) -> None:
    """The quickstart has no errors or warnings; an unknown provider gives one line."""
    # JupyterLab renders warnings and tracebacks alike, as stderr.
    errors = screen.page.locator('[data-mime-type*="error"], [data-mime-type*="stderr"]')
    assert errors.count() == 1
    message = errors.inner_text().strip()
    assert "unknown provider 'grok'; did you mean 'groq'?" in message
    assert len(message.splitlines()) == 1


def test_quota_table_fits_the_page(screen: Screen) -> None:
    """`%llm_quota` shows each route's limits, and an empty, reddish bar for a spent one."""
    output = screen.cell("%llm_quota").locator(".jp-RenderedHTML")
    assert output.is_visible()
    assert too_wide(output) <= 0
    spent = output.get_by_title("requests per day: 0 of 1,000 left")
    assert spent.count() == 3
    bar = spent.first.locator("div div").last
    assert bar.evaluate("element => element.clientWidth") < 6
    assert "208, 73, 59" in bar.evaluate("element => element.parentElement.style.background")


def test_receipt_unfolds_to_the_routes_skipped(screen: Screen) -> None:
    """A click on a receipt shows every skipped route and why."""
    receipt = screen.cell("Is it cheaper to wait").locator("details")
    lines = receipt.locator("div > div")
    assert not lines.first.is_visible()
    receipt.locator("summary").click()
    assert lines.first.is_visible()
    assert lines.count() == len(ROUTES_IN_ORDER)
    assert "skipped" in lines.first.inner_text()
    assert "1,000 requests per day" in lines.first.inner_text()
    columns = [line.locator("span").last.bounding_box() for line in lines.all()]
    assert len({box and box["x"] for box in columns}) == 1


def test_receipt_is_quiet_but_legible(screen: Screen) -> None:
    """A receipt has less contrast than its reply, but enough to read (4.5 to 1)."""
    cell = screen.cell("In two sentences")
    receipt = cell.locator(".jp-RenderedHTML summary").evaluate(CONTRAST)
    reply = cell.locator(".jp-RenderedMarkdown p").first.evaluate(CONTRAST)
    assert 4.5 <= receipt < reply


def test_narrow_page_hides_no_receipt(screen: Screen, theme: str) -> None:
    """On a page 700 pixels wide, replies and receipts wrap and do not overflow."""
    folded = screen.page.locator("details:not([open]) summary")
    while folded.count():
        folded.first.click()
    name = theme.lower()
    pictures = screen.photograph(name, 1200) + screen.photograph(f"{name}-narrow", 700)
    for kind in (".jp-RenderedMarkdown", ".jp-RenderedHTML:has(details)"):
        outputs = screen.page.locator(f".jp-OutputArea-output{kind}").all()
        assert len(outputs) >= len(ROUTES_IN_ORDER) - 1
        assert [too_wide(output) for output in outputs] == [0] * len(outputs)
    assert all(picture.stat().st_size > 10_000 for picture in pictures)


def test_an_untrusted_notebook_shows_the_same(page_of_another_user: Screen, theme: str) -> None:
    """Receipts, reasons, bars and lines are visible."""
    other = page_of_another_user
    other.use_theme(theme)
    other.photograph(f"{theme.lower()}-untrusted", 1200)
    assert routes(other) == ROUTES_IN_ORDER
    spent = other.cell("%llm_quota").get_by_title("requests per day: 0 of 1,000 left")
    bar = spent.first.locator("div div").last
    assert bar.evaluate("element => element.style.background") != ""
    other.cell("Is it cheaper to wait").locator("summary").click()
    assert other.cell("Is it cheaper to wait").locator("details div > div").first.is_visible()
    receipt = other.cell("In two sentences").locator(".jp-RenderedHTML summary")
    reply = other.cell("In two sentences").locator(".jp-RenderedMarkdown p").first
    assert 4 <= receipt.evaluate(CONTRAST) < reply.evaluate(CONTRAST)
    edge = "element => getComputedStyle(element).borderBottomWidth"
    assert other.cell("%llm_quota").locator("tr").first.evaluate(edge) == "1px"
    assert other.hosts() == {"127.0.0.1"}


def test_the_page_contacts_no_other_machine(screen: Screen) -> None:
    """The browser only contacts this machine."""
    assert screen.hosts() == {"127.0.0.1"}
