"""The quota table: what is open, what opens when, and what is nearly spent."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from arche_magic.llm_providers.catalog import published_providers
from arche_magic.llm_providers.config import Configuration, label_keys
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.types import Standing
from arche_magic.notebook.frames import quota_frame
from arche_magic.notebook.quota_table import quota_bundle

NOW = 1_795_514_400.0  # 2026-11-24 10:00 in UTC, 19:00 in Tokyo


@pytest.fixture(autouse=True)
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def limit(name: str, used: float, amount: float, key: int = 1, **more: Any) -> Standing:
    values: dict[str, Any] = {
        "opens_at": NOW,
        "resets_at": NOW + 60,
        "evidence": "published",
        "evidence_at": NOW,
    }
    return Standing(
        **{
            "provider": "groq",
            "key": f"groq_key_{key}",
            "account": "a",
            "model": "openai/gpt-oss-120b",
            "limit": name,
            "amount": amount,
            "used": used,
            **values,
            **more,
        }
    )


def text(*standings: Standing) -> str:
    return quota_bundle(standings, NOW)["text/plain"]


def test_an_open_route_shows_a_meter_per_limit() -> None:
    """A bar, the numbers, when it is full again, and its evidence."""
    shown = text(
        limit("requests_per_minute", 15, 30),
        limit("tokens_per_day", 8_373, 200_000, evidence="header", evidence_at=NOW - 41.5),
    )
    assert [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()] == [
        ["groq · key 1 · gpt-oss-120b · open"],
        ["requests/min", "█████░░░░░", "15 of 30 left", "full 19:01:00", "published"],
        ["tokens/day", "█████████░", "191,627 of 200,000 left", "full 19:01:00", "header 18:59:18"],
        ["As of 24 Nov 2026, 19:00:00"],
    ]


@pytest.mark.parametrize(
    ("used", "signs", "width", "used_percent"),
    [
        (0, "██████████", 100, 0),
        (1, "█████████░", 99, 0.001),
        (99_999, "█░░░░░░░░░", 1, 99.999),
        (100_000, "░░░░░░░░░░", 0, 100),
    ],
)
def test_only_an_unused_limit_looks_full_and_only_a_spent_one_empty(
    used: int, signs: str, width: int, used_percent: float
) -> None:
    """This holds for the bar in text, the bar in HTML, and the column of the frame."""
    row = limit("requests_per_day", used, 100_000)
    bundle = quota_bundle([row], NOW)
    assert f"  {signs}  " in bundle["text/plain"]
    assert f"width:{width}%;height" in bundle["text/html"]
    assert quota_frame([row], {}, NOW)["usage_percent"][0] == pytest.approx(used_percent, abs=1e-9)


def test_millions_are_not_rounded_up_to_all_of_them() -> None:
    """99 tokens of a thousand million are used; the other limit is no whole number of millions."""
    assert "   999 M of 1,000 M left" in text(limit("tokens_per_month", 99, 10**9))
    assert " 10,499,901 of 10,500,000 left" in text(limit("tokens_per_month", 99, 10_500_000))
    assert " 10 M of 10 M left" in text(limit("tokens_per_month", 0, 10_500_000))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (42, "19:00:42"),
        (4 * 3600, "23:00"),
        (4 * 3600 + 1, "23:01"),
        (8 * 3600, "Wed 03:00"),
        (8 * 86_400, "2 Dec"),
    ],
)
def test_times_are_in_the_users_time_zone(seconds: float, shown: str) -> None:
    """They are a time, a weekday or a date. In a saved table, times must not count down."""
    spent = limit("requests_per_day", 1_000, 1_000, opens_at=NOW + seconds)
    assert text(spent).splitlines()[0] == (
        f"groq · key 1 · gpt-oss-120b · waiting, opens {shown}: 0 of 1,000 requests per day left"
    )


def test_a_closed_route_has_a_reason() -> None:
    """The limit that opens last, the provider's words, or that the plan does not include it."""
    refused = limit("requests_per_day", 1, 1_000, opens_at=math.inf, closed_by="the key is invalid")
    assert "· closed: the key is invalid" in text(refused)
    none = limit("tokens_per_day", 0, 0, opens_at=math.inf)
    assert "· closed: the plan has no tokens per day" in text(none)


def test_colour_is_not_the_only_signal() -> None:
    """Open, waiting and closed routes have different signs and words."""
    signs = []
    for opens_at in (NOW, NOW + 9, math.inf):
        html = quota_bundle([limit("requests_per_day", 1, 2, opens_at=opens_at)], NOW)["text/html"]
        signs += re.findall(r"([●◐○])</span> (\w+)<", html)
    assert signs == [("●", "open"), ("◐", "waiting"), ("○", "closed")]


