"""Files in practice: encodings, separators, damage, and values without a Parquet type."""

from __future__ import annotations

import gzip
import json
import warnings
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_parts import prompts
from pydantic import BaseModel, Field

import arche_magic
from arche_magic.bulk import file_job, file_source
from arche_magic.llm_providers import InvalidRequest
from arche_magic.llm_providers.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider_parts import Start

    from arche_magic.sandbox import Sandbox

TEMPLATE = "Is this positive? {{text}}"
TABLE = "text,note\ncafé,good\nthé,bad\n"


@pytest.mark.parametrize(
    ("name", "encoding", "options"),
    [
        ("in.csv", "utf-8", {}),
        ("in.csv", "utf-8-sig", {}),
        ("in.csv", "utf-16", {}),  # Python writes its byte order mark
        ("in.csv.gz", "utf-16", {}),
        ("in.csv", "utf-16-le", {"encoding": "utf-16-le"}),
        ("in.csv.gz", "cp1252", {"encoding": "cp1252"}),
        ("in.csv", "latin-1", {"encoding": "latin-1"}),
    ],
)
def test_a_csv_is_read_in_its_encoding(
    sandbox: Sandbox, name: str, encoding: str, options: dict[str, str]
) -> None:
    """It is that of the byte order mark, of `encoding=`, or UTF-8. UTF-8 is written."""
    data = TABLE.encode(encoding)
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert arche_magic.plan(name, TEMPLATE, **options).rows == 2
    arche_magic.map(name, TEMPLATE, to="out.csv", **options)
    assert pd.read_csv("out.csv").text.tolist() == ["café", "thé"]


def test_fields_may_be_separated_by_another_character(sandbox: Sandbox) -> None:
    """The result has the same separator. For a tab, a backslash and a t work too."""
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
def test_a_csv_that_cannot_be_read_gives_an_error_of_one_line(
    sandbox: Sandbox, content: bytes, options: dict[str, str], message: str
) -> None:
    """It names the file and its encoding before any quota is used, in a plan too."""
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
    """A file of many chunks is first read to its end."""
    Path("in.csv").write_text("text,note\n" + "a,b\n" * 25_000 + "c,d,e\n")
    with pytest.raises(InvalidRequest, match="Expected 2 fields in line 25002, saw 3"):
        arche_magic.map("in.csv", TEMPLATE, to="out.csv")
    assert not sandbox.requests


@pytest.mark.parametrize("name", ["in.parquet", "in.csv.gz"])
def test_a_damaged_file_gives_an_error_of_one_line(sandbox: Sandbox, name: str) -> None:
    """The file is not what its name says."""
    Path(name).write_bytes(b"something else")
    with pytest.raises(InvalidRequest, match=f"^{name} cannot be read: ") as raised:
        arche_magic.map(name, "{{text}}", to="out.csv")
    assert "\n" not in str(raised.value)


def test_options_of_a_csv_are_refused_for_other_data(sandbox: Sandbox) -> None:
    """They would have no effect."""
    frame = pd.DataFrame({"text": ["soup"]})
    frame.to_parquet("in.parquet")
    with pytest.raises(InvalidRequest, match="sep is for CSV files"):
        arche_magic.map("in.parquet", TEMPLATE, to="out.csv", sep=";")
    with pytest.raises(InvalidRequest, match="are only for files"):
        arche_magic.map(frame, TEMPLATE, encoding="cp1252")
    with pytest.raises(InvalidRequest, match="are only for files"):
        arche_magic.plan(frame, TEMPLATE, sep=";")


def test_only_map_and_plan_read_files(sandbox: Sandbox) -> None:
    """The message for a job in Python says what to pass instead."""
    for path in ("in.csv", Path("in.csv")):
        with pytest.raises(InvalidRequest, match=r"in\.csv is a file, which only arche_magic\.map"):
            arche_magic.imap(path, TEMPLATE)


@pytest.mark.parametrize("ask", [arche_magic.plan, partial(arche_magic.map, to="out.csv")])
def test_a_csv_with_another_separator_is_not_read_as_one_column(
    sandbox: Sandbox, ask: Callable[..., object]
) -> None:
    """The message names the separator that splits the name of the only column."""
    Path("in.csv").write_text("text;stars\nsoup;5\n")
    with pytest.raises(InvalidRequest, match=r"one column, 'text;stars'; .* sep=';'"):
        ask("in.csv", TEMPLATE)
    ask("in.csv", TEMPLATE, sep=";")


