"""Users can set the window of each limit, and that an account is on a paid tier."""

from __future__ import annotations

from pathlib import Path

import pytest

from arche_magic.llm_providers.catalog import parse_limits, published_providers
from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.types import utc


def test_each_limit_can_have_its_own_window() -> None:
    """A limit without one keeps the window of the published table."""
    limits = parse_limits(
        {
            "window": "bucket",
            "requests_per_minute": 30,
            "requests_per_day": {
                "amount": 20,
                "window": "calendar",
                "time_zone": "Asia/Tokyo",
            },
        }
    )
    rules = {limit.name: (limit.amount, limit.window, limit.time_zone) for limit in limits}
    assert rules == {
        "requests_per_minute": (30, "bucket", "UTC"),
        "requests_per_day": (20, "calendar", "Asia/Tokyo"),
    }


def test_every_published_figure_has_a_source_and_a_date() -> None:
    """Limits of one model may have different sources."""
    limits = {
        (name, model, limit.name): limit
        for name, provider in published_providers().items()
        for model, table in provider.limits.items()
        for limit in table
    }
    assert len(limits) > 50
    for limit in limits.values():
        assert limit.source
        assert utc(limit.read_at).year in (2025, 2026)
    flash_lite = ("google", "gemini-3.5-flash-lite")
    day, minute = (
        limits[*flash_lite, name] for name in ("requests_per_day", "input_tokens_per_minute")
    )
    assert "reported 2026-09-08" in day.source
    assert utc(day.read_at).date().isoformat() == "2026-09-08"
    assert day.source != minute.source


@pytest.mark.parametrize("provider", ["groq", "mistral", "google", "openai"])
def test_the_default_models_have_published_limits(provider: str) -> None:
    """A model that is used by default must not have unknown limits."""
    published = published_providers()[provider]
    for model in published.models:
        assert published.limits[model]


@pytest.mark.parametrize(
    "entry",
    [
        {"amount": 20, "ammount": 30},
        {"window": "calendar"},
        {"amount": "20"},
        {"amount": 20, "window": "weekly"},
    ],
)
def test_an_invalid_window_is_refused(entry: dict[str, object]) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=r"requests_per_day|window"):
        parse_limits({"requests_per_day": entry})


def settings(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "arche_magic.toml").write_text(text)
    monkeypatch.setenv("GROQ_API_KEY", "gsk_made_up_for_this_test_only")


def test_a_paid_tier_starts_without_published_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting is enough. The user's own limits still apply, and the others are learned."""
    text = '[providers.groq]\ntier = "paid"\n[limits.groq]\nrequests_per_minute = 500\n'
    settings(tmp_path, monkeypatch, text)
    configuration = load_configuration(directory=tmp_path)
    (route,) = configuration.routes()
    limits = {limit.name: limit.amount for limit in configuration.default_limits(route)}
    assert limits == {"requests_per_minute": 500}


def test_an_unknown_tier_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled tier is an error instead of counting as free."""
    settings(tmp_path, monkeypatch, '[providers.groq]\ntier = "gold"\n')
    with pytest.raises(ConfigurationError, match="tier is 'gold'"):
        load_configuration(directory=tmp_path)
