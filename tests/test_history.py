"""Attempts are kept after their session, in monthly files and in the saved notebook."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

import arche_magic
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempt_file import attempts_of, read_lines
from arche_magic.llm_providers.attempt_log import SESSION, AttemptLog, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.reply import Attempt
from arche_magic.notebook.frames import attempts_frame, quota_frame, recorded_attempts_frame
from arche_magic.sandbox import Sandbox

# Columns that are "" if nothing is known.
TEXTS = ("error", "notebook", "tag")


def attempt(at: datetime, **more: object) -> Attempt:
    route = {"provider": "groq", "key": "groq_key_1", "model": "openai/gpt-oss-120b"}
    return Attempt(**route, outcome="served", at=at.timestamp(), **{"session": "s1", **more})  # type: ignore[arg-type]


def test_attempts_of_this_folder_are_loaded_as_a_frame(sandbox_env: Sandbox) -> None:
    """Each attempt of a call is one row, with the columns of `%llm_stats`."""
    get_llm_provider("groq").generate("Say hello.")
    get_llm_provider("mistral").generate("Say hello.")
    frame = arche_magic.load_attempts()
    assert list(frame["provider"]) == ["groq", "mistral"]
    assert list(frame["outcome"]) == ["served", "served"]
    assert str(frame["at"].dt.tz) == "UTC"
    assert (frame["input_tokens"] > 0).all()
    assert len(set(frame["session"])) == 1


def test_since_omits_older_attempts(sandbox_env: Sandbox) -> None:
    """It accepts a date or a text with or without a zone, and refuses anything else."""
    get_llm_provider("groq").generate("Say hello.")
    now = datetime.now(UTC)
    assert len(arche_magic.load_attempts(since=now - timedelta(hours=1))) == 1
    assert len(arche_magic.load_attempts(since=(now + timedelta(hours=1)).isoformat())) == 0
    assert len(arche_magic.load_attempts(since="2020-01-01")) == 1
    with pytest.raises(InvalidRequest, match="is not a time"):
        arche_magic.load_attempts(since="yesterday")


def test_a_new_month_starts_a_new_file(tmp_path: Path) -> None:
    """The lines of last month move to another file, and all lines are read in order."""
    path = tmp_path / "llm_calls.jsonl"
    october, november = (datetime(2026, month, 5, tzinfo=UTC) for month in (10, 11))
    AttemptLog(path).append([attempt(october)])
    os.utime(path, (october.timestamp(), october.timestamp()))
    AttemptLog(path).append([attempt(november)])
    assert sorted(file.name for file in tmp_path.glob("*.jsonl")) == [
        "llm_calls-2026-10.jsonl",
        "llm_calls.jsonl",
    ]
    assert [a.at for a in attempts_of(read_lines(path))] == [
        october.timestamp(),
        november.timestamp(),
    ]


def test_an_incomplete_or_foreign_line_is_skipped(tmp_path: Path) -> None:
    """It does not affect the other lines."""
    path = tmp_path / "llm_calls.jsonl"
    AttemptLog(path).append([attempt(datetime.now(UTC))])
    with path.open("a") as file:
        file.write('{"provider": "groq", "ke\n[1]\nnull\n')
        file.write(f"{'[' * 100_000}\n")
        for name, value in (("at", 10**400), ("at", math.nan), ("opens_at", 10**400)):
            changes = {name: value}
            file.write(f"{json.dumps(attempt(datetime.now(UTC)).to_dict() | changes)}\n")
    AttemptLog(path).append([attempt(datetime.now(UTC), error="x")])
    assert [a.error for a in attempts_of(read_lines(path))] == [None, "x"]
    assert [a.error for a in AttemptLog(path).since(1.0)] == [None, "x"]


_records = st.dictionaries(
    st.sampled_from([*Attempt("", "", "", "served").to_dict(), "new"]),
    st.sampled_from(
        [None, True, 0, -1, 7, 2.5, 2**53 + 1, 1e400, "", "x", "5", "é\0", [1], {"a": 1}]
    ),
    max_size=3,
)
_ends = st.sampled_from(
    ["\n", "\n", "\n", "", " ", "\n\n", ', "a', '{"at": 1, "at": 2}\n', '{"seconds": NaN}\n']
)


@settings(max_examples=30)
@given(st.lists(st.tuples(_records, st.booleans(), _ends), max_size=4))
def test_foreign_values_do_not_change_the_types(lines: list[tuple[Any, bool, str]]) -> None:
    """Values of the wrong type are missing, or their record is left out; the others stay."""
    good = attempt(datetime(2026, 11, 29, tzinfo=UTC), error="x", first_token_s=0.1).to_dict()
    written = "".join(
        json.dumps(good | changes, ensure_ascii=escaped) + end for changes, escaped, end in lines
    ).encode()
    frame = recorded_attempts_frame([written, json.dumps(good).encode()])
    assert_series_equal(frame.dtypes, attempts_frame([]).dtypes)
    assert_frame_equal(frame.tail(1).reset_index(drop=True), attempts_frame([good]))


def a_session(provider_sandbox: Sandbox) -> pd.DataFrame:
    """Served, failed, skipped and interrupted attempts on paid and free routes."""
    provider_sandbox.fail("groq", "unauthorized")
    llm = get_llm_provider()
    for number in range(3):
        llm.generate(f"Prompt {number}")
    get_llm_provider("openai").generate("Hello")
    stream = get_llm_provider("mistral").stream("Hello")
    next(stream)
    stream.close()
    frame = arche_magic.load_attempts()
    assert set(frame["outcome"]) == {"failed", "skipped", "served", "interrupted"}
    assert (frame["cost_usd"] > 0).any()
    assert frame["first_token_s"].notna().any()
    return frame


def test_a_frame_survives_parquet(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """Values, types and index are unchanged."""
    frame = a_session(sandbox_env)
    frame.to_parquet(tmp_path / "calls.parquet")
    assert_frame_equal(pd.read_parquet(tmp_path / "calls.parquet"), frame)


def test_a_frame_survives_csv(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """The code is that of the documentation. A text format has no types, so they are set again."""
    frame = a_session(sandbox_env)
    frame.to_csv(tmp_path / "calls.csv", index=False)
    back = pd.read_csv(tmp_path / "calls.csv", parse_dates=["at"], dtype=dict.fromkeys(TEXTS, str))
    assert_frame_equal(back.fillna(dict.fromkeys(TEXTS, "")).astype(frame.dtypes), frame)
    # A column without any value is also such a column.
    served = frame[frame["outcome"] == "served"].reset_index(drop=True)
    served.to_csv(tmp_path / "served.csv", index=False)
    back = pd.read_csv(tmp_path / "served.csv", parse_dates=["at"], dtype=dict.fromkeys(TEXTS, str))
    assert_frame_equal(back.fillna(dict.fromkeys(TEXTS, "")).astype(frame.dtypes), served)


def test_a_frame_survives_json(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """As JSON lines, which other programs can read."""
    frame = a_session(sandbox_env)
    lines = {"orient": "records", "lines": True}
    frame.to_json(tmp_path / "calls.jsonl", date_format="iso", double_precision=15, **lines)
    back = pd.read_json(tmp_path / "calls.jsonl", dtype=False, **lines)
    back["at"] = pd.to_datetime(back["at"])
    assert_frame_equal(back.astype(frame.dtypes), frame)


def test_an_empty_record_gives_a_frame_with_the_same_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a full frame also works with an empty one."""
    monkeypatch.chdir(tmp_path)
    empty = arche_magic.load_attempts()
    with Sandbox() as sandbox:
        for name, value in sandbox.environment().items():
            monkeypatch.setenv(name, value)
        full = a_session(sandbox)
    assert len(empty) == 0
    assert_series_equal(empty.dtypes, full.dtypes)
    assert (full.loc[full["outcome"] == "served", "error"] == "").all()
    assert (full.loc[full["outcome"] == "skipped", "error"] != "").all()


