"""Ledgers written by version 2 are converted without losing any counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine_parts import NOON, Clock, served

from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.quota_tracker import QuotaTracker, mend
from arche_magic.llm_providers.storage import FILE_VERSION, JsonFileStorage

if TYPE_CHECKING:
    import pytest

KEYS = {
    "GROQ_API_KEY": "gsk_made_up_1",
    "MISTRAL_API_KEY": "made_up_2",
    "GOOGLE_API_KEY": "AIza_made_up",
}
# As version 2 wrote it after a few calls to three providers, with one call in progress.
VERSION_2 = Path(__file__).with_name("ledger_of_version_2.json")
USED = {
    ("groq_key_1", "requests_per_minute"): 3,
    ("groq_key_1", "requests_per_day"): 12,
    ("groq_key_1", "tokens_per_minute"): 1028,
    ("groq_key_1", "tokens_per_day"): 38,
    ("mistral_key_1", "requests_per_minute"): 1,
    ("mistral_key_1", "requests_per_day"): 10,
    ("mistral_key_1", "tokens_per_minute"): 93_000,
    ("mistral_key_1", "tokens_per_month"): 10,
    ("google_key_1", "requests_per_day"): 10,
}


def test_a_ledger_of_version_2_is_converted(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Usage, limits, holds and closures are kept; the file then has the current version."""
    path = tmp_path / "ledger.json"
    path.write_bytes(VERSION_2.read_bytes())
    configuration = replace(load_configuration(KEYS, tmp_path), clock=Clock(NOON))
    tracker = QuotaTracker(JsonFileStorage(path, mend=mend), configuration)

    def used() -> dict[tuple[str, str], int]:
        return {(row.key, row.limit): row.used_units for row in tracker.standings() if row.used}

    assert used() == USED
    groq, *_ = configuration.routes()
    rows = {(row.key, row.limit): row for row in tracker.standings()}
    learned = rows["groq_key_1", "requests_per_day"]
    assert (learned.amount, learned.evidence, learned.window) == (2000, "header", "rolling")
    assert rows["mistral_key_1", "requests_per_minute"].closed_by == "it failed"
    assert rows["mistral_key_1", "requests_per_minute"].opens_at == NOON + 30
    served(tracker, groq)
    content = json.loads(path.read_text())
    assert content["version"] == FILE_VERSION
    assert tracker.get_usage_summary()["groq"]["groq_key_1"]["requests_per_minute"]["used"] == 4
    assert used().items() >= {pair for pair in USED.items() if "groq" not in pair[0][0]}
    assert not recwarn.list
