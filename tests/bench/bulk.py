"""Jobs at the speed of the limits: `python tests/bench/bulk.py [NAME ...]` prints ratios.

Situations: `limits`, `finish`, `packing`, `quality`, `speed`, `threads`, `resume`, `memory`,
`planning`, `files`, `first_plan`, `types`. All of them use the sandbox's own counts. For runs that
would take minutes, the clock is sped up.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from overhead import LIMITS, MODEL, PLENTY, raw_client
from overhead import sandbox as sandbox_apart
from quota import FastClock, refused

from arche_magic import load_attempts
from arche_magic.bulk import Job, Replies, plan
from arche_magic.bulk import map as map_rows
from arche_magic.bulk import quality as compare
from arche_magic.bulk.comparison import Comparison
from arche_magic.llm_providers.catalog import parse_limits
from arche_magic.llm_providers.config import Configuration, load_configuration, use_configuration
from arche_magic.llm_providers.types import Timeouts
from arche_magic.sandbox import Sandbox

GEMINI = {"requests_per_minute": 15}
A_DAY = {"requests_per_day": 20}
MANY = dict.fromkeys(LIMITS, PLENTY)
LIMITLESS = ("requests_per_minute", "tokens_per_minute", "tokens_per_month")


def reviews(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Number {n} does what it says." for n in range(count)]})


def run(job: Job, stop_at: int | None = None) -> tuple[pd.DataFrame, float]:
    """The frame, and seconds of this machine's clock."""
    began = time.perf_counter()
    replies = Replies(job)
    for row in job:
        replies.add(row)
        if stop_at is not None and job.progress().done >= stop_at:
            break
    return replies.frame(), time.perf_counter() - began


# --- use of the limits


def best_makespan(rows: int, started: float, keys: int, share: float = 1.0) -> float:
    """Shortest time in seconds in which the keys can accept all rows.

    `share` is the part of each window that may be used; it does not reduce the refill rate.
    """
    low, high = 0.0, 1e6
    while high - low > 0.05:
        elapsed = (low + high) / 2
        minutes_turned = int((started + elapsed) // 60) - int(started // 60)
        admitted = keys * (int(30 * share) + elapsed * 0.5)
        admitted += int(60 * share) * (1 + elapsed // 60)
        admitted += int(15 * share) * (1 + minutes_turned)
        low, high = (low, elapsed) if admitted >= rows else (elapsed, high)
    return high


def limits(rows: int = 2000, scale: float = 5.0) -> None:
    """2,000 rows with 5 accounts, with the usual reserve and without one."""
    plenty = {"tokens_per_minute": None, "tokens_per_day": None, "requests_per_day": None}
    for reserve in (0.0, 0.1):
        clock = FastClock(scale, time.time())
        per_minute = {
            "groq": {"requests_per_minute": 30, **plenty},
            "mistral": {"requests_per_minute": 60, "tokens_per_minute": None},
            "google": {**GEMINI, "requests_per_day": None, "input_tokens_per_minute": None},
        }
        known = {
            "groq": parse_limits({"requests_per_minute": 30}, "bucket"),
            "mistral": parse_limits({"requests_per_minute": 60}, "rolling"),
            "google": parse_limits(GEMINI, "calendar", "America/Los_Angeles"),
        }
        huge = dict.fromkeys(("tokens_per_minute", "tokens_per_day", "requests_per_day"), PLENTY)
        for name, own in known.items():
            window = {"groq": "bucket", "mistral": "rolling", "google": "calendar"}[name]
            more = {**huge, "input_tokens_per_minute": PLENTY} if name == "google" else huge
            known[name] = (*own, *parse_limits(more, window, "America/Los_Angeles"))
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(
                keys={"groq": 3, "mistral": 1, "google": 1}, clock=clock.time, limits=per_minute
            ) as sandbox,
        ):
            use_configuration(
                replace(
                    load_configuration(sandbox.environment(), Path(folder)),
                    clock=clock,
                    timeouts=Timeouts(total=300.0),
                    limits=known,
                )
            )
            started = clock.time()
            frame, _ = run(Job(reviews(rows), "Is it good? {{text}}", pack=1, reserve=reserve))
            seconds = clock.time() - started
            best = best_makespan(rows, started, 3, 1 - reserve)
            twice = len(sandbox.requests) - sum(refused(sandbox).values()) - rows
            print(
                f"limits: {rows:,} rows, 5 accounts, reserve {reserve:.0%}: makespan "
                f"{seconds:.0f} s = {seconds / best:.3f} x the best possible; refused "
                f"{sum(refused(sandbox).values())}, lost {frame.error.notna().sum()}, doubled "
                f"{twice}; by {frame.provider.value_counts().to_dict()}"
            )


def watch(
    job: Job,
    clock: FastClock,
    seen: list[tuple[float, float | None, int]],
    ended: threading.Event,
) -> None:
    """Record repeatedly when the job expects to finish: now, then, finished rows."""
    while not ended.wait(0.1):
        progress = job.progress()
        stated = None if progress.finish_at is None else progress.finish_at.timestamp()
        seen.append((clock.time(), stated, progress.done))


def finish() -> None:
    """The largest error of the displayed finish time, as a share of the whole duration."""
    day = 24 * 3600.0
    for name, rows, known, scale in (
        ("bound by the minute", 400, {"requests_per_minute": 30}, 25.0),
        ("bound by the day", 850, {"requests_per_day": 200, "requests_per_minute": 15}, day / 12),
    ):
        clock = FastClock(scale, time.time())
        seen: list[tuple[float, float | None, int]] = []
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(keys={"google": 1}, clock=clock.time, limits={"google": known}) as sandbox,
        ):
            parsed = parse_limits(known, "calendar", "America/Los_Angeles")
            use_configuration(
                replace(
                    load_configuration(sandbox.environment(), Path(folder)),
                    clock=clock,
                    # In seconds of that clock: a call takes minutes.
                    timeouts=Timeouts(total=1e5),
                    limits={"google": parsed},
                )
            )
            started = clock.time()
            data = reviews(rows), "Is it good? {{text}}"
            planned = plan(*data, pack=1).finish_at
            job = Job(*data, pack=1)
            ended = threading.Event()
            looking = threading.Thread(target=watch, args=(job, clock, seen, ended))
            looking.start()
            frame, _ = run(job)
            end = clock.time()
            ended.set()
            looking.join()
            assert frame.error.isna().all()
        during = [row for row in seen if 0 < row[2] < rows]
        stated = [(at, when) for at, when, _ in during if when is not None]
        whole = end - started
        worst = max(abs(when - end) / whole for _, when in stated)
        assert planned is not None
        print(
            f"finish: {rows} rows {name}: {whole / 60:,.0f} min; the plan is off by "
            f"{abs(planned.timestamp() - end) / whole:.1%}, the bar by {worst:.1%} at most of "
            f"{len(stated)} looks, {len(during) - len(stated)} without a time"
        )