def test_a_session_may_have_more_attempts_than_memory_keeps(tmp_path: Path) -> None:
    """All are read from the file, and the sums include all."""
    log, now = AttemptLog(tmp_path / "llm_calls.jsonl"), datetime.now(UTC)
    log.append([attempt(now, session="another", input_tokens=5)])
    log = AttemptLog(log.path)
    for number in range(0, 12_000, 100):
        one = attempt(now, session=SESSION, input_tokens=2, output_tokens=1)
        log.append([*[one] * 99, attempt(now, session=SESSION, request=f"{number}")])
    assert len(log.session()) == 12_000
    assert {a.session for a in log.session()} == {SESSION}
    (spent,) = log.spent().values()
    assert (spent.requests, spent.input_tokens) == (12_000, 2 * 99 * 120)
    assert spent.units("tokens") == 3 * 99 * 120


def test_session_used_excludes_other_sessions(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """The frame has the amount that counts against the limit, and the part of this process."""
    ask = "from arche_magic.llm_providers import get_llm_provider as g; g('mistral').generate('hi')"
    subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, check=True, timeout=120)
    get_llm_provider("mistral").generate("Hello")
    log = attempt_log(get_configuration().store)
    frame = quota_frame(get_quota_tracker().standings("mistral"), log.spent(), time.time())
    row = frame[frame["limit"] == "tokens_per_month"].iloc[0]
    own, everybody = log.session(), arche_magic.load_attempts()
    assert (len(own), len(everybody)) == (1, 2)
    assert row["session_used"] == own[0].input_tokens + own[0].output_tokens
    assert row["used"] == everybody["input_tokens"].sum() + everybody["output_tokens"].sum()


