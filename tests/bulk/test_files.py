"""Files as people have them: encodings, separators, damaged ones, and values without a type."""

from __future__ import annotations

import gzip
import json
import warnings
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from bulk_parts import prompts
from pydantic import BaseModel, Field

import arche_magic
from arche_magic.llm_providers import InvalidRequest

if TYPE_CHECKING:
    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

TEMPLATE = "Is this positive? {{text}}"
TABLE = "text,note\ncafé,good\nthé,bad\n"


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("utf-8", {}),
        ("utf-8-sig", {}),
        ("utf-16", {}),  # Python writes its byte order mark
        ("utf-16-le", {"encoding": "utf-16-le"}),
        ("cp1252", {"encoding": "cp1252"}),
        ("latin-1", {"encoding": "latin-1"}),
    ],
)
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_a_csv_is_read_in_its_encoding(
    sandbox: Sandbox, name: str, encoding: str, options: dict[str, str]
) -> None:
    """A byte order mark names it; else it is UTF-8 or the one that is given. UTF-8 is written."""
    data = TABLE.encode(encoding)
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert arche_magic.plan(name, TEMPLATE, **options).rows == 2
    arche_magic.map(name, TEMPLATE, to="out.csv", **options)
    assert pd.read_csv("out.csv").text.tolist() == ["café", "thé"]


