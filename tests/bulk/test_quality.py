"""How good labels are: rows asked twice, known labels, and columns to join attempts on."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from bulk_parts import prompts

import arche_magic
from arche_magic.bulk import Job, JobStopped, quality
from arche_magic.bulk.comparison import Comparison
from arche_magic.bulk.twice import draw_number
from arche_magic.llm_providers.config import Choices, use_choices
from arche_magic.llm_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Clock, Start

    from arche_magic.sandbox import Sandbox

PLENTY = {"requests_per_minute": 10_000, "requests_per_day": 100_000}
LIMITS = dict.fromkeys(("groq", "mistral", "google"), PLENTY)
TWO = {"groq": 1, "mistral": 1}
DATA = pd.DataFrame(
    {"text": [f"Row {n}" for n in range(40)], "label": [("good", "bad")[n % 2] for n in range(40)]}
)
PROMPT = "Good or bad? {{text}}"
SCHEMA = "mood good|bad, points int, why"


def label(model: str, messages: list[dict[str, str]]) -> str:
    """Groq gives the data's label except for every fourth row; Mistral says that all are good."""
    number = int(messages[-1]["content"].split()[-1])
    right = ("good", "bad")[number % 2]
    mood = right if "gpt" in model and number % 4 else "good"
    why = f"because {model} thought long about row {number}"
    return json.dumps({"mood": mood, "points": number, "why": why})


@pytest.fixture
def sandbox(start: Start) -> Sandbox:
    return start(keys=TWO, limits=LIMITS, reply=label)


# --- Cohen's kappa


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        # Two readers of 50 applications: 20 times both yes, 15 times both no. They agree on
        # 35/50 = 0.7; by chance on 25/50 * 30/50 + 25/50 * 20/50 = 0.5; (0.7 - 0.5) / 0.5 = 0.4.
        ({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}, 0.4),
        # Three labels, 30 rows: 24/30 agree; chance (12*11 + 10*12 + 8*7) / 900 = 308/900.
        (
            {("a", "a"): 10, ("a", "b"): 2, ("b", "a"): 1, ("b", "b"): 8, ("b", "c"): 1,
             ("c", "b"): 2, ("c", "c"): 6},
            (24 / 30 - 308 / 900) / (1 - 308 / 900),
        ),
        ({("yes", "yes"): 3, ("no", "no"): 2}, 1.0),
        ({("yes", "yes"): 1, ("yes", "no"): 1, ("no", "yes"): 1, ("no", "no"): 1}, 0.0),
        ({("yes", "no"): 2, ("no", "yes"): 2}, -1.0),
        # No more agreement than by chance.
        ({("yes", "yes"): 9}, math.nan),
        ({}, math.nan),
    ],
)  # fmt: skip
def test_kappa_is_agreement_beyond_chance(pairs: dict[tuple[str, str], int], kappa: float) -> None:
    """The expected figures were worked out by hand."""
    assert Comparison(pairs).kappa == pytest.approx(kappa, nan_ok=True)


LONG = "it came late, but the soup was good"


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("Good", " good. ", (1, 1, 0)),
        ("good", "bad", (1, 0, 0)),
        (7, 7.0, (1, 1, 0)),
        (7, "7", (1, 1, 0)),
        (True, "True", (1, 1, 0)),
        (["a", "b"], ["a", "b"], (1, 1, 0)),
        # As pandas reads lists from Parquet.
        (np.array(["a", "b"]), np.array(["a", "b"]), (1, 1, 0)),
        (np.array(["a", "b"]), np.array(["a"]), (1, 0, 0)),
        (LONG, "good soup, though it came late", (0, 0, 1)),
        (LONG, LONG, (0, 0, 1)),
        ("good", None, (0, 0, 0)),
        (None, None, (0, 0, 0)),
    ],
)
def test_labels_are_compared_and_free_text_is_not(
    one: Any, other: Any, found: tuple[int, int, int]
) -> None:
    """Two good answers in words are rarely the same words."""
    compared = Comparison.of(pd.Series([one], dtype=object), pd.Series([other], dtype=object))
    assert (compared.compared, compared.agreed, compared.not_compared) == found


