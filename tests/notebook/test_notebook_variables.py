"""`{{variables}}`: values are inserted into the prompt once; all other braces stay."""

from __future__ import annotations

import functools
import os
import re
from collections import UserDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.display import HTML

from arche_magic.llm_providers import InvalidRequest
from arche_magic.prompts import fill, image_of
from arche_magic.prompts.attachments import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_kernel import Kernel

    from arche_magic.sandbox import Sandbox


def sent(sandbox: Sandbox) -> str:
    """The prompt of the last request."""
    return str(sandbox.requests[-1].body["messages"][-1]["content"])


@functools.cache
def cached_length(text: str) -> int:
    """A property that should not be computed twice."""
    return len(text)


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("name", "Ada"),
        (" name ", "Ada"),
        ("thing.size", "3"),
        ("xs[0]", "a"),
        ("xs[-1]", "c"),
        ('row["first name"]', "Grace"),
        ("row['first name']", "Grace"),
        ("rows[1].row['first name']", "Grace"),
        ("größe", "1.5"),
        ("nothing", "None"),
        ("नाम.size", "3"),  # In `re`, a combining vowel is not a letter.
        ("words", '["a", null, 1]'),
    ],
)
def test_a_reference_is_replaced_by_its_value(reference: str, value: str) -> None:
    """A name, followed by any number of attributes, positions and keys."""
    row = {"first name": "Grace"}
    names = {
        "name": "Ada",
        "thing": SimpleNamespace(size=3),
        "xs": ["a", "b", "c"],
        "row": row,
        "rows": [None, SimpleNamespace(row=row)],
        "größe": 1.5,
        "nothing": None,
        "नाम": SimpleNamespace(size=3),
        "words": np.array(["a", None, 1], dtype=object),
    }
    assert fill(f"<{{{{{reference}}}}}>", names, 100).text == f"<{value}>"


@pytest.mark.parametrize(
    "text",
    [
        '{"json": {"a": {"b": {}}}}',
        "int a[2][2] = {{1,2},{3,4}}; struct p q[] = {{x, y}, {z, w}};",
        r"\frac{1}{2} and {x} and {x.y} and {{ 1 + 1 }} and {{}} and {{\n}}",
        r"\hat{{x_{1}}} and {{x{y}}}",
        "{{ not closed",
        "{{ two\nlines }}",
        "{% for x in xs %} {# note #}",
    ],
)
def test_other_braces_are_sent_unchanged(text: str) -> None:
    """Only two braces on one line around something that begins like a name are a reference."""
    assert fill(text, {"x": "X", "y": "Y", "not": "N"}, 100).text == text


@given(st.text(alphabet="{}x .[]0\\\n\"'$", max_size=40))
def test_only_references_in_a_prompt_are_replaced(text: str) -> None:
    """Without a name in two braces, nothing changes."""
    try:
        filled = fill(text, {}, 100).text
    except InvalidRequest:
        assert "{{" in text
    else:
        assert filled == text or "\\{{" in text


def test_values_are_never_expanded_again() -> None:
    """A value with braces, as hostile text may have, stays text."""
    names = {"comment": "{{secret}} {name} \\{{secret}}", "secret": "leaked", "name": "leaked"}
    assert fill("Rate: {{comment}}", names, 100).text == f"Rate: {names['comment']}"


