"""The columns of a result: types, names, and the texts of replies that do not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pytest
from pydantic import BaseModel, Field, field_validator

import arche_magic
from arche_magic.bulk import file_job
from arche_magic.llm_providers import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

TEMPLATE = "Judge: {{text}}"
LINE = "mood good|bad, stars 1|2|3, score int, share float, sure bool, why str, tags list[str]"
MOOD = pd.CategoricalDtype(["good", "bad"])
TYPES = {
    "mood": MOOD,
    "stars": "Int64",
    "score": "Int64",
    "share": "Float64",
    "sure": "boolean",
    "why": "string",
    "tags": "object",
    "provider": "string",
    "model": "string",
    "tokens": "Int64",
    "error": "string",
}
VALUES = {
    "mood": "good",
    "stars": 3,
    "score": 2**53 + 1,
    "share": 0.5,
    "sure": True,
    "why": "It says so.",
    "tags": ["a", "b"],
}
MISFIT = '{"mood": "so-so", "score": 4}'


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """Give each text what fits the line above; `odd` never fits."""
    asked = " ".join(message["content"] for message in messages)
    return MISFIT if "Judge: odd" in asked else json.dumps(VALUES)


@pytest.fixture
def judge(start: Start) -> Sandbox:
    return start(reply=answer)


def texts(*texts: str | None) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.Series(texts, dtype=object)})


def types_of(frame: pd.DataFrame) -> dict[str, Any]:
    return {name: frame[name].dtype for name in TYPES}


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize(
    "rows",
    [(), (None,), ("odd",), ("one",), ("one", None, "odd")],
    ids=["empty", "no value", "misfit", "fits", "all of them"],
)
def test_types_are_those_of_the_schema(
    rows: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not depend on the rows, in a frame, in chunks of Parquet and in a Dask frame."""
    data = texts(*rows)
    frame = arche_magic.map(data, TEMPLATE, schema=LINE, pack=1)
    assert types_of(frame) == TYPES
    if "one" in rows:
        assert {name: frame[name][0] for name in VALUES} == VALUES
    monkeypatch.setattr(file_job, "ROWS", 1)
    data.to_parquet("in.parquet")
    arche_magic.map("in.parquet", TEMPLATE, schema=LINE, pack=1, to="out.parquet")
    written = pd.read_parquet("out.parquet")
    # Parquet keeps the choices of a column with its values, and an empty file has none.
    assert types_of(written) == (TYPES if rows else TYPES | {"mood": written.mood.dtype})
    assert written.mood.dtype.name == "category"
    same = [name for name in TYPES if name not in ("tags", "tokens", *([] if rows else ["mood"]))]
    pd.testing.assert_frame_equal(written[same], frame[same])
    pytest.importorskip("dask")
    import dask.dataframe as dd

    if rows:
        lazy = arche_magic.map(dd.from_pandas(data, npartitions=1), TEMPLATE, schema=LINE, pack=1)
        found = lazy.compute(scheduler="synchronous")
        assert types_of(lazy) == types_of(found) == TYPES
        assert list(found.columns) == list(lazy.columns) == [*data, *TYPES, "raw"]


@pytest.mark.usefixtures("judge")
def test_whole_numbers_stay_whole_in_a_csv(tmp_path: Path) -> None:
    """This holds beside missing values, for files and for frames."""
    data = texts("one", None)
    data.to_csv("in.csv", index=False)
    frame = arche_magic.map(data, TEMPLATE, schema=LINE, pack=1)
    frame.to_csv("frame.csv", index=False)
    arche_magic.map("in.csv", TEMPLATE, schema=LINE, pack=1, to="out.csv")
    for name in ("frame.csv", "out.csv"):
        written = pd.read_csv(tmp_path / name, dtype=str, keep_default_na=False)
        assert list(written.score) == [str(2**53 + 1), ""]
        assert list(written.stars) == ["3", ""]
        assert list(written.sure) == ["True", ""]


