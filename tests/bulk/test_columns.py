"""Prompts of rows: names of columns in braces, and the kinds of tables that jobs accept."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from bulk_parts import prompts
from hypothesis import given, reject
from hypothesis import strategies as st

import arche_magic
from arche_magic.bulk import JobStopped, Rows
from arche_magic.llm_providers import InvalidRequest
from arche_magic.prompts import Prompt, fill

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

ODD = pd.DataFrame(
    {
        2023: [1],
        "% change": [0.5],
        "$price": ["cheap"],
        "unit price": [3],
        " padded ": ["trim"],
        "two\nlines": ["both"],
        "a.b": ["dotted"],
        "f(x)": ["called"],
        "f{x}": ["braced"],
        "list of": [["first"]],
        pd.Timestamp("2026-11-29"): ["dated"],
    }
)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{2023}}", "1"),
        ("{{ % change }}", "0.5"),
        ("{{$price}} for {{unit price}}", "cheap for 3"),
        ("{{padded}} {{two lines}}", "trim both"),
        ("{{a.b}} {{f(x)}}", "dotted called"),
        ("{{f{x}}} {{list of[0]}} {{2026-11-29}}", "braced first dated"),
        (r"{{2023}} \{{2023}} \{{2024}} {2023} {{}}", "1 {{2023}} {{2024}} {2023} {{}}"),
    ],
)
def test_any_column_name_can_be_used_in_braces(
    sandbox: Sandbox, template: str, prompt: str
) -> None:
    """It may have digits, signs and spaces; a backslash before the braces keeps them."""
    arche_magic.map(ODD, template)
    assert prompts(sandbox) == [prompt]


def test_columns_of_several_levels_are_named_with_dots(sandbox: Sandbox) -> None:
    """The columns of the replies are added as pandas adds a column to such a frame."""
    columns = pd.MultiIndex.from_tuples([("price", "low"), ("price", "high")])
    data = pd.DataFrame([[1, 2]], columns=columns)
    result = arche_magic.map(data, "{{price.low}} to {{('price', 'high')}}")
    assert prompts(sandbox) == ["1 to 2"]
    assert list(result.columns[:2]) == list(columns)
    assert result["reply"].tolist()[0]
    again = arche_magic.map(result, "Shorten {{reply}}", prefix="again_")
    assert prompts(sandbox)[1] == f"Shorten {result['reply'][0]}"
    assert list(again.columns[: result.shape[1]]) == list(result.columns)
    assert again["again_reply"].tolist()[0]


def test_two_columns_with_the_same_name_as_text_are_an_error(sandbox: Sandbox) -> None:
    """One name is a number and the other a text, so the braces are ambiguous."""
    with pytest.raises(InvalidRequest, match="two columns have the name '2023'"):
        arche_magic.map(pd.DataFrame([[1, 2]], columns=[2023, "2023"]), "{{2023}}")


@pytest.mark.parametrize(
    "wrong", ["{{2024}}", '{{"a": 1}}', "{{unit  prize}}", "{{a.b.c}}", "{{g{x}}}"]
)
def test_braces_that_name_no_column_are_an_error(sandbox: Sandbox, wrong: str) -> None:
    """They are not sent as text for any row."""
    with pytest.raises(InvalidRequest, match=r"no column.*sends the braces unchanged"):
        arche_magic.map(ODD, f"{{{{2023}}}} {wrong}")
    assert not prompts(sandbox)


def test_steps_after_a_column_are_checked_before_anything_is_sent(sandbox: Sandbox) -> None:
    """There is one error instead of one for each row."""
    with pytest.raises(InvalidRequest, match=r"unit price \| upper.*takes a name"):
        arche_magic.map(ODD.rename(columns={"$price": "unit"}), "{{unit price | upper}}")
    assert not prompts(sandbox)


class OnlyStreams:
    """A table with only an Arrow stream, such as DuckDB's relations."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table({"text": ["One", "Two"]}).__arrow_c_stream__(requested_schema)