def test_a_backslash_keeps_the_braces_of_a_template() -> None:
    r"""`\{{name}}` is sent as `{{name}}`; backslashes elsewhere do not change."""
    names = {"name": "Ada"}
    assert fill(r"\{{ name }} \{name} \n \{{1,2}", names, 100).text == (
        r"{{ name }} \{name} \n \{{1,2}"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{nmae}}", "there is no variable 'nmae'; did you mean 'name'?"),
        ("{{secrets.TOKEN}}", r"there is no variable 'secrets' \(\\\{\{ sends braces"),
        ("{{opne}}", r"there is no variable 'opne' \(\\\{\{ sends braces unchanged\)$"),
        ("{{thing.sise}}", "thing has no 'sise'; did you mean 'size'?"),
        ("{{row['first nam']}}", "row has no key 'first nam'; did you mean 'first name'?"),
        ("{{xs[9]}}", "xs has no 9"),
        ("{{frame['ag']}}", "frame has no 'ag'; did you mean 'age'?"),
        ("{{len(xs)}}", "does not call functions; assign the result to a variable first"),
        ('{{Path("notes.txt")}}', r'to insert the file: text = Path\("notes.txt"\).read_text\(\)'),
        ('{{pathlib.Path("a.txt")}}', r'text = pathlib.Path\("a.txt"\).read_text\(\)'),
        ("{{Path('a.png')}}", "--image 'a.png' sends the image"),
        (
            '{{Path("a").read_text()}}',
            "does not call functions; assign the result to a variable first",
        ),
        ("{{lines}}", "lines is of type generator, which has no text form"),
        ("{{rude}}", "rude cannot be shown as text: ZeroDivisionError"),
        ("{{touchy}}", "touchy cannot be shown as text: ZeroDivisionError"),
        ("{{frame.describe}}", "frame.describe is a function; {{…}} does not call functions"),
        ("{{name | upper}}", "takes a name, name.attr, name"),
        ("{{name, xs}}", "takes a name, name.attr, name"),
        ("{{thing.__class__}}", "names that start with _ are private"),
        ("{{math}}", "math is a module"),
        ("{{anything}}", "anything is of type object, which has no text form"),
        ("{{page}}", "page is of type HTML, which has no text form"),
        ("{{broken.value}}", "cannot be read: ZeroDivisionError"),
        ("{{remote['a']}}", r"\{\{remote\['a'\]\}\} cannot be read: lost"),
        (f"{{{{xs[{'9' * 5000}]}}}}", "takes a name, name.attr, name"),
        ("{{data}}", "data is bytes, but not an image"),
    ],
)
def test_an_invalid_reference_is_an_error_with_a_hint(text: str, said: str) -> None:
    """The message names the reference and what to write instead."""

    class Broken:
        @property
        def value(self) -> float:
            return 1 / 0

    class Remote(UserDict[str, str]):
        def __contains__(self, key: object) -> bool:
            raise ConnectionError("lost")

    class Rude:
        def __str__(self) -> str:
            return str(1 / 0)

    class Touchy:
        def __getattr__(self, name: str) -> object:
            return 1 / 0

    names: dict[str, Any] = {
        "name": "Ada",
        "open": open,  # IPython adds it to every notebook
        "xs": [1],
        "row": {"first name": 1},
        "thing": SimpleNamespace(size=1),
        "frame": pd.DataFrame({"age": [1]}),
        "math": pytest,
        "anything": object(),
        "broken": Broken(),
        "remote": Remote(),
        "rude": Rude(),
        "touchy": Touchy(),
        "data": b"\x00\x01",
        "lines": (line for line in "ab"),
        "page": HTML("<b>text</b>"),
    }
    with pytest.raises(InvalidRequest, match=said):
        fill(text, names, 100)


def test_tables_of_other_libraries_are_inserted_like_those_of_pandas() -> None:
    """Their own text forms omit rows without saying so."""
    for table in (pl.DataFrame({"n": range(30)}), pa.table({"n": range(30)})):
        assert fill("{{t}}", {"t": table}, 100).text.endswith("\n28\n29")
    with pytest.raises(InvalidRequest, match=r"LazyFrame; pass data\.collect"):
        fill("{{t}}", {"t": pl.LazyFrame({"n": [1]})}, 100)


def test_a_cached_function_is_inserted_as_its_source() -> None:
    """The decorator makes no difference."""
    assert "def cached_length(" in fill("{{f}}", {"f": cached_length}, 100).text


def test_looking_up_a_key_does_not_create_it() -> None:
    """A defaultdict does not change."""
    counts: defaultdict[str, int] = defaultdict(int)
    with pytest.raises(InvalidRequest, match="counts has no key 'x'"):
        fill("{{counts['x']}}", {"counts": counts}, 100)
    assert counts == {}