def test_each_of_two_models_is_one_rater() -> None:
    """It does not matter which one was asked first.

    Here, b says yes three times and a says it twice.
    """
    frame = pd.DataFrame(
        {"second_name": ["its own"] * 4, "mood": ["yes", "yes", "no", "no"],
         "model": ["a", "a", "b", "a"], "second_mood": ["yes", "yes", "no", "yes"],
         "second_model": ["b", "b", "a", "b"], "name": ["its own"] * 4}
    )  # fmt: skip
    found = quality(frame)
    assert found.twice["mood"].pairs == {("yes", "yes"): 2, ("no", "no"): 1, ("no", "yes"): 1}
    # Agreement 3/4; by chance 2/4 * 3/4 + 2/4 * 1/4 = 1/2.
    assert found.agreement.kappa.tolist() == [0.5]
    assert repr(found) == "asked twice: mood agrees in 3 of 4 rows (kappa 0.50)"


def test_long_choices_are_labels_too() -> None:
    """A column with a list of choices has no free text."""
    column = pd.Series([LONG], dtype="category")
    assert Comparison.of(column, column).agreed == 1


# --- rows asked twice


def test_a_share_of_the_rows_is_asked_again_on_another_model(sandbox: Sandbox) -> None:
    """The figures fit the replies; the second reply has its own columns."""
    result = arche_magic.map(DATA, PROMPT, schema=SCHEMA, twice=0.25, provider=None)
    assert len(sandbox.requests) == 40 + 10
    again = result[result.second_model.notna()]
    assert len(again) == 10
    assert (again.model != again.second_model).all()
    assert result.second_mood.notna().sum() == 10
    found = quality(result)
    assert found.agreement.field.tolist() == ["mood", "points", "why"]
    mood, points, why = found.agreement.to_dict("records")
    same = (again.mood == again.second_mood).sum()
    assert (mood["compared"], mood["agreed"]) == (10, same)
    assert mood["agreement"] == same / 10
    assert (points["agreed"], points["kappa"]) == (10, 1.0)
    # Free text is not compared, and says so.
    assert (why["compared"], why["not_compared"]) == (0, 10)
    assert math.isnan(why["agreement"])
    figures = result.attrs["arche_magic"]
    assert figures["twice"]["mood"]["agreed"] == same
    assert figures["twice"]["why"]["agreement"] is None
    json.dumps(figures)
    assert f"mood agrees in {same} of 10 rows" in str(found)
    assert "why is free text, 10 rows not compared" in str(found)


def test_the_second_model_is_not_switched_off(start: Start) -> None:
    """This includes a model that was switched off after the job began."""
    start(keys=TWO | {"google": 1}, limits=LIMITS)
    off = Choices(off=frozenset({"mistral_key_1"}))
    result = arche_magic.map(DATA, PROMPT, twice=0.1, on_done=lambda row: use_choices(off))
    assert set(result.second_model.dropna()) == {"gemini-3.5-flash-lite"}


def test_the_second_model_is_one_that_is_open(start: Start, clock: Clock) -> None:
    """In later runs it is the same one, whose replies are kept, and nothing is asked again."""
    limits = LIMITS | {"mistral": {"requests_per_day": 1}}
    sandbox = start(clock=clock, keys=TWO | {"google": 1}, limits=limits)
    options: dict[str, Any] = {"model": "openai/gpt-oss-120b", "twice": 0.1, "reserve": 0}
    # One of the rows that are drawn; its kept reply does not count for more than an open model.
    row = min(range(len(DATA)), key=lambda at: draw_number(at, f"Good or bad? {DATA.text[at]}"))
    arche_magic.map(DATA.iloc[[row]], PROMPT, model="mistral-small-latest", reserve=0)
    assert arche_magic.plan(DATA, PROMPT, **options).second == "gemini-3.5-flash-lite"
    result = arche_magic.map(DATA, PROMPT, **options)
    assert set(result.second_model.dropna()) == {"gemini-3.5-flash-lite"}
    sent = len(sandbox.requests)
    clock.now += 2 * 86_400
    assert arche_magic.plan(DATA, PROMPT, **options).twice == 0
    pd.testing.assert_frame_equal(arche_magic.map(DATA, PROMPT, **options), result)
    assert len(sandbox.requests) == sent
    assert arche_magic.plan(DATA, PROMPT, **options, fresh=True).second == "mistral-small-latest"


