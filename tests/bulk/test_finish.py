"""The finish time that a job shows; `tests/bench/bulk.py finish` compares it with the real one."""

from __future__ import annotations

import io
import signal
import sys
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

import arche_magic
from arche_magic.bulk import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provider_parts import Clock, Start

PACIFIC = ZoneInfo("America/Los_Angeles")
HOUR = timedelta(hours=1)


def test_the_finish_time_comes_from_the_limits_as_in_the_plan(start: Start, clock: Clock) -> None:
    """This holds even if all replies so far arrived at the same time. Rows that are added later
    count too.
    """
    start(keys={"google": 1}, clock=clock, limits={"google": {"requests_per_day": 20}})
    rows = [f"Row {n}" for n in range(90)]
    options: dict[str, Any] = {"pack": 1, "reserve": 0.0}
    # The route has been tried.
    arche_magic.map(["Another one"], **options)
    today = datetime.fromtimestamp(clock.now, PACIFIC).replace(hour=0, minute=0, second=0)
    # 19 requests are left today, and then 20 on each day.
    due = today + timedelta(days=4)
    planned = arche_magic.plan(rows, **options).finish_at
    assert planned is not None
    assert due <= planned < due + HOUR
    job = Job(rows, **options)
    with closing(iter(job)) as finished:
        for _ in range(15):
            next(finished)
            finish_at = job.progress().finish_at
            assert finish_at is not None
            assert due <= finish_at < due + HOUR
            later = job.progress(later=40).finish_at
            assert later is not None
            assert due + timedelta(days=2) <= later < due + timedelta(days=2) + HOUR


def test_rows_that_the_caller_has_not_taken_count_once(start: Start, clock: Clock) -> None:
    """They are not left to ask, however slowly the caller takes them."""
    start(keys={"google": 1}, clock=clock, limits={"google": {"requests_per_day": 20}})
    # One row less would be done a day earlier. Before them come more lists of rows without a prompt
    # than wait for the caller.
    rows = [*[None] * 9000, *(f"Row {n}" for n in range(81))]
    job = Job(rows, pack=1, reserve=0.0, patience=0)
    today = datetime.fromtimestamp(clock.now, PACIFIC).replace(hour=0, minute=0, second=0)
    seen = set()
    with closing(iter(job)) as finished:
        next(finished)
        for _ in range(100):
            seen.add(job.progress().finish_at)
            time.sleep(0.01)
    seen.discard(None)
    assert seen
    assert min(filter(None, seen)) >= today + timedelta(days=4)


def test_a_job_that_is_done_has_no_finish_time(start: Start, clock: Clock) -> None:
    """A job whose replies are all kept has none either."""
    start(clock=clock)
    for _ in range(2):
        job = Job(["One", "Two"])
        assert len(list(job)) == 2
        assert job.progress().finish_at is None


def test_map_shows_its_progress_in_one_line(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is shown on stderr for a list and a file, and only with `progress=True`."""
    start()
    arche_magic.map(["One", "Two"], progress=True)
    printed = capsys.readouterr().err
    assert printed.endswith("\n")
    assert "2 of 2 rows  ████" in printed.rpartition("\r")[2]
    (tmp_path / "rows.csv").write_text("text\nThree\n")
    source, target = tmp_path / "rows.csv", tmp_path / "replies.csv"
    arche_magic.map(source, "{{text}}", to=target, progress=True)
    assert "1 of 1 row  ████" in capsys.readouterr().err
    arche_magic.map(["Four"])
    assert not capsys.readouterr().err


def no_stderr() -> None:
    """As with pythonw, and for services of Windows."""


def closed_stderr() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


def stderr_without_blocks() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("stderr", [no_stderr, closed_stderr, stderr_without_blocks])
def test_a_job_continues_if_its_progress_cannot_be_shown(
    start: Start, monkeypatch: pytest.MonkeyPatch, stderr: Callable[[], Any]
) -> None:
    """Its result is returned."""
    start()
    monkeypatch.setattr(sys, "stderr", stderr())
    assert arche_magic.map(["One"], progress=True).reply.notna().all()


def test_an_interrupt_at_the_start_leaves_no_progress_line(start: Start) -> None:
    """It comes after the thread that draws the line has started, but before its caller knows."""
    start()

    def press(frame: Any, event: str, _: object) -> None:
        is_end_of_start = event == "return" and frame.f_code is threading.Thread.start.__code__
        if is_end_of_start and frame.f_locals["self"].name == "arche-bar":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(press)
    try:
        with pytest.raises(KeyboardInterrupt):
            arche_magic.map(["One"], progress=True)
    finally:
        sys.setprofile(None)
    bars = [thread for thread in threading.enumerate() if thread.name == "arche-bar"]
    for bar in bars:
        bar.join(3)
    assert not any(bar.is_alive() for bar in bars)