@pytest.mark.usefixtures("judge")
def test_a_result_can_be_written_to_excel() -> None:
    """Times of the data lose their zone; lists are text, and integers stay integers."""
    pytest.importorskip("openpyxl")
    data = texts("one", None).assign(seen=pd.Timestamp("2026-11-29 09:30", tz="Europe/Paris"))
    result = arche_magic.map(data, TEMPLATE, schema=LINE, pack=1)
    arche_magic.frame(result, naive=True).to_excel("out.xlsx", index=False)
    back = pd.read_excel("out.xlsx", dtype={"score": object})
    assert list(back) == list(result)
    assert back.seen[0] == pd.Timestamp("2026-11-29 08:30")
    assert (back.mood[0], back.stars[0], back.tags[0]) == ("good", 3, "['a', 'b']")
    assert back.loc[1, ["mood", "stars", "score", "tags"]].isna().all()


class Mood(Enum):
    """A choice with another name in Python."""

    GOOD = "good"
    BAD = "bad"


class Verdict(BaseModel):
    """Fields with other names in the reply."""

    mood: Mood = Field(alias="the mood")
    made: date = Field(alias="madeOn")
    other: Mood | None = None


def test_aliases_and_enums_equal_those_in_the_frame_of_a_reply(start: Start) -> None:
    """The columns have the names of the class, and the values are those of the members."""
    text = json.dumps({"the mood": "bad", "madeOn": "2026-11-29", "other": "good"})
    start(reply=lambda model, messages: text)
    frame = arche_magic.map(texts("one"), TEMPLATE, schema=Verdict)
    single = arche_magic.frame(arche_magic.get_llm_provider().generate("one", schema=Verdict))
    assert frame.loc[0, list(single)].to_dict() == single.loc[0].to_dict()
    assert frame.loc[0, list(single)].to_dict() == {
        "mood": "bad",
        "made": date(2026, 11, 29),
        "other": "good",
    }
    assert frame.mood.dtype == frame.other.dtype == MOOD


def test_a_reply_that_does_not_fit_is_kept_as_text(judge: Sandbox) -> None:
    """It is in `raw`, also on the next run, which asks nothing; other frames have no `raw`."""
    data = texts("one", "odd")
    first = arche_magic.map(data, TEMPLATE, schema=LINE, pack=1)
    assert first.raw.dtype == "string"
    assert first.raw.fillna("").tolist() == ["", MISFIT]
    assert first.error[1].startswith("the reply of groq")
    asked = len(judge.requests)
    again = arche_magic.map(data, TEMPLATE, schema=LINE, pack=1)
    pd.testing.assert_series_equal(again.raw, first.raw)
    assert len(judge.requests) == asked
    assert "raw" not in arche_magic.map(data.head(1), TEMPLATE, schema=LINE)
    rows = {row.position: row.raw for row in arche_magic.imap(data, TEMPLATE, schema=LINE)}
    assert rows == {0: None, 1: MISFIT}


@dataclass
class Share:
    """Its own code raises another error than ValueError for some replies."""

    good: int
    of: int

    def __post_init__(self) -> None:
        self.share = self.good / self.of


def test_an_error_of_a_class_fails_its_row_alone(start: Start) -> None:
    """The reply is kept, as one that does not fit."""

    def share(model: str, messages: list[dict[str, Any]]) -> str:
        return f'{{"good": 1, "of": {int("Judge: odd" not in messages[0]["content"])}}}'

    sandbox = start(reply=share)
    for _ in range(2):
        frame = arche_magic.map(texts("one", "odd", "two"), TEMPLATE, schema=Share, pack=1)
        assert list(frame.error.isna()) == [True, False, True]
        assert "does not fit Share: ZeroDivisionError: division by zero (got" in frame.error[1]
        assert frame.raw[1] == '{"good": 1, "of": 0}'
    assert len(sandbox.requests) == 4


class Loop(BaseModel):
    """Its list contains itself."""

    mood: Literal["good"]
    parts: list[Any]

    @field_validator("parts")
    @classmethod
    def close(cls, parts: list[Any]) -> list[Any]:
        if parts:
            parts.append(parts)
        return parts


OPEN = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "parts": {"type": "array"}},
    "required": ["mood", "parts"],
}