def test_the_same_rows_are_drawn_again(sandbox: Sandbox) -> None:
    """Nothing is asked again; a larger share asks only the added rows."""
    first = arche_magic.map(DATA, PROMPT, schema=SCHEMA, twice=0.1)
    sent = len(sandbox.requests)
    assert sent == 44
    again = arche_magic.map(DATA, PROMPT, schema=SCHEMA, twice=0.1)
    pd.testing.assert_frame_equal(first, again)
    assert len(sandbox.requests) == sent
    arche_magic.map(DATA, PROMPT, schema=SCHEMA, twice=0.2)
    assert len(sandbox.requests) == sent + 4
    drawn = first.index[first.second_model.notna()]
    assert len(drawn) == 4
    assert drawn.tolist() != [0, 1, 2, 3]


def test_a_stopped_job_continues_with_its_second_questions(sandbox: Sandbox) -> None:
    """Replies from before the stop are kept, first and second ones."""
    job = Job(DATA, PROMPT, schema=SCHEMA, twice=0.5)
    for row in job:
        if row.second is not None:
            break
    assert job.progress().to_ask_twice == 20
    sent = len(sandbox.requests)
    assert 40 < sent < 60
    result = arche_magic.map(DATA, PROMPT, schema=SCHEMA, twice=0.5)
    assert result.second_mood.notna().sum() == 20
    # Replies to calls in progress may not have been kept when the job was left.
    assert len(sandbox.requests) <= 60 + 16


def test_the_second_model_of_a_row_is_not_its_first(start: Start) -> None:
    """Several models answer the rows."""
    few = {"requests_per_minute": 20, "requests_per_day": 1000}
    start(keys=TWO, limits={**LIMITS, "groq": few}, reply=label)
    result = arche_magic.map(DATA, PROMPT, schema="mood good|bad", twice=1.0, pack=1, patience=0.1)
    assert set(result.model) == {"openai/gpt-oss-120b", "mistral-small-latest"}
    asked = result[result.second_model.notna()]
    assert (asked.model != asked.second_model).all()
    # Rows for which Groq has no more room are left out, and the others are not.
    assert (result.model == "openai/gpt-oss-120b").sum() <= len(asked) < 40
    assert result.error.isna().all()


def test_second_questions_keep_within_the_bounds(sandbox: Sandbox) -> None:
    """All rows are answered once when the bound stops the job, and the frame has them."""
    once = Job(DATA, PROMPT, schema=SCHEMA, max_tokens=40)
    list(once)
    spent = once.progress().tokens
    bound = spent + 400
    with pytest.raises(JobStopped, match="max_tokens_total") as stopped:
        arche_magic.map(
            DATA, PROMPT, schema=SCHEMA, max_tokens=40, twice=0.9, fresh=True, pack=1,
            max_tokens_total=bound,
        )  # fmt: skip
    frame = stopped.value.frame
    assert frame is not None
    assert len(frame) == 40
    assert 0 < frame.second_model.notna().sum() < 36
    assert frame.attrs["arche_magic"]["tokens"] <= bound
    assert frame.attrs["arche_magic"]["twice"]["mood"]["compared"] > 0


def test_second_questions_share_the_patience(start: Start, clock: Clock) -> None:
    """The job waits no longer in total, whichever question waits."""
    few = {"requests_per_minute": 6}
    start(clock=clock, keys=TWO, limits={"groq": few, "mistral": few}, reply=label)
    began = clock.now
    job = Job(DATA, PROMPT, schema="mood good|bad", twice=1.0, pack=1, patience=45, reserve=0.0)
    list(job)
    assert 35 <= clock.now - began <= 55
    assert job.whole.patience.left < 10


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.0, 0), (0.07, 7), (np.float32(0.1), 10), (0.001, 1), (0.101, 11)]
)
def test_a_share_of_rows_is_rounded_up(sandbox: Sandbox, share: Any, drawn: int) -> None:
    """Rounding errors of floats draw no further row."""
    job = Job([f"Row {n}" for n in range(100)], schema=SCHEMA, twice=share)
    assert job.progress().to_ask_twice == drawn


@pytest.mark.parametrize("twice", [-0.1, 1.1, "5%", True])
def test_a_share_is_from_0_to_1(sandbox: Sandbox, twice: Any) -> None:
    """Anything else is refused before a request."""
    with pytest.raises(InvalidRequest, match="it must be a share of the rows"):
        arche_magic.map(DATA, PROMPT, twice=twice)
    assert not sandbox.requests


