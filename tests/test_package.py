"""The wheel that users install works by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import arche_magic

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, arche_magic
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.sandbox import Sandbox
from dataclasses import replace

with Sandbox() as sandbox:
    configuration = load_configuration(sandbox.environment())
    use_configuration(replace(configuration, store="memory://wheel"))
    reply = get_llm_provider("intelligent").generate("Say hello.")
print(json.dumps([arche_magic.__file__, arche_magic.__version__, reply.provider]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), "--quiet", "--no-deps",
         "--no-build-isolation", "--wheel-dir", str(folder)],
        check=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_all_it_needs_and_no_more(wheel: Path) -> None:
    """The catalog and the typing marker are in it; tests and notebooks are not."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "arche_magic/llm_providers/catalog.toml" in names
    assert "arche_magic/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"arche_magic", f"arche_magic-{arche_magic.__version__}.dist-info"}


def test_the_wheel_answers_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere and run from there, it starts its sandbox and gets a reply."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path, built_version, provider = json.loads(done.stdout)
    assert Path(path).is_relative_to(tmp_path)
    assert built_version == version("arche_magic")
    assert provider == "groq"


def test_the_required_packages_are_few() -> None:
    """The seven packages of the field, the HTTP client of their SDKs, and two small ones."""
    names = {
        entry.split(">")[0].strip().lower()
        for entry in requires("arche_magic") or ()
        if "extra ==" not in entry
    }
    field = {"ipython", "ipywidgets", "openai", "groq", "mistralai", "google-genai", "pandas"}
    assert names == field | {"httpx", "python-dotenv", "filelock", "genai-prices"}
