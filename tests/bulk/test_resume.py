"""A job that was stopped in any way continues with the missing rows only."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from bulk_parts import WaitingClock, prompts
from env_file import write_env_file

import arche_magic
from arche_magic.bulk import Job
from arche_magic.bulk.rows import CHUNK
from arche_magic.bulk.whole_job import jobs_since
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration, use_configuration
from arche_magic.llm_providers.storage import LedgerWarning

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

TEXTS = [f"Row {n}" for n in range(60)]
SCRIPT = """
import sys
import arche_magic
for row in arche_magic.imap([f"Row {n}" for n in range(int(sys.argv[1]))]):
    print(row.prompt, row.resumed, row.error or "", sep="|", flush=True)
"""


def start_job(folder: Path, rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(rows)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def unlimited(start: Start, folder: Path) -> tuple[Sandbox, Path]:
    """A sandbox without limits in reach, used by the project in the test's folder."""
    names = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
    sandbox = start(limits={"groq": dict.fromkeys(names)})
    project = folder / "project"
    write_env_file(project, sandbox)
    limits = "\n".join(f"{name} = 1_000_000_000" for name in names)
    (project / "arche_magic.toml").write_text(f"[limits.groq]\n{limits}\n")
    return sandbox, project


def test_the_second_run_asks_nothing(sandbox: Sandbox) -> None:
    """All rows come from disk, unchanged."""
    first = arche_magic.map(TEXTS, schema="mood good|bad, points int")
    job = Job(TEXTS, schema="mood good|bad, points int")
    assert all(row.resumed for row in job)
    assert job.progress().resumed == 60
    assert job.progress().tokens == 0
    again = arche_magic.map(TEXTS, schema="mood good|bad, points int")
    pd.testing.assert_frame_equal(first, again)
    assert len(sandbox.requests) == 60


def test_a_finished_row_is_on_disk_before_it_is_handed_out(sandbox: Sandbox) -> None:
    """A row that was returned is never asked again."""
    llm = get_llm_provider()
    for row in arche_magic.imap(TEXTS[:20]):
        assert llm.kept(row.prompt, keep=True) == row.reply


def test_a_killed_kernel_loses_only_running_calls(start: Start, tmp_path: Path) -> None:
    """After kill -9 in the middle, the next run starts immediately and repeats no finished row."""
    sandbox, project = unlimited(start, tmp_path)
    killed = start_job(project, 120)
    assert killed.stdout is not None
    seen = [killed.stdout.readline().split("|")[0] for _ in range(40)]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    began = time.monotonic()
    second = start_job(project, 120)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    # The next kernel does not wait until the claims of the killed one expire.
    assert time.monotonic() - began < 30
    lines = [line.split("|") for line in out.splitlines()]
    assert sorted(prompt for prompt, _, _ in lines) == sorted(f"Row {n}" for n in range(120))
    assert not any(error for _, _, error in lines)
    resumed = {prompt for prompt, was_kept, _ in lines if was_kept == "True"}
    assert resumed >= set(seen)
    asked = Counter(prompts(sandbox))
    assert all(asked[prompt] == 1 for prompt in resumed)
    assert max(asked.values()) <= 2


def test_calls_running_at_an_interrupt_are_in_the_record_of_jobs(sandbox: Sandbox) -> None:
    """They end after the job was left, and its record then includes them."""
    sandbox.latency = 0.5
    job = Job(TEXTS[:20])
    next(iter(job))
    sent, until = 0, time.monotonic() + 20
    while time.monotonic() < until and not (sent and sent == len(sandbox.requests)):
        time.sleep(0.6)
        sent = sum(one.requests for one in jobs_since(get_configuration().store, 0.0))
    (record,) = jobs_since(get_configuration().store, 0.0)
    log = attempt_log(get_configuration().store)
    attempts = [one for one in log.session() if one.outcome != "skipped"]
    assert (record.job, record.rows) == (job.whole.id, 20)
    assert record.requests == len(sandbox.requests) == len(attempts) > 1
    assert record.tokens == sum(one.input_tokens + one.output_tokens for one in attempts)
    assert record.done == record.requests


def test_calls_of_rows_that_are_asked_again_are_in_the_record_of_jobs(start: Start) -> None:
    """A row that fails at Groq and then waits for Mistral may be handed to another thread."""
    sandbox = start(
        keys={"groq": 1, "mistral": 1},
        clock=WaitingClock(),
        limits={"mistral": {"requests_per_minute": 1}},
    )
    sandbox.fail("groq", "server_error", times=None)
    job = Job(TEXTS[:4], pack=1, reserve=0)
    assert all(row.reply for row in job)
    assert job.progress().requests == len(sandbox.requests) > 4


