"""Loading, unloading and configuring the extension in real kernels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from notebook_kernel import Kernel, kernel_environment

from arche_magic.sandbox import Sandbox

MEASURED_LOAD = """
import sys, time
began = time.process_time()
get_ipython().run_line_magic("load_ext", "arche_magic")
milliseconds = (time.process_time() - began) * 1000
heavy = {name.partition(".")[0] for name in sys.modules} & {
    "groq", "openai", "mistralai", "pandas", "ipywidgets", "pydantic", "httpx", "starlette",
}
print(repr((milliseconds, sorted(heavy), "google.genai" in sys.modules)))
"""
LEFT_BEHIND = """
shell = get_ipython()
print(repr((
    sorted(n for kind in shell.magics_manager.magics.values() for n in kind if "llm" in n),
    [type(c).__name__ for c in shell.configurables if "Arche" in type(c).__name__],
    type(shell.display_trap.hook).__name__,
    type(sys.displayhook).__name__,
)))
"""


def test_loading_is_fast_and_silent(tmp_path: Path) -> None:
    """`%load_ext` takes less than 50 ms in a new kernel and imports no SDK or pandas."""
    times = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        kernel = Kernel(folder, extension=False)
        try:
            cell = kernel.run(MEASURED_LOAD)
        finally:
            kernel.stop()
        assert cell.status == "ok", cell.error
        milliseconds, heavy, google = json.loads(
            cell.printed.translate({40: 91, 41: 93, 39: 34}).lower()
        )
        times.append(milliseconds)
        assert heavy == []
        assert google is False
        assert len(cell.printed.splitlines()) == 1
    print("milliseconds to load:", times)
    assert min(times) < 50


def test_loading_twice_changes_nothing(kernel: Kernel) -> None:
    """A second `%load_ext`, and a direct call of the loader, have no effect."""
    cell = kernel.run(
        "import arche_magic\n"
        "shell = get_ipython()\n"
        "before = shell.magics_manager.registry['ArcheMagics']\n"
        "arche_magic.load_ipython_extension(shell)\n"
        "assert shell.magics_manager.registry['ArcheMagics'] is before\n"
        "assert sum(c is before for c in shell.configurables) == 1"
    )
    assert (cell.status, cell.printed) == ("ok", "")


def test_unloading_removes_everything(kernel: Kernel) -> None:
    """No magic, configurable, hook or sandbox is left, and it can be loaded again."""
    kernel.run("%llm_sandbox start\n%llm -q -o kept hi")
    kernel.run("from arche_magic.notebook import sandbox_switch; running = sandbox_switch._running")
    said = kernel.run("%unload_ext arche_magic").printed
    assert said == "Sandbox off: requests go to the configured providers again.\n"
    magics, configurables, hook, current = kernel.value(
        "(sorted(n for kind in get_ipython().magics_manager.magics.values()"
        " for n in kind if 'llm' in n),"
        " [c for c in get_ipython().configurables if 'Arche' in type(c).__name__],"
        " type(get_ipython().display_trap.hook).__name__, running.running)"
    )
    assert magics == []
    assert configurables == []
    assert hook == "ZMQShellDisplayHook"
    assert current is False
    assert kernel.run("%reload_ext arche_magic").status == "ok"
    assert kernel.run("%llm_sandbox status").printed.startswith("The sandbox is not running")


def test_a_magic_of_another_extension_is_restored(kernel: Kernel) -> None:
    """Replacing `%%llm` is reported in one line, and `%unload_ext` restores it."""
    kernel.run("%unload_ext arche_magic")
    kernel.run(
        "def theirs(line, cell=None):\n    return 'theirs'\n"
        "get_ipython().register_magic_function(theirs, 'line_cell', 'llm')"
    )
    said = kernel.run("%load_ext arche_magic").printed
    assert said.splitlines() == [
        "arche_magic takes over from another extension until %unload_ext: llm"
    ]
    kernel.run("%unload_ext arche_magic")
    assert kernel.run("%llm hi").results == ["'theirs'"]
    kernel.run("del get_ipython().magics_manager.magics['line']['llm']")
    kernel.run("del get_ipython().magics_manager.magics['cell']['llm']")
    kernel.run("%load_ext arche_magic")


def test_config_sets_defaults_that_options_override(kernel: Kernel, sandboxed) -> None:
    """`%config ArcheMagics.…` applies to later cells; an option of the cell takes precedence."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("%config ArcheMagics.provider = 'mistral'")
    kernel.run("%config ArcheMagics.max_tokens = 7")
    kernel.run("%config ArcheMagics.system = 'Be brief.'")
    assert kernel.run("%llm -q one").status == "ok"
    assert kernel.run("%llm -q -p groq --max-tokens 9 -s '' two").status == "ok"
    first, second = sandbox.requests
    assert (first.provider, first.body["max_tokens"]) == ("mistral", 7)
    assert first.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert second.provider == "groq"
    assert [message["role"] for message in second.body["messages"]] == ["user"]


