"""JupyterLab or Notebook 7 on loopback in a separate folder, and Chromium to look at it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import nbformat
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PageTimeout

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "build" / "screens"
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",  # Containers run as root, and Chromium's own sandbox cannot start there.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATHS = {"jupyterlab": "doc/tree/", "notebook": "notebooks/"}
# The status of a page once its kernel answers.
_READY = {
    "doc/tree/": "(ipykernel) | Idle",
    "lab/tree/": "(ipykernel) | Idle",
    "notebooks/": "Python 3 (ipykernel)",
}
_PIECE = 1300  # height in pixels that is comfortable to look at
_SLIVER = 100  # not worth its own picture
_FINISHED = r"""() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
  return prompts.length > 0 && prompts.every(p => /^\[\d+\]:$/.test(p.textContent.trim()));
}"""

# The notebook can be scrolled past its last cell, so the height of its pane is too large.
_HEIGHT = """() => {
  const pane = document.querySelector(".jp-WindowedPanel-outer");
  pane.scrollTop = 0;
  const bottom = Math.max(...[...document.querySelectorAll(".jp-Notebook .jp-Cell")].map(
    cell => cell.getBoundingClientRect().bottom));
  const statusBar = window.innerHeight - pane.getBoundingClientRect().bottom;
  return Math.ceil(bottom + statusBar + 24);
}"""


def find_chromium() -> str | None:
    """Path of Chromium, or None if this machine has none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(frozen=True)
class Lab:
    """A running server of JupyterLab or Notebook 7.

    Attributes:
        url: Its address, with a slash at the end.
        token: The token that a browser needs.
        notebooks: The folder it serves.
        settings: The folder of its user settings; each page reads it again.
        path: The part of an address before the name of a notebook.
    """

    url: str
    token: str
    notebooks: Path
    settings: Path
    path: str = "doc/tree/"

    def write(self, name: str, cells: Sequence[Any]) -> None:
        """Save a notebook in the served folder. A text is a code cell without outputs."""
        new = nbformat.v4.new_code_cell
        notebook = nbformat.v4.new_notebook(
            cells=[new(cell) if isinstance(cell, str) else cell for cell in cells]
        )
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
        nbformat.write(notebook, self.notebooks / name)

    def set_theme(self, theme: str) -> None:
        """Use `theme` for pages opened from now on: JupyterLab Light or JupyterLab Dark."""
        _write_settings(self.settings, "apputils-extension/themes", {"theme": theme})


@dataclass
class Screen:
    """A page showing one notebook.

    Attributes:
        requests: the addresses of all its requests.
        errors: what it wrote to the browser's console as an error.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, cell: Locator) -> None:
        """Run a cell, and wait for its new number."""
        prompt = cell.locator(".jp-InputPrompt")
        before = prompt.inner_text()
        self.start(cell)
        self.page.wait_for_function(
            r"([prompt, before]) => /\d/.test(prompt.innerText) && prompt.innerText !== before",
            arg=[prompt.element_handle(), before],
        )

    def start(self, cell: Locator) -> None:
        """Run a cell, without waiting for its end."""
        cell.locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def start_all(self) -> None:
        """Run all cells from the menu, without waiting for them."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def run_all(self, seconds: float = 120) -> None:
        """Run all cells from the menu and wait until each has its number.

        Raises:
            AssertionError: some did not run; the message has their number and the errors.
        """
        self.start_all()
        try:
            self.page.wait_for_function(_FINISHED, timeout=seconds * 1000)
        except PageTimeout as error:
            self.assert_it_answers()
            prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
            errors = self.page.locator('[data-mime-type*="stderr"]').all_inner_texts()
            raise AssertionError(f"not all cells ran: {prompts}, {errors}") from error

    def assert_it_answers(self) -> None:
        """Fail if the page is busy for more than half a minute; other calls would wait forever.

        Raises:
            AssertionError: it hangs.
        """
        try:
            self.page.wait_for_function("() => true", timeout=30_000)
        except PageTimeout as error:
            raise AssertionError("the page hangs") from error

    def use_theme(self, theme: str) -> None:
        """Change the theme of this page in its menu to Light or Dark; this folds receipts."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        for name in ("Theme", f"JupyterLab {theme}"):
            self.page.locator(".lm-Menu").get_by_text(name, exact=True).click()
        self.page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(
            state="attached"
        )
        self.page.evaluate(
            "() => document.querySelectorAll('details').forEach(one => { one.open = false; })"
        )

    def save(self) -> None:
        """Save the notebook, and wait until the server has it."""
        with self.page.expect_response(
            lambda response: response.request.method == "PUT" and "/api/contents/" in response.url
        ):
            self.page.keyboard.press("Control+s")

    def snap(self, name: str) -> None:
        """Write what the window shows to `build/screens/`."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENS / f"{name}.png")

    def show_whole_notebook(self, width: int) -> None:
        """Make the window as tall as the notebook, so that nothing has to be scrolled."""
        self.page.set_viewport_size({"width": width, "height": 900})
        heights = [900]
        while len(heights) < 3 or heights[-1] != heights[-2]:
            self.page.wait_for_timeout(300)  # until the new size is laid out
            heights.append(self.page.evaluate(_HEIGHT))
            self.page.set_viewport_size({"width": width, "height": heights[-1]})

    def photograph(self, name: str, width: int) -> list[Path]:
        """Write the whole notebook, `width` pixels wide, in pieces to `build/screens/`."""
        self.show_whole_notebook(width)
        SCREENS.mkdir(parents=True, exist_ok=True)
        for old in SCREENS.glob(f"{name}-[0-9]*.png"):
            old.unlink()
        height = self.page.evaluate("() => window.innerHeight")
        written = []
        tops = list(range(0, height, _PIECE))
        if len(tops) > 1 and height - tops[-1] < _SLIVER:
            tops.pop()
        for number, (top, end) in enumerate(pairwise([*tops, height]), start=1):
            path = SCREENS / f"{name}-{number}.png"
            piece = {"x": 0, "y": top, "width": width, "height": end - top}
            self.page.screenshot(path=path, clip=piece)
            written.append(path)
        return written

    def cell(self, source: str) -> Locator:
        """The code cell whose source contains `source`."""
        return self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".jp-InputArea-editor", has_text=source)
        )

    def hosts(self) -> set[str | None]:
        """Every host to which the page sent a request."""
        return {
            urlsplit(address).hostname
            for address in self.requests
            if not address.startswith(("data:", "blob:", "about:"))
        }


