"""The panel in voila, which shows a notebook's outputs as a page without code.

`make places` installs voila into an environment of its own. Pictures are left in `build/screens/`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from loopback import free_port
from place_parts import write

pytest.importorskip("voila", reason="needs voila: make places")

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from lab_session import ROOT, SCREENS, chromium, find_chromium

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="needs Chromium: apt-get install chromium"
)

CELLS = ("%load_ext arche_magic\n%llm_sandbox --keys groq=2 --keys mistral=1", "%llm_panel")


@pytest.fixture
def page_address(tmp_path: Path) -> Iterator[str]:
    """Address of a voila that shows a notebook with the panel."""
    write(tmp_path / "panel.ipynb", CELLS)
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", "voila", "panel.ipynb", "--no-browser", f"--port={port}",
         "--Voila.ip=127.0.0.1"],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(f"{address}voila/static/")
            break
        except HTTPError:
            break  # it answers
        except URLError:
            assert time.monotonic() < deadline, "voila does not start"
            time.sleep(0.1)
    yield address
    server.terminate()
    server.wait(30)


def test_the_panel_answers_and_updates(page_address: str) -> None:
    """Send shows a reply and its receipt, and the meters and the next route change."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.set_default_timeout(60_000)
        page.goto(page_address)
        page.get_by_role("textbox", name="Prompt").fill("What is a rolling window?")
        assert page.get_by_text("The next prompt goes to groq · key 1").is_visible()
        assert page.get_by_text("no attempts yet").is_visible()
        assert page.get_by_text("%llm_panel").count() == 0
        page.get_by_role("button", name="Send").click()
        page.get_by_text("groq · key 1 · gpt-oss-120b · ").first.wait_for()
        assert page.locator("p", has_text="You asked: “What is a rolling window?”").is_visible()
        page.get_by_text("The next prompt goes to groq · key 2").wait_for()
        page.get_by_role("checkbox", name="groq · key 2").uncheck()
        page.get_by_text("The next prompt goes to groq · key 1").wait_for()
        # The table for those who have no kernel is hidden, as in JupyterLab.
        assert page.get_by_text("As of ").filter(visible=True).count() == 0
        SCREENS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENS / "place-voila.png", full_page=True)