def test_an_interrupt_while_a_job_starts_ends_it(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the first thread of the job has started, and before the others."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(Job(TEXTS))
    for thread in started:
        thread.join(10)
    assert started
    assert not any(thread.is_alive() for thread in started)
    assert len(sandbox.requests) < len(TEXTS)


def test_an_interrupted_script_ends_at_once_and_can_continue(start: Start, tmp_path: Path) -> None:
    """Ctrl-C comes while calls are running. Finished rows are not asked again."""
    sandbox, project = unlimited(start, tmp_path)
    sandbox.latency = 0.2
    script = start_job(project, 400)
    assert script.stdout is not None
    seen = [script.stdout.readline().split("|")[0] for _ in range(20)]
    script.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = script.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in err
    sandbox.latency = 0
    out, err = start_job(project, 400).communicate(timeout=60)
    lines = [line.split("|") for line in out.splitlines()]
    assert len(lines) == 400
    assert {prompt for prompt, was_kept, _ in lines if was_kept == "True"} >= set(seen)


def test_two_kernels_share_a_job(start: Start, tmp_path: Path) -> None:
    """Each row is asked once, and both kernels get all rows."""
    sandbox, project = unlimited(start, tmp_path)
    sandbox.latency = 0.05
    both = [start_job(project, 150) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert len(out.splitlines()) == 150
        assert not any(line.split("|")[2] for line in out.splitlines())
    assert prompts(sandbox) == sorted(f"Row {n}" for n in range(150))


def test_two_jobs_of_one_kernel_share_rows_too(sandbox: Sandbox) -> None:
    """They run in two threads of one process."""
    frames: list[pd.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: frames.append(arche_magic.map(TEXTS))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [frame.error.isna().all() for frame in frames] == [True, True]
    assert len(sandbox.requests) == 60


def test_equal_rows_wait_together_for_another_job(sandbox: Sandbox) -> None:
    """They may be far apart in the data and read at different times."""
    sandbox.latency = 1.0
    one = threading.Thread(target=lambda: arche_magic.map(["Shared"]))
    one.start()
    while not sandbox.requests:
        time.sleep(0.01)
    sandbox.latency = 0.0
    texts = ["Shared", *["Own"] * CHUNK, "Shared"]
    frames: list[pd.DataFrame] = []
    two = threading.Thread(target=lambda: frames.append(arche_magic.map(texts)), daemon=True)
    two.start()
    for thread in (one, two):
        thread.join(20)
    assert [len(frame) for frame in frames] == [len(texts)]
    assert prompts(sandbox) == ["Own", "Shared"]


def test_only_changed_rows_are_asked(sandbox: Sandbox) -> None:
    """Between two runs, rows may be changed, added, removed and reordered."""
    frame = pd.DataFrame({"text": TEXTS[:5], "note": list("abcde")})
    arche_magic.map(frame, "{{text}}")
    frame.loc[2, "text"] = "Changed"
    frame["note"] = "other"
    frame = pd.concat([frame[::-1], pd.DataFrame({"text": ["New"], "note": [""]})])
    result = arche_magic.map(frame, "{{text}}")
    assert result.error.isna().all()
    assert prompts(sandbox) == sorted([*TEXTS[:5], "Changed", "New"])


def test_fresh_asks_again_and_replaces(start: Start) -> None:
    """Later runs get the newer replies."""
    texts = iter(["old", "new"])
    sandbox = start(reply=lambda *_: next(texts))
    assert arche_magic.map(["Hi"]).reply.tolist() == ["old"]
    assert arche_magic.map(["Hi"], fresh=True).reply.tolist() == ["new"]
    assert arche_magic.map(["Hi"]).reply.tolist() == ["new"]
    assert len(sandbox.requests) == 2


def test_fresh_does_not_return_an_old_error(start: Start) -> None:
    """The row gets the new reply, even if another job is asking it."""
    sandbox = start()
    arche_magic.map(["Warm up"])
    sandbox.fail("groq", "content_filter")
    assert arche_magic.map(["Hi"]).error.notna().all()
    sandbox.latency = 1.5
    other = threading.Thread(target=lambda: arche_magic.map(["Hi"], fresh=True))
    other.start()
    while len(sandbox.requests) < 3:
        time.sleep(0.01)
    assert arche_magic.map(["Hi"], fresh=True).error.isna().all()
    other.join(20)
    assert len(sandbox.requests) == 3


def test_rows_that_failed_for_good_are_not_asked_again(start: Start) -> None:
    """Only `retry_errors` asks them again. Otherwise, the row keeps its error."""
    sandbox = start()
    arche_magic.map(["Warm up"])
    sandbox.fail("groq", "content_filter")
    first = arche_magic.map(["Hi"])
    assert "refused to answer" in first.error[0]
    job = Job(["Hi"])
    (row,) = job
    assert row.resumed
    assert row.error == first.error[0]
    assert len(sandbox.requests) == 2
    assert arche_magic.map(["Hi"], retry_errors=True).error.isna().all()
    assert arche_magic.map(["Hi"]).error.isna().all()
    assert len(sandbox.requests) == 3


def test_temporary_failures_fail_no_row(start: Start) -> None:
    """The rows are asked again in the same run."""
    sandbox = start(keys={"groq": 1, "mistral": 1}, clock=WaitingClock())
    sandbox.fail("*", "overloaded", times=4)
    result = arche_magic.map(TEXTS[:10])
    assert result.error.isna().all()


def test_a_reply_that_no_longer_fits_is_asked_again(start: Start) -> None:
    """A schema's own checks may have changed since."""
    sandbox = start()
    arche_magic.map(["Hi"], schema="mood good|bad")
    path = get_configuration().replies
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE replies SET text = '{}'")
    connection.close()
    result = arche_magic.map(["Hi"], schema="mood good|bad")
    assert result.mood.notna().all()
    assert len(sandbox.requests) == 2


def test_a_disk_that_refuses_is_reported_and_loses_no_reply(start: Start, tmp_path: Path) -> None:
    """The job continues; its rows are in the frame, but not on disk."""
    sandbox = start()
    (tmp_path / "no-folder").write_text("")
    replies = tmp_path / "no-folder" / "replies.sqlite"
    use_configuration(replace(get_configuration(), replies=replies))
    with pytest.warns(LedgerWarning, match="replies cannot be kept"):
        result = arche_magic.map(TEXTS[:5])
    assert result.error.isna().all()
    assert len(sandbox.requests) == 5
