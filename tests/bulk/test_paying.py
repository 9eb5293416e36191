"""How long a job waits for free routes before it pays, as its plan says."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from bulk_parts import WaitingClock
from provider_parts import Clock

import arche_magic
from arche_magic.bulk import file_job
from arche_magic.llm_providers import IntelligentLLMOrchestrator

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Start

    from arche_magic.bulk.plans import Plan

ROWS = [f"Row {number}" for number in range(120)]
OPTIONS: dict[str, Any] = {"pack": 1, "allow_paid": True, "reserve": 0.0, "max_tokens": 20}


def paid_rows(plan: Plan) -> int:
    """How many rows paid routes answer, by the plan."""
    return sum(share.rows for share in plan.shares if share.capacity.paid)


def limits(free: dict[str, int]) -> dict[str, dict[str, int]]:
    """Limits of Groq; all others are out of reach."""
    plenty = {
        f"{metric}_per_{period}": 1_000_000
        for metric in ("requests", "tokens")
        for period in ("minute", "day")
    }
    return {"groq": {**plenty, **free}, "openai": plenty}


@pytest.mark.parametrize("patience", [None, 32.0])
def test_plan_and_run_agree_on_what_is_paid(start: Start, patience: float | None) -> None:
    """The job waits for free routes as long as the settings or `patience` say.

    30 free rows can be sent immediately, and one more every 2 s.
    """
    clock = WaitingClock()
    start(
        keys={"groq": 1, "openai": 1},
        clock=clock,
        limits=limits({"requests_per_minute": 30}),
        settings={"patience": 16.0},
    )
    # Otherwise, the first request is a trial, and the plan must guess its duration.
    arche_magic.map(["One", "Two", "Three"], **OPTIONS)
    arche_magic.map(["Four"], provider="openai", **OPTIONS)
    options = {**OPTIONS, "patience": patience}
    plan = arche_magic.plan(ROWS, **options)
    planned, waits = paid_rows(plan), patience or 16.0
    assert planned == pytest.approx(len(ROWS) - 28 - waits / 2, abs=6)
    assert plan.cost_usd
    began = clock.time()
    result = arche_magic.map(ROWS, **options)
    assert clock.time() - began >= waits - 2
    assert result.error.isna().all()
    paid = int((result.provider == "openai").sum())
    assert paid == pytest.approx(planned, abs=4)


def test_a_job_that_packs_rows_pays_nothing_while_it_waits(start: Start) -> None:
    """The paid model has threads of its own, which leave the rows to the free one."""
    start(
        keys={"groq": 1, "openai": 1},
        clock=WaitingClock(),
        limits=limits({"requests_per_minute": 6}),
    )
    result = arche_magic.map(ROWS[:20], **{**OPTIONS, "pack": 4, "patience": float("inf")})
    assert set(result.provider) == {"groq"}
    assert result.attrs["arche_magic"]["packed"]


def test_a_job_that_waits_without_end_pays_nothing(start: Start) -> None:
    """Its plan says so, and when the free routes are done."""
    start(keys={"groq": 1, "openai": 1}, clock=Clock(), limits=limits({"requests_per_minute": 30}))
    plan = arche_magic.plan(ROWS, patience=float("inf"), **OPTIONS)
    assert (paid_rows(plan), plan.cost_usd) == (0, 0)
    assert plan.finish_at is not None


@pytest.mark.parametrize("pack", [1, "auto"])
def test_the_job_does_not_wait_for_routes_that_open_too_late(start: Start, pack: int | str) -> None:
    """The day's requests are spent, so paid routes answer the rest immediately, packed or not."""
    clock = Clock()
    start(keys={"groq": 1, "openai": 1}, clock=clock, limits=limits({"requests_per_day": 6}))
    options = {**OPTIONS, "pack": pack}
    arche_magic.map(["One"], provider="openai", **OPTIONS)
    plan = arche_magic.plan(ROWS, **options)
    began = clock.time()
    result = arche_magic.map(ROWS, **options)
    assert result.error.isna().all()
    assert clock.time() - began < 30
    paid = int((result.provider == "openai").sum())
    assert 0 < paid < len(ROWS)
    assert paid == pytest.approx(paid_rows(plan), abs=0.15 * len(ROWS))


def test_rows_reserved_in_advance_do_not_delay_other_rows(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a day's limit runs out, a row that waits gets the place of one that comes later."""
    monkeypatch.setattr("arche_magic.llm_providers.batch_ledger._FRESH_SECONDS", 3600.0)
    start(
        keys={"groq": 1, "openai": 1},
        limits=limits({"requests_per_day": 300}),
        settings={"patience": 20.0},
    )
    began = time.monotonic()
    result = arche_magic.map([f"Row {number}" for number in range(400)], **OPTIONS)
    assert time.monotonic() - began < 20
    assert Counter(result.provider) == {"groq": 300, "openai": 100}


def test_free_routes_that_keep_up_leave_nothing_to_pay(start: Start) -> None:
    """The plan says so too."""
    start(keys={"groq": 1, "openai": 1}, limits=limits({}))
    assert paid_rows(arche_magic.plan(ROWS, **OPTIONS)) == 0
    assert set(arche_magic.map(ROWS, **OPTIONS).provider) == {"groq"}


def test_a_preferred_paid_provider_answers_at_once(start: Start) -> None:
    """The job does not wait for free routes, because the user chose the paid provider."""
    start(keys={"groq": 1, "openai": 1}, clock=Clock(), limits=limits({"requests_per_minute": 30}))
    arche_magic.map(["One"], provider="openai", **OPTIONS)
    llm = IntelligentLLMOrchestrator(preferred_provider="openai")
    plan = arche_magic.plan(ROWS, **OPTIONS, llm=llm)
    assert paid_rows(plan) == len(ROWS)
    assert set(arche_magic.map(ROWS, **OPTIONS, llm=llm).provider) == {"openai"}


def test_the_parts_of_a_file_wait_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks do not wait again."""
    monkeypatch.setattr(file_job, "ROWS", 20)
    clock = Clock()
    start(
        keys={"groq": 1, "openai": 1},
        clock=clock,
        limits=limits({"requests_per_minute": 10}),
        settings={"patience": 20.0},
    )
    arche_magic.map(["One"], provider="openai", **OPTIONS)
    source = tmp_path / "rows.csv"
    source.write_text("\n".join(["text", *ROWS[:80]]))
    began = clock.time()
    arche_magic.map(source, "{{text}}", to=tmp_path / "replies.csv", **OPTIONS)
    # A free row comes every 6 s, so the last seconds may be too few to wait for one.
    assert 14 <= clock.time() - began < 40
