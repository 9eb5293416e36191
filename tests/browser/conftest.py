"""One JupyterLab for all tests of the folder, and one browser per test file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_session import Lab, chromium, find_chromium, jupyter_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    if find_chromium() is None:
        pytest.skip("needs Chromium: apt-get install chromium")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module", params=["Light", "Dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # One file only, because Playwright occupies the thread's event loop while it runs.
    with chromium() as running:
        yield running