def too_wide(element: Locator) -> int:
    """The pixels by which the content of an element is wider than the element."""
    pixels: int = element.evaluate("element => element.scrollWidth - element.clientWidth")
    return pixels


@contextlib.contextmanager
def jupyter_lab(folder: Path, application: str = "jupyterlab") -> Iterator[Lab]:
    """A JupyterLab server without keys, user settings or access to other hosts.

    `application` can also be "notebook", Jupyter's simpler one.
    """
    notebooks, settings, runtime = folder / "notebooks", folder / "settings", folder / "runtime"
    notebooks.mkdir()
    _write_settings(
        settings,
        "apputils-extension/notification",
        {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    )
    # Cells outside the window stay in the page, where a test can read them.
    _write_settings(settings, "notebook-extension/tracker", {"windowingMode": "none"})
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_PATH": str(_extension(folder)),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", application, "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={notebooks}"),
                "--LabApp.extension_manager=readonly",
            ],
            cwd=notebooks,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url, token = _address(server, runtime, log)
        yield Lab(url, token, notebooks, settings, _PATHS[application])
    finally:
        # The server stops its kernels when it is asked to shut down.
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, controlled by Playwright, which does not download a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_ARGUMENTS)
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_notebook(
    browser: Browser, lab: Lab, name: str, width: int = 1200, scale: float = 1
) -> Iterator[Screen]:
    """`name` in a new browser session; its window is `width` CSS pixels wide."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        device_scale_factor=scale,
        reduced_motion="reduce",
        service_workers="block",
        locale="en-GB",
    )
    try:
        context.set_default_timeout(60_000)
        screen = Screen(context.new_page())
        context.on("request", lambda request: screen.requests.append(request.url))
        screen.page.on(
            "console", lambda said: said.type == "error" and screen.errors.append(said.text)
        )
        screen.page.on("pageerror", lambda error: screen.errors.append(str(error)))
        screen.page.goto(f"{lab.url}{lab.path}{quote(name)}?reset&token={lab.token}")
        screen.page.get_by_text(_READY[lab.path]).first.wait_for(timeout=120_000)
        if lab.path == _PATHS["notebook"]:
            _wait_for_kernel(lab)
        yield screen
    finally:
        context.close()


def _wait_for_kernel(lab: Lab) -> None:
    """Wait until a connected kernel is idle; Notebook 7 shows its name before that."""
    address = f"{lab.url}api/kernels?token={lab.token}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(URLError), urlopen(address) as answer:
            kernels = json.load(answer)
            if any(k["connections"] and k["execution_state"] == "idle" for k in kernels):
                return
        time.sleep(0.2)
    raise AssertionError("no kernel is ready")


def _extension(folder: Path) -> Path:
    """A folder of Jupyter's data with our extension as it is now.

    An install in this environment has a copy of it, which may be older, or none.
    """
    data = folder / "ours"
    shutil.copytree(ROOT / "arche_magic" / "labextension", data / "labextensions" / "arche-magic")
    return data


def _address(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> tuple[str, str]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # half written
                described = json.loads(path.read_text(encoding="utf-8"))
                return described["url"], described["token"]
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _write_settings(settings: Path, plugin: str, values: dict[str, Any]) -> None:
    path = settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
