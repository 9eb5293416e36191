"""One notebook, run once in each place, without any key of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from place_parts import CELLS, Run, write


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    """Run a command of this Python environment in the folder."""
    commands = Path(sys.executable).parent
    environment = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "XDG_CONFIG_HOME": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "NO_COLOR": "1",
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
    }

    def start(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(commands / command), *map(str, arguments)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def executed(folder: Path, run: Run) -> nbformat.NotebookNode:
    """The notebook after `jupyter execute`."""
    path = write(folder / "place.ipynb", CELLS)
    done = run("jupyter", "execute", "--output", folder / "executed.ipynb", path)
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "executed.ipynb", as_version=4)