def test_asking_twice_needs_two_models(start: Start) -> None:
    """The error comes before a request; a paid model is not used unless allowed."""
    sandbox = start(keys={"groq": 2, "openai": 1}, limits={**LIMITS, "openai": PLENTY})
    for ask in (arche_magic.map, arche_magic.plan):
        with pytest.raises(InvalidRequest, match="only openai/gpt-oss-120b can answer"):
            ask(DATA, PROMPT, twice=0.1)
    assert not sandbox.requests
    result = arche_magic.map(DATA[:4], PROMPT, twice=0.5, allow_paid=True)
    assert result.second_model.notna().sum() == 2


# --- the plan


def test_the_plan_counts_second_questions(sandbox: Sandbox) -> None:
    """It counts them before and after they are kept."""
    arguments: dict[str, Any] = {"schema": SCHEMA, "twice": 0.25, "pack": 1}
    plan, once = (
        arche_magic.plan(DATA, PROMPT, **arguments),
        arche_magic.plan(DATA, PROMPT, **{**arguments, "twice": None}),
    )
    assert (plan.to_ask, plan.twice, plan.second) == (40, 10, "mistral-small-latest")
    assert plan.requests == once.requests + 10
    assert plan.tokens[1] > 1.2 * once.tokens[1]
    assert plan.finish_at is not None
    assert once.finish_at is not None
    assert plan.finish_at > once.finish_at
    assert "10 of them asked again, by mistral-small-latest" in str(plan)
    sent = len(sandbox.requests)
    arche_magic.map(DATA, PROMPT, **arguments)
    assert len(sandbox.requests) - sent == plan.requests
    after = arche_magic.plan(DATA, PROMPT, **arguments)
    assert (after.to_ask, after.twice, after.requests) == (0, 0, 0)
    more = arche_magic.plan(DATA, PROMPT, **{**arguments, "twice": 0.5})
    assert (more.to_ask, more.twice, more.requests) == (0, 10, 10)


def test_the_plan_names_the_second_models_that_answer(start: Start) -> None:
    """There is one for each model that answers first, by the limits or the kept replies."""
    few = {"requests_per_minute": 20, "requests_per_day": 1000}
    start(keys=TWO, limits={**LIMITS, "groq": few}, reply=label)
    options: dict[str, Any] = {"schema": "mood good|bad", "pack": 1, "twice": 1.0}
    first = arche_magic.plan(DATA, PROMPT, **options)
    both = {"gpt-oss-120b", "mistral-small-latest"}
    assert set(first.second.split(" or ")) == both
    arche_magic.map(DATA[:4], PROMPT, **options | {"twice": None}, model="mistral-small-latest")
    kept = arche_magic.plan(DATA[:4], PROMPT, **options, model="mistral-small-latest")
    result = arche_magic.map(DATA[:4], PROMPT, **options, model="mistral-small-latest")
    assert kept.to_ask == 0
    assert set(result.second_model) == {f"openai/{kept.second}"}


def test_the_plan_offers_one_model_where_several_would_answer(start: Start) -> None:
    """It says in one line how long that takes; not if it is set, or if one model is enough."""
    few = {"requests_per_minute": 20, "requests_per_day": 1000}
    start(keys=TWO, limits={"groq": few, "mistral": few})
    plan = arche_magic.plan(DATA, PROMPT, pack=1)
    assert plan.one_model is not None
    assert plan.one_model.finish_at is not None
    assert plan.finish_at is not None
    assert plan.one_model.finish_at > plan.finish_at
    (line,) = [line for line in str(plan).splitlines() if "same_model" in line]
    assert re.match(
        r"2 models would answer; same_model=True \(--same-model\) asks gpt-oss-120b alone: done in",
        line,
    )
    assert arche_magic.plan(DATA, PROMPT, pack=1, same_model=True).one_model is None


# --- known labels


def test_known_labels_give_accuracy_and_confusion(sandbox: Sandbox) -> None:
    """Each figure is that of the labels in the data."""
    data = DATA.assign(label=DATA.label.where(DATA.index >= 4))
    result = arche_magic.map(
        data, PROMPT, schema=SCHEMA, gold={"mood": "label"}, model="groq/openai/gpt-oss-120b"
    )
    found = quality(result)
    (accuracy,) = found.accuracy.to_dict("records")
    right = int((result.mood == result.label).sum())
    assert accuracy == {
        "field": "mood", "compared": 36, "correct": right, "accuracy": right / 36,
        "not_compared": 0, "unanswered": 0,
    }  # fmt: skip
    table = found.confusion()
    expected = pd.crosstab(result.label, result.mood)
    assert table.to_dict() == expected.to_dict()
    assert (table.index.name, table.columns.name) == ("gold", "mood")
    assert result.attrs["arche_magic"]["gold"]["mood"]["column"] == "label"
    # A part of the frame has figures of its own.
    assert quality(result[result.index >= 20]).accuracy.compared.tolist() == [20]
    assert f"mood is correct in {right} of 36 rows" in str(found)


