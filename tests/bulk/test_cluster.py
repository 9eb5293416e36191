"""A job on Dask: worker processes that share limits through Redis, and one that is killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from redis_server import RedisServer

import arche_magic
from arche_magic.bulk import JobStopped, Row
from arche_magic.llm_providers.config import use_configuration
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest, NoKeys
from arche_magic.sandbox import Sandbox

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
dd = pytest.importorskip("dask.dataframe")

WORKERS = 2
TEMPLATE = "How long is this? {{text}}"
RATE = {"requests_per_second": 30, "requests_per_minute": 6000, "tokens_per_minute": 10_000_000}
PLENTY = RATE | {"requests_per_second": 1000}


def texts(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"text {number}" for number in range(count)]})


def asked(sandbox: Sandbox) -> Counter[str]:
    """Count how often each prompt reached a provider."""
    return Counter(request.body["messages"][-1]["content"] for request in sandbox.requests)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server without the number of a database."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url.removesuffix("/0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two worker processes of one thread each, in their own folder, without any key."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("workers"))
    # Without its profiler, whose `sys._current_frames` can stop a process of Python 3.11 for good
    # (https://github.com/dask/distributed/issues/8616).
    no_profile = dask.config.set({"distributed.worker.profile.enabled": False})
    try:
        with (
            no_profile,
            distributed.LocalCluster(
                n_workers=WORKERS,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                host="127.0.0.1",
            ) as running,
        ):
            yield running
    finally:
        os.chdir(before)


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as connected:
        yield connected


Equip = Callable[..., Sandbox]


@pytest.fixture
def equip(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Equip]:
    """Start a sandbox and give its keys to this process and every worker, in the test's folder."""
    started: list[Sandbox] = []

    def start(store: str, limits: dict[str, int] = RATE) -> Sandbox:
        sandbox = Sandbox(keys={"mistral": 1}, limits={"mistral": limits})
        started.append(sandbox.start())
        variables = sandbox.environment() | {"ARCHE_QUOTA_STORE": store}
        settings = "".join(f"{name} = {amount}\n" for name, amount in limits.items())
        (tmp_path / "arche_magic.toml").write_text(f"[limits.mistral]\n{settings}")
        monkeypatch.chdir(tmp_path)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client.run(_move, str(tmp_path), variables)
        return sandbox

    yield start
    for sandbox in started:
        client.run(_forget, list(sandbox.environment()))
        sandbox.stop()


