"""Disks that fail: the call is answered, and there is one warning."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from env_file import write_env_file
from provider_parts import Start, run_script

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.reply_cache.store import ReplyStore
from arche_magic.llm_providers.storage import LedgerWarning
from arche_magic.llm_providers.types import Usage

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
# Without bytecode, because Python 3.11 would leave incomplete files of modules compiled then.
FULL_DISK = """
import resource, sys
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
"""
WITHOUT_FILES = """
    import os, resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    provider.generate("Before")
    files = []
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        provider.generate("Without files")
    for file in files:
        os.close(file)
    replies ="""
NO_LOCKS = """
import errno, fcntl
def flock(descriptor, how):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""

# Eight concurrent threads, each with a kept reply, while one file cannot be written.
ASK_IN_THREADS = """
import warnings
from concurrent.futures import ThreadPoolExecutor
from arche_magic.llm_providers import get_llm_provider
warnings.simplefilter("{warned}")
provider = get_llm_provider("groq")
def ask(number):
    return provider.generate(f"Prompt {number}", keep=True)
with ThreadPoolExecutor(8) as pool:
    replies = list(pool.map(ask, range(24)))
spent = provider.quota_tracker.get_usage_summary("groq")["groq"]["groq_key_1"]
print(len(replies), provider.get_stats()["total_calls"], spent["requests_per_day"]["used"])
"""
FAIL_AT = """
import errno, os, time
open_, write = os.open, os.write
paths = {{}}
def refusing_open(path, flags, *arguments, **options):
    if "{file}" in str(path) and {when} == "open" and flags & os.O_CREAT:
        # So that several threads are at it at once.
        time.sleep(0.02)
        raise OSError({error}, os.strerror({error}))
    descriptor = open_(path, flags, *arguments, **options)
    paths[descriptor] = str(path)
    return descriptor
def refusing_write(descriptor, content):
    if "{file}" in paths.get(descriptor, "") and {when} == "write":
        raise OSError({error}, os.strerror({error}))
    return write(descriptor, content)
os.open, os.write = refusing_open, refusing_write
"""