def test_rows_without_a_reply_are_not_wrong(start: Start) -> None:
    """They are counted as unanswered."""
    start(keys={"groq": 1}, limits=LIMITS, reply=lambda model, messages: "good")
    data = pd.DataFrame({"text": ["a", None], "label": ["Good.", "bad"]})
    result = arche_magic.map(data, "{{text}}", gold="label")
    (accuracy,) = quality(result).accuracy.to_dict("records")
    assert (accuracy["field"], accuracy["correct"], accuracy["unanswered"]) == ("reply", 1, 1)


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ("label", "there are several fields (mood, points, why)"),
        ({"mod": "label"}, "no field 'mod'; did you mean 'mood'?"),
        ({"mood": "lable"}, "no column 'lable'; did you mean 'label'?"),
        ({"mood": "text"}, "the prompt contains the column 'text'"),
        (5, "it must be the name of a column"),
    ],
)
def test_wrong_gold_is_refused_before_a_request(sandbox: Sandbox, gold: Any, words: str) -> None:
    """This includes a column that the prompt shows."""
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        arche_magic.map(DATA, PROMPT, schema=SCHEMA, gold=gold)
    assert not sandbox.requests


def test_gold_names_columns_as_prompts_do(sandbox: Sandbox) -> None:
    """The levels of a name are joined by dots, and a name that occurs twice is refused."""
    columns = pd.MultiIndex.from_tuples([("text", ""), ("known", "mood")])
    data = pd.DataFrame([["Row 1", "good"]], columns=columns)
    result = arche_magic.map(data, "{{text}}", schema="mood good|bad", gold="known.mood")
    assert quality(result).accuracy.compared.tolist() == [1]
    assert re.fullmatch(r"gold: mood is correct in [01] of 1 row \(\d+ %\)", str(quality(result)))
    with pytest.raises(InvalidRequest, match=r"the prompt contains the column 'known\.mood'"):
        arche_magic.map(data, "{{known.mood}}", schema="mood good|bad", gold="known.mood")
    data.columns = ["known", "known"]
    with pytest.raises(InvalidRequest, match="two columns have the name 'known'"):
        arche_magic.map(data.assign(text="Two"), "{{text}}", gold="known")
    assert len(sandbox.requests) == 1


def test_a_prefix_does_not_look_like_a_second_model() -> None:
    """With `prefix="second_"`, columns of a later job look like those of `twice=`."""
    columns = {"mood": ["a"], "model": ["x"], "second_mood": ["b"], "second_provider": ["groq"]}
    frame = pd.DataFrame({**columns, "second_model": ["x"]})
    assert repr(quality(frame)) == "no rows were asked twice, and there are no known labels"


def test_a_table_of_polars_has_a_quality_too(sandbox: Sandbox) -> None:
    """Its columns show what was asked twice, but not which labels are known."""
    known = DATA.head(2).assign(known=["good", "bad"])
    table = pl.DataFrame(known.to_dict("list"))
    labels = arche_magic.map(table, PROMPT, schema=SCHEMA, twice=1.0, gold={"mood": "known"})
    found = quality(labels, gold={"mood": "known"})
    assert dict(zip(found.agreement.field, found.agreement.compared, strict=True))["mood"] == 2
    assert list(found.accuracy.compared) == [2]
    with pytest.raises(InvalidRequest, match="name the field of these labels"):
        quality(labels, gold="known")


def test_quality_needs_its_columns() -> None:
    """The messages say what to do."""
    for value in ("text", pd.Series(["good"]), None):
        with pytest.raises(InvalidRequest, match=f"needs a table.*not a {type(value).__name__}"):
            quality(value)  # type: ignore[arg-type]
    frame = pd.DataFrame({"mood": ["good"], "label": ["good"]})
    with pytest.raises(InvalidRequest, match="did you mean 'label'"):
        quality(frame, gold={"mood": "lable"})
    with pytest.raises(InvalidRequest, match="name their column with gold="):
        quality(frame).confusion()
    with pytest.raises(InvalidRequest, match="needs the column 'model', which names the first"):
        quality(frame.assign(second_mood="bad", second_model="m"))
    assert quality(frame).agreement.empty
    assert quality(frame).accuracy.dtypes.astype(str).tolist() == [
        "str" if pd.__version__ >= "3" else "object", "int64", "int64", "float64", "int64", "int64"
    ]  # fmt: skip


