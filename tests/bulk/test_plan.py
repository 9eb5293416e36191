"""The plan of a job: its tokens, the limits that slow it down, its finish time, and what helps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from bulk_parts import WaitingClock
from provider_parts import NOON, Clock, Start

import arche_magic
from arche_magic.bulk import Plan
from arche_magic.bulk.plans import moment
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE = "Is this positive? {{text}}"


WIDE = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "tokens_per_month": 10**12}


def texts(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"The soup of table {number} was cold." for number in range(count)]}
    )


def seconds(plan: Plan) -> float:
    assert plan.finish_at is not None
    return (plan.finish_at - plan.at).total_seconds()


def limits(**amounts: int) -> dict[str, Any]:
    """Mistral at noon with these limits; all others are out of reach."""
    return {"keys": {"mistral": 1}, "clock": Clock(), "limits": {"mistral": WIDE | amounts}}


def test_nothing_is_sent_or_held(start: Start) -> None:
    """A plan only reads."""
    sandbox = start({"groq": 2, "mistral": 1, "google": 1}, clock=Clock())
    before = arche_magic.get_quota_tracker().standings()
    plan = arche_magic.plan(texts(500), TEMPLATE)
    assert plan.to_ask == plan.rows == 500
    assert sum(share.rows for share in plan.shares) == 500
    assert len(sandbox.requests) == 0
    assert arche_magic.get_quota_tracker().standings() == before


@pytest.mark.parametrize("name", ["soups.csv", "soups.parquet"])
def test_a_file_is_planned_as_its_frame(start: Start, tmp_path: Path, name: str) -> None:
    """It has more rows than are in memory at a time, and equal prompts far from each other."""
    start({"groq": 2, "mistral": 1}, clock=Clock())
    frame = pd.concat([texts(10_200), texts(300)], ignore_index=True)
    if name.endswith("csv"):
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_parquet(tmp_path / name)
    of_file, of_frame = (arche_magic.plan(one, TEMPLATE) for one in (tmp_path / name, frame))
    assert of_file == of_frame
    assert (of_file.rows, of_file.to_ask, of_file.kept) == (10_500, 10_200, 300)


def test_a_long_plan_reports_its_progress(start: Start) -> None:
    """It reports the rows read so far, and takes no more than 0.2 ms a row."""
    start({"groq": 1}, clock=Clock())
    read: list[int] = []
    began = time.process_time()
    assert arche_magic.plan(texts(5_500), TEMPLATE, on_rows=read.append).to_ask == 5_500
    assert time.process_time() - began < 5_500 * 0.0002 + 1.5
    assert read == [1000, 2000, 3000, 4000, 5000, 5500]


def test_a_file_that_cannot_be_planned_is_an_error(start: Start, tmp_path: Path) -> None:
    """It is missing, has another ending, or lacks the column."""
    start({"groq": 1})
    texts(3).to_csv(tmp_path / "soups.csv", index=False)
    for path, template, why in (
        (tmp_path / "gone.csv", TEMPLATE, "there is no file"),
        (tmp_path, TEMPLATE, "the folder has no .parquet files"),
        (tmp_path / "soups.txt", TEMPLATE, "unknown kind of file; the name must end with"),
        (tmp_path / "soups.csv", "{{txt}}", "did you mean 'text'"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            arche_magic.plan(path, template)


@pytest.mark.parametrize(
    ("amounts", "rows", "expected"),
    [
        # The amount in the window immediately, and then as the window resets.
        ({"requests_per_minute": 60}, 600, 9 * 60),
        ({"requests_per_minute": 10}, 25, 2 * 60),
        ({"requests_per_day": 100}, 350, 3 * 86_400),
    ],
)
def test_the_limit_that_binds_decides_when_it_is_done(
    start: Start, amounts: dict[str, int], rows: int, expected: float
) -> None:
    """The plan names that limit."""
    start(**limits(**amounts))
    plan = arche_magic.plan(texts(rows), TEMPLATE, pack=1, reserve=0)
    assert seconds(plan) == pytest.approx(expected, rel=0.01, abs=1)
    (share,) = plan.shares
    assert share.bound_by is not None
    assert share.bound_by.limit == next(iter(amounts))
    assert (share.rows, share.requests) == (rows, rows)
    assert (plan.cost_usd, plan.requests) == (0, rows)


def test_a_job_takes_as_long_as_its_plan_says(start: Start) -> None:
    """It waits for as many windows, and no longer."""
    clock = WaitingClock()
    start(**limits(requests_per_minute=60) | {"clock": clock})
    # Shows the plan how long replies are.
    arche_magic.map(["Hello"])
    frame = texts(150)
    plan = arche_magic.plan(frame, TEMPLATE, pack=1)
    began = clock.time()
    result = arche_magic.map(frame, TEMPLATE, pack=1)
    assert result.error.isna().all()
    assert clock.time() - began == pytest.approx(seconds(plan), abs=10)
    assert plan.tokens[0] <= result.tokens.sum() <= plan.tokens[1]


def test_finished_rows_need_no_requests_and_improve_the_estimate(start: Start) -> None:
    """The rest is estimated by them, within a narrower range."""
    start(**limits())
    frame = texts(60)
    first = arche_magic.plan(frame, TEMPLATE)
    done = arche_magic.map(frame.head(40), TEMPLATE)
    plan = arche_magic.plan(frame, TEMPLATE)
    assert (plan.rows, plan.kept, plan.to_ask) == (60, 40, 20)
    assert plan.output_tokens / 20 == pytest.approx(done.tokens.mean(), rel=0.3)
    assert plan.tokens[1] / plan.tokens[0] < first.tokens[1] / first.tokens[0] / 2
    assert "based on 40 replies" in str(plan)
    assert arche_magic.plan(frame, TEMPLATE, fresh=True).to_ask == 60
    assert arche_magic.plan(frame.head(40), TEMPLATE).to_ask == 0


@pytest.mark.parametrize(
    ("schema", "times"),
    [
        ("mood good|bad", 2),
        ("stars 1|2|3|4|5, sure bool, share float", 2),
        ("mood good|bad, when date?", 2),
        # The length of a reply that is text is unknown.
        ("mood good|bad, why str", 5),
    ],
)
def test_the_first_plan_knows_short_replies_by_their_schema(
    start: Start, schema: str, times: float
) -> None:
    """Nothing was asked before; a job packs its rows by the same figure."""
    sandbox = start(**limits())
    frame = texts(30)
    plan = arche_magic.plan(frame, TEMPLATE, schema=schema, pack=1)
    result = arche_magic.map(frame, TEMPLATE, schema=schema, pack=1)
    assert result.error.isna().all()
    (count,) = sandbox.usage()["mistral_key_1"].values()
    assert count["output_tokens"] <= plan.output_tokens <= times * count["output_tokens"]
    assert plan.tokens[0] <= result.tokens.sum() <= plan.tokens[1]
    assert "prompts and the schema)" in str(plan)


@pytest.mark.parametrize("pack", ["auto", 100])
def test_a_plan_and_its_job_pack_alike(start: Start, pack: int | str) -> None:
    """At most fifty rows go into one request.

    The usual length of replies would allow only half as many.
    """
    sandbox = start(**limits(requests_per_day=20))
    plan = arche_magic.plan(texts(400), TEMPLATE, schema="mood good|bad", pack=pack)
    assert plan.requests == 8
    arche_magic.map(texts(400), TEMPLATE, schema="mood good|bad", pack=pack, patience=0)
    first = sandbox.requests[0].body["messages"][-1]["content"]
    assert first.count("The soup of table") == 50


def test_rows_that_cannot_be_asked_are_counted(start: Start) -> None:
    """These have missing values. Rows with equal prompts are asked once."""
    start(**limits())
    frame = pd.DataFrame({"text": ["a", None, "b", "a", "a"]})
    plan = arche_magic.plan(frame, TEMPLATE)
    assert (plan.rows, plan.failed, plan.kept, plan.to_ask) == (5, 1, 2, 2)
    assert str(plan).startswith("5 rows: 2 to ask, 2 from memory, 1 that cannot be asked")


def test_packing_is_planned_as_it_would_be_done(start: Start) -> None:
    """Twenty requests a day answer many rows each; with `pack=1` they do not."""
    start({"google": 1}, clock=Clock(), limits={"google": {"requests_per_day": 20}})
    packed = arche_magic.plan(texts(400), TEMPLATE)
    alone = arche_magic.plan(texts(400), TEMPLATE, pack=1)
    (share,) = packed.shares
    assert share.capacity.pack >= 20
    assert share.requests <= 20
    assert seconds(packed) < 3600
    assert seconds(alone) > 20 * 86_400


def test_a_plan_knows_that_few_threads_send_packed_requests(start: Start) -> None:
    """Four threads send a hundred requests each; at first, one is expected to take 1.5 s."""
    start(**limits())
    plan = arche_magic.plan(texts(4000), TEMPLATE, pack=10)
    assert plan.requests == 400
    assert seconds(plan) >= 100 * 1.5


def test_a_reserve_is_left(start: Start) -> None:
    """Less of each window is used, so the job takes longer. The plan shows the whole limit."""
    start(**limits(requests_per_day=100))
    whole = arche_magic.plan(texts(1000), TEMPLATE, pack=1, reserve=0)
    left = arche_magic.plan(texts(1000), TEMPLATE, pack=1, reserve=0.5)
    assert seconds(left) == pytest.approx(2 * seconds(whole), rel=0.15)
    assert "  100 requests per day\n" in str(left)


def test_money_is_spent_only_if_allowed(start: Start) -> None:
    """Paid routes are not used. If they would be faster, the plan says by how much."""
    start({"groq": 1, "openai": 1}, clock=Clock())
    frame = texts(3000)
    plan = arche_magic.plan(frame, TEMPLATE, pack=1)
    assert plan.cost_usd == 0
    assert plan.with_paid is not None
    assert plan.with_paid.cost_usd
    assert plan.with_paid.finish_at < plan.finish_at
    allowed = arche_magic.plan(frame, TEMPLATE, pack=1, allow_paid=True)
    assert allowed.cost_usd == pytest.approx(plan.with_paid.cost_usd)
    assert allowed.with_paid is None
    only = arche_magic.plan(frame, TEMPLATE, provider="openai")
    assert only.finish_at is None
    assert "No free route can answer this\n" in str(only)
    assert only.with_paid is not None
    assert arche_magic.plan(texts(5), TEMPLATE).with_paid is None


def test_a_plan_says_whether_a_job_is_done_by_a_time(start: Start) -> None:
    """If not, it says which changes would help, and when the job would then be done."""
    start({"groq": 1, "openai": 1}, clock=Clock())
    frame = texts(3000)
    yes = arche_magic.plan(texts(10), TEMPLATE, by=datetime.fromtimestamp(NOON + 3600, UTC))
    assert yes.in_time is True
    assert yes.ways == ()
    by = datetime.fromtimestamp(NOON, UTC) + timedelta(hours=20)
    no = arche_magic.plan(frame, TEMPLATE, pack=1, by=by)
    assert no.in_time is False
    assert 0 < (no.rows_by or 0) < 3000
    found = {way.what.split(",")[0]: way for way in no.ways}
    assert "paid routes as well" in found
    assert any(what.startswith("limits ") for what in found)
    for way in no.ways:
        assert way.finish_at is not None
        assert no.finish_at is None or way.finish_at < no.finish_at
    assert found["paid routes as well"].finish_at <= by
    assert f"no, {no.rows_by:,} of 3,000 rows; sooner with\n" in str(no)


def test_a_time_may_be_very_late(start: Start) -> None:
    """The days until then are not counted one by one."""
    start({"google": 1})
    assert arche_magic.plan(texts(3), TEMPLATE, by="9999-12-31 23:59").in_time is True


def test_a_plan_suggests_shorter_replies_where_they_help(start: Start) -> None:
    """It says which length is short enough, and with that length the job meets the deadline."""
    start(**limits(tokens_per_day=100_000))
    by = datetime.fromtimestamp(NOON, UTC) + timedelta(minutes=30)
    frame = texts(1000)
    plan = arche_magic.plan(frame, TEMPLATE, reserve=0, by=by)
    (way,) = [way for way in plan.ways if way.what.startswith("replies of ")]
    tokens = int(way.what.split()[2])
    shorter = arche_magic.plan(frame, TEMPLATE, reserve=0, by=by, max_tokens=tokens)
    assert shorter.in_time is True
    longer = arche_magic.plan(frame, TEMPLATE, reserve=0, by=by, max_tokens=tokens * 2)
    assert longer.in_time is False


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("2025-11-17 13:00+00:00", datetime(2025, 11, 17, 13, tzinfo=UTC)),
        (datetime(2025, 11, 18, 8, tzinfo=UTC), datetime(2025, 11, 18, 8, tzinfo=UTC)),
    ],
)
def test_times_are_taken_as_people_write_them(
    start: Start, by: str | datetime, expected: datetime
) -> None:
    """Dates may have a zone; a clock time means the next one."""
    start(**limits())
    assert arche_magic.plan(texts(3), TEMPLATE, by=by).by == expected
    clock = arche_magic.plan(texts(3), TEMPLATE, by="08:00").by
    assert clock is not None
    assert f"{clock.astimezone():%H:%M}" == "08:00"
    assert 0 < clock.timestamp() - NOON <= 86_400
    for wrong in ("soon", "25:00", "", pd.NaT):
        with pytest.raises(InvalidRequest, match="write a time such as 08:00"):
            arche_magic.plan(texts(3), TEMPLATE, by=wrong)
    with pytest.raises(InvalidRequest, match="by is '2020-01-01', which has passed"):
        arche_magic.plan(texts(3), TEMPLATE, by="2020-01-01")


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is in New York, where clocks are set back on 1 November 2026 at 06:00 UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("01:30", "2026-11-01T06:30"),  # for the second time in this night
        ("01:50", "2026-11-01T05:50"),
        ("01:10", "2026-11-01T06:10"),
        ("00:10", "2026-11-02T05:10"),
        ("2026-11-02 08:00", "2026-11-02T13:00"),
        (datetime(2026, 11, 2, 8), "2026-11-02T13:00"),  # without a zone
        (pd.Timestamp("2026-11-02 08:00"), "2026-11-02T13:00"),
        (pd.Timestamp("2026-11-02 08:00", tz="UTC"), "2026-11-02T08:00"),
    ],
)
def test_times_without_a_zone_are_in_that_of_the_machine(by: str | datetime, expected: str) -> None:
    """It is 01:40, before the clocks are set back."""
    now = datetime(2026, 11, 1, 5, 40, tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(moment(by, now), UTC).isoformat(timespec="minutes") == (
        f"{expected}+00:00"
    )


def test_a_plan_takes_the_arguments_of_a_job(start: Start) -> None:
    """Bounds and patience change nothing; mistakes give the errors of a job."""
    start(**limits())
    plan = arche_magic.plan(
        texts(3), TEMPLATE, patience=5, max_cost=1, max_tokens_total=10**400, stop_after=2
    )
    assert plan.to_ask == 3
    for arguments, message in (
        ({"template": "{{txt}}"}, "did you mean 'text'"),
        ({"template": TEMPLATE, "model": "nobody/knows"}, "unknown model"),
        ({"template": TEMPLATE, "temprature": 1}, "did you mean 'temperature'"),
        ({"template": TEMPLATE, "pack": 0}, "pack is 0"),
        ({"template": TEMPLATE, "allow_paid": "no"}, "allow_paid is 'no'; it must be True"),
        ({"template": TEMPLATE, "max_cost": -1}, "max_cost is -1"),
        ({"template": TEMPLATE, "stop_after": 0}, "stop_after is 0"),
        ({"template": TEMPLATE, "twice": 2}, "twice is 2"),
        ({"template": TEMPLATE, "gold": "label"}, "no column 'label'"),
        ({"template": TEMPLATE, "details": True}, "already has a column 'seconds'"),
        ({"template": TEMPLATE, "twice": 0.1}, "already has a column 'second_reply'"),
    ):
        data = texts(3).assign(**{"seconds" if "details" in arguments else "second_reply": 1})
        with pytest.raises(LLMProviderError, match=message):
            arche_magic.plan(data, **arguments)


def test_an_empty_frame_takes_nothing(start: Start) -> None:
    """The job would be done immediately."""
    start(**limits())
    plan = arche_magic.plan(texts(0), TEMPLATE)
    assert (plan.rows, plan.to_ask, plan.requests) == (0, 0, 0)
    assert str(plan) == "0 rows\nNothing was sent."


def test_a_route_without_a_limit_per_minute_is_named(start: Start) -> None:
    """The plan cannot know how fast it may be asked, and says so instead of "nothing"."""
    start({"groq": 1}, clock=Clock())
    plan = str(arche_magic.plan(texts(100), TEMPLATE, pack=1, model="groq/new"))
    assert "It may take longer: no limit per minute is known yet for groq · key 1 · new" in plan
    assert "not known yet\n" in plan
    assert "nothing\n" not in plan
    start(**limits())
    plan = str(arche_magic.plan(texts(100), TEMPLATE, pack=1))
    assert "It may take longer" not in plan
    assert "nothing\n" in plan


def test_a_small_job_is_planned_in_the_order_of_routes(start: Start) -> None:
    """The first provider answers what its limits let through, and the next one the rest."""
    few = {"requests_per_minute": 20, "requests_per_day": 1000}
    for rows, expected in ((10, {"groq": 10}), (40, {"groq": 20, "mistral": 20})):
        start({"groq": 1, "mistral": 1}, limits={"groq": WIDE | few, "mistral": WIDE})
        plan = arche_magic.plan(texts(rows), TEMPLATE, pack=1, reserve=0)
        planned = {part.capacity.provider: part.rows for part in plan.shares if part.rows}
        assert planned == pytest.approx(expected, abs=2)
