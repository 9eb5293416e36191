"""The wheel in a new environment, as after an installation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from notebook_kernel import kernel_environment

import arche_magic

ROOT = Path(__file__).parents[2]
RUN_NOTEBOOK = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120).execute()
nbformat.write(notebook, sys.argv[1])
"""
LOAD = """
import json, sys, time
began = time.process_time()
import arche_magic
imported = time.process_time()
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
ready = time.process_time()
shell.run_line_magic("load_ext", "arche_magic")
loaded = time.process_time()
tops = {name.partition(".")[0] for name in sys.modules}
heavy = tops & {"groq", "openai", "mistralai", "pandas", "ipywidgets", "pydantic", "httpx"}
print(json.dumps([arche_magic.__file__, imported - began, loaded - ready, sorted(heavy)]))
"""
# A checker must accept all lines except those marked as wrong.
SCRIPT = '''
from collections.abc import Iterator
from typing import assert_type

import arche_magic
from arche_magic import get_llm_provider, get_quota_tracker, load_attempts
from arche_magic.llm_providers import (
    Attempt,
    ContentFiltered,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    Reply,
    Usage,
)


def words(prompt: str) -> Iterator[str]:
    """The pieces of a reply."""
    stream = get_llm_provider().stream(prompt, max_tokens=20)
    yield from stream
    assert_type(stream.reply, Reply | None)


provider = get_llm_provider("intelligent")
assert_type(provider, IntelligentLLMOrchestrator)
try:
    reply = provider.generate("Hello", temperature=0, system="Be brief.", patience=5)
except ContentFiltered as error:
    assert_type(error.partial, str)
except LLMProviderError as error:
    assert_type(error.attempts, tuple[Attempt, ...])
else:
    assert_type(reply, Reply)
    assert_type(reply.usage, Usage)
    assert_type(reply.usage.total_tokens, int)
    assert_type(reply.upper(), str)
    assert_type(reply.attempts, tuple[Attempt, ...])
several = MultiKeyGroqProvider(api_keys=["gsk_one", "gsk_two"])
several.generate_chat([{"role": "user", "content": "Hello"}])
get_quota_tracker().get_usage_summary("groq")
arche_magic.map(["one", "two"], "Translate {{row}}")
load_attempts()

provider.generate(3)  # wrong
provider.generate("Hello", patience="long")  # wrong
arche_magic.get_llm_provder("groq")  # wrong
arche_magic.llm_providers.nothing  # wrong
MultiKeyGroqProvider(api_keys="gsk_one", keys=2)  # wrong
'''


@pytest.fixture(scope="module")
def fresh() -> Iterator[Path]:
    """An environment with the wheel, the sandbox's requirements and a kernel only."""
    with TemporaryDirectory(prefix="arche_magic-") as name:
        folder = Path(name)
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", name], cwd=ROOT)
        (wheel,) = folder.glob("*.whl")
        run([sys.executable, "-m", "venv", name], cwd=folder)
        run(
            [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile",
             "--disable-pip-version-check", f"{wheel}[sandbox]", "ipykernel", "nbclient"],
            cwd=folder,
        )  # fmt: skip
        yield folder


def run(
    command: list[str | Path], cwd: Path, check: bool = True, env: Mapping[str, str] | None = None
) -> str:
    """The output of a command; its error output if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=170, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr + done.stdout
    return done.stdout


def inside(fresh: Path, folder: Path, *words: str | Path) -> str:
    """The output of a program in that environment and a folder, without our variables."""
    environment = kernel_environment(folder)
    environment.pop("PYTHONPATH", None)
    program, *rest = words
    return run([fresh / "bin" / program, *rest], cwd=folder, env=environment)


def test_the_quickstart_goes_from_key_to_key(fresh: Path, tmp_path: Path) -> None:
    """It needs no key there, and each receipt names the route."""
    copied = tmp_path / "quickstart.ipynb"
    copied.write_bytes((ROOT / "notebooks" / "quickstart.ipynb").read_bytes())
    inside(fresh, tmp_path, "python", "-c", RUN_NOTEBOOK, copied)
    outputs = [
        output
        for cell in nbformat.read(copied, as_version=4).cells
        for output in cell.get("outputs", ())
    ]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    kept = [o.metadata.arche_magic for o in outputs if "arche_magic" in o.get("metadata", {})]
    assert [one["key"] for one in kept] == [
        "groq_key_1", "groq_key_2", "groq_key_3", "mistral_key_1", "google_key_1", "openai_key_1",
    ]  # fmt: skip


def test_importing_and_loading_take_no_time(fresh: Path, tmp_path: Path) -> None:
    """SDKs and pandas are loaded only when they are needed."""
    inside(fresh, tmp_path, "python", "-c", LOAD)  # compiles it
    path, importing, loading, heavy = json.loads(inside(fresh, tmp_path, "python", "-c", LOAD))
    print(f"import {1000 * importing:.0f} ms, load {1000 * loading:.0f} ms")
    assert Path(path).is_relative_to(fresh)
    assert heavy == []
    assert importing + loading < 0.5


def test_the_command_is_installed(fresh: Path, tmp_path: Path) -> None:
    """`arche_magic` is `python -m arche_magic`."""
    assert inside(fresh, tmp_path, "arche_magic", "--version").split()[-1] == (
        arche_magic.__version__
    )
    helps = [
        inside(fresh, tmp_path, *words, "--help")
        for words in (("arche_magic",), ("python", "-m", "arche_magic"))
    ]
    assert helps[0] == helps[1]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_type_checker_knows_what_we_return(fresh: Path, tmp_path: Path, checker: str) -> None:
    """In strict mode, both checkers find exactly the wrong lines of a script."""
    (tmp_path / "script.py").write_text(SCRIPT)
    python = fresh / "bin" / "python"
    if checker == "mypy":
        (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
        said = run(
            [sys.executable, "-m", "mypy", "--python-executable", python, "script.py"],
            cwd=tmp_path, check=False,
        )  # fmt: skip
        found = {int(line) for line in re.findall(r"^script\.py:(\d+): error", said, re.MULTILINE)}
    else:
        (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        said = run(
            [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", python,
             "script.py"],
            cwd=tmp_path, check=False,
        )  # fmt: skip
        found = {
            1 + one["range"]["start"]["line"]
            for one in json.loads(said)["generalDiagnostics"]
            if one["severity"] == "error"
        }
    lines = enumerate(SCRIPT.splitlines(), 1)
    assert found == {number for number, line in lines if line.endswith("# wrong")}, said


def test_every_public_name_has_a_known_type(fresh: Path, tmp_path: Path) -> None:
    """No type of `arche_magic` or its engine is unknown to a type checker."""
    said = run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--ignoreexternal",
         "--verifytypes", "arche_magic"],
        cwd=tmp_path, check=False,
        # The one mode that does not take the path of an interpreter.
        env={**os.environ, "PATH": f"{fresh / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip
    public = re.compile(r"arche_magic(\.llm_providers)?\.[A-Za-z]\w*")
    symbols = [
        one
        for one in json.loads(said)["typeCompleteness"]["symbols"]
        if public.fullmatch(one["name"]) and one["isExported"]
    ]
    assert {"arche_magic.map", "arche_magic.llm_providers.Reply"} <= {s["name"] for s in symbols}
    doubtful = [s["name"] for s in symbols if not s["isTypeKnown"] or s["isTypeAmbiguous"]]
    assert doubtful == []
