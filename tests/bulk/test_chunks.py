"""Files larger than memory are read in chunks, written completely or not at all, and resumed."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from env_file import write_env_file

import arche_magic
from arche_magic.bulk import JobStopped, Row, file_job
from arche_magic.bulk.file_source import SourceFile
from arche_magic.bulk.whole_job import jobs_since
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.sandbox import Sandbox

TEMPLATE = "Is this positive? {{text}}"
ADDED = ["reply", "provider", "model", "tokens", "error"]
NO_LIMITS = {
    "mistral": dict.fromkeys(("requests_per_minute", "tokens_per_minute", "tokens_per_month"))
}


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Mistral without limits, used through a `.env` in the working directory."""
    with Sandbox(keys={"mistral": 1}, limits=NO_LIMITS) as running:
        write_env_file(tmp_path, running)
        (tmp_path / "arche_magic.toml").write_text(
            "[limits.mistral]\nrequests_per_minute = 1_000_000\ntokens_per_minute = 1_000_000_000\n"
        )
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of seven rows, so that small files have several."""
    monkeypatch.setattr(file_job, "ROWS", 7)


def frame(rows: int = 20) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": [f"soup {number}\nfor two, “hot”" for number in range(rows)],
            "stars": pd.array(
                [number % 5 if number % 7 else None for number in range(rows)], "Int64"
            ),
            "when": pd.date_range("2026-01-01", periods=rows, freq="D"),
            "tags": [["a", "b"][: number % 3] for number in range(rows)],
        },
        index=pd.Index([number // 2 for number in range(rows)], name="id"),
    )


@pytest.mark.usefixtures("sandbox", "small_chunks")
def test_parquet_keeps_its_columns_types_and_index() -> None:
    """Rows keep their order, and the reply columns come last; also in an empty chunk."""
    data = frame()
    data.to_parquet("in.parquet")
    rows: list[Row] = []
    path = arche_magic.map("in.parquet", TEMPLATE, to="out.parquet", on_done=rows.append)
    assert path == Path("out.parquet")
    result = pd.read_parquet(path)
    assert list(result) == [*data, *ADDED]
    expected = pd.read_parquet("in.parquet")
    pd.testing.assert_frame_equal(result[list(data)], expected)
    assert all(
        text.split("\n")[0] in reply for text, reply in zip(result.text, result.reply, strict=True)
    )
    assert sorted(row.position for row in rows) == list(range(20))
    assert [path.name for path in Path.cwd().glob("*.part")] == []


@pytest.mark.usefixtures("sandbox", "small_chunks")
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_a_csv_keeps_its_texts(name: str) -> None:
    """Numbers with leading zeros, words such as NA, empty cells, and lines within a cell stay."""
    table = 'text,code,note\n"soup\nof the day",007,NA\ncake,1e5,\n' + "tea,3,x\n" * 7
    if name.endswith(".gz"):
        Path(name).write_bytes(gzip.compress(table.encode()))
    else:
        Path(name).write_bytes(b"\xef\xbb\xbf" + table.encode())
    arche_magic.map(name, "{{code}}: {{text}}", to="out.csv")
    result = pd.read_csv("out.csv", dtype=str, keep_default_na=False)
    assert list(result) == ["text", "code", "note", *ADDED]
    assert list(result.iloc[0, :3]) == ["soup\nof the day", "007", "NA"]
    assert list(result.iloc[1, :3]) == ["cake", "1e5", ""]
    assert "007: soup of the day" in result.reply[0]
    assert len(result) == 9


@pytest.mark.usefixtures("sandbox", "small_chunks")
def test_fields_have_the_types_of_the_schema() -> None:
    """Lists and objects have them in Parquet, and are JSON in a CSV; a column of nulls is text."""
    frame().to_parquet("in.parquet")
    schema = {
        "type": "object",
        "properties": {
            "mood": {"enum": ["good", "bad"]},
            "score": {"type": "number"},
            "words": {"type": "array", "items": {"type": "string"}},
            "dish": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "hot": {"type": "boolean"}},
                "required": ["name", "hot"],
            },
        },
        "required": ["mood", "score", "words", "dish"],
    }
    arche_magic.map("in.parquet", TEMPLATE, schema=schema, to="out.parquet")
    result = pd.read_parquet("out.parquet")
    assert set(result.mood) <= {"good", "bad"}
    assert result.score.dtype == "Float64"
    assert set(result.dish[0].iloc[0]) == {"name", "hot"}
    assert result.error.isna().all()
    arche_magic.map("in.parquet", TEMPLATE, schema=schema, to="out.csv")
    assert pd.read_csv("out.csv").dish[0].startswith('{"name": ')


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_run_leaves_no_file_and_can_continue(sandbox: Sandbox) -> None:
    """After an interrupt in the second chunk, the next run asks only the other rows.

    The record of jobs has all rows of that run; it has no run that sent nothing.
    """
    frame().to_parquet("in.parquet")
    seen = 0

    def interrupt(row: Row) -> None:
        nonlocal seen
        seen += 1
        if seen == 10:
            raise KeyboardInterrupt

    Path("out.parquet").write_text("older")
    with pytest.raises(KeyboardInterrupt):
        arche_magic.map("in.parquet", TEMPLATE, to="out.parquet", on_done=interrupt)
    assert Path("out.parquet").read_text() == "older"
    assert not list(Path.cwd().glob(".*.part"))
    arche_magic.map("in.parquet", TEMPLATE, to="out.parquet")
    assert len(pd.read_parquet("out.parquet")) == 20
    assert len(sandbox.requests) == 20
    arche_magic.map("in.parquet", TEMPLATE, to="out.parquet")
    first, second = jobs_since(get_configuration().store, 0.0)
    assert (first.rows, second.rows, second.done) == (14, 20, 20)
    assert first.requests + second.requests == 20


@pytest.mark.usefixtures("sandbox", "small_chunks")
@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_result_that_cannot_be_written_is_an_error_of_one_line(name: str) -> None:
    """Here, its folder is removed while rows are asked; their replies are kept."""
    frame().to_csv("in.csv", index=False)
    for removed in (8, 20):  # in the second chunk, and after the last one was written
        Path("out").mkdir()
        seen: list[Row] = []

        def remove(row: Row, seen: list[Row] = seen, removed: int = removed) -> None:
            seen.append(row)
            if len(seen) == removed:
                shutil.rmtree("out")

        with pytest.raises(InvalidRequest, match=rf"out/{name} cannot be written \(.*are kept"):
            arche_magic.map("in.csv", TEMPLATE, to=f"out/{name}", on_done=remove)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_two_jobs_can_write_the_same_file(sandbox: Sandbox, name: str) -> None:
    """They share the rows; each writes a file of its own, and the last one remains."""
    frame().to_csv("in.csv", index=False)
    sandbox.latency = 0.02
    threads = [
        threading.Thread(target=lambda: arche_magic.map("in.csv", TEMPLATE, to=name))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert [len(part) for part in SourceFile(name).frames(20)] == [20]
    assert len(sandbox.requests) == 20
    assert not list(Path.cwd().glob(".*.part"))


@pytest.mark.usefixtures("sandbox")
def test_the_unfinished_file_of_a_killed_run_is_deleted() -> None:
    """The next run in the folder does that."""
    frame().to_csv("in.csv", index=False)
    run = subprocess.Popen([sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"asked\n"
    assert len(list(Path.cwd().glob(".*.part"))) == 1
    run.kill()
    run.communicate()
    arche_magic.map("in.csv", TEMPLATE, to="other.csv")
    assert not list(Path.cwd().glob(".*.part"))


_ENDLESS = f"""
import time
import arche_magic
def wait(row):
    print("asked", flush=True)
    time.sleep(60)