def test_a_small_table_is_inserted_completely() -> None:
    """A line with its shape is followed by a line per row. A default index is omitted."""
    frame = pd.DataFrame(
        {"name": ["Ann", "B, C"], "n": [1.0, None], "day": pd.Timestamp("2026-01-02")}
    )
    filled = fill("{{frame}}", {"frame": frame}, 200)
    assert filled.text == (
        '[frame: DataFrame, 2 rows × 3 columns]\nname,n,day\nAnn,1,2026-01-02\n"B, C",,2026-01-02'
    )
    assert filled.notes == ()
    indexed = frame.set_index("name")[["n"]]
    assert fill("{{t}}", {"t": indexed}, 200).text.endswith('name,n\nAnn,1\n"B, C",')


def test_a_large_table_is_cut_to_the_budget_and_says_so() -> None:
    """The prompt states the full size and what is shown; so does a note to the user."""
    frame = pd.DataFrame({"x": range(100_000), "text": ["word " * 40] * 100_000})
    filled = fill("{{frame}}", {"frame": frame}, 500)
    heading, head, *rows = filled.text.split("\n")
    said = f"DataFrame, 100,000 rows × 2 columns, cut to the first {len(rows)} rows"
    assert heading == f"[frame: {said}]"
    assert head == "x,text"
    assert 5 < len(rows) < 20
    assert len(filled.text) / 4 < 520
    assert filled.notes == (
        f"frame (DataFrame, 100,000 rows × 2 columns) was cut to the first {len(rows)} rows",
    )


@pytest.mark.parametrize("budget", [1, 10, 100, 1000])
@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame(np.zeros((50, 400))),
        pd.DataFrame({"text": ["long " * 2000] * 9, "n": range(9)}),
        pd.DataFrame(np.zeros((2000, 2)), index=pd.MultiIndex.from_product([range(40), range(50)])),
        pd.Series(range(5000), name="s"),
        pd.Index(range(5000)),
        np.zeros((1, 100_000)),
        np.arange(5000),
        list(range(5000)),
        {number: [number] * 9 for number in range(900)},
        ["x" * 100_000],
        {"a": {"b": ["ä" * 5000] * 9}},
    ],
)
def test_no_collection_takes_much_more_than_its_budget(value: Any, budget: int) -> None:
    """Wide, long and deep data is cut, and its heading says so."""
    filled = fill("{{value}}", {"value": value}, budget)
    heading, _, rest = filled.text.partition("\n")
    assert filled.notes or budget == 1000
    assert ("cut to" in heading) == bool(filled.notes)
    # The first row, and 16 characters of each cell, are shown whatever the budget.
    assert len(rest) / 4 <= 1.2 * budget + 12


def test_data_is_inserted_as_json() -> None:
    """Dicts, lists, dataclasses and numpy numbers, without a heading if they fit."""

    @dataclass
    class Point:
        x: int
        tags: set[str]

    names = {
        "p": Point(1, {"a"}),
        "d": {"k": (1, 2.5, None), 3: np.int64(4)},
        "a": np.array([1, 2]),
    }
    assert fill("{{p}}", names, 100).text == '{"x": 1, "tags": ["a"]}'
    assert fill("{{d}}", names, 100).text == '{"k": [1, 2.5, null], "3": 4}'
    assert fill("{{a}}", names, 100).text == "[a: array of int64, 2]\n1, 2"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Which stands out in {{sales}}?", "…Apr,7\n?"),
        ("{{sales}}. Why?", "…Apr,7\n. Why?"),
        ("{{sales}}{{sales}}", "…Apr,7\n[sales…Apr,7"),
        ("{{sales}}\nWhy?", "…Apr,7\nWhy?"),
        ("{{sales}}\r\nWhy?", "…Apr,7\r\nWhy?"),
        ("{{sales}}", "…Apr,7"),
        ("{{column}}!", "…7\n!"),
        ("{{array}}!", "…3, 4\n!"),
        ("{{cut}}!", "…\n!"),
        ("{{double}}!", "…return 2 * x\n!"),
        ("{{thing}}!", "…two\n!"),
        ("{{items}}!", '["a", "b"]!'),
        ("```\n{{poem}}```", "```\none\ntwo```"),
    ],
)
def test_a_line_break_follows_data_of_several_lines(text: str, filled: str) -> None:
    """The text after a table is not part of its last value; text values do not change."""

    class Thing:
        def __str__(self) -> str:
            return "one\ntwo"

    def double(x: int) -> int:
        return 2 * x

    sales = pd.DataFrame({"month": ["Mar", "Apr"], "sold": [8, 7]})
    names = {
        "sales": sales,
        "column": sales["sold"],
        "array": np.array([3, 4]),
        "cut": ["long " * 100] * 9,
        "double": double,
        "thing": Thing(),
        "items": ["a", "b"],
        "poem": "one\ntwo",
    }
    parts = [re.escape(part) for part in filled.split("…")]
    assert re.fullmatch(".*".join(parts), fill(text, names, 100).text, re.DOTALL)


