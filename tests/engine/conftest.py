"""Every storage in turn, a clock turned by hand, and ledgers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import (
    Build,
    Clock,
    custom_configuration,
)

from arche_magic.llm_providers.quota_tracker import QuotaTracker
from arche_magic.llm_providers.storage import JsonFileStorage, MemoryStorage, Storage

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.llm_providers.types import (
        Limit,
    )


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each storage in turn: no promise may depend on where the documents live."""
    if request.param == "memory":
        return MemoryStorage()
    return JsonFileStorage(tmp_path / "ledger.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker_of(storage: Storage, clock: Clock) -> Build:
    """Build a ledger with some limits on `model-a`."""

    def build(*limits: Limit, **options: Any) -> QuotaTracker:
        return QuotaTracker(storage, custom_configuration(limits, clock=clock, **options))

    return build