arche_magic.map("in.csv", {TEMPLATE!r}, to="out.csv", on_done=wait)
"""


@pytest.mark.usefixtures("small_chunks")
def test_bounds_hold_for_the_whole_file(sandbox: Sandbox) -> None:
    """What one chunk has spent counts for the next."""
    frame().to_parquet("in.parquet")
    with pytest.raises(JobStopped, match="max_tokens_total"):
        arche_magic.map("in.parquet", TEMPLATE, to="out.parquet", pack=1, max_tokens_total=1200)
    spent = sum(
        count["input_tokens"] + count["output_tokens"]
        for models in sandbox.usage().values()
        for count in models.values()
    )
    assert 600 < spent <= 1400
    assert not Path("out.parquet").exists()


@pytest.mark.usefixtures("small_chunks")
def test_failed_rows_are_counted_over_all_chunks(sandbox: Sandbox) -> None:
    """A row without a value does not count, as it is not asked."""
    gaps = ["text,n", *[",1"] * 3, *[f"soup {n},1" for n in range(20)]]
    Path("in.csv").write_text("\n".join(gaps))
    arche_magic.map("in.csv", TEMPLATE, to="out.csv", stop_after=2)
    assert pd.read_csv("out.csv").reply.notna().sum() == 20

    def spoil_the_next(row: Row) -> None:
        if row.position == 7:
            sandbox.fail("mistral", "content_filter", times=1)

    frame().to_csv("in.csv", index=False)
    sandbox.fail("mistral", "content_filter", times=1)
    with pytest.raises(JobStopped, match="stopped after 2 failed rows"):
        arche_magic.map("in.csv", TEMPLATE, to="out.csv", stop_after=2, on_done=spoil_the_next)


@pytest.mark.usefixtures("small_chunks")
def test_a_job_with_a_name_can_have_a_file(sandbox: Sandbox) -> None:
    """Its chunks share the bounds of that name."""
    frame(12).to_csv("in.csv", index=False)
    with pytest.raises(JobStopped, match="max_tokens_total"):
        arche_magic.map("in.csv", TEMPLATE, to="out.csv", part_of="night", max_tokens_total=300)
    asked = len(sandbox.requests)
    with pytest.raises(JobStopped, match="max_tokens_total"):
        arche_magic.map("in.csv", TEMPLATE, to="out.csv", part_of="night", max_tokens_total=300)
    assert len(sandbox.requests) <= asked + 1


@pytest.mark.usefixtures("sandbox")
def test_progress_counts_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all rows from the start, and the finished rows and routes of every chunk."""
    monkeypatch.setattr(file_job, "ROWS", 5)
    frame(12).to_csv("in.csv", index=False)
    job = file_job.FileJob("in.csv", "out.csv", TEMPLATE)
    assert len(job) == 12
    seen, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(job.progress().done)

    with ThreadPoolExecutor(1) as pool:
        # Another thread shows the bar, also while the next chunk is read.
        watching = pool.submit(watch)
        try:
            taken = [job.progress().done for _ in job]
        finally:
            ended.set()
    watching.result()
    assert taken[-1] == 12
    assert (taken, seen) == (sorted(taken), sorted(seen))
    assert job.progress().total == 12
    assert sum(job.progress().routes.values()) == 12