WRITER = """
import sys, time
from pathlib import Path
from arche_magic.llm_providers.attempt_log import AttemptLog
from arche_magic.llm_providers.reply import Attempt

log, name = AttemptLog(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    at = time.time()
    route = ("groq", "groq_key_1", "model")
    skipped = Attempt(*route, "skipped", error="closed " * 300, at=at, request=f"{name}-{number}")
    served = Attempt(*route, "served", at=at, request=f"{name}-{number}", input_tokens=number)
    log.append([skipped, served])
"""


def start_writer(path: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    """No line is lost, mixed or duplicated, and one process renames last month's file."""
    path = tmp_path / "llm_calls.jsonl"
    long_ago = datetime(2026, 10, 5, tzinfo=UTC)
    AttemptLog(path).append([attempt(long_ago, request="october")])
    os.utime(path, (long_ago.timestamp(), long_ago.timestamp()))
    writers = [start_writer(path, name) for name in "abcd"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert "october" in (tmp_path / "llm_calls-2026-10.jsonl").read_text()
    assert path.read_text().count("\n") == 4 * 200 * 2
    kept = list(attempts_of(read_lines(path)))
    assert kept[0].request == "october"
    for name in "abcd":
        own = [a for a in kept if a.request.startswith(f"{name}-")]
        # Both attempts of a request are adjacent, and requests are in order.
        assert [a.request for a in own] == [f"{name}-{n}" for n in range(200) for _ in range(2)]
        assert [a.outcome for a in own] == ["skipped", "served"] * 200


def test_files_of_earlier_months_are_not_opened(tmp_path: Path) -> None:
    """Only the files of the months since then are read."""
    path = tmp_path / "outputs" / "llm_calls.jsonl"
    path.parent.mkdir()
    for month in (8, 9, 10):
        aside = path.with_name(f"llm_calls-2026-{month:02}.jsonl")
        AttemptLog(aside).append([attempt(datetime(2026, month, 20, tzinfo=UTC))])
    path.with_name("llm_calls-2026-08.jsonl").unlink()
    # Opening this one fails.
    path.with_name("llm_calls-2026-08.jsonl").mkdir()
    AttemptLog(path).append([attempt(datetime(2026, 11, 2, tzinfo=UTC))])
    since = datetime(2026, 9, 1, tzinfo=UTC).timestamp()
    moments = [attempt.at for attempt in attempts_of(read_lines(path, since))]
    assert [datetime.fromtimestamp(moment, UTC).month for moment in moments] == [9, 10, 11]


@given(
    ages=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 600)), max_size=400),
    asked=st.integers(0, 5600),
)
def test_since_includes_late_lines(ages: list[tuple[int, int]], asked: int) -> None:
    """Slow requests can have older attempts after newer lines."""
    now = 1_795_000_000.0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "llm_calls.jsonl"
        log = AttemptLog(path)
        for ended, took in sorted(ages, reverse=True):
            skipped = attempt(datetime.fromtimestamp(now - ended - took, UTC), error="x" * 900)
            log.append([skipped, attempt(datetime.fromtimestamp(now - ended, UTC))])
        since = now - asked
        expected = [a for a in attempts_of(read_lines(path)) if a.at >= since]
        assert [a for a in attempts_of(read_lines(path, since)) if a.at >= since] == expected


