"""`%%llm --schema`: the fields of a reply in its cell, as a value, and as a frame."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from notebook_kernel import Kernel

FITS = {
    "mood": "calm",
    "tags": ["a", "b"],
    "place": {"name": "<b>bar</b>", "open": True},
    "guests": [{"name": "A", "age": 30}, {"name": "B"}],
    "note": None,
}
CLASSES = """
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal
from pydantic import BaseModel

class Place(BaseModel):
    name: str
    open: bool

class Guest(BaseModel):
    name: str
    age: int | None = None

class Visit(BaseModel):
    mood: Literal["calm", "loud"]
    tags: list[str]
    place: Place
    guests: list[Guest]
    note: str | None = None

@dataclass
class Point:
    x: int
    y: int

shapes = SimpleNamespace(Point=Point)
"""


@pytest.fixture
def classes(kernel: Kernel) -> Kernel:
    assert kernel.run(CLASSES).status == "ok"
    return kernel


def test_a_class_of_the_notebook_can_be_the_schema(classes: Kernel, sandboxed) -> None:
    """The cell shows the fields; the reply is the JSON text, and `parsed` is an instance."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: json.dumps(FITS))
    cell = classes.run("%%llm --schema Visit -o visit\nHow was it?")
    assert cell.status == "ok", cell.error
    shown, receipt = (content["data"] for content in cell.displays)
    assert json.loads(shown["text/plain"]) == {
        **FITS,
        "guests": [{"name": "A", "age": 30}, {"name": "B", "age": None}],
    }
    html = shown["text/html"]
    assert set(shown) == {"text/plain", "text/html"}
    assert "<b>" not in html
    assert "&lt;b&gt;bar&lt;/b&gt;" in html
    assert "a, b" in html
    assert html.count(">name</th>") == 2
    assert receipt["text/plain"].startswith("groq · key 1 · ")
    assert cell.displays[0]["metadata"]["arche_magic"]["provider"] == "groq"
    assert classes.value("(type(visit.parsed).__name__, visit.parsed.guests[1].name)") == (
        "Visit",
        "B",
    )
    assert classes.value("str(visit)") == json.dumps(FITS)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ("Point", "Point"),
        ("shapes.Point", "Point"),
        ("'x int, y int'", "dict"),
        ('"x int, y int"', "dict"),
        ("wanted", "dict"),
        ("line", "dict"),
    ],
)
def test_a_schema_can_be_named_in_several_ways(
    classes: Kernel, sandboxed, schema: str, kind: str
) -> None:
    """It can be a class, also in a module, a line, or a variable with a JSON Schema or a line."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: '{"x": 1, "y": 2}')
    classes.run("line = 'x int, y int'")
    classes.run("wanted = {'type': 'object', 'properties': {'x': {'type': 'integer'}}}")
    cell = classes.run(f"reply = %llm -q --schema {schema} Where\nreply.parsed")
    assert cell.status == "ok", cell.error
    assert classes.value("type(reply.parsed).__name__") == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--schema Vist",
            "a type after each name, such as 'score float'; did you mean 'Visit'?",
        ),
        ("--schema shapes.Pint", "has no attribute 'Pint'"),
        ("--schema json", "schema is of type module; a schema is a pydantic model"),
        ("--schema 'score flaot'", "unknown type 'flaot' of 'score'; did you mean 'float'?"),
    ],
)
def test_an_invalid_schema_is_an_error_in_one_line(
    classes: Kernel, sandboxed, options: str, said: str
) -> None:
    """Nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    classes.run("import json")
    cell = classes.run(f"%%llm {options}\nHello")
    assert said in cell.message
    assert not sandbox.requests


def test_a_retry_may_ask_for_another_form(kernel: Kernel, sandboxed) -> None:
    """A format replaces a schema, and the other way round; the old reply keeps its own form."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: '{"a": 1}')
    kernel.run("%llm -q -f json Hello")
    assert kernel.run("reply = %llm_retry --schema 'a int'").status == "ok"
    assert kernel.value("reply.parsed") == {"a": 1}
    before, _, now = kernel.run("reply = %llm_retry -f text").data("text/html")[0].partition("now")
    assert ("<table" in before, "<table" in now) == (True, False)
    assert kernel.value("reply.parsed") is None


ODD = """
from datetime import date
from typing import Annotated, Any
from pydantic import AfterValidator, BaseModel

class Mute:
    def __repr__(self):
        raise RuntimeError("not shown")

class Log(BaseModel):
    days: dict[date, int]
    odd: Annotated[Any, AfterValidator(lambda value: Mute())]
