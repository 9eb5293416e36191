"""Fixtures for each storage, a clock set by the test, and ledgers that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import (
    Build,
    Clock,
    LedgerServer,
    custom_configuration,
    proven,
)

from arche_magic.llm_providers.config import Configuration, load_configuration
from arche_magic.llm_providers.quota_tracker import QuotaTracker
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config_parts import Load

    from arche_magic.llm_providers.types import (
        Limit,
    )


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerServer]:
    """A Redis server shared by tests that need only one; skips if none is installed."""
    with LedgerServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[LedgerServer]:
    """A Redis server that a test can stop and start; it forgets everything when it stops."""
    with LedgerServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(params=["memory", "file", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each storage in turn: behaviour must not depend on where the documents are stored."""
    if request.param == "redis":
        server: LedgerServer = request.getfixturevalue("shared_redis")
        server.empty()
        return server.storage()
    return MemoryStorage() if request.param == "memory" else JsonFileStorage(tmp_path / "l.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker_of(storage: Storage, clock: Clock) -> Build:
    """Build a ledger with some limits on `model-a`; every route has already answered once."""

    def build(*limits: Limit, **options: Any) -> QuotaTracker:
        configuration = custom_configuration(limits, clock=clock, **options)
        return proven(QuotaTracker(storage, configuration))

    return build


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def load(project: Path) -> Load:
    """Write a `.env` and an `arche_magic.toml`, and read them."""

    def write_and_load(env: str | bytes = "", toml: str = "") -> Configuration:
        content = env if isinstance(env, bytes) else env.encode()
        if content:
            (project / ".env").write_bytes(content)
        if toml:
            (project / "arche_magic.toml").write_text(toml, encoding="utf-8")
        return load_configuration(directory=project)

    return write_and_load