def _move(folder: str, variables: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(variables)


def _forget(names: list[str]) -> None:
    for name in names:
        os.environ.pop(name, None)


def test_workers_share_the_rows_and_the_limits(client: Any, equip: Equip, redis_url: str) -> None:
    """One of two processes asks each row, and together they are never refused."""
    sandbox = equip(f"{redis_url}/1")
    frame, seen = texts(60), []
    result = arche_magic.map(frame, TEMPLATE, client=client, on_done=seen.append)
    assert list(result.columns) == ["text", "reply", "provider", "model", "tokens", "error"]
    assert result["error"].isna().all()
    assert all(f"text {n}”" in reply for n, reply in enumerate(result["reply"]))
    assert sorted(row.position for row in seen) == list(range(60))
    assert max(asked(sandbox).values()) == 1
    (count,) = sandbox.usage()["mistral_key_1"].values()
    assert (count["requests"], count["refused"], count["failed"]) == (60, 0, 0)
    figures = result.attrs["arche_magic"]
    assert (figures["requests"], sum(figures["routes"].values())) == (60, 60)
    assert figures["tokens"] == result["tokens"].sum()
    again = arche_magic.map(frame, TEMPLATE, client=client)
    pd.testing.assert_frame_equal(again, result)
    assert len(sandbox.requests) == 60


def test_a_killed_worker_loses_nothing(client: Any, equip: Equip, redis_url: str) -> None:
    """Finished rows are not asked again, another worker does the rest, and no limit is exceeded."""
    sandbox = equip(f"{redis_url}/2")
    frame, finished = texts(80), 0
    victim = next(iter(client.run(os.getpid).values()))
    dead = False

    def kill(row: Row) -> None:
        nonlocal finished, dead
        finished += 1
        if finished > 10 and not dead:
            dead = True
            os.kill(victim, signal.SIGKILL)

    result = arche_magic.map(frame, TEMPLATE, client=client, on_done=kill)
    assert dead
    assert result["error"].isna().all()
    assert len(result) == 80
    again = {prompt: times for prompt, times in asked(sandbox).items() if times > 1}
    # Calls that were in progress when it was killed.
    assert len(again) <= 16
    assert set(again.values()) <= {2}
    (count,) = sandbox.usage()["mistral_key_1"].values()
    assert count["refused"] == 0


def test_workers_share_the_bounds(client: Any, equip: Equip, redis_url: str) -> None:
    """The bounds are neither split nor exceeded, whichever worker uses them."""
    sandbox = equip(f"{redis_url}/6", PLENTY)
    # Nearly all of it is in one of the parts.
    frame = pd.DataFrame({"text": ["long " * 400] * 8 + [f"text {n}" for n in range(40)]})
    frame["text"] = [f"{n} {text}" for n, text in enumerate(frame["text"])]
    options = {"client": client, "pack": 1, "max_tokens": 50, "fresh": True}
    whole = arche_magic.map(frame, TEMPLATE, **options)
    total = int(whole["tokens"].sum())
    again = arche_magic.map(frame, TEMPLATE, max_tokens_total=total + 1000, **options)
    assert again["error"].isna().all()
    before = len(sandbox.requests)
    seen: list[Row] = []
    with pytest.raises(JobStopped, match="max_tokens_total of"):
        arche_magic.map(
            frame, TEMPLATE, max_tokens_total=total // 2, on_done=seen.append, **options
        )
    assert len(sandbox.requests) - before < len(frame)
    assert len(seen) == len(sandbox.requests) - before
    assert total / 4 < sum(row.tokens for row in seen) <= total // 2


def test_a_dask_frame_asks_when_it_is_computed(client: Any, equip: Equip, redis_url: str) -> None:
    """Its columns and types are known before; it is written and read like any other."""
    sandbox = equip(f"{redis_url}/3", PLENTY)
    frame = texts(12).set_index(pd.Index(range(12, 0, -1), name="id"))
    lazy = arche_magic.map(
        dd.from_pandas(frame, npartitions=3, sort=False),
        TEMPLATE,
        schema="mood good|bad, score int, tags list[str]",
    )
    names = ["text", "mood", "score", "tags", "provider", "model", "tokens", "error", "raw"]
    assert list(lazy.columns) == names
    assert str(lazy.dtypes["score"]) == "Int64"
    assert list(lazy.dtypes["mood"].categories) == ["good", "bad"]
    assert len(sandbox.requests) == 0
    result = lazy.compute()
    assert dict(result.dtypes) == dict(lazy.dtypes)
    assert list(result.index) == list(frame.index)
    assert result["mood"].isin(["good", "bad"]).all()
    assert asked(sandbox) == Counter({f"How long is this? text {n}": 1 for n in range(12)})
    lazy.drop(columns="tags").to_parquet("moods")
    assert len(pd.read_parquet("moods")) == 12
    assert len(sandbox.requests) == 12


def test_workers_that_do_not_share_their_limits_are_refused(client: Any, equip: Equip) -> None:
    """With a ledger in each worker's memory, limits would be exceeded; nothing is sent."""
    sandbox = equip("memory://")
    with pytest.raises(ConfigurationError, match=r"do not share one ledger.*redis://"):
        arche_magic.map(texts(3), TEMPLATE, client=client)
    assert len(sandbox.requests) == 0


def test_workers_without_keys_are_refused(client: Any, equip: Equip, redis_url: str) -> None:
    """Keys are not sent to workers: each needs its own."""
    equip(f"{redis_url}/4")
    client.run(_forget, ["MISTRAL_API_KEY"])
    with pytest.raises(NoKeys, match="has no API key"):
        arche_magic.map(texts(3), TEMPLATE, client=client)


def test_mistakes_are_reported_before_anything_is_sent(
    client: Any, equip: Equip, redis_url: str
) -> None:
    """A column that is missing, an option that cannot be sent to a worker, a file."""
    sandbox = equip(f"{redis_url}/5")
    lazy = dd.from_pandas(texts(3), npartitions=1)
    for call, message in (
        (lambda: arche_magic.map(texts(3), "{{txt}}", client=client), "Did you mean|did you mean"),
        (lambda: arche_magic.map(lazy, "{{txt}}"), "did you mean"),
        (lambda: arche_magic.map(lazy, TEMPLATE, on_done=print), "on_done"),
        (lambda: arche_magic.map("a.csv", TEMPLATE, client=client), "does not accept a file"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            call()
    use_configuration(None)
    assert len(sandbox.requests) == 0