# --- files and Dask


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_has_the_same_columns(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """It has several chunks, and the figures come from the written file."""
    for module in ("file_job", "planning"):
        monkeypatch.setattr(f"arche_magic.bulk.{module}.ROWS", 16)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[ending]
    if ending == "csv":
        DATA.to_csv("in.csv", index=False)
    else:
        DATA.to_parquet("in.parquet", index=False)
    options: dict[str, Any] = {"schema": SCHEMA, "twice": 0.25, "gold": {"mood": "label"}}
    plan = arche_magic.plan(f"in.{ending}", PROMPT, **options)
    assert plan.twice == 4 + 4 + 2
    arche_magic.map(f"in.{ending}", PROMPT, to=f"out.{ending}", details=True, **options)
    assert len(sandbox.requests) == 50
    written = read(f"out.{ending}")
    found = quality(written, gold={"mood": "label"})
    assert found.agreement.compared.tolist() == [10, 10, 0]
    assert found.accuracy.compared.tolist() == [40]
    assert written.request.notna().all()
    assert pd.api.types.is_float_dtype(written.seconds)
    assert arche_magic.plan(f"in.{ending}", PROMPT, **options).twice == 0


def test_a_dask_frame_has_the_same_columns(sandbox: Sandbox) -> None:
    """Each partition asks its own share again."""
    dd = pytest.importorskip("dask.dataframe")
    frame = arche_magic.map(
        dd.from_pandas(DATA, npartitions=2), PROMPT, schema=SCHEMA, twice=0.25, details=True
    )
    found = frame.compute(scheduler="threads")
    assert list(found) == list(frame.columns)
    assert found.dtypes.equals(frame.dtypes)
    assert quality(found, gold={"mood": "label"}).agreement.compared.tolist() == [10, 10, 0]


# --- columns to join on


def test_details_join_rows_with_attempts(sandbox: Sandbox) -> None:
    """The key itself is never shown; kept replies have their first details."""
    result = arche_magic.map(DATA, PROMPT, schema=SCHEMA, details=True, tag="labels v2")
    attempts = arche_magic.load_attempts()
    joined = result.merge(attempts[attempts.outcome == "served"], on="request", how="left")
    assert len(joined) == 40
    assert (joined.key_x == joined.key_y).all()
    assert (joined.tag == "labels v2").all()
    assert (joined.tokens == joined.input_tokens + joined.output_tokens).all()
    assert (result.seconds > 0).all()
    assert set(result.key) <= {"groq_key_1", "mistral_key_1"}
    again = arche_magic.map(DATA, PROMPT, schema=SCHEMA, details=True)
    pd.testing.assert_frame_equal(again, result)
    assert "key" not in arche_magic.map(DATA, PROMPT, schema=SCHEMA)


def test_packed_rows_share_a_request_and_its_cost(start: Start) -> None:
    """The parts of the rows add up to the attempts."""
    start(keys={"openai": 1}, limits={"openai": PLENTY})
    texts = [f"Row {n}" for n in range(30)]
    result = arche_magic.map(texts, pack=10, details=True, allow_paid=True)
    attempts = arche_magic.load_attempts().set_index("request")
    assert result.request.nunique() == 3
    costs = result.groupby("request").cost_usd.sum()
    assert costs.to_dict() == pytest.approx(attempts.cost_usd[costs.index].to_dict())
    assert (costs > 0).all()


def test_a_failed_row_names_its_request(start: Start) -> None:
    """The attempts say why it failed; a row that was never asked has no request."""
    sandbox = start(keys={"groq": 1}, limits=LIMITS)
    sandbox.fail("groq", "content_filter", times=1)
    data = pd.DataFrame({"text": ["a", None]})
    result = arche_magic.map(data, "{{text}}", details=True, pack=1)
    assert result.error.notna().all()
    attempts = arche_magic.load_attempts()
    assert result.request[0] in set(attempts.request)
    assert pd.isna(result.request[1])
    assert prompts(sandbox) == ["a"]
