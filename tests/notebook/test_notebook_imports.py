"""An interrupt during the first import of a large library does not leave it half imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from notebook_kernel import kernel_environment

from arche_magic.sandbox import Sandbox

# Forks for each case: sends SIGINT once, while this module is being imported, and tries again.
SCRIPT = """
import json, os, signal, sys, traceback
from IPython.core.interactiveshell import InteractiveShell
# Each child would import them again.
import groq, mistralai.client, numpy
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "arche_magic")
shell.user_ns["texts"] = ["a", "b"]

class Interrupting:
    done = False

    def __init__(self, module):
        self.module = module

    def find_spec(self, name, path=None, target=None):
        if name == self.module and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
        return None

def run_twice(module, code):
    watch = Interrupting(module)
    sys.meta_path.insert(0, watch)
    for attempt in range(2):
        try:
            exec(code, globals())
        except KeyboardInterrupt as error:
            print(type(error).__name__, file=sys.stderr)
        else:
            print("done", file=sys.stderr)
    assert watch.done

for name, (module, code) in json.loads(sys.stdin.read()).items():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    os.chdir(name)
    os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY), 2)
    try:
        run_twice(module, code)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)
"""
PARQUET = "import arche_magic; arche_magic.map('texts.parquet', '{{text}}', to='out.parquet')"


def magic(line: str) -> str:
    name, _, rest = line.partition(" ")
    return f"shell.run_line_magic({name!r}, {rest!r})"


CASES = [
    ("arche_magic.notebook.ask", magic("llm -q hi")),
    ("pandas._libs.hashtable", magic("llm_quota")),
    ("pandas._libs.hashtable", magic("llm_stats --by day")),
    ("pandas._libs.hashtable", f"{magic('llm -q hi')}; {magic('llm_why')}"),
    ("pandas._libs.hashtable", magic("llm --compare groq,mistral hi")),
    ("pandas._libs.hashtable", "shell.run_cell_magic('llm', '--over texts', '{{prompt}}')"),
    ("pandas._libs.hashtable", "import arche_magic; arche_magic.load_attempts()"),
    ("pyarrow.parquet.core", PARQUET),
    ("matplotlib.artist", f"{magic('llm -q hi')}; {magic('llm_quota --plot')}"),
    ("ipywidgets.widgets.widget_output", "import arche_magic.notebook.panel.widgets"),
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The output of each code whose first run was interrupted, when it ran again."""
    import pandas as pd

    folder, cases = tmp_path_factory.mktemp("imports"), {}
    for number, (module, code) in enumerate(CASES):
        own = folder / str(number)
        own.mkdir()
        pd.DataFrame({"text": ["a", "b"]}).to_parquet(own / "texts.parquet")
        cases[own.name] = (module, code)
    with Sandbox(keys={"groq": 1, "mistral": 1}) as sandbox:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps(cases),
            cwd=folder,
            env=kernel_environment(folder, **sandbox.environment()),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return {code: (folder / name / "stderr").read_text() for name, (_, code) in cases.items()}


@pytest.mark.parametrize(("module", "code"), CASES)
def test_an_interrupted_import_works_the_next_time(
    printed: dict[str, str], module: str, code: str
) -> None:
    """The same line works when it is run again. The error of a command is one line."""
    stopped = "CellInterrupted" if code.startswith("shell.") else "KeyboardInterrupt"
    assert printed[code].split()[-2:] == [stopped, "done"], f"{module}: {printed[code]}"
