"""The lines below `%llm_quota`, computed from the ledger and the attempts."""

from __future__ import annotations

from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.types import Standing
from arche_magic.notebook.quota import look_ahead

NOW = 1_795_000_000.0
FREE, PAID = "mistral", "openai"


def day(provider: str, left: float, key: int = 1, **more: object) -> Standing:
    """A limit of 100 requests a day with this many left, on an account named like the provider."""
    values = {
        "provider": provider, "key": f"{provider}_key_{key}", "account": provider, "model": "m",
        "limit": "requests_per_day", "amount": 100.0, "used": 100 - left, "opens_at": NOW,
        "resets_at": NOW + 90_000, "window": "calendar", "evidence": "published",
        "evidence_at": NOW, **more,
    }  # fmt: skip
    return Standing(**values)  # type: ignore[arg-type]


def served(number: int, provider: str = FREE, key: int = 1) -> list[Attempt]:
    """Prompts within the last minutes."""
    one = Attempt(provider, f"{provider}_key_{key}", "m", "served", None, 10, 20, at=NOW - 60)
    return [one] * number


def test_prompts_are_counted_for_free_routes_now_and_until_midnight() -> None:
    """Paid routes count only if there are no free ones."""
    rows = [day(FREE, 40), day(PAID, 90)]
    both = look_ahead(rows, served(1), NOW, {PAID})
    assert both.free
    assert (both.fit_now, both.fit_until_midnight) == (40, 40)
    assert both.notes()[-1].startswith("Room on the free routes for prompts like the last one (")
    assert both.notes()[-1].endswith(": 40 now, 40 until midnight")
    alone = look_ahead(rows[1:], served(1), NOW, {PAID})
    assert not alone.free
    assert (alone.fit_now, alone.fit_until_midnight) == (90, 90)
    assert alone.notes()[-1].startswith("Room on the paid routes for prompts like the last one (")
    assert alone.notes()[-1].endswith(": 90 now, 90 until midnight")


def test_a_shared_limit_runs_out_at_the_pace_of_all_keys() -> None:
    """Two keys of one account use 10 an hour each: 40 are gone in two hours."""
    rows = [day(FREE, 40), day(FREE, 40, key=2)]
    outlook = look_ahead(rows, served(10) + served(10, key=2), NOW)
    ((_, at),) = outlook.runs_out
    assert at - NOW == 2 * 3600
    line = outlook.notes()[0]
    assert line.startswith("At the pace of the last hour, mistral · key 1 · m: requests per day ")
    assert "run out in 2 h, " in line
    assert " and reset at " in line
    kept = outlook.to_dict()["runs_out"][0]
    assert kept["resets_at"] > kept["at"]


def test_at_most_four_limits_are_listed() -> None:
    """The line below them counts the others."""
    rows = [day(FREE, 40, account=f"account {n}", key=n) for n in range(1, 7)]
    tried = [attempt for n in range(1, 7) for attempt in served(10, key=n)]
    assert look_ahead(rows[:5], tried, NOW).notes()[4] == "and 1 more limit"
    assert look_ahead(rows, tried, NOW).notes()[4] == "and 2 more limits"


def test_limits_that_last_until_their_reset_are_not_listed() -> None:
    """Spent limits are not listed either; the table shows them."""
    soon = day(FREE, 40, resets_at=NOW + 3600)
    assert look_ahead([soon], served(10), NOW).runs_out == ()
    assert look_ahead([day(FREE, 0)], served(10), NOW).runs_out == ()


def test_without_any_prompt_there_is_no_forecast() -> None:
    """There is no pace, and no prompt to compare with."""
    assert look_ahead([day(FREE, 40)], [], NOW).notes() == []