ROWS: list[dict[str, Any]] = [
    {"text": "soup", "n": 1, "part": 0.5, "yes": True, "tags": ["a"], "when": "2026-11-29"},
    {"text": "cake", "n": None, "part": 2, "yes": None, "tags": {"b": 1}},
    {"text": "tea\nfor two", "n": 2**60, "part": None, "yes": False, "tags": None, "more": "x"},
]


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_json_lines_keep_their_values(sandbox: Sandbox, name: str) -> None:
    """They do so in JSON lines, and with types in Parquet; a row need not have every field."""
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS).encode("utf-8-sig")
    Path(name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    template = "Is {{text}} good? {{n}}" if name == "in.jsonl" else TEMPLATE
    for target in ("out.jsonl", "out.parquet", "out.tsv"):
        arche_magic.map(name, template, to=target)
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(key for row in ROWS for key in row))
    for row, found in zip(ROWS, written, strict=True):
        assert {key: found[key] for key in names} == {key: row.get(key) for key in names}
        assert isinstance(found["tokens"], int) or found["error"]
    kinds = {field.name: str(field.type) for field in pq.read_schema("out.parquet")}
    assert [kinds[key] for key in names] == [
        "string", "int64", "double", "bool", "string", "string", "string"
    ]  # fmt: skip
    assert pq.read_table("out.parquet")["n"].to_pylist() == [1, None, 2**60]
    assert Path("out.tsv").read_text().startswith("text\tn\tpart")
    assert pd.read_csv("out.tsv", sep="\t", dtype=str)["n"][2] == str(2**60)
    errors = [row["error"] for row in written]
    assert [bool(error) for error in errors] == [False, name == "in.jsonl", False]


@pytest.mark.parametrize("target", ["OUT.CSV.GZ", "OUT.JSONL", "out.Parquet"])
def test_names_in_capitals_and_lone_surrogates_are_accepted(sandbox: Sandbox, target: str) -> None:
    """The ending of a name may be in capitals. Files cannot contain lone surrogates, but JSON can.

    Texts that were cut in the middle of an emoji end with one.
    """
    Path("IN.JSONL").write_text(
        '{"text": "so\\ud83d", "n\\ud83d": {"a": "\\ud83d\\ude00\\ud83d"}}\n'
    )
    arche_magic.map("IN.JSONL", "{{text}}", to=target)
    read = {
        "OUT.CSV.GZ": partial(pd.read_csv, compression="gzip"),
        "OUT.JSONL": partial(pd.read_json, lines=True),
    }
    written = read.get(target, pd.read_parquet)(target)
    assert (written.text[0], *written) == (
        "so�",
        "text",
        "n�",
        "reply",
        "provider",
        "model",
        "tokens",
        "error",
    )
    nested = written["n�"][0]
    assert (nested if isinstance(nested, dict) else json.loads(nested)) == {"a": "😀�"}