"""


@pytest.mark.parametrize("options", ["", "-b "])
def test_values_that_json_lacks_are_shown_as_text(kernel: Kernel, sandboxed, options: str) -> None:
    """Dates as names of fields, and objects that cannot be printed."""
    text = '{"days": {"2026-11-30": 3}, "odd": 1}'
    sandboxed(keys={"groq": 1}, reply=lambda *_: text)
    kernel.run(ODD)
    cell = kernel.run(f"%%llm {options}--schema Log -o log\nWhat happened?")
    assert cell.status == "ok", cell.error
    if options:
        kernel.run("log.wait(30)")
        cell = kernel.run("%llm_jobs show 1")
    assert json.loads(cell.data()[0]) == {
        "days": {"2026-11-30": 3},
        "odd": "<Unserializable Mute object>",
    }


def test_a_reply_that_cannot_be_shown_ends_its_job(kernel: Kernel, sandboxed) -> None:
    """Whoever waits for it gets it, and the output has the error."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: '{"a": 1}')
    kernel.run(
        "from pydantic import BaseModel, field_serializer\n"
        "class Broken(BaseModel):\n"
        "    a: int\n"
        "    @field_serializer('a')\n"
        "    def fail(self, a):\n"
        "        raise RuntimeError('not shown')"
    )
    kernel.run("%%llm -b --schema Broken -o broken\nHello")
    assert kernel.value("broken.wait(30).parsed.a") == 1
    kernel.run("%llm_jobs")
    assert "RuntimeError: not shown" in str(kernel.elsewhere)


def test_a_frame_has_a_row_per_reply(classes: Kernel, sandboxed) -> None:
    """It has a column per field."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: json.dumps(FITS))
    classes.run("import arche_magic\none = %llm -q --schema Visit Hello")
    classes.run("rows = arche_magic.frame([one, one])")
    assert classes.value("list(rows.columns)") == list(FITS)
    assert classes.value("(len(rows), rows.tags[1], rows.guests[0][1]['name'])") == (
        2,
        ["a", "b"],
        "B",
    )
    assert classes.value("arche_magic.frame(one).shape") == (1, 5)
    classes.run("plain = %llm -q Hello")
    assert (
        "only replies to prompts with a schema" in classes.run("arche_magic.frame(plain)").message
    )


def test_a_variable_with_a_reply_shows_its_json(classes: Kernel, sandboxed) -> None:
    """As code, however often it is displayed."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: '{"x": 1, "y": 2}')
    classes.run("reply = %llm -q --schema Point Hello")
    (markdown,) = classes.run("reply").data("text/markdown")
    assert markdown.strip() == '```json\n{"x": 1, "y": 2}\n```'


def test_a_reply_that_does_not_fit_is_shown_and_fails_the_cell(classes: Kernel, sandboxed) -> None:
    """The error is one line. The text stays in the cell and in the error."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: '{"x": "<i>one</i>"}')
    cell = classes.run("%%llm --schema Point -o unfit\nHello")
    assert cell.status == "error"
    assert cell.message.startswith("SchemaMismatch: the reply of groq")
    assert "x: Input should be a valid integer" in cell.message
    assert len(sandbox.requests) == 2
    shown, note = (content["data"] for content in cell.displays)
    assert shown["text/plain"] == '{"x": "<i>one</i>"}'
    assert "<i>" not in shown["text/html"]
    assert note["text/plain"] == "this does not fit the schema"
    assert classes.value("__import__('sys').last_value.text") == '{"x": "<i>one</i>"}'
    assert classes.value("'unfit' in globals()") is False


def test_the_second_reply_replaces_the_first(classes: Kernel, sandboxed) -> None:
    """The cell shows one reply, and its receipt unfolds to the other attempt."""
    texts = iter(['{"x": "one"}', '{"x": 1, "y": 2}'])
    sandboxed(keys={"mistral": 1}, reply=lambda *_: next(texts))
    cell = classes.run("%%llm --schema Point\nHello")
    shown, receipt = cell.data()
    assert json.loads(shown) == {"x": 1, "y": 2}
    assert "does not fit Point" in receipt


def test_a_structured_reply_streams_as_text(classes: Kernel, sandboxed) -> None:
    """It is shown as text until it is complete and can be parsed."""
    text = json.dumps({"x": 1, "y": 2, "words": " ".join(["word"] * 60)})
    sandboxed(keys={"mistral": 1}, seconds_per_chunk=0.02, reply=lambda *_: text)
    cell = classes.run("%%llm --schema 'x int, y int, words str'\nHello")
    drawn = [c["data"] for _, kind, c in cell.messages if kind.endswith("display_data")]
    # The last display is the receipt.
    growing = [data["text/plain"] for data in drawn[:-1] if "<pre" in data.get("text/html", "")]
    assert len(growing) > 2
    assert all(text.startswith(part) for part in growing)
    assert "<table" in cell.data("text/html")[0]


def test_show_prompt_prints_the_schema(classes: Kernel, sandboxed) -> None:
    """It is printed as JSON Schema."""
    sandbox = sandboxed(keys={"groq": 1})
    printed = classes.run("%llm --schema Point --show-prompt Where").printed
    prompt, schema = printed.split("── schema Point ──")
    assert "Where" in prompt
    assert json.loads(schema)["required"] == ["x", "y"]
    assert not sandbox.requests