def packing(rows: int = 2000) -> None:
    """Rows in 20 requests a day with plenty of tokens, packed and alone."""
    answered = {}
    for pack in (1, "auto"):
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(
                keys={"google": 1}, limits={"google": {**A_DAY, "requests_per_minute": None}}
            ) as sandbox,
        ):
            known = {"requests_per_day": 20, "input_tokens_per_minute": 250_000}
            use_configuration(
                replace(
                    load_configuration(sandbox.environment(), Path(folder)),
                    limits={"google": parse_limits(known, "calendar", "America/Los_Angeles")},
                )
            )
            schema = "sentiment pos|neg, score int"
            job = Job(reviews(rows), "{{text}}", schema=schema, pack=pack, patience=5)
            frame, _ = run(job)
            answered[pack] = int(frame.error.isna().sum())
            valid = int(frame.sentiment.isin(["pos", "neg"]).sum())
            progress = job.progress()
            print(
                f"packing: pack={pack}: {answered[pack]:,} rows answered, {valid:,} valid, in "
                f"{len(sandbox.requests)} requests; checked {progress.checked}, agreed "
                f"{progress.agreed}"
            )
    print(f"packing: {answered['auto'] / answered[1]:.1f} x the rows of one-per-request")


# --- results


def first_plan(rows: int = 200) -> None:
    """Tokens of short structured replies: in the first plan, and in fact."""
    for schema in ("mood good|bad", "stars 1|2|3|4|5, sure bool", "mood good|bad, why str"):
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(keys={"mistral": 1}, limits={"mistral": dict.fromkeys(LIMITLESS)}) as sandbox,
        ):
            known = parse_limits(dict.fromkeys(LIMITLESS, PLENTY), "rolling")
            configuration = load_configuration(sandbox.environment(), Path(folder))
            use_configuration(replace(configuration, limits={"mistral": known}))
            first = plan(reviews(rows), "{{text}}", schema=schema, pack=1)
            frame, _ = run(Job(reviews(rows), "{{text}}", schema=schema, pack=1))
            (count,) = sandbox.usage()["mistral_key_1"].values()
            low, high = first.tokens
            print(
                f"first plan: {schema!r}: {first.output_tokens / count['output_tokens']:.1f} x the "
                f"output tokens that came; {low:,} to {high:,} tokens in all, came "
                f"{frame.tokens.sum():,}"
            )