@pytest.mark.parametrize(("schema", "part"), [(Loop, 1), (OPEN, json.loads("[" * 500 + "]" * 500))])
@pytest.mark.parametrize("target", ["out.parquet", "out.csv", "out.jsonl", None])
def test_a_value_that_cannot_be_written_fails_its_row_alone(
    start: Start, tmp_path: Path, target: str | None, schema: Any, part: Any
) -> None:
    """It contains itself, or is nested too deeply. Its text and cost are in the row."""

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        parts = [part] if "odd" in messages[-1]["content"] else []
        return json.dumps({"mood": "good", "parts": parts})

    start(keys={"groq": 1, "mistral": 1}, reply=answer)
    data = texts("one", "odd")
    options: dict[str, Any] = {"schema": schema, "pack": 1, "twice": 1.0}
    if target is None:
        frame = arche_magic.map(data, TEMPLATE, **options)
    else:
        data.to_csv(tmp_path / "in.csv", index=False)
        arche_magic.map(tmp_path / "in.csv", TEMPLATE, to=tmp_path / target, **options)
        read = {"parquet": pd.read_parquet, "csv": pd.read_csv}.get(target[4:], read_lines)
        frame = read(tmp_path / target)
    assert list(frame.mood.isna()) == [False, True]
    assert list(frame.error.isna()) == [True, False]
    assert "it contains itself, or is nested too deeply" in frame.error[1]
    assert json.loads(frame.raw[1])["parts"] == [part]
    assert frame.tokens[1] > 0


def read_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True)


def test_any_field_name_and_an_open_schema_get_a_column(start: Start) -> None:
    """A field may be called `reply`; an object of unknown fields is text."""
    text = json.dumps({"reply": "yes"})
    start(reply=lambda model, messages: text)
    frame = arche_magic.map(texts("one"), TEMPLATE, schema="reply yes|no")
    assert frame.reply.tolist() == ["yes"]
    assert arche_magic.map(texts("one"), TEMPLATE, schema={"type": "object"}).reply[0] == text


CLASHES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"data": {"error": [1]}}, "the data already has a column 'error'"),
    ({"data": {"reply": [1], "tokens": [1]}}, "already has columns 'reply', 'tokens'"),
    ({"data": {"mood": [1]}, "schema": LINE}, "the data already has a column 'mood'"),
    ({"data": {"raw": [1]}, "schema": LINE}, "the data already has a column 'raw'"),
    ({"schema": "error str, mood good|bad"}, "the schema has a field 'error'"),
    ({"schema": "raw str"}, "the schema has a field 'raw'"),
    ({"data": {"x_model": [1]}, "prefix": "x_"}, "the data already has a column 'x_model'"),
    ({"schema": "x_model str", "prefix": "x_"}, "the schema has a field 'x_model'"),
    ({"prefix": 5}, "prefix is 5; it must be a text"),
)


@pytest.mark.parametrize(("case", "message"), CLASHES)
def test_names_that_clash_are_refused(judge: Sandbox, case: dict[str, Any], message: str) -> None:
    """This happens before anything is spent, for a frame, a plan and a file."""
    data = texts("one").assign(**case.get("data", {}))
    options = {name: value for name, value in case.items() if name != "data"}
    data.to_csv("in.csv", index=False)
    for ask in (
        lambda: arche_magic.map(data, TEMPLATE, **options),
        lambda: arche_magic.plan(data, TEMPLATE, **options),
        lambda: arche_magic.map("in.csv", TEMPLATE, to="out.csv", **options),
    ):
        with pytest.raises(InvalidRequest, match=message):
            ask()
    assert len(judge.requests) == 0


@pytest.mark.usefixtures("judge")
def test_a_prefix_renames_the_added_columns() -> None:
    """It also renames a field that the data has already; columns of the data stay."""
    first = arche_magic.map(texts("one"), TEMPLATE, schema="mood good|bad, error str?", prefix="a_")
    ours = ["provider", "model", "tokens", "error"]
    assert list(first) == ["text", "mood", "error", *(f"a_{name}" for name in ours)]
    second = arche_magic.map(first, "Again: {{text}}", schema="mood good|bad", prefix="b_")
    assert list(second) == [*first, "b_mood", *(f"b_{name}" for name in ours)]
    pd.testing.assert_frame_equal(second[list(first)], first)
    third = arche_magic.map(second, "Shorter: {{text}}", prefix="c_")
    assert list(third) == [*second, "c_reply", *(f"c_{name}" for name in ours)]
    assert arche_magic.plan(second, TEMPLATE, prefix="d_").rows == 1
    second.to_parquet("in.parquet")
    arche_magic.map("in.parquet", TEMPLATE, schema="mood good|bad", prefix="e_", to="out.parquet")
    written = pd.read_parquet("out.parquet")
    assert list(written) == [*second, "e_mood", *(f"e_{name}" for name in (*ours, "raw"))]
    assert written["e_mood"].dtype == MOOD