def test_a_list_that_contains_itself_is_cut_soon() -> None:
    """Twice in itself, it would have a million lists after twenty levels."""
    seen = 0

    class Endless(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal seen
            seen += 1
            return super().__iter__()

    endless = Endless()
    endless += [endless, endless]
    assert "cut to" in fill("{{endless}}", {"endless": endless}, 100).text
    assert seen < 250_000


def test_an_integer_of_any_size_is_inserted_completely() -> None:
    """Python's `str` refuses more than 4,300 digits."""
    large = 10**5000
    digits = "1" + 5000 * "0"
    names = {
        "n": large,
        "l": [large, 1],
        "d": {large: 1},
        "f": pd.DataFrame({"n": [large]}, dtype=object),
    }
    assert fill("{{n}}", names, 100).text == digits
    assert fill("{{n}}", {"n": -large}, 100).text == "-" + digits
    assert fill("{{l}}", names, 5000).text == f'["{digits}", 1]'
    assert fill("{{d}}", names, 5000).text == f'{{"{digits}": 1}}'
    assert digits in fill("{{f}}", names, 5000).text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("notes.txt", "path is a path, so only the path was inserted; text = path.read_text()"),
        ("plot.PNG", "path is a path, so only the path was inserted; --image path"),
    ],
)
def test_a_path_is_inserted_as_its_name_with_a_hint(path: str, said: str) -> None:
    """A line above the reply says how to insert the contents of the file."""
    filled = fill("Read {{path}}.", {"path": Path(path)}, 100)
    assert filled.text == f"Read {path}."
    assert filled.notes[0].startswith(said)


def test_text_is_never_cut() -> None:
    """A text that is too long for a model is refused, not cut silently."""
    text = "word " * 5000
    assert fill("{{text}}", {"text": text}, 10).text == text


def test_cells_and_lines_insert_variables(kernel: Kernel, sandboxed) -> None:
    """With --raw, nothing is inserted."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("city = 'Oslo'; row = {'x': 1}")
    assert kernel.run('%%llm -q\nWhere is {{city}}? {{row}} {"a": 1}').status == "ok"
    assert sent(sandbox) == 'Where is Oslo? {"x": 1} {"a": 1}'
    kernel.run("%llm -q Where is {{city}}")
    assert sent(sandbox) == "Where is Oslo"
    kernel.run("%%llm -q --raw\n{{ city }} {{ missing|title }}")
    assert sent(sandbox) == "{{ city }} {{ missing|title }}"


def test_a_line_in_a_function_uses_its_variables(kernel: Kernel, sandboxed) -> None:
    """Local names come before those of the notebook."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(
        "city = 'Oslo'\ndef ask(town):\n    city = town\n    %llm -q Where is {{city}}\nask('Rome')"
    )
    assert sent(sandbox) == "Where is Rome"


def test_replies_and_functions_can_be_inserted(kernel: Kernel, sandboxed) -> None:
    """A reply is inserted as its text, and a function as its source."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "an **answer**")
    kernel.run("%llm -q -o first hi\ndef double(x):\n    return 2 * x")
    kernel.run("%%llm -q\n{{first}} {{first.provider}}\n{{double}}")
    assert sent(sandbox) == "an **answer** groq\ndef double(x):\n    return 2 * x"


CLASSES = """
from dataclasses import dataclass
from enum import Enum

class Plain:
    wheels = 4

@dataclass
class Data:
    wheels: int
    name: str = "car"

class Color(Enum):
    RED = 1