def like_everybody() -> tuple[str, ...]:
    """A prefix that makes a command subject to permissions, which root is not."""
    if os.geteuid() != 0:
        return ()
    program = shutil.which("setpriv")
    if not program:
        pytest.skip("root may write everywhere, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return (program, "--inh-caps", rights, "--bounding-set", rights)


def ask(code: str, folder: Path, *command: str) -> tuple[list[str], list[str]]:
    """The replies, the counts, and the warnings."""
    out, err = run_script(code, folder, command=command)
    assert err == ""
    first, *warned = out.splitlines()
    return first.split(), warned


@pytest.mark.parametrize(("trouble", "known"), [(FULL_DISK, True), (NO_LOCKS, False)])
def test_a_failing_disk_gives_one_warning(
    start: Start, tmp_path: Path, trouble: str, known: bool
) -> None:
    """It is full, or a network share without locks; counts from before are kept."""
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
        # The file on the disk is complete, and the next kernel continues from it.
        (answered, used), warned = ask(ASK, tmp_path)
        assert (answered, warned) == ("3", [])
        assert float(used) >= 6


def test_a_read_only_folder_gives_one_warning(start: Start, tmp_path: Path) -> None:
    """Another user's notebooks, or a read-only disk: counting continues from the file."""
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


def test_a_disk_that_fails_once_loses_no_count(start: Start, tmp_path: Path) -> None:
    """Here too many files are open during one call; the end of the process adds its counts."""
    write_env_file(tmp_path, start(keys={"mistral": 1}))
    (answered, used), warned = ask(ASK.replace("    replies =", WITHOUT_FILES), tmp_path)
    assert (answered, float(used), len(warned)) == ("3", 5, 1)
    assert "counting in memory until it can be written again" in warned[0]
    ledger = json.loads((tmp_path / "outputs" / "llm_quota_tracker.json").read_bytes())
    (account,) = (d for name, d in ledger["documents"].items() if name.startswith("mistral:"))
    (model,) = account["models"].values()
    assert (model["charged"]["requests"], model.get("holds", {})) == (5, {})
    assert len((tmp_path / "outputs" / "llm_calls.jsonl").read_text().splitlines()) == 5


def test_a_folder_deleted_under_a_kernel_is_created_again(start: Start, tmp_path: Path) -> None:
    """With one warning, because its counts are lost."""
    write_env_file(tmp_path, start(keys={"mistral": 1}))
    code = ASK.replace(
        "    replies =",
        "    import shutil\n    provider.generate('Before')\n    shutil.rmtree('outputs')\n"
        "    replies =",
    )
    (answered, used), warned = ask(code, tmp_path)
    assert answered == "3"
    # The provider's own count restores the number.
    assert float(used) == 4
    assert len(warned) == 1
    assert "was removed" in warned[0]
    assert (tmp_path / "outputs" / "llm_quota_tracker.json").exists()
    assert len((tmp_path / "outputs" / "llm_calls.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("file", "when", "error", "warned"),
    [
        ("llm_calls.jsonl", "open", "errno.EACCES", "ignore"),
        ("llm_calls.jsonl", "write", "errno.ENOSPC", "error"),
        ("tracker.json.lock", "open", "errno.ENOSPC", "ignore"),
        ("tracker.json.copy", "open", "errno.EDQUOT", "ignore"),
        ("tracker.json", "write", "errno.EIO", "ignore"),
    ],
)
def test_threads_lose_no_reply_when_a_file_cannot_be_written(
    start: Start, tmp_path: Path, file: str, when: str, error: str, warned: str
) -> None:
    """The file is that of the attempts, the ledger or its lock.

    Every reply is returned and counted, even if warnings are errors.
    """
    write_env_file(tmp_path, start(keys={"groq": 1}))
    spoil = FAIL_AT.format(file=file, when=repr(when), error=error)
    out, _ = run_script(spoil + ASK_IN_THREADS.replace("{warned}", warned), tmp_path)
    replies, calls, used = out.split()
    assert (replies, calls) == ("24", "24")
    assert round(float(used)) == 24


JOB_GOES_ON = """
began = time.monotonic()
again = list(arche_magic.imap(texts))
assert len([row for row in again if row.reply]) == 40, again
print(time.monotonic() - began < 30)
"""
CLAIMS_END = """
import contextlib, sqlite3
until = time.monotonic() + 30
with contextlib.closing(sqlite3.connect("outputs/llm_replies.sqlite")) as file:
    claims = lambda: file.execute("SELECT count(*) FROM claims").fetchone()[0]
    while claims() and time.monotonic() < until:
        time.sleep(0.05)
    print(claims() == 0)
"""


@pytest.mark.parametrize("then", [JOB_GOES_ON, CLAIMS_END], ids=["itself", "others"])
def test_a_full_disk_loses_no_kept_reply_and_delays_no_job(
    start: Start, tmp_path: Path, then: str
) -> None:
    """The rows are returned although nothing can be kept.

    When there is room again, a job continues immediately, in the same kernel or in another one that
    waits for its claims.
    """
    names = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
    write_env_file(tmp_path, start(keys={"groq": 1}, limits={"groq": dict.fromkeys(names)}))
    plenty = "\n".join(f"{name} = 1_000_000_000" for name in names)
    (tmp_path / "arche_magic.toml").write_text(f"[limits.groq]\n{plenty}\n")
    code = """
import resource, sys, time, warnings
import arche_magic
sys.dont_write_bytecode = True
warnings.simplefilter("ignore")
texts = [f"Row {number}" for number in range(40)]
first = next(iter(arche_magic.imap(texts[:1])))
rows, filled = [], False
for row in arche_magic.imap(texts):
    rows.append(row)
    if not filled and not row.resumed:
        # Claims of the rows that follow are in the file, and stay there.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        filled = True
assert len([row for row in rows if row.reply]) == 40, rows
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    out, err = run_script(code + then, tmp_path)
    assert (out, err) == ("True\n", "")


def test_a_reply_with_an_absurd_count_is_returned(tmp_path: Path) -> None:
    """It is not kept, with one warning; the next one is."""
    huge = Reply("Four.", provider="groq", key="k", model="m", usage=Usage(10**30, 1))
    store = ReplyStore(tmp_path / "replies.sqlite")
    with pytest.warns(LedgerWarning, match="replies cannot be kept"):
        store.finish({"a": huge}, 0.0)
    store.finish({"b": Reply("Five.", provider="groq", key="k", model="m")}, 0.0)
    assert list(store.lookup_many(["a", "b"])) == ["b"]
