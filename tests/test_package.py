"""The published files: a wheel, an sdist, their version and their requirements.

`places/test_fresh_environment.py` tests that the wheel works on its own.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import arche_magic

ROOT = Path(__file__).parent.parent
EXTENSION = Path("arche_magic", "labextension")
FIELD = {"ipython", "ipywidgets", "openai", "groq", "mistralai", "google-genai", "pandas"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, built from the source tree."""
    folder = tmp_path_factory.mktemp("built")
    build(ROOT, folder, "wheel", "sdist")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (one,) = built.glob("*.whl")
    return one


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree of the sdist."""
    (sdist,) = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def build(source: Path, folder: Path, *targets: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    for target in targets:
        command += ["-t", target]
    subprocess.run(
        command, cwd=source, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120
    )


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_contains_exactly_what_it_needs(wheel: Path) -> None:
    """It has the catalog, the typing marker, the licence and JupyterLab's part, but no tests."""
    names = contents(wheel)
    assert "arche_magic/llm_providers/catalog.toml" in names
    assert "arche_magic/py.typed" in names
    about, data = (f"arche_magic-{arche_magic.__version__}.{end}" for end in ("dist-info", "data"))
    assert b"License-Expression: MIT\n" in names[f"{about}/METADATA"]
    assert names[f"{about}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"arche_magic", about, data}
    assert not any(name.startswith("arche_magic/labextension") for name in names)


def test_the_wheel_brings_the_extension_of_jupyterlab(wheel: Path) -> None:
    """Its files go where JupyterLab looks for them, as they are in the source, and nothing else."""
    data = f"arche_magic-{arche_magic.__version__}.data/data/"
    names = contents(wheel)
    place, source = f"{data}share/jupyter/labextensions/arche-magic/", ROOT / EXTENSION
    assert {name: names[name] for name in names if name.startswith(data)} == {
        place + path.relative_to(source).as_posix(): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    }
    described = json.loads(names[f"{place}package.json"])
    assert described["version"] == arche_magic.__version__
    assert place + described["jupyterlab"]["_build"]["load"] in names


def test_the_extension_is_small_and_readable() -> None:
    """It is plain JavaScript of less than 300 lines that nothing has built."""
    (script,) = (ROOT / EXTENSION / "static").iterdir()
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 300
    assert max(map(len, lines)) <= 100


def test_the_sdist_builds_the_same_wheel(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    """The files are equal byte for byte, without the repository, its history and its tags."""
    build(unpacked, tmp_path, "wheel")
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_sdist_contains_its_tests_and_their_files(unpacked: Path) -> None:
    """The tests pass there, and no stray file of the checkout is published."""
    folders = {"arche_magic", "docs", "notebooks", "tests"}
    top_files = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"}
    built_with = {"Makefile", "mkdocs.yml", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert folders | top_files <= {path.name for path in unpacked.iterdir()}
    assert {path.name for path in unpacked.iterdir()} <= folders | top_files | built_with
    for folder in folders:
        here, there = ({p.relative_to(r) for p in kept(r / folder)} for r in (ROOT, unpacked))
        assert here == there
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/test_docs.py", "-k", "links or commands"],
        cwd=unpacked, env={**os.environ, "PYTHONPATH": str(unpacked)}, timeout=120, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def kept(folder: Path) -> Iterator[Path]:
    """The files of a folder, except those that git ignores."""
    passing = {"__pycache__", ".ipynb_checkpoints", "outputs"}
    for path in folder.rglob("*"):
        if path.is_file() and not passing & {*path.parts}:
            yield path


def test_docstrings_have_whole_characters() -> None:
    """Since Python 3.13, the compiler refuses half a character in a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in (ROOT / "arche_magic").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, documented):
                (ast.get_docstring(node) or "").encode()


def test_a_tag_names_the_version() -> None:
    """A commit tagged `v1.2.3` has that version, and versions never decrease."""
    version = Version(arche_magic.__version__)
    assert tags("--points-at", "HEAD") <= {version}
    assert all(tag <= version for tag in tags("--merged", "HEAD"))


def tags(*which: str) -> set[Version]:
    """The versions that the repository's tags name; none in an sdist or shallow clone."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "tag", "--list", "v*", *which],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return {Version(tag) for tag in done.stdout.split()}


def test_the_required_packages_are_few() -> None:
    """The seven main packages, what their SDKs need, and four small ones."""
    names = {
        entry.split(">")[0].strip().lower()
        for entry in requires("arche_magic") or ()
        if "extra ==" not in entry
    }
    of_their_sdks = {"httpx", "pydantic", "annotated-types"}
    assert names == FIELD | of_their_sdks | {"python-dotenv", "filelock", "genai-prices", "tzdata"}


def test_an_installation_adds_few_packages() -> None:
    """It adds at most six packages to those that the seven main packages need."""
    theirs, ours = closure(FIELD), closure(["arche_magic"])
    added = sorted(ours - theirs - {"arche-magic"})
    print(f"the seven bring {len(theirs)}, we add {len(added)}: {', '.join(added)}")
    assert len(added) <= 6


def closure(names: Iterable[str]) -> set[str]:
    """All distributions that installing these would install, according to their metadata."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(name) for name in names]
    while left:
        needed = left.pop()
        name = canonicalize_name(needed.name)
        for extra in {"", *needed.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                lines = map(Requirement, requires(name) or ())
                left += (r for r in lines if not r.marker or r.marker.evaluate({"extra": extra}))
    return {name for name, _ in found}