def test_config_patience_zero_never_waits(kernel: Kernel, sandboxed) -> None:
    """With `%config ArcheMagics.patience = 0`, a closed route fails the cell immediately."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_minute": 0}})
    kernel.run("%config ArcheMagics.patience = 0")
    cell = kernel.run("%llm hi")
    assert cell.status == "error"
    assert "opens in" in cell.message
    assert cell.ended - cell.started < 5


def test_ipython_config_sets_defaults(tmp_path: Path) -> None:
    """`c.ArcheMagics.provider = "mistral"` in ipython_config.py applies from the first cell on."""
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(
        'c = get_config()\nc.ArcheMagics.provider = "mistral"\nc.ArcheMagics.temperature = 0.5\n'
        "c.ArcheMagics.max_tokens = 9\nc.ArcheMagics.patience = 1\n"
        'c.ArcheMagics.model = "mistral-large-latest"\nc.ArcheMagics.system = "Be brief."\n'
    )
    kernel = Kernel(tmp_path)
    try:
        with Sandbox() as sandbox:
            kernel.use(sandbox)
            kernel.run("x = %llm hi")
            (request,) = sandbox.requests
        assert kernel.value("x.provider") == "mistral"
        assert request.model == "mistral-large-latest"
        assert (request.body["temperature"], request.body["max_tokens"]) == (0.5, 9)
        assert request.body["messages"][0] == {"role": "system", "content": "Be brief."}
    finally:
        kernel.stop()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("patience = -1", "'patience' trait .* should not be less than 0"),
        ("temperature = 9", "'temperature' trait .* should not be greater than 2"),
        ("max_tokens = 0", "'max_tokens' trait .* should not be less than 1"),
        ("temperature = 'warm'", "'temperature' trait .* expected a float"),
        ("provider = 'gorq'", "unknown provider 'gorq'; did you mean 'groq'"),
    ],
)
def test_config_refuses_invalid_values_in_one_line(
    kernel: Kernel, statement: str, said: str
) -> None:
    """When they are set; the old value stays, and the extension can be loaded again."""
    name = statement.split(maxsplit=1)[0]
    before = kernel.run(f"%config ArcheMagics.{name}").results
    printed = kernel.run(f"%config ArcheMagics.{statement}").printed
    assert len(printed.strip().splitlines()) == 1
    assert re.search(said, printed)
    assert kernel.run(f"%config ArcheMagics.{name}").results == before
    kernel.run("%config ArcheMagics.model = 'gpt-oss-20b'")
    assert kernel.run("%config ArcheMagics.model").results == ["'gpt-oss-20b'"]
    assert kernel.run("%reload_ext arche_magic").status == "ok"
    assert kernel.run(f"%config ArcheMagics.{name}").results == before


def test_an_invalid_value_in_ipython_config_is_one_line(tmp_path: Path) -> None:
    """`%load_ext` names the invalid default without a traceback, and loads nothing."""
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text("c = get_config()\nc.ArcheMagics.patience = -1\n")
    kernel = Kernel(tmp_path, extension=False)
    try:
        cell = kernel.run("%load_ext arche_magic")
        assert cell.status == "error"
        assert "c.ArcheMagics in ipython_config.py" in cell.message
        assert "patience" in cell.message
        kernel.run("get_ipython().config.ArcheMagics.patience = 5")
        assert kernel.run("%load_ext arche_magic").status == "ok"
        assert kernel.run("%config ArcheMagics.patience").results == ["5.0"]
    finally:
        kernel.stop()


def test_a_command_loads_it_in_every_notebook(tmp_path: Path) -> None:
    """`enable` writes one file, once; `disable` removes it; a foreign file of that name stays."""
    environment = kernel_environment(tmp_path)
    path = tmp_path / "ipython" / "profile_default" / "startup" / "50-arche_magic.py"

    def arche_magic(word: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "arche_magic", word],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).rstrip("\n")

    assert arche_magic("disable") == (0, f"{path} does not exist; nothing to do")
    assert arche_magic("enable") == (0, f"{path} now loads arche_magic in every notebook")
    assert arche_magic("enable") == (0, f"{path} already loads arche_magic in every notebook")
    kernel = Kernel(tmp_path, extension=False)
    try:
        assert kernel.run("%llm --help").status == "ok"
        assert kernel.value("get_ipython().run_line_magic('who_ls', '')") == []
        assert kernel.run("import arche_magic\n%reload_ext arche_magic").status == "ok"
    finally:
        kernel.stop()
    # An environment without the package, with the same profile.
    subprocess.run([sys.executable, "-I", "-S", path], timeout=60, check=True)
    assert arche_magic("disable") == (0, f"{path} was removed")
    assert not path.exists()
    path.write_text("print('mine')")
    for word in ("enable", "disable"):
        status, said = arche_magic(word)
        assert status == 1
        assert said.endswith(
            f"{path} was not written by arche_magic, or was changed; move it or delete it"
        )
    assert path.read_text() == "print('mine')"
    environment["IPYTHONDIR"] = str(path / "below-a-file")
    assert arche_magic("enable") == (
        1, f"python -m arche_magic: {path / 'below-a-file'} cannot be written: Permission denied",
    )  # fmt: skip