class OnlyInterchange:
    """A table with only the older interchange protocol."""

    def __dataframe__(self, *arguments: Any, **options: Any) -> Any:
        return pa.table({"text": ["One", "Two"]}).__dataframe__(*arguments, **options)


def test_a_table_of_another_library_is_returned_as_the_same_type(sandbox: Sandbox) -> None:
    """Its columns are unchanged, and added ones have their types; other data becomes pandas."""
    days = [date(2026, 11, 28), None]
    values = {"text": ["One", "Two"], "days": [days, []], "n": [None, 2**60]}
    for table in (pl.DataFrame(values), pa.table(values), pa.RecordBatch.from_pydict(values)):
        result = arche_magic.map(table, "Shout {{text}}", schema="mood good|bad, score int")
        assert type(result) is (pl.DataFrame if isinstance(table, pl.DataFrame) else pa.Table)
        own, added = result.select(list(values)), pl.DataFrame(result).drop(list(values))
        assert own.equals(table if isinstance(table, pl.DataFrame) else pa.table(table))
        assert added.columns[:2] == ["mood", "score"]
        assert added["score"].dtype == added["tokens"].dtype == pl.Int64
        assert set(added["mood"].cast(pl.String)) <= {"good", "bad"}
    for other in (OnlyStreams(), OnlyInterchange()):
        assert isinstance(arche_magic.map(other, "Shout {{text}}"), pd.DataFrame)
    series = arche_magic.map(pl.Series("text", ["One", "Two"]), "Shout {{text}}")
    assert series.columns[:2] == ["text", "reply"]
    assert set(prompts(sandbox)) == {"Shout One", "Shout Two"}
    assert arche_magic.plan(series.select("text"), "Shout {{text}}").kept == 2


def test_a_stopped_job_has_its_finished_rows_in_the_same_type(sandbox: Sandbox) -> None:
    """Here no row is finished."""
    table = pl.DataFrame({"text": ["One", None]})
    with pytest.raises(JobStopped) as stopped:
        arche_magic.map(table, "Shout {{text}}", max_tokens_total=1)
    assert stopped.value.frame["text"].to_list() == [None]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pl.DataFrame({"text": ["One"]}).lazy(), r"polars\.LazyFrame; pass data\.collect\(\)"),
        ({"text": ["One"]}, "of type dict; it must be a DataFrame"),
        (5, "of type int; it must be a DataFrame"),
    ],
)
def test_other_data_is_refused(sandbox: Sandbox, data: Any, reason: str) -> None:
    """The error names the types that are accepted."""
    with pytest.raises(InvalidRequest, match=reason):
        arche_magic.map(data, "{{text}}")


PIECES = st.sampled_from(
    ["{{text}}", "{{ unit price }}", "{{text[0]}}", "{{2023}}", "\\{{text}}", "{{", "}}", "{other}",
     "\n", "\0", "0", "\0001\0", "Is it good? "]
)  # fmt: skip
TEXTS = st.text(min_size=1) | st.sampled_from(["{{text}}", "a\nb\n", "\0", "\\{{", " "])
VALUES = st.fixed_dictionaries({"text": TEXTS, "unit price": TEXTS | st.integers(), "2023": TEXTS})


@given(st.lists(PIECES, max_size=6), VALUES)
def test_the_prompt_of_a_row_is_that_of_a_cell(
    pieces: list[str], values: dict[str, str | int]
) -> None:
    """Rows of texts are filled in faster, with the same result."""
    template = "".join([*pieces, "{{text}}"])
    try:
        rows = Rows(pd.DataFrame([values], dtype=object), template)
    except InvalidRequest:
        # Adjacent pieces may name a column that does not exist, such as `{{` `0` `}}`.
        reject()
    ((_, prompt),) = rows.prompts(0, 1)
    assert isinstance(prompt, Prompt)
    assert prompt.text == fill(template, values, 2000).text