class Old:
    wheels = 4
old = Old
"""


def test_a_class_defined_in_a_cell_is_inserted_as_its_source(kernel: Kernel, sandboxed) -> None:
    """The current one, even if the name was defined again or the first cell ran again."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(CLASSES)
    kernel.run("class Old:\n    wheels = 5")
    kernel.run("class Plain:\n    wheels = 3")
    kernel.run("class Plain:\n    wheels = 4\n    class Inner:\n        x = 1")
    for name, source in {
        "Plain": "class Plain:\n    wheels = 4\n    class Inner:\n        x = 1",
        "Plain.Inner": "    class Inner:\n        x = 1",
        "Data": '@dataclass\nclass Data:\n    wheels: int\n    name: str = "car"',
        "Color": "class Color(Enum):\n    RED = 1",
        "old": "class Old:\n    wheels = 4",
        "Old": "class Old:\n    wheels = 5",
    }.items():
        cell = kernel.run(f"%llm -q {{{{{name}}}}}")
        assert cell.status == "ok", cell.error
        assert sent(sandbox) == source


def test_cut_values_are_named_above_the_reply(kernel: Kernel, sandboxed) -> None:
    """They are named in one line. The budget is an option and a setting."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("xs = list(range(5000))")
    note, _, _ = kernel.run("%%llm --budget 30\n{{xs}}").displays
    assert note["data"]["text/plain"].startswith("xs (list of 5,000) was cut to the first ")
    assert len(sent(sandbox)) < 200
    kernel.run("%config ArcheMagics.budget = 60")
    kernel.run("%%llm -q\n{{xs}}")
    assert 200 < len(sent(sandbox)) < 400
    assert "--budget is 0; it must be 1 or more" in kernel.run("%llm --budget 0 hi").message


def test_an_invalid_reference_fails_the_cell_in_one_line(kernel: Kernel, sandboxed) -> None:
    """Nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("city = 'Oslo'")
    cell = kernel.run("%%llm\nWhere is {{ctiy}}?")
    assert cell.status == "error"
    assert cell.message == (
        "InvalidRequest: {{ctiy}}: there is no variable 'ctiy'; did you mean 'city'?"
    )
    assert sandbox.requests == ()


@pytest.mark.parametrize(
    "line",
    [
        "%llm -q What is it?",
        "x = %llm -q What is it?",
        "llm -q What is it?",
        "llm What is it?",
        "llm -q -o x -- What is it?",
        "llm -q -s a=b What is it?",
    ],
)
def test_a_line_may_end_in_a_question_mark(kernel: Kernel, sandboxed, line: str) -> None:
    """It is sent and does not open the help, as `%llm?` and `llm?` do."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("%automagic on")
    assert kernel.run(line).status == "ok"
    assert sent(sandbox) == "What is it?"
    assert "--budget" in kernel.page("%llm?")
    assert "--budget" in kernel.page("llm?")
    kernel.run("%unload_ext arche_magic")
    names = "[t.__name__ for t in get_ipython().input_transformer_manager.token_transformers]"
    assert kernel.value(names) == ["MagicAssign", "SystemAssign", "EscapedCommand", "HelpEnd"]


def test_a_key_in_a_variable_is_not_sent(kernel: Kernel, sandboxed) -> None:
    """`--show-prompt` does not show it either."""
    sandbox = sandboxed(keys={"groq": 1})
    for option in ("", "--show-prompt"):
        cell = kernel.run(f"import os\n%llm {option} My key is {{{{os.environ['GROQ_API_KEY']}}}}")
        assert cell.message.startswith("InvalidRequest: the request contains the key groq_key_1")
        assert sandbox.environment()["GROQ_API_KEY"] not in cell.message + cell.printed
    assert sandbox.requests == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would never end, and a long text cannot be a path."""
    os.mkfifo(tmp_path / "pipe")
    names = {"essay": "One\n" + "a" * 5000, "pipe": tmp_path / "pipe"}
    for read in (image_of, read_file):
        for source in (*names, str(tmp_path / "pipe")):
            with pytest.raises(InvalidRequest, match=r"there is no file|is not a") as caught:
                read(source, names)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 500
