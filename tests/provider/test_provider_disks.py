"""Disks that refuse: the call is answered all the same, and one warning says so."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from provider_parts import Start, run_script, write_env_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="disks of another kind")

ASK = """
import warnings
from arche_magic.llm_providers import get_llm_provider
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    provider = get_llm_provider("mistral")
    replies = [provider.generate(f"Prompt {number}") for number in range(3)]
rows = provider.quota_tracker.get_usage_summary("mistral")["mistral"]["mistral_key_1"]
print(len(replies), rows["requests_per_minute"]["used"])
for warning in caught:
    print(warning.category.__name__, warning.message)
"""
FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
"""
NO_LOCKS = """
import errno, fcntl
def flock(descriptor, how):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""


def like_everybody() -> tuple[str, ...]:
    """What a command must begin with to be bound by permissions; root is not."""
    if os.geteuid() != 0:
        return ()
    program = shutil.which("setpriv")
    if not program:
        pytest.skip("root may write everywhere, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return (program, "--inh-caps", rights, "--bounding-set", rights)


def ask(code: str, folder: Path, *command: str) -> tuple[list[str], list[str]]:
    """What was answered and counted, and the warnings."""
    out, err = run_script(code, folder, command=command)
    assert err == ""
    first, *warned = out.splitlines()
    return first.split(), warned


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("trouble", [FULL_DISK, NO_LOCKS])
def test_a_disk_that_refuses_costs_one_warning(
    start: Start, tmp_path: Path, trouble: str, known: bool
) -> None:
    """Full, or a share without locks; what was counted there before still counts."""
    write_env_file(tmp_path, start(keys={"mistral": 1}))
    if known:
        ask(ASK, tmp_path)
    (answered, used), warned = ask(trouble + ASK, tmp_path)
    assert answered == "3"
    assert float(used) == (6 if known else 3)
    assert len(warned) == 1
    assert warned[0].startswith("LedgerWarning the ledger ")
    assert "counting in memory" in warned[0]
    if known:
        # What is on the disk is whole, and the next kernel goes on from there.
        (answered, used), warned = ask(ASK, tmp_path)
        assert (answered, warned) == ("3", [])
        assert float(used) >= 6


def test_a_folder_that_may_only_be_read_costs_one_warning(start: Start, tmp_path: Path) -> None:
    """Another user's notebooks, or a read-only disk: the counts there are gone on from."""
    write_env_file(tmp_path, start(keys={"mistral": 1}))
    ask(ASK, tmp_path)
    outputs = tmp_path / "outputs"
    before = {path.name: path.read_bytes() for path in outputs.iterdir()}
    for path in (*outputs.iterdir(), outputs):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        (answered, used), warned = ask(ASK, tmp_path, *like_everybody())
    finally:
        outputs.chmod(0o755)
    assert (answered, float(used)) == ("3", 6)
    assert len(warned) == 1
    assert "counting in memory" in warned[0]
    assert {path.name: path.read_bytes() for path in outputs.iterdir()} == before


def test_a_folder_that_is_removed_under_a_kernel_is_made_again(
    start: Start, tmp_path: Path
) -> None:
    """With one warning, as the counts are gone with it."""
    write_env_file(tmp_path, start(keys={"mistral": 1}))
    code = ASK.replace(
        "    replies =",
        "    import shutil\n    provider.generate('Before')\n    shutil.rmtree('outputs')\n"
        "    replies =",
    )
    (answered, used), warned = ask(code, tmp_path)
    assert answered == "3"
    # The provider's own count says how many there were.
    assert float(used) == 4
    assert len(warned) == 1
    assert "was removed" in warned[0]
    assert (tmp_path / "outputs" / "llm_quota_tracker.json").exists()
    assert len((tmp_path / "outputs" / "llm_calls.jsonl").read_text().splitlines()) == 3
