"""The site in Chromium, from disk and without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_site_can_be_read_and_searched_without_any_request(
    browser: Browser, built_site: Path
) -> None:
    """Pages and search work from disk, on wide and narrow screens, light and dark."""
    for width, scheme in ((1280, "light"), (420, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked: list[str] = []
        failed: list[str] = []
        context.on("request", lambda request, asked=asked: asked.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error, failed=failed: failed.append(str(error)))
        for name in ("index", "magics", "python", "quota", "notebooks/panel"):
            page.goto((built_site / f"{name}.html").as_uri())
            too_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
            assert not too_wide, f"{name} at {width}"
        page.keyboard.press("/")
        page.keyboard.type("patience")
        found = page.locator(".md-search-result__item")
        found.first.wait_for(timeout=10_000)
        assert found.count() > 3
        assert not failed
        elsewhere = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
        assert not elsewhere
        context.close()