def test_fields_may_be_separated_by_another_character(sandbox: Sandbox) -> None:
    """The result has the same separator; a tab may be written as a backslash and a t."""
    for sep, given in ((";", ";"), ("\t", "\t"), ("\t", r"\t"), ("§", "§")):
        Path("in.csv").write_text(f"text{sep}price\nsoup{sep}1,50\n", encoding="utf-8")
        with warnings.catch_warnings(action="error"):
            arche_magic.map("in.csv", TEMPLATE, to="out.csv", sep=given)
        assert Path("out.csv").read_text(encoding="utf-8").startswith(f"text{sep}price{sep}reply")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (TABLE.encode("cp1252"), {}, r"in\.csv is not UTF-8 text; name.*encoding='cp1252'"),
        (TABLE.encode("utf-16-le"), {}, "in.csv is not UTF-8 text; it may be UTF-16"),
        (TABLE.encode("utf-8"), {"encoding": "ascii"}, "in.csv is not ASCII text"),
        (TABLE.encode("utf-8"), {"encoding": "utf-99"}, "encoding 'utf-99' is unknown"),
        (TABLE.encode("utf-8"), {"encoding": "base64"}, "encoding 'base64' is unknown"),
        (TABLE.encode("utf-8"), {"encoding": 1252}, "encoding 1252 is unknown"),
        (b"", {}, "in.csv is empty"),
        (b"text,note\na,b\nc,d,e\n", {}, r"in\.csv \(utf-8.*Expected 2 fields in line 3, saw 3"),
        (b"text,note\na,b,c\nd,e,f\n", {}, "in.csv .*more fields than the header"),
        (b'text,note\na,b\n"c,d\n', {}, "in.csv .*the quote that opens in line 3 is never closed"),
        (TABLE.encode("utf-8"), {"sep": "\0"}, "must be one character"),
        (TABLE.encode("utf-8"), {"sep": "ab"}, "sep is 'ab'; it must be one character"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be_read_is_told_of_in_one_line(
    sandbox: Sandbox, content: bytes, options: dict[str, str], message: str
) -> None:
    """With the file and its encoding, before anything is spent, by the plan too."""
    Path("in.csv").write_bytes(content)
    for ask in (
        lambda: arche_magic.map("in.csv", TEMPLATE, to="out.csv", **options),
        lambda: arche_magic.plan("in.csv", TEMPLATE, **options),
    ):
        with pytest.raises(InvalidRequest, match=message) as raised:
            ask()
        assert "\n" not in str(raised.value)
    assert not sandbox.requests
    assert not Path("out.csv").exists()


def test_an_error_far_down_is_found_before_anything_is_spent(sandbox: Sandbox) -> None:
    """A file of many chunks is looked through to its end first."""
    Path("in.csv").write_text("text,note\n" + "a,b\n" * 25_000 + "c,d,e\n")
    with pytest.raises(InvalidRequest, match="Expected 2 fields in line 25002, saw 3"):
        arche_magic.map("in.csv", TEMPLATE, to="out.csv")
    assert not sandbox.requests


@pytest.mark.parametrize("name", ["in.parquet", "in.csv.gz"])
def test_a_damaged_file_is_told_of_in_one_line(sandbox: Sandbox, name: str) -> None:
    """It is not what its name says."""
    Path(name).write_bytes(b"something else")
    with pytest.raises(InvalidRequest, match=f"^{name} cannot be read: ") as raised:
        arche_magic.map(name, "{{text}}", to="out.csv")
    assert "\n" not in str(raised.value)


def test_options_of_a_csv_go_with_no_other_data(sandbox: Sandbox) -> None:
    """They would do nothing."""
    frame = pd.DataFrame({"text": ["soup"]})
    frame.to_parquet("in.parquet")
    with pytest.raises(InvalidRequest, match="sep is for CSV files"):
        arche_magic.map("in.parquet", TEMPLATE, to="out.csv", sep=";")
    with pytest.raises(InvalidRequest, match="go with the path of a file"):
        arche_magic.map(frame, TEMPLATE, encoding="cp1252")
    with pytest.raises(InvalidRequest, match="go with the path of a file"):
        arche_magic.plan(frame, TEMPLATE, sep=";")


class Colour(Enum):
    """A choice that is not text for Python."""

    RED = "red"
    BLUE = "blue"


class Dish(BaseModel):
    """Values that Parquet has no types for, or not for all of them."""

    colour: Colour
    colours: list[Colour]
    made: date
    days: list[date]
    price: Decimal
    big: int
    parts: dict[str, int]
    shades: set[Colour]
    rest: int = Field(alias="what is left")
    either: int | str
    part: Dish | None


DISH: dict[str, Any] = {
    "colour": "red",
    "colours": ["red", "blue"],
    "made": "2026-11-29",
    "days": ["2026-11-28", "2026-11-29"],
    "price": 1.5,
    "big": 2**62,
    "parts": {"salt": 1},
    "shades": ["red"],
    "what is left": 3,
    "either": "one",
    "part": None,
}


@pytest.fixture
def dishes(start: Start) -> Any:
    """Every reply is a dish; the second row's number is past 64 bits."""

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        big = 2**70 if "two" in messages[-1]["content"] else 2**62
        return json.dumps({**DISH, "big": big})

    sandbox = start(reply=answer)
    frame = pd.DataFrame({"text": ["one", "two"]})
    frame.to_parquet("in.parquet")
    frame.to_csv("in.csv", index=False)
    return sandbox


@pytest.mark.parametrize("source", ["in.parquet", "in.csv"])
def test_values_without_a_parquet_type_are_written_as_text(dishes: Any, source: str) -> None:
    """A number that its column cannot hold is told in the row's error; no row is lost."""
    arche_magic.map(source, TEMPLATE, to="out.parquet", schema=Dish, pack=1)
    result = pd.read_parquet("out.parquet")
    first = result.iloc[0]
    assert first.colour == "red"
    assert list(first.colours) == ["red", "blue"]
    assert first.made == date(2026, 11, 29)
    assert list(first.days) == ["2026-11-28", "2026-11-29"]
    assert first.price == "1.5"
    assert first.big == 2**62
    assert json.loads(first["parts"]) == {"salt": 1}
    assert list(first.shades) == ["red"]
    assert first.rest == 3
    assert first.either == "one"
    assert pd.isna(first.error)
    assert result.error[1].startswith(f"big: {2**70} does not fit")
    assert pd.isna(result.big[1])
    assert json.loads(result.raw[1])["big"] == 2**70
    assert result.colour[1] == "red"


def test_an_enum_is_its_value_everywhere(dishes: Any) -> None:
    """In a frame, in a CSV and in the frame of a single reply."""
    frame = arche_magic.map(pd.DataFrame({"text": ["one"]}), TEMPLATE, schema=Dish)
    assert frame.colour[0] == "red"
    assert frame.colours[0] == ["red", "blue"]
    assert frame.shades[0] == {"red"}
    assert frame.rest[0] == 3
    arche_magic.map("in.csv", TEMPLATE, to="out.csv", schema=Dish, pack=1)
    written = pd.read_csv("out.csv", dtype=str)
    assert written.colour[0] == "red"
    assert json.loads(written.colours[0]) == ["red", "blue"]
    assert json.loads(written.shades[0]) == ["red"]
    assert written.rest[0] == "3"
    assert json.loads(written.days[0]) == ["2026-11-28", "2026-11-29"]
    assert pd.isna(written.big[1])
    assert json.loads(written.raw[1])["big"] == 2**70
    reply = arche_magic.get_llm_provider().generate("one", schema=Dish)
    assert arche_magic.frame(reply).colour[0] == "red"
    assert arche_magic.frame(reply).rest[0] == 3


def test_every_value_that_does_not_fit_is_told(start: Start) -> None:
    """One row may have several."""
    start(reply=lambda model, messages: json.dumps({"a": 2**64, "b": [2**65]}))
    Path("in.csv").write_text("text\none\n")
    arche_magic.map("in.csv", TEMPLATE, to="out.parquet", schema="a int, b list[int]")
    error = pd.read_parquet("out.parquet").error[0]
    assert f"a: {2**64} does not fit" in error
    assert f"b: [{2**65}] does not fit" in error


def test_an_integer_past_the_largest_float_loses_no_row(start: Start) -> None:
    """The oldest pandas has no type for it, and refuses to look."""
    start(reply=lambda model, messages: json.dumps({"a": 10**400}))
    row = arche_magic.map(["one"], schema="a int").iloc[0]
    assert pd.isna(row.a)
    assert "does not fit" in row.error
    assert json.loads(row.raw) == {"a": 10**400}
    reply = arche_magic.get_llm_provider().generate("one", schema="a int")
    assert arche_magic.frame(reply).a[0] == 10**400
    assert str(arche_magic.frame([]).shape) == "(0, 0)"


@pytest.mark.parametrize("target", ["out.parquet", "out.csv"])
def test_columns_of_an_earlier_result_are_kept(sandbox: Sandbox, target: str) -> None:
    """A file that a job wrote can be the next one's source; nested values are JSON in a CSV."""
    old = {"text": ["soup"], "tags": [["a", "b"]], "reply": ["old"], "tokens": [1], "error": ["e"]}
    pd.DataFrame(old).to_parquet("in.parquet")
    with pytest.raises(InvalidRequest, match="'reply', 'tokens', 'error' already; prefix="):
        arche_magic.map("in.parquet", "{{text}} {{tags}}", to=target)
    assert prompts(sandbox) == []
    arche_magic.map("in.parquet", "{{text}} {{tags}}", to=target, prefix="new_")
    read = pd.read_parquet if target.endswith(".parquet") else pd.read_csv
    result = read(target)
    assert prompts(sandbox) == ['soup ["a", "b"]']
    new = [f"new_{name}" for name in ("reply", "provider", "model", "tokens", "error")]
    assert list(result) == [*old, *new]
    assert result.reply[0] == "old" != result.new_reply[0]
    tags = result.tags[0]
    assert list(json.loads(tags) if target.endswith(".csv") else tags) == ["a", "b"]
