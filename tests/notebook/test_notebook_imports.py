"""An interrupt while a large library is imported for the first time leaves no half of it behind."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from notebook_kernel import environment_without_keys

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

# Sends SIGINT once, while a certain module is being looked for, and then tries again.
SCRIPT = """
import os, signal, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "arche_magic")

class Interrupting:
    done = False

    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
        return None

shell.user_ns["texts"] = ["a", "b"]
watch = Interrupting()
sys.meta_path.insert(0, watch)
for attempt in range(2):
    try:
        exec({code!r})
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    else:
        print("done", file=sys.stderr)
assert watch.done
"""
PARQUET = "import arche_magic; arche_magic.map('texts.parquet', '{{text}}', to='out.parquet')"


def magic(line: str) -> str:
    name, _, rest = line.partition(" ")
    return f"shell.run_line_magic({name!r}, {rest!r})"


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("pandas._libs.hashtable", magic("llm_quota")),
        ("pandas._libs.hashtable", magic("llm_stats --by day")),
        ("pandas._libs.hashtable", f"{magic('llm -q hi')}; {magic('llm_why')}"),
        ("pandas._libs.hashtable", magic("llm --compare groq,mistral hi")),
        ("pandas._libs.hashtable", "shell.run_cell_magic('llm', '--over texts', '{{prompt}}')"),
        ("pandas._libs.hashtable", "import arche_magic; arche_magic.load_attempts()"),
        ("pyarrow.parquet.core", PARQUET),
        ("matplotlib.artist", f"{magic('llm -q hi')}; {magic('llm_quota --plot')}"),
        ("ipywidgets.widgets.widget_output", "import arche_magic.notebook.panel.widgets"),
    ],
)
def test_an_interrupted_import_is_whole_the_next_time(
    tmp_path: Path, module: str, code: str
) -> None:
    """The same line works at once when it is run again."""
    import pandas as pd

    pd.DataFrame({"text": ["a", "b"]}).to_parquet(tmp_path / "texts.parquet")
    with Sandbox(keys={"groq": 1, "mistral": 1}) as sandbox:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(module=module, code=code)],
            cwd=tmp_path,
            env=environment_without_keys(tmp_path, **sandbox.environment()),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-2:] == ["interrupted", "done"], done.stderr
