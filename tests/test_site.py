"""The site builds without a warning, is complete, and loads nothing from other servers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from arche_magic.notebook.magics import ArcheMagics

ROOT = Path(__file__).parents[1]
# Modules whose public names must be in the reference.
MODULES = ("arche_magic", "arche_magic.llm_providers", "arche_magic.bulk", "arche_magic.sandbox")
MAGICS = sorted({name for kind in ArcheMagics.magics.values() for name in kind})


LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Links(HTMLParser):
    """The links, loaded files and anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        source = given.get(LOADED.get(tag, ""), "data:")
        if not source.startswith("data:"):
            self.loaded.add(source)


@pytest.fixture(scope="session")
def pages(built_site: Path) -> dict[Path, Links]:
    return {page: Links(page) for page in sorted(built_site.rglob("*.html"))}


def test_every_page_of_the_repository_is_in_the_site(pages: dict[Path, Links]) -> None:
    """A document that is not in the navigation cannot be found."""
    names = {page.stem for page in pages}
    assert names >= {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert names >= {"index", "changelog", "contributing"}


def test_every_link_of_the_site_has_a_target(pages: dict[Path, Links]) -> None:
    """Files and anchors exist. External links use https."""
    for page, found in pages.items():
        for link in found.links | found.loaded:
            parts = urlsplit(unescape(link))
            if parts.scheme:
                assert parts.scheme in ("https", "mailto"), f"{page.name}: {link}"
                continue
            if page.name == "404.html":
                continue  # Its links begin at the root of a server.
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert file.exists(), f"{page.name}: {link}"
            if parts.fragment and file in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[file].ids, f"{page.name}: {link}"


def test_no_page_loads_anything_from_elsewhere(built_site: Path, pages: dict[Path, Links]) -> None:
    """No font, script, style or picture comes from another server."""
    for page, found in pages.items():
        assert not [link for link in found.loaded if "//" in link], page.name
    for style in built_site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", text), style.name


def public() -> Iterator[tuple[str, object]]:
    """Every public name, and the public methods and properties of classes."""
    for module in MODULES:
        loaded = import_module(module)
        for name in loaded.__all__:
            yield f"{module}.{name}", getattr(loaded, name)
    for module in ("quota_tracker", "config"):
        loaded = import_module(f"arche_magic.llm_providers.{module}")
        for name, found in vars(loaded).items():
            if getattr(found, "__module__", "") == loaded.__name__ and not name.startswith("_"):
                yield f"{loaded.__name__}.{name}", found


PUBLIC = dict(public())


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str, pages: dict[Path, Links]) -> None:
    """It is listed under the name by which it is imported."""
    (reference,) = (found for page, found in pages.items() if page.name == "python.html")
    named = {name for name in PUBLIC if name.rpartition(".")[0] == module}
    assert named
    assert named <= reference.ids


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Methods and properties of our classes have docstrings too."""
    found = PUBLIC[name]
    members = {name: found} if callable(found) else {}
    if inspect.isclass(found):
        for part, member in vars(found).items():
            if not part.startswith("_") and (callable(member) or isinstance(member, property)):
                members[f"{name}.{part}"] = member
    for place, member in members.items():
        assert inspect.getdoc(member), place


@pytest.mark.parametrize("name", MAGICS)
def test_every_magic_is_in_the_reference_with_every_option(built_site: Path, name: str) -> None:
    """Each option has its value and its meaning, as in `%%llm?`."""
    text = (built_site / "magics.html").read_text("utf-8")
    section = text.partition(f'<h2 id="{name}">')[2].partition("<h2 ")[0]
    shown = unescape(re.sub(r"<[^>]+>", "", section))
    for option in getattr(ArcheMagics, name).parser._actions:
        for flag in option.option_strings:
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", shown), flag
        assert option.help.replace("%%", "%").replace("`", "") in shown
    assert f"%{name}" in shown
