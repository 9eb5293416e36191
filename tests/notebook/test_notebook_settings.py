"""How often cells, tables and jobs read their configuration files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from env_file import write_env_file
from notebook_kernel import kernel_environment

from arche_magic.sandbox import Sandbox

# Prints how often each of some cells opened `.env` and `arche_magic.toml`.
SCRIPT = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

opened = []
def watch(event, arguments):
    if event == "open":
        opened.append(str(arguments[0]))

sys.addaudithook(watch)
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "arche_magic")
found = []
for magic, line, cell in [
    ("llm", "-q", "hello"),
    ("llm", "-q", "hello again"),
    ("llm_quota", "", None),
    ("llm", "--over in.csv --into out.csv", "{{text}}"),
]:
    opened.clear()
    if cell is None:
        shell.run_line_magic(magic, line)
    else:
        shell.run_cell_magic(magic, line, cell)
    found.append(sum(path.endswith((".env", "arche_magic.toml")) for path in opened))
print(json.dumps(found), file=sys.stderr)
"""


def test_only_the_first_cell_reads_the_settings(tmp_path: Path) -> None:
    """It reads each file once. The next cell, a table and a job with its bar read none of them."""
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(f"row {n}" for n in range(20)))
    with Sandbox(keys={"groq": 1}) as sandbox:
        write_env_file(tmp_path, sandbox)
        (tmp_path / "arche_magic.toml").write_text("patience = 3\n")
        for name in (".env", "arche_magic.toml"):
            os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env=kernel_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert json.loads(done.stderr.splitlines()[-1]) == [2, 0, 0, 0]
    assert (tmp_path / "out.csv").read_text().count("Simulated reply") == 20