def types(rows: int = 100) -> None:
    """Types of a result in which one row in ten fails, as a frame, in Parquet, and in a CSV."""
    value = json.dumps({"mood": "good", "score": 2**53 + 1, "share": 0.5, "sure": True})
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(
            keys={"mistral": 1},
            limits={"mistral": dict.fromkeys(LIMITLESS)},
            reply=lambda _, messages: "none" if "0 does" in str(messages) else value,
        ) as sandbox,
    ):
        known = parse_limits(dict.fromkeys(LIMITLESS, PLENTY), "rolling")
        configuration = load_configuration(sandbox.environment(), Path(folder))
        use_configuration(replace(configuration, limits={"mistral": known}))
        schema = "mood good|bad, score int, share float, sure bool"
        source, parquet, csv = (Path(folder, name) for name in ("in.parquet", "a.parquet", "a.csv"))
        reviews(rows).to_parquet(source)
        frame, _ = run(Job(reviews(rows), "{{text}}", schema=schema, pack=1))
        empty, _ = run(Job(reviews(0), "{{text}}", schema=schema))
        for path in (parquet, csv):
            map_rows(source, "{{text}}", schema=schema, pack=1, to=path)
        names = [name for name in empty if name != "text"]
        same = [
            other[names].dtypes.equals(frame[names].dtypes)
            for other in (empty, pd.read_parquet(parquet))
        ]
        numbers = set(pd.read_csv(csv, dtype=str, keep_default_na=False).score)
        kinds = {name: str(frame[name].dtype) for name in names}
        print(
            f"types: {kinds}; {frame.raw.count()} of {rows} rows failed; the same in an empty "
            f"frame: {same[0]}, in Parquet: {same[1]}; in the CSV: {sorted(numbers)}"
        )


# --- quality of labels


def quality(rows: int = 2000) -> None:
    """Two models that are right in 90 and 80 % of the rows: the estimate from a sample of 10 %."""
    labels = ("good", "bad", "mixed")

    def truth(text: str) -> str:
        return labels[zlib.crc32(text.encode()) % 3]

    def said(model: str, text: str) -> str:
        wrong = zlib.crc32(f"{model} {text}".encode()) % 10 < (1 if "gpt" in model else 2)
        return labels[(labels.index(truth(text)) + wrong) % 3]

    def reply(model: str, messages: list[dict[str, str]]) -> str:
        return json.dumps({"mood": said(model, messages[-1]["content"])})

    both = partial(dict.fromkeys, ("groq", "mistral"))
    data = reviews(rows)
    data["known"] = data.text.map(truth)
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(keys={"groq": 1, "mistral": 1}, limits=both(MANY), reply=reply) as sandbox,
    ):
        use_configuration(
            replace(
                load_configuration(sandbox.environment(), Path(folder)),
                limits=both(parse_limits(MANY, "rolling", "UTC")),
            )
        )
        options = {"schema": "mood good|bad|mixed", "twice": 0.1, "gold": "known", "tag": "v2"}
        expected = plan(data, "{{text}}", same_model=True, **options)
        frame, _ = run(Job(data, "{{text}}", same_model=True, details=True, **options))
        found = compare(frame)
        first, second = frame.model[0], frame.second_model.dropna().iloc[0]
        everywhere = Comparison.of(frame.mood, frame.text.map(partial(said, second)))
        print(
            f"quality: {first} and {second} on {found.twice['mood'].compared} of {rows:,} rows: "
            f"agreement {found.twice['mood'].share:.3f}, kappa {found.twice['mood'].kappa:.3f}; on "
            f"all rows {everywhere.share:.3f}, {everywhere.kappa:.3f}"
        )
        right = sum(said(first, text) == truth(text) for text in data.text)
        print(
            f"quality: accuracy {found.gold['mood'].share:.4f}, by the sandbox {right / rows:.4f}; "
            f"plan {expected.requests:,} requests, sent {len(sandbox.requests):,}"
        )
        tagged = load_attempts().query("tag == 'v2'")
        recorded = int(tagged.input_tokens.sum() + tagged.output_tokens.sum())
        used = [table for key in sandbox.usage().values() for table in key.values()]
        spent = sum(table["input_tokens"] + table["output_tokens"] for table in used)
        print(
            f"quality: the tag's attempts {recorded:,} tokens, by the sandbox {spent:,}; rows with "
            f"the request of an attempt "
            f"{frame.request.isin(tagged.request).mean():.0%}"
        )