def test_with_many_routes_only_the_tightest_limit_is_shown() -> None:
    """From ten routes on, the other limits unfold."""
    standings = [
        standing
        for key in range(1, 13)
        for standing in (
            limit("requests_per_minute", 3, 30, key),
            limit("requests_per_day", 900, 1_000, key),
            limit("tokens_per_day", 0, 200_000, key),
        )
    ]
    bundle = quota_bundle(standings, NOW)
    lines = bundle["text/plain"].splitlines()
    assert len(lines) == 12 + 2
    assert all("requests/day" in line and "100 of 1,000 left" in line for line in lines[:12])
    assert max(map(len, lines)) <= 100
    summaries = re.findall(r"<summary.*?</summary>", bundle["text/html"])
    group, *each = (re.sub("<.*?>", "", summary) for summary in summaries)
    assert group == "groq · 12 routes · ● 12 open · requests/day 100 of 1,000 left"
    assert len(each) == 12
    assert all("100 of 1,000" in summary and "2 more" in summary for summary in each)
    assert bundle["text/html"].startswith("<details open>")


def test_a_group_sums_its_routes() -> None:
    """The limit with the least left is summed, each account once; closed routes are counted."""
    standings = [
        limit(name, used, amount, key, account=f"a{min(key, 20)}", opens_at=NOW + 60 * (key < 3))
        for key in range(1, 22)
        for name, used, amount in (("requests_per_minute", 3, 30), ("requests_per_day", 20, 100))
    ]
    html = quota_bundle(standings, NOW)["text/html"]
    assert html.startswith("<details><summary")
    assert re.sub("<.*?>", "", html.partition("</summary>")[0]) == (
        "groq · 21 routes · ● 19 open · ◐ 2 waiting, the first opens 19:01:00"
        " · requests/day 1,600 of 2,000 left"
    )


def test_the_words_of_a_provider_are_shown_as_text() -> None:
    """HTML in a reason is harmless wherever it appears."""
    said = "<img src=x onerror=alert(1)>\"'"
    named = limit("requests_per_day", 1, 2, opens_at=NOW + 5, closed_by=said, model=said)
    html = quota_bundle([named], NOW, [said])["text/html"]
    assert "<img" not in html
    assert html.count("&lt;img") == 3


def test_hundreds_of_routes_fold_by_provider() -> None:
    """A line per provider, with the reason of those that are not open; small and fast."""
    standings = [
        limit(
            name, used, 1_000,
            provider=provider, key=f"{provider}_key_{key}",
            opens_at=NOW + 60 if key % 50 == 0 else NOW,
            closed_by="<b>the key rests</b>" if key % 50 == 0 else "",
        )
        for provider in ("groq", "google")
        for key in range(1, 251)
        for name, used in (
            ("requests_per_minute", 3), ("requests_per_day", 900), ("tokens_per_minute", 5),
            ("tokens_per_day", 7),
        )
    ]  # fmt: skip
    began = time.process_time()
    bundle = quota_bundle(standings, NOW)
    assert time.process_time() - began < 0.3
    assert sum(map(len, bundle.values())) < 300_000
    html = bundle["text/html"]
    assert html.count("<details>") == 2
    summaries = re.findall(r"<summary.*?>(.*?)</summary>", html)
    assert [re.sub("<.*?>", "", summary) for summary in summaries] == [
        f"{provider} · 250 routes · ● 245 open · ◐ 5 waiting, the first opens 19:01:00"
        " · requests/day 100 of 1,000 left"
        for provider in ("groq", "google")
    ]
    assert html.count("100 of 1,000 left") == 502
    assert bundle["text/plain"].count("100 of 1,000 left") == 500
    assert html.count("&lt;b&gt;the key rests&lt;/b&gt;") == 10


def test_the_quota_of_hundreds_of_routes_is_read_fast() -> None:
    """From an unused ledger, as `%llm_quota` reads it."""
    keys = label_keys("groq", [f"made-up-key-{number}" for number in range(500)])
    configuration = Configuration(providers=published_providers(), keys=keys)
    tracker = get_quota_tracker(configuration)
    seconds = []
    # Other processes may slow one of the runs, and the first one imports pandas.
    for _ in range(4):
        began = time.process_time()
        standings = tracker.standings()
        bundle = quota_bundle(standings, time.time())
        frame = quota_frame(standings, {}, time.time())
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.3
    assert len(frame) == len(standings) >= 500
    assert sum(map(len, bundle.values())) < 300_000