MEASURED = """
import json, os, resource, sys
from pathlib import Path

def read_so_far():
    return int(dict(l.split(": ") for l in Path("/proc/self/io").read_text().splitlines())["rchar"])

from arche_magic.llm_providers import get_llm_provider
provider = get_llm_provider("groq")
for _ in range(6):
    provider.generate("load the SDK, and the certificates of each key's client")
before = read_so_far()
for _ in range(3):
    provider.generate("Hello", max_tokens=5)
calls = read_so_far() - before
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("%load_ext arche_magic")
shell.run_cell("q = %llm_quota")
before = read_so_far()
assert shell.run_cell("q = %llm_quota").success
quota = read_so_far() - before
import arche_magic
from datetime import UTC, datetime, timedelta
arche_magic.load_attempts(since=datetime.now(UTC))
before = read_so_far()
hour = len(arche_magic.load_attempts(since=datetime.now(UTC) - timedelta(hours=1)))
print(json.dumps([calls, quota, read_so_far() - before, hour]), file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc to count bytes")
def test_a_million_attempts_do_not_slow_down_calls(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """A call reads none of them. The table and the forecast read a few megabytes."""
    path = tmp_path / "outputs" / "llm_calls.jsonl"
    path.parent.mkdir()
    now = datetime.now(UTC)
    route = {"provider": "groq", "key": "groq_key_1", "model": "openai/gpt-oss-120b"}
    line = json.dumps(
        Attempt(**route, outcome="served", at=1e9, session="s0", request="r0").to_dict()
    )
    before, after = line.split("1000000000.0")
    with path.open("w") as file:
        # One every two seconds, which is more than 23 days of this month or the previous one.
        for part in range(100):
            ages = range(2_000_000 - 20_000 * part, 2_000_000 - 20_000 * (part + 1), -2)
            start = now.timestamp()
            file.write("".join(f"{before}{start - age}{after}\n" for age in ages))
    assert path.stat().st_size > 200_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=tmp_path, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    path.unlink()
    assert done.returncode == 0, done.stderr
    calls, quota, loaded, hour = json.loads(done.stderr.splitlines()[-1])
    assert calls < 100_000
    assert quota < 2_500_000
    assert loaded < 5_000_000
    assert 1790 <= hour <= 1810


def test_attempts_are_read_from_a_saved_notebook(tmp_path: Path) -> None:
    """The metadata of the outputs is enough. Other metadata is ignored."""
    whole = attempt(datetime.now(UTC), input_tokens=7).to_dict()
    kept = json.dumps(whole)
    later = json.dumps({**whole, "field_of_a_later_version": 1})
    odd = [json.dumps({**whole, "input_tokens": "seven"}), '{"provider": "groq"}', "attempt", None]
    cells = [
        {"cell_type": "markdown", "source": "x"},
        {"outputs": [{"metadata": {"arche_magic": {"attempts": [kept]}}}, {"text": "plain"}]},
        {"outputs": [{"metadata": {"arche_magic": {"attempts": [*odd, later]}}}, None]},
        {"outputs": [{"metadata": {"arche_magic": "mine"}}, {"metadata": []}]},
        {"outputs": "none"},
    ]
    (tmp_path / "saved.ipynb").write_text(json.dumps({"cells": cells}))
    frame = arche_magic.attempts_from_notebook(tmp_path / "saved.ipynb")
    assert list(frame["input_tokens"]) == [7, 7]
    assert arche_magic.decisions_from_notebook(tmp_path / "saved.ipynb") == []
    with pytest.raises(InvalidRequest, match="not a notebook"):
        arche_magic.attempts_from_notebook(tmp_path / "missing.ipynb")
