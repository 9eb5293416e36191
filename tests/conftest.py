"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Tests start hundreds of Python processes, and each would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Replace slow imports that no test needs, and let processes that tests start import the helpers of
# this folder.
TESTS = Path(__file__).parent
NOT_INSTALLED = str(TESTS / "not_installed")
sys.path.insert(0, NOT_INSTALLED)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [NOT_INSTALLED, str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from env_file import write_env_file  # noqa: E402
from leaks import leaks_in, leaks_of_a_run  # noqa: E402

from arche_magic.llm_providers.config import use_configuration  # noqa: E402
from arche_magic.sandbox import Sandbox  # noqa: E402

# Tests check results; the time of an example depends on the load of the machine.
settings.register_profile("results", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("results")

# No test, and no process or kernel that a test starts, finds keys or settings of the user.
HIDDEN = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_", "JUPYTER", "IPYTHON")
for name in [name for name in os.environ if name.startswith(HIDDEN)]:
    del os.environ[name]


def pytest_configure() -> None:
    """Accept interrupts, which a shell makes its background processes ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def no_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in place of the user's own settings."""
    return tmp_path_factory.mktemp("no-settings")


def use_settings_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(folder))


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(
    no_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Hide the user's own settings file from all tests."""
    use_settings_folder(no_settings, monkeypatch)
    yield
    use_configuration(None)


@pytest.fixture
def own_settings(
    no_settings_of_the_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The path of the user's own settings file. Its folder exists, and the file does not."""
    use_settings_folder(tmp_path / "own-settings", monkeypatch)
    path = tmp_path / "own-settings" / "arche_magic" / "arche_magic.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture(scope="session", autouse=True)
def nothing_written_holds_a_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test, check that no file contains part of a key."""
    yield
    root = Path(__file__).parents[1]
    written = [root / name for name in ("build", "outputs", "notebooks", "docs")]
    folders = [tmp_path_factory.getbasetemp(), *filter(Path.exists, written)]
    found = leaks_of_a_run(folders)
    assert not found, "\n".join(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a test fail if it prints or logs part of a planted key."""
    report = yield
    found = [leak for _, text in report.sections for leak in leaks_in(text)]
    if found and report.passed and report.when == "teardown":  # its report has all sections
        report.outcome = "failed"
        report.longrepr = "\n".join(["it printed or logged a key", *found])
    return report


@pytest.fixture
def network_drive(tmp_path: Path) -> Iterator[Path]:
    """A folder without a disk of this machine, like one on a network drive: it is in memory."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def sandbox_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose keys are in a `.env` in the working directory."""
    with Sandbox() as sandbox:
        write_env_file(tmp_path, sandbox)
        monkeypatch.chdir(tmp_path)
        yield sandbox


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; built once per run, even with several worker processes."""
    base = tmp_path_factory.getbasetemp()
    # The folders of worker processes are in the folder of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site-of-this-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            program = Path(__file__).parents[1] / "docs" / "site.py"
            done = subprocess.run(
                [sys.executable, program, folder], capture_output=True, text=True, timeout=120,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            (folder / "built").touch()
    return folder / "site"