def test_a_sheet_of_an_excel_file_is_read(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first sheet or the one that is named; its first row has the column names."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["text", "when", None], ["soup", datetime(2026, 11, 29), 1], [], ["tea", None, 2]):
        book.active.append(row)
    book.create_sheet("Empty")
    other = book.create_sheet("Guests")
    other.append(["text", "text"])
    book.save("in.xlsx")
    arche_magic.map("in.xlsx", TEMPLATE, to="out.parquet")
    table = pq.read_table("out.parquet")
    assert table["text"].to_pylist() == ["soup", None, "tea"]
    assert table["when"].to_pylist() == [datetime(2026, 11, 29), None, None]
    assert table["column 3"].to_pylist() == [1, None, 2]
    assert [error is not None for error in table["error"].to_pylist()] == [False, True, False]
    for options, message in (
        ({"sheet": "Guest"}, "in.xlsx has no sheet 'Guest'; did you mean 'Guests'"),
        ({"sheet": "Guests"}, "two columns have the name 'text'"),
        ({"sheet": "Empty"}, "there is no column 'text'"),
        ({"sep": ";"}, "sep is for CSV files"),
        ({"encoding": "cp1252"}, "encoding is for CSV, TSV and JSON lines"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            arche_magic.plan("in.xlsx", TEMPLATE, **options)
    Path("bad.xlsx").write_bytes(b"no sheet")
    with pytest.raises(InvalidRequest, match=r"^bad\.xlsx cannot be read: ") as raised:
        arche_magic.plan("bad.xlsx", TEMPLATE)
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(file_source, "find_spec", lambda name: None)
    for name, extra in (("in.xlsx", "excel"), ("in.parquet", "parquet")):
        with pytest.raises(ConfigurationError, match=rf"pip install 'arche_magic\[{extra}\]'"):
            arche_magic.plan(name, TEMPLATE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "in.jsonl: line 2 is not JSON"),
        ("[1]", "in.jsonl: line 2 is not a JSON object"),
    ],
)
def test_a_line_without_an_object_is_an_error(sandbox: Sandbox, line: str, message: str) -> None:
    """The error has the number of the line, and comes before anything is spent."""
    Path("in.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(InvalidRequest, match=message):
        arche_magic.map("in.jsonl", TEMPLATE, to="out.jsonl")
    assert not sandbox.requests


def test_a_folder_of_parquet_files_is_read_as_one(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come in the order of their numbers, with the values in the names of folders."""
    monkeypatch.setattr(file_job, "ROWS", 7)
    for year, part, rows in ((2025, 2, 5), (2025, 10, 12), (2026, 0, 3)):
        folder = Path("in", f"year={year}")
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{year}-{part}-{row}" for row in range(rows)]
        table = pa.table({"text": names} | ({"late": [1] * rows} if year == 2026 else {}))
        pq.write_table(table, folder / f"part.{part}.parquet")
    Path("in", "_metadata").write_text("not for rows")
    assert arche_magic.plan("in/", "{{text}} {{year}}").rows == 20
    arche_magic.map(Path("in"), "{{text}} {{year}}", to="out.parquet")
    result = pq.read_table("out.parquet")
    texts = result["text"].to_pylist()
    assert texts[:6] == [*(f"2025-2-{row}" for row in range(5)), "2025-10-0"]
    assert result["year"].to_pylist() == [2025] * 17 + [2026] * 3
    assert result["late"].to_pylist() == [None] * 17 + [1] * 3
    assert all(
        text in reply for text, reply in zip(texts, result["reply"].to_pylist(), strict=True)
    )
    arche_magic.map("in/", "{{text}} {{year}}", to="out.csv")
    assert pd.read_csv("out.csv").text.tolist() == texts
    with pytest.raises(InvalidRequest, match="is in the input folder"):
        arche_magic.map("in/", "{{text}}", to="in/out.parquet")


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
    """A number that its column cannot hold is named in the row's error; no row is lost."""
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


def test_a_part_of_a_schema_may_allow_anything(start: Start) -> None:
    """Values of any type are written as text."""
    parts: dict[str, Any] = {
        "list": {"type": "array", "items": True},
        "dish": {"type": "object", "properties": {"name": True}},
        "any": {"anyOf": [True, {"type": "null"}]},
    }
    schema = {"type": "object", "properties": parts, "required": list(parts)}
    values = {"list": [1, "two"], "dish": {"name": ["soup"]}, "any": 3}
    start(reply=lambda model, messages: json.dumps(values))
    Path("in.csv").write_text("text\nHi\n")
    arche_magic.map("in.csv", TEMPLATE, to="out.parquet", schema=schema)
    (row,) = pq.read_table("out.parquet").to_pylist()
    assert [row["list"], row["dish"], row["any"]] == [["1", "two"], {"name": '["soup"]'}, "3"]
    assert row["error"] is None


def test_an_enum_is_its_value_everywhere(dishes: Any) -> None:
    """This holds in a frame, in a CSV and in the frame of a single reply."""
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


def test_every_value_that_does_not_fit_is_named(start: Start) -> None:
    """One row may have several."""
    start(reply=lambda model, messages: json.dumps({"a": 2**64, "b": [2**65]}))
    Path("in.csv").write_text("text\none\n")
    arche_magic.map("in.csv", TEMPLATE, to="out.parquet", schema="a int, b list[int]")
    error = pd.read_parquet("out.parquet").error[0]
    assert f"a: {2**64} does not fit" in error
    assert f"b: [{2**65}] does not fit" in error


def test_an_integer_past_the_largest_float_loses_no_row(start: Start) -> None:
    """The oldest pandas has no type for it and raises an error."""
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
    with pytest.raises(InvalidRequest, match="'reply', 'tokens', 'error'; prefix="):
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


def test_a_deep_value_of_the_data_is_written_whole(sandbox: Sandbox) -> None:
    """What a prompt gets of it may be cut, but not the data."""
    record = {"text": "soup", "deep": json.loads("[" * 150 + "1" + "]" * 150)}
    Path("in.jsonl").write_text(json.dumps(record) + "\n")
    arche_magic.map("in.jsonl", "{{text}}", to="out.jsonl")
    assert json.loads(Path("out.jsonl").read_text())["deep"] == record["deep"]


def test_a_value_of_the_data_that_is_too_deep_is_refused(sandbox: Sandbox) -> None:
    """It could not be written after everything was spent."""
    deep = '{"text": "soup", "deep": ' + "[" * 600 + "]" * 600 + "}\n"
    Path("in.jsonl").write_text('{"text": "soup"}\n' * 3 + deep)
    with pytest.raises(InvalidRequest, match="line 4 is nested too deeply"):
        arche_magic.map("in.jsonl", "{{text}}", to="out.jsonl")
    assert sandbox.requests == ()


def test_json_lines_hold_no_nan(start: Start) -> None:
    """Many readers refuse NaN and Infinity, which Python reads and writes; they become null."""
    value = '{"share": 0.5, "scores": [1.0, NaN, Infinity], "by": {"a": NaN}}'
    start(reply=lambda model, messages: value)
    Path("in.jsonl").write_text('{"text": "a", "x": NaN, "deep": [NaN, {"y": Infinity}]}\n')
    schema = {
        "type": "object",
        "properties": {
            "share": {"type": "number"},
            "scores": {"type": "array", "items": {"type": "number"}},
            "by": {"type": "object"},
        },
    }
    for target in ("out.jsonl", "out.csv"):
        arche_magic.map("in.jsonl", TEMPLATE, to=target, schema=schema)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    written = json.loads(Path("out.jsonl").read_text(), parse_constant=refuse)
    assert written["error"] is None
    assert (written["x"], written["deep"]) == (None, [None, {"y": None}])
    assert (written["scores"], written["by"]) == ([1.0, None, None], {"a": None})
    cell = pd.read_csv("out.csv", dtype=str).scores[0]
    assert json.loads(cell, parse_constant=refuse) == [1.0, None, None]