# --- costs


def unlimited(variables: dict[str, str], folder: str) -> Configuration:
    known = parse_limits(dict.fromkeys(LIMITS, PLENTY), "bucket")
    return replace(load_configuration(variables, Path(folder)), limits={"groq": known})


def speed(rows: int = 3000) -> None:
    """Rows a second without limits or latency, with the SDK in a thread pool and with a job."""
    with sandbox_apart() as variables, tempfile.TemporaryDirectory() as folder:
        client = raw_client(variables)

        def ask(text: str) -> str:
            message = {"role": "user", "content": f"Is it good? {text}"}
            done = client.chat.completions.create(model=MODEL, messages=[message])
            return str(done.choices[0].message.content)

        texts = list(reviews(rows).text)
        for _ in range(50):
            ask("warm")
        raw = {}
        for threads in (2, 4, 8, 16):
            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(ask, texts))
            raw[threads] = rows / (time.perf_counter() - began)
        use_configuration(unlimited(variables, folder))
        run(Job(reviews(200), "Warm up: {{text}}"))
        frame, seconds = run(Job(reviews(rows), "Is it good? {{text}}"))
        assert frame.error.isna().all()
        ours, best = rows / seconds, max(raw.values())
        print(
            f"speed: ours {ours:.0f} rows/s, raw SDK in threads "
            f"{', '.join(f'{n}: {rate:.0f}' for n, rate in raw.items())}; ratio {ours / best:.2f}"
        )