@pytest.mark.usefixtures("sandbox", "small_chunks")
def test_an_empty_file_becomes_an_empty_file() -> None:
    """The result has all columns."""
    frame(0).to_parquet("in.parquet")
    arche_magic.map("in.parquet", TEMPLATE, to="out.parquet")
    assert list(pd.read_parquet("out.parquet")) == [*frame(0), *ADDED]
    Path("in.csv").write_text("text,stars\n")
    arche_magic.map("in.csv", TEMPLATE, to="out.csv")
    assert Path("out.csv").read_text().strip() == "text,stars," + ",".join(ADDED)


def test_mistakes_are_reported_before_anything_is_sent(sandbox: Sandbox) -> None:
    """Files that are missing, the same or of another kind; a wrong template or schema."""
    frame().to_parquet("in.parquet")
    for data, arguments, message in (
        ("in.parquet", {}, "name a file for the rows"),
        ("in.parquet", {"to": "in.parquet"}, "would be overwritten"),
        ("in.parquet", {"to": "nowhere/out.parquet"}, "the folder nowhere does not exist"),
        ("in.parquet", {"to": "out.txt"}, "must end with .parquet, .csv"),
        ("in.parquet", {"to": "out.xlsx"}, "Excel files are read, not written"),
        ("none.csv", {"to": "out.csv"}, "there is no file none.csv"),
        ("in.parquet", {"to": "out.csv", "template": "{{txt}}"}, "did you mean 'text'"),
        ("in.parquet", {"to": "out.csv", "schema": "text str"}, "already has a column 'text'"),
        (frame(), {"to": "out.csv"}, "to= is only for files"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            arche_magic.map(data, **{"template": TEMPLATE, **arguments})
    assert len(sandbox.requests) == 0


_MEMORY = """
import resource, sys
import arche_magic
arche_magic.map(sys.argv[1], "{{text}}", to=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.usefixtures("sandbox")
def test_memory_does_not_grow_with_the_file() -> None:
    """A process reads a file of 80 MB whose replies are all kept, and stays small."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(path: str, rows: int) -> None:
        texts = pa.array(["same text"] * rows)
        ballast = pa.array([np.random.default_rng(n).bytes(20_000) for n in range(rows)])
        table = pa.table({"text": texts, "ballast": ballast})
        pq.write_table(table, path, row_group_size=200, compression="none")

    def peak(path: str) -> int:
        ran = subprocess.run(
            [sys.executable, "-c", _MEMORY, path, "out.parquet"],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return int(ran.stdout)

    write("small.parquet", 100)
    write("large.parquet", 4_000)
    assert Path("large.parquet").stat().st_size > 75_000_000
    assert peak("large.parquet") < peak("small.parquet") + 100_000
