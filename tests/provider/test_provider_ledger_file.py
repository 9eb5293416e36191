"""The two files in `outputs`: the ledger, and the record of attempts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from env_file import write_env_file
from provider_parts import (
    MODELS,
    PROVIDERS,
    Clock,
    Start,
    run_script,
    server_count,
    start_script,
    used,
)

from arche_magic.llm_providers import (
    IntelligentLLMOrchestrator,
    MultiKeyGroqProvider,
    NoRouteAvailable,
    get_llm_provider,
)
from arche_magic.llm_providers.config import get_configuration, use_configuration
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.storage import LedgerWarning

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox

ASK = """
from arche_magic.llm_providers import get_llm_provider
for number in range({times}):
    get_llm_provider("{name}").generate(f"Prompt {{number}}")
"""


def test_the_files_are_stored_beside_the_env_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """The notebook may be in any folder below it."""
    use_configuration(None)
    project = tmp_path / "project"
    write_env_file(project, sandbox)
    below = project / "notebooks" / "deep"
    below.mkdir(parents=True)
    run_script(ASK.format(times=1, name="groq"), below)
    files = {path.name for path in (project / "outputs").iterdir() if path.suffix != ".lock"}
    ledger = "llm_quota_tracker.json"
    assert files == {ledger, f"{ledger}.copy", f"{ledger}.backup", "llm_calls.jsonl"}
    assert not (below / "outputs").exists()


def test_two_processes_share_one_count(start: Start, tmp_path: Path) -> None:
    """Together they never exceed a limit: the server refuses none, and its count equals ours."""
    sandbox = start(keys={"mistral": 1})
    write_env_file(tmp_path, sandbox)
    scripts = [start_script(ASK.format(times=15, name="mistral"), tmp_path) for _ in range(2)]
    for script in scripts:
        _, err = script.communicate(timeout=120)
        assert script.returncode == 0, err
    summary = get_quota_tracker().get_usage_summary("mistral")["mistral"]
    spent = server_count(sandbox, "input_tokens") + server_count(sandbox, "output_tokens")
    assert server_count(sandbox, "requests") == 30
    assert server_count(sandbox, "refused") == 0
    assert used(summary, "mistral_key_1", "requests_per_minute") == 30
    assert used(summary, "mistral_key_1", "tokens_per_month") == spent
    lines = (tmp_path / "outputs" / "llm_calls.jsonl").read_text().splitlines()
    sessions = [json.loads(line)["session"] for line in lines]
    assert sorted(map(sessions.count, set(sessions))) == [15, 15]


def test_creating_providers_changes_no_counts(start: Start, clock: Clock, tmp_path: Path) -> None:
    """The file stays the same, byte for byte."""
    start(keys={"groq": 2}, clock=clock)
    MultiKeyGroqProvider().generate("Hello")
    ledger = tmp_path / "outputs" / "llm_quota_tracker.json"
    before, summary = ledger.read_bytes(), get_quota_tracker().get_usage_summary()
    for _ in range(2):
        MultiKeyGroqProvider()
        MultiKeyGroqProvider(api_keys=[key.secret() for key in get_configuration().keys])
        IntelligentLLMOrchestrator(preferred_provider="groq")
        get_llm_provider()
        get_quota_tracker()
    assert ledger.read_bytes() == before
    assert get_quota_tracker().get_usage_summary() == summary
    assert used(summary["groq"], "groq_key_1") + used(summary["groq"], "groq_key_2") == 1


def test_a_replaced_key_starts_at_zero_and_a_moved_key_keeps_its_count(
    start: Start, clock: Clock
) -> None:
    """The ledger identifies a key by its fingerprint, not by its position in the file."""
    start(keys={"groq": 2}, clock=clock)
    one, two = (key.secret() for key in get_configuration().keys)
    MultiKeyGroqProvider(api_keys=[one]).generate("Hello")
    swapped = MultiKeyGroqProvider(api_keys=[two, one]).get_usage_summary()["groq"]
    assert [used(swapped, label) for label in ("groq_key_1", "groq_key_2")] == [0, 1]


def test_each_attempt_is_one_line_without_texts(start: Start, clock: Clock, tmp_path: Path) -> None:
    """Failed attempts are included. The file contains no prompt, reply or key."""
    sandbox = start(clock=clock)
    sandbox.fail("groq", "echo_key")
    reply = get_llm_provider().generate("A secret question")
    with pytest.raises(NoRouteAvailable):
        get_llm_provider("groq").generate("Another secret", patience=0)
    text = (tmp_path / "outputs" / "llm_calls.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["provider"], line["outcome"]) for line in lines] == [
        ("groq", "failed"),
        ("mistral", "served"),
        ("groq", "skipped"),
    ]
    served = lines[1]
    assert served["model"] == MODELS["mistral"]
    assert (served["input_tokens"], served["output_tokens"]) == (
        reply.usage.input_tokens,
        reply.usage.output_tokens,
    )
    assert lines[0]["request"] == lines[1]["request"] != lines[2]["request"]
    ledger = (tmp_path / "outputs" / "llm_quota_tracker.json").read_text()
    secrets = [key.secret() for key in get_configuration().keys]
    for hidden in ("secret", "Simulated", *secrets):
        assert hidden not in text
        assert hidden not in ledger


def test_the_ledger_can_be_kept_in_memory_only(start: Start, tmp_path: Path) -> None:
    """No file is written."""
    start(settings={"store": "memory://no-file"})
    get_llm_provider().generate("Hello")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert used(get_quota_tracker().get_usage_summary("groq")["groq"], "groq_key_1") > 0


def test_the_usage_summary_has_the_documented_structure(start: Start, clock: Clock) -> None:
    """Every figure is a number, every time is aware, and the sums are right."""
    start(clock=clock)
    for name in PROVIDERS:
        get_llm_provider(name).generate("Hello")
    summary = get_quota_tracker().get_usage_summary()
    assert list(summary) == list(PROVIDERS)
    for name in PROVIDERS:
        assert get_quota_tracker().get_usage_summary(name) == {name: summary[name]}
        limits = summary[name][f"{name}_key_1"]
        assert {"tokens_per_minute", "input_tokens_per_minute"} & set(limits)
        for row in limits.values():
            assert set(row) >= {
                *("used", "limit", "remaining", "usage_percent", "available", "reset_time"),
                *("last_updated", "model", "evidence"),
            }
            assert 0 < row["used"] <= row["limit"]
            assert row["remaining"] == row["limit"] - row["used"]
            assert row["usage_percent"] == pytest.approx(100 * row["used"] / row["limit"], abs=0.01)
            assert row["available"] is True
            assert row["model"] == MODELS[name]
            for time in ("reset_time", "last_updated"):
                assert datetime.fromisoformat(row[time]).utcoffset() == timedelta(0)
            assert datetime.fromisoformat(row["reset_time"]).timestamp() > clock.now


def test_counts_of_the_older_package_are_kept(start: Start, clock: Clock, tmp_path: Path) -> None:
    """Its times may be of any zone, and its file is kept aside."""
    start(keys={"groq": 2}, clock=clock)
    ledger = tmp_path / "outputs" / "llm_quota_tracker.json"
    ledger.parent.mkdir()
    india = timezone(timedelta(hours=5.5))
    reset, updated = (
        datetime.fromtimestamp(seconds, india).isoformat()
        for seconds in (clock.now + 40_000, clock.now)
    )
    older = {
        "groq": {
            f"groq_key_1_{limit}": {
                "provider": "groq",
                "api_key_id": "groq_key_1",
                "limit_type": limit,
                "limit_value": value,
                "used_value": spent,
                "reset_time": reset,
                "last_updated": updated,
            }
            for limit, value, spent in (
                ("requests_per_day", 14_400, 900),
                ("tokens_per_day", 500_000, 120_000),
            )
        }
    }
    ledger.write_text(json.dumps(older, indent=2))
    with pytest.warns(LedgerWarning, match="older layout; its counts were converted"):
        provider = MultiKeyGroqProvider()
    summary = provider.get_usage_summary()["groq"]
    assert used(summary, "groq_key_1") == pytest.approx(900, abs=1)
    assert used(summary, "groq_key_1", "tokens_per_day") == pytest.approx(120_000, abs=10)
    assert used(summary, "groq_key_2") == 0
    assert provider.generate("Hello", patience=0).key == "groq_key_2"
    aside = [path for path in ledger.parent.iterdir() if ".older-" in path.name]
    assert [json.loads(path.read_text()) for path in aside] == [older]


def test_a_configured_limit_is_shown_as_configured(start: Start, clock: Clock) -> None:
    """It is kept if it is smaller than the provider's, and replaced if it is larger."""
    start(keys={"groq": 1}, clock=clock)
    from arche_magic.llm_providers.catalog import parse_limits

    figures = {"requests_per_day": 500, "tokens_per_day": 1000, "tokens_per_minute": 9000}
    limits = {"groq": parse_limits(figures, "bucket")}
    use_configuration(replace(get_configuration(), limits=limits))
    provider = get_llm_provider("groq")
    row = get_quota_tracker().get_usage_summary("groq")["groq"]["groq_key_1"]["tokens_per_minute"]
    assert (row["limit"], row["evidence"]) == (9000, "configured")
    provider.generate("Hello")
    summary = get_quota_tracker().get_usage_summary("groq")["groq"]["groq_key_1"]
    shown = {name: (row["limit"], row["evidence"]) for name, row in summary.items()}
    assert shown["requests_per_day"] == (500, "configured")
    assert shown["tokens_per_day"] == (1000, "configured")
    assert shown["tokens_per_minute"] == (8000, "header")
