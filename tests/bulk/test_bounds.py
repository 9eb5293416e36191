"""`max_cost` and `max_tokens_total`: a job exceeds its bounds by one reply at most."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from paid_service import Answer, PaidService, paid_service, use

import arche_magic
from arche_magic.bulk import Job, JobStopped
from arche_magic.bulk.growth import THREADS

TEXTS = [f"Row {number}" for number in range(200)]
# USD: the price in these tests is one for a thousand tokens.
PER_TOKEN = 0.001
Bounds = dict[str, Any]


def run(service: PaidService, **options: Any) -> JobStopped:
    """Run a job that stops at a bound."""
    use(service, Path.cwd())
    with pytest.raises(JobStopped) as caught:
        arche_magic.map(TEXTS, allow_paid=True, pack=1, **options)
    return caught.value


@pytest.mark.parametrize(
    "bound", [{"max_cost": 5.0}, {"max_tokens_total": 5000}], ids=["money", "tokens"]
)
@pytest.mark.parametrize("max_tokens", [None, 4000])
def test_threads_together_do_not_exceed_a_bound(bound: Bounds, max_tokens: int | None) -> None:
    """Replies have 3,000 tokens and the bound is 5,000, so one reply is paid for."""
    with paid_service() as service:
        stopped = run(service, max_tokens=max_tokens, **bound)
    assert "stopped before it would exceed" in str(stopped)
    assert service.charged == [3020]


@pytest.mark.parametrize("bound", [20_000, 100_000])
def test_a_bound_is_exceeded_by_one_reply_at_most(bound: int) -> None:
    """Replies may have any length, and the longest ones come last."""
    lengths = random.Random(7)
    shapes = {
        "any length": lambda number: Answer(lengths.randint(1, 4000)),
        "short ones, then long ones": lambda number: Answer(5 if number < 40 else 4000),
    }
    for shape in shapes.values():
        with paid_service(answer=shape, seconds=0.01) as service:
            run(service, max_tokens_total=bound, fresh=True)
        assert bound / 2 < service.tokens <= bound + 4020


def test_replies_that_do_not_fit_the_schema_count_too() -> None:
    """They cost as much as any other reply."""
    with paid_service(answer=lambda number: Answer(text="no JSON")) as service:
        run(service, max_cost=5.0, schema="mood good|bad")
        spent = service.tokens * PER_TOKEN
    assert spent <= 5.0 + 3.02


def test_what_a_job_spent_includes_replies_that_did_not_fit() -> None:
    """The progress of a job is what the service charged."""
    good, bad = Answer(100, text='{"mood": "good"}'), Answer(100, text="no JSON")
    with paid_service(answer=lambda number: good if number else bad) as service:
        use(service, Path.cwd())
        job = Job(TEXTS[:10], schema="mood good|bad", allow_paid=True, pack=1)
        rows = list(job)
    assert all(row.reply for row in rows)
    assert job.progress().tokens == service.tokens
    assert job.progress().cost_usd == pytest.approx(service.tokens * PER_TOKEN)


def test_packed_requests_keep_the_bound() -> None:
    """This includes packed requests whose reply cannot be read."""
    with paid_service(answer=lambda number: Answer(2000, 300, "no list")) as service:
        use(service, Path.cwd())
        with pytest.raises(JobStopped):
            arche_magic.map(TEXTS, allow_paid=True, pack=10, max_tokens_total=6000)
    assert service.tokens <= 6000 + 2300


def test_a_job_that_fits_is_done_in_parallel() -> None:
    """A bound does not slow a job down if the requests of all threads fit within it."""
    with paid_service(answer=lambda number: Answer(50)) as service:
        use(service, Path.cwd())
        rows = arche_magic.imap(TEXTS, allow_paid=True, pack=1, max_tokens_total=1_000_000)
        # The first reply shows how long replies are.
        found = [next(rows)]
        service.together = THREADS
        found += rows
    assert [row.error for row in found] == [None] * len(TEXTS)
    assert service.most_at_once >= THREADS


def test_a_job_that_just_fits_is_finished() -> None:
    """The last rows are asked one after the other, and nothing is reserved beyond what they use."""
    with paid_service(answer=lambda number: Answer(80), seconds=0.0) as service:
        use(service, Path.cwd())
        result = arche_magic.map(TEXTS[:50], allow_paid=True, pack=1, max_tokens_total=5010)
    assert result.error.isna().all()
    assert service.tokens == 5000


def test_a_route_of_unknown_price_is_not_asked_within_a_bound() -> None:
    """What is left of the bound could not be computed."""
    with paid_service() as service:
        use(service, Path.cwd())
        with pytest.raises(JobStopped, match="its price is unknown"):
            arche_magic.map(["Hi"], model="openai/new", allow_paid=True, max_cost=5.0)
    assert service.charged == []


@pytest.mark.parametrize("bound", [{"max_cost": 0.001}, {"max_tokens_total": 3}])
def test_a_bound_below_one_request_is_reported(bound: Bounds) -> None:
    """Nothing is sent, and the message says which bound to raise."""
    with paid_service() as service:
        stopped = run(service, **bound)
    name, amount = next(iter(bound.items()))
    assert f"nothing was sent, because a single request may exceed {name}={amount}" in str(stopped)
    assert service.charged == []