def threads(seconds: float = 8.0) -> None:
    """Rows a second without limits, with slow replies, compared with the best thread pool."""
    for latency in (0.05, 0.1, 0.25, 1.0):
        with sandbox_apart(latency) as variables, tempfile.TemporaryDirectory() as folder:
            use_configuration(unlimited(variables, folder))
            run(Job(reviews(20), "Warm up: {{text}}"))
            client = raw_client(variables)
            rates: dict[int, float] = {}
            for count in (16, 64, 256):
                rows = max(2 * count, int(seconds / 4 * rates.get(16, count / latency)))
                rates[count] = raw_rate(client, rows, count)
            best = max(rates, key=lambda count: rates[count])
            rows = int(seconds * rates[best])
            ratios = []
            # In turns, because the load of the machine changes.
            for turn in range(2):
                raw = raw_rate(client, rows // 2, best)
                frame, took = run(Job(reviews(rows), f"{turn}: is it good? {{{{text}}}}"))
                assert frame.error.isna().all()
                ratios.append(rows / took / ((raw + raw_rate(client, rows // 2, best)) / 2))
            print(
                f"threads: replies after {latency:g} s: best raw pool {best} threads, "
                f"{rates[best]:.0f} rows/s; ratio {min(ratios):.2f} to {max(ratios):.2f}"
            )


def raw_rate(client: Any, rows: int, threads: int) -> float:
    """Rows a second with only the SDK, in a pool of threads."""

    def ask(text: str) -> None:
        message = {"role": "user", "content": f"Is it good? {text}"}
        client.chat.completions.create(model=MODEL, messages=[message])

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, reviews(rows).text))
    return rows / (time.perf_counter() - began)


def resume(rows: int = 2000) -> None:
    """Rows that are asked twice after `kill -9` in the middle and a second run."""
    with sandbox_apart() as variables, tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, __file__, "--one-job", folder, str(rows)]
        environment = {**os.environ, **variables}
        process = subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= rows // 2:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        use_configuration(unlimited(variables, folder))
        attempts = Path(folder, "outputs", "llm_calls.jsonl")
        sent = attempts.read_text().count("\n")
        job = Job(reviews(rows), "Is it good? {{text}}")
        frame, _ = run(job)
        again = attempts.read_text().count("\n") - sent
        progress = job.progress()
        missing = rows - progress.resumed
        print(
            f"resume: killed with {progress.resumed:,} of {rows:,} rows on disk; then asked "
            f"{again:,}, which is {again - missing} for finished rows; answered in the end "
            f"{frame.error.isna().sum():,}"
        )


def one_job(folder: str, rows: int) -> None:
    use_configuration(unlimited(dict(os.environ), folder))
    for done, _ in enumerate(Job(reviews(rows), "Is it good? {{text}}"), 1):
        print(done, flush=True)


def memory(rows: int = 200_000) -> None:
    """Memory beyond the frame, and seconds per row from first to last, of a long job."""
    with sandbox_apart() as variables, tempfile.TemporaryDirectory() as folder:
        use_configuration(unlimited(variables, folder))
        run(Job(reviews(200), "Warm up: {{text}}"))
        frame = reviews(rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        job = Job(frame, "Is it good? {{text}}")
        replies, marks = Replies(job), [time.perf_counter()]
        for done, row in enumerate(job, 1):
            replies.add(row)
            if done % 1000 == 0:
                marks.append(time.perf_counter())
        result = replies.frame()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        of_result = result.memory_usage(deep=True).sum() / 1e6
        spans = [later - earlier for earlier, later in pairwise(marks)]
        tenth = max(1, len(spans) // 10)
        first, last = sum(spans[1 : tenth + 1]) / tenth, sum(spans[-tenth:]) / tenth
        print(
            f"memory: {rows:,} rows: {after - before:.0f} MB above the data, of which the frame "
            f"takes {of_result:.0f} MB; per 1,000 rows {first:.2f} s in the first tenth, "
            f"{last:.2f} s in the last = {last / first:.2f} x; statuses "
            f"{Counter(result.error.isna())}"
        )


def planning(rows: int = 200_000) -> None:
    """The duration of a plan when no rows are kept."""
    variables = {"GROQ_API_KEY": "gsk_made_up_for_a_benchmark", "MISTRAL_API_KEY": "made_up_too"}
    with tempfile.TemporaryDirectory() as folder:
        use_configuration(load_configuration(variables, Path(folder)))
        frame, read = reviews(rows), list[int]()
        began, worked = time.perf_counter(), time.process_time()
        plan(frame, "Is it good? {{text}}", schema="mood good|bad", on_rows=read.append)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        print(
            f"planning: {rows:,} rows in {seconds:.1f} s ({worked:.1f} s of the processor), "
            f"{len(read):,} steps reported"
        )


def files(megabytes: int = 300) -> None:
    """Peak memory of a job for a Parquet file with a few row groups, all of whose rows are kept."""
    with sandbox_apart() as variables, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **variables}
        script = [sys.executable, __file__, "--one-file", folder]
        subprocess.run([*script, "write", str(megabytes)], env=environment, check=True)
        for what in ("small", "plan", "large"):
            began = time.perf_counter()
            peak = subprocess.check_output([*script, what, "0"], env=environment, text=True)
            seconds = time.perf_counter() - began
            print(f"files: {megabytes} MB, {what}: peak {int(peak) / 1000:.0f} MB, {seconds:.0f} s")


def one_file(folder: str, what: str, megabytes: int) -> None:
    os.chdir(folder)
    if what == "write":
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = megabytes * 200 // 3
        for name, groups in (("small", 1), ("large", 3)):
            writer = None
            for _ in range(groups):
                count = rows if name == "large" else 100
                texts = [f"text {number % 50}" for number in range(count)]
                ballast = [os.urandom(5000) for _ in range(count)]
                table = pa.table({"text": texts, "ballast": ballast})
                writer = writer or pq.ParquetWriter(f"{name}.parquet", table.schema)
                writer.write_table(table, row_group_size=count)
            assert writer is not None
            writer.close()
        return
    use_configuration(unlimited(dict(os.environ), folder))
    if what == "plan":
        plan("large.parquet", "{{text}}")
    else:
        map_rows(f"{what}.parquet", "{{text}}", to="out.parquet")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    if sys.argv[1:2] == ["--one-job"]:
        one_job(sys.argv[2], int(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--one-file"]:
        one_file(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    situations = {
        "limits": limits, "finish": finish, "packing": packing, "quality": quality,
        "speed": speed, "threads": threads, "resume": resume, "memory": memory,
        "planning": planning, "files": files, "first_plan": first_plan, "types": types,
    }  # fmt: skip
    for name in sys.argv[1:] or situations:
        situations[name.partition("=")[0]](*map(int, filter(None, [name.partition("=")[2]])))


if __name__ == "__main__":
    main()
