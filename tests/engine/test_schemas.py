"""Schemas: how they can be described, their form in strict modes, and how replies are read."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import subprocess
import sys
import threading
import time
import typing
from decimal import Decimal
from enum import Enum, IntEnum
from functools import reduce
from typing import Any, Literal

import jsonschema
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import Schema
from arche_magic.llm_providers.schemas import schema_of
from arche_magic.sandbox.schemas import strict_problem

# --- the short line

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,8}[A-Za-z0-9]", fullmatch=True).filter(
    lambda word: word not in ("str", "int", "float", "bool", "date") and not word.isdigit()
)
# A type in the line, and a strategy for JSON values that fit the field.
BASIC = {
    "str": st.text(max_size=5),
    "int": st.integers(-(10**9), 10**9),
    "float": st.floats(-1e9, 1e9),
    "bool": st.booleans(),
    "date": st.dates().map(str),
}


@st.composite
def kinds(draw: st.DrawFn, deep: bool = True) -> tuple[str, st.SearchStrategy[Any]]:
    """A type as written in the line, and values that fit it."""
    form = draw(st.sampled_from(["basic", "words", "numbers", "list"] if deep else ["basic"]))
    if form == "basic":
        name = draw(st.sampled_from(list(BASIC)))
        return name, BASIC[name]
    if form == "words":
        choices = draw(st.lists(words, min_size=2, max_size=4, unique=True))
        written = [draw(st.sampled_from([word, f'"{word}"', f"'{word}'"])) for word in choices]
        return "|".join(written), st.sampled_from(choices)
    if form == "numbers":
        numbers = draw(st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True))
        return "|".join(map(str, numbers)), st.sampled_from(numbers)
    inner, values = draw(kinds(deep=False))
    return f"list[{inner}]", st.lists(values, max_size=3)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A short line with irregular spaces, and a value that fits it."""
    value: dict[str, Any] = {}
    parts = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        kind, values = draw(kinds())
        optional = draw(st.booleans())
        between = draw(st.sampled_from([" ", ": ", ":", "  "]))
        parts.append(f"{name}{between}{kind}{'?' if optional else ''}")
        value[name] = draw(st.none() | values if optional else values)
    comma = draw(st.sampled_from([",", ", ", " , "]))
    return comma.join(parts), value


@given(lines())
def test_a_line_accepts_the_values_it_describes(drawn: tuple[str, dict[str, Any]]) -> None:
    """They fit the schema that is sent, are read unchanged, and the schema is strict."""
    line, value = drawn
    schema = schema_of(line)
    assert schema.strict
    assert strict_problem(schema.definition) is None
    jsonschema.validate(value, schema.definition)
    read = schema.read(json.dumps(value))
    assert list(read) == list(value)
    assert json.loads(json.dumps(read, default=str)) == value


@given(lines(), st.data())
def test_a_line_refuses_values_that_do_not_fit(
    drawn: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """The value is an object instead of another type, and the message names the field."""
    line, value = drawn
    name = data.draw(st.sampled_from(list(value)))
    with pytest.raises(ValueError, match=name):
        schema_of(line).read(json.dumps({**value, name: {"odd": 1}}))


@given(st.text(max_size=40) | st.text("ab |?,[]'\":listrn", max_size=30))
def test_any_text_is_a_valid_line_or_explained(text: str) -> None:
    """A text that is not valid raises an error of one line."""

    def outcome() -> str:
        try:
            return str(schema_of(text).definition["type"])
        except InvalidRequest as error:
            return str(error)

    assert outcome() == "object" or (outcome().startswith("schema: ") and "\n" not in outcome())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "'' is not a field; write a name and a type, such as 'score float'"),
        ("score float,", "'' is not a field"),
        ("1st int", "'1st int' is not a field"),
        ("score flaot", "unknown type 'flaot' of 'score'; did you mean 'float'?"),
        ("score Float", "did you mean 'float'?"),
        ("tags list[string]", "unknown type 'string' of 'tags'"),
        ("tags list", "unknown type 'list' of 'tags'"),
        ("mood calm|", "'mood' has an empty choice in 'calm|'"),
        ("value int|str", "'value' has 'int' as a choice"),
        ("a int, a str", "two fields named 'a'"),
    ],
)
def test_a_mistake_in_a_line_is_explained(line: str, said: str) -> None:
    """The message lists what is possible."""
    with pytest.raises(InvalidRequest) as caught:
        schema_of(line)
    assert said in str(caught.value)


def test_a_field_without_a_type_is_text() -> None:
    """A field may have a name that a class could not have."""
    schema = schema_of("summary, class, copy str, model_config int")
    value = {"summary": "s", "class": "c", "copy": "d", "model_config": 1}
    assert schema.read(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("line", "value"),
    [("a 0|-1|12", 12), ("a 01|02", "01"), ("a '1'|'2'", "2"), ("a 1|two", "1")],
)
def test_choices_are_numbers_if_all_of_them_are(line: str, value: Any) -> None:
    """Otherwise they are words, and leading zeros are kept."""
    assert schema_of(line).read(json.dumps({"a": value})) == {"a": value}


def test_a_nullable_field_may_be_missing() -> None:
    """The value then has it as None."""
    assert schema_of("a int, b str?").read('{"a": 1}') == {"a": 1, "b": None}


# --- classes and JSON Schema


class Mood(Enum):
    CALM = "calm"
    LOUD = "loud"


class Place(BaseModel):
    name: str
    inside: Place | None = None


class Review(BaseModel):
    """What a guest says."""

    mood: Mood
    score: float = Field(description="How good it was", ge=0, le=1)
    place: Place = Field(description="Where it was")
    visited: datetime.date | None = None
    stars: int = Field(3, ge=1, le=5)
    tags: list[str] = Field(default=[], min_length=1)
    kind: Literal["review"] = "review"

    @field_validator("tags")
    @classmethod
    def lower(cls, tags: list[str]) -> list[str]:
        return [tag.lower() for tag in tags]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Path:
    points: list[Point]
    name: str | None = None


class Person(typing_extensions.TypedDict):
    name: str
    born: typing_extensions.NotRequired[int]


TREE = {
    "title": "A tree!",
    "type": "object",
    "properties": {
        "value": {"type": "integer", "minimum": 0},
        "children": {"type": "array", "items": {"$ref": "#/definitions/node"}},
    },
    "required": ["value"],
    "definitions": {
        "node": {"oneOf": [{"$ref": "#/definitions/leaf"}, {"type": "null"}]},
        "leaf": {"type": "object", "properties": {"leaf": {"const": True}}, "required": ["leaf"]},
    },
}
EXAMPLES: list[tuple[Any, str, str, Any]] = [
    (
        Review,
        "Review",
        (
            '{"mood": "calm", "score": 0.5, "place": {"name": "bar", "inside": null}, '
            '"visited": "2026-01-02", "stars": 4, "tags": ["WINE"], "kind": "review"}'
        ),
        Review(
            mood=Mood.CALM,
            score=0.5,
            place=Place(name="bar"),
            visited=datetime.date(2026, 1, 2),
            stars=4,
            tags=["wine"],
        ),
    ),
    (Path, "Path", '{"points": [{"x": 1, "y": 2}], "name": null}', Path([Point(1, 2)])),
    (Person, "Person", '{"name": "A", "born": 1}', {"name": "A", "born": 1}),
    (
        TREE,
        "A_tree_",
        '{"value": 1, "children": [{"leaf": true}, null]}',
        {"value": 1, "children": [{"leaf": True}, None]},
    ),
]


@pytest.mark.parametrize(("described", "name", "text", "value"), EXAMPLES)
def test_a_reply_is_parsed_into_the_class_that_describes_it(
    described: Any, name: str, text: str, value: Any
) -> None:
    """Models and dataclasses give instances, all else a dict; both fit the schema sent."""
    schema = schema_of(described)
    assert schema.name == name
    jsonschema.validate(json.loads(text), schema.definition)
    assert schema.read(text) == value
    assert type(schema.read(text)) is type(value)


@pytest.mark.parametrize("described", [example[0] for example in EXAMPLES])
def test_the_schema_sent_keeps_the_strict_rules(described: Any) -> None:
    """The sandbox checks them as the providers do."""
    schema = schema_of(described)
    assert schema.strict
    assert strict_problem(schema.definition) is None


def test_bounds_are_described_in_words() -> None:
    """The model reads them, and the reply is checked against them."""
    schema = schema_of(Review)
    properties = schema.definition["properties"]
    assert properties["score"]["description"] == "How good it was (minimum 0, maximum 1)"
    assert "(minimum 1, maximum 5)" in json.dumps(properties["stars"])
    assert properties["place"] == {
        "description": "Where it was",
        "anyOf": [{"$ref": "#/$defs/Place"}],
    }
    with pytest.raises(ValueError, match="score: Input should be less than or equal to 1"):
        schema.read('{"mood": "calm", "score": 2, "place": {"name": "bar"}}')


def test_null_in_a_required_field_counts_as_missing() -> None:
    """Strict modes make a model name every field; then the defaults of the class apply."""
    read = schema_of(Review).read(
        '{"mood": "loud", "score": 1, "place": {"name": "bar"}, "stars": null, "tags": null, '
        '"kind": null, "visited": null}'
    )
    assert (read.stars, read.tags, read.kind, read.visited) == (3, [], "review", None)
    assert schema_of(Person).read('{"name": "A", "born": null}') == {"name": "A"}
    assert schema_of(TREE).read('{"value": 1, "children": null}') == {"value": 1}
    with pytest.raises(ValueError, match="name: Field required"):
        schema_of(Person).read('{"name": null}')


@dataclasses.dataclass
class Scores:
    by_name: dict[str, int]


@pytest.mark.parametrize(
    "described",
    [
        Scores,
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 2}]}}},
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "string"}},
            "properties": {"b": {}},
        },
    ],
)
def test_a_schema_beyond_strict_modes_is_sent_unchanged(described: Any) -> None:
    """The reply is still checked."""
    schema = schema_of(described)
    assert not schema.strict
    if isinstance(described, dict):
        assert schema.definition == described
    else:
        assert schema.read('{"by_name": {"a": 1}}') == Scores({"a": 1})


def test_a_prepared_schema_is_used_unchanged() -> None:
    """Callers that ask many times prepare it once."""
    schema = schema_of("a int")
    assert schema_of(schema) is schema
    assert schema == schema_of("a int")
    assert hash(schema) == hash(schema_of("a int"))
    assert isinstance(schema, Schema)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (5, "schema is of type int; a schema is a pydantic model, a dataclass"),
        (Point(1), "schema is of type Point; a schema is"),
        (int, "schema int: it does not describe an object; name what you want"),
        (sys, "schema is of type module; a schema is"),
        (threading.Thread, "core schema for <class 'threading.Thread'>; a schema is"),
        (dataclasses.make_dataclass("Two", [("a", threading.Thread)]), "schema Two: Unable to"),
        ({"type": "array", "items": {"type": "string"}}, "it does not describe an object"),
        ({"type": "objekt"}, "schema['type']: 'objekt' is not valid"),
        ({"type": "object", "properties": {"a": {"const": {1}}}}, "schema is not JSON"),
        ({"type": "object", "properties": {"a": {"const": math.nan}}}, "schema is not JSON"),
        (reduce(lambda inner, _: {"items": inner}, range(5000), {}), "schema is nested too deeply"),
        ({"$schema": 5, "type": "object"}, "schema['$schema']: 5 is not of type 'string'"),
        ({"$ref": "#/$defs/gone"}, "it refers to '#/$defs/gone', which it does not contain"),
        (
            {"type": "object", "properties": {"a": {"$ref": "https://example.org/x.json"}}},
            "it refers to 'https://example.org/x.json', which it does not contain",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
            "its reference '#/properties/a' leads only to references",
        ),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "leads only to references",
        ),
    ],
)
def test_an_invalid_schema_is_explained(described: Any, said: str) -> None:
    """The error comes before anything is sent."""
    with pytest.raises(InvalidRequest) as caught:
        schema_of(described)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes either from 3.12 on")
def test_an_unsupported_typed_dict_is_explained() -> None:
    """The message names the one that pydantic supports on this Python version."""
    with pytest.raises(InvalidRequest, match=r"use `typing_extensions\.TypedDict`"):
        schema_of(typing.TypedDict("Person", {"name": str}))  # type: ignore[operator]


# --- reading


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '\n {"a": 1}\n',
        '```json\n{"a": 1}\n```',
        '```\n{"a": 1}\n```\n',
        'Here it is:\n\n```json\n{"a": 1}\n```\nAnything else?',
        'Sure! {"a": 1}',
        # reasoning, with drafts in it
        '<think>{"a": 7}</think>{"a": 1}',
        '<think>\nIt may be {"a": 7}.\n</think>\n\n```json\n{"a": 1}\n```',
        'It may be {"a": 7}, or {"a": 8}.</think>{"a": 1}',
        '[THINK]{"a": 7}[/THINK]{"a": 1}',
        '◁think▷{"a": 7}◁/think▷{"a": 1}',
        '<think>{"a": 1}</think>',
        '<think>{"a": 1}',
        # channels of the harmony format
        '<|channel|>analysis<|message|>{"a":7}<|end|><|channel|>final<|message|>{"a": 1}<|return|>',
        '<|channel|>final <|constrain|>json<|message|>{"a": 1}',
        '<|channel|>commentary to=reply <|constrain|>json<|message|>{"a": 1}<|call|>',
        'analysisIt may be {"a": 7}.assistantfinal{"a": 1}',
        # braces in prose
        'The set {1, 2} has {n} members: {"a": 1}',
        'In {"a": <number>} the number is {"a": 1}',
        'First I had {"a": 7}. Now it is {"a": 1}.',
        "Not {'a': 7}, but\n{\"a\": 1}",
        '{{"a": 1}}',
        # fences
        '```python\nx = {"b": 7}\n```\nprints\n```json\n{"a": 1}\n```',
        '```json\n{"type": "object", "properties": {"a": {}}}\n```\n```json\n{"a": 1}\n```',
        '~~~json\n{"a": 1}\n~~~',
        'Here:\n```json\n{"a": 1}\n```\nUse it so:\n```python\nd = {"a": 7}\n```',
        'Draft:\n```json\n{"a": 7}\n```\nFinal:\n```json\n{"a": 1}\n```\n',
        'As in {"a": 7}:\n\n```JSON\n\n{"a": 1}\n```',
        '<json>{"a": 1}</json>',
        '```json\n{"a": 1}',
        # what follows the object
        '{"a": 1}}',
        '{"a": 1}\n\nThe opposite is {"a": 7}.',
        '{"a": 1}<|end|>',
        '{"a": 1}</s>',
        '{"a": 1}<|im_end|>\n<|im_start|>user\n{"a": 7}',
        'It is {"a": 1}<eos>{"a": 7}',
        '{"a": 1}<｜end▁of▁sentence｜>',
    ],
)
def test_json_is_found_within_other_text(text: str) -> None:
    """Models without strict mode add sentences, and some servers leave special tokens in."""
    assert schema_of("a int").read(text) == {"a": 1}


def test_a_lone_surrogate_in_json_is_replaced() -> None:
    """It could not be written to a file; the two halves of a pair are joined."""
    text = r'{"t": "\ud83d\ude00 \uD83D!"}'
    for described in ("t str", {"type": "object", "properties": {"t": {"type": "string"}}}):
        for said in (text, f"Sure: {text}"):
            assert schema_of(described).read(said) == {"t": "\U0001f600 \ufffd!"}


def test_what_looks_like_reasoning_inside_json_is_kept() -> None:
    """Text that looks like a special token and unescaped line breaks are kept too."""
    for value in ("<think>x</think>", "a </think> b", "<s>x</s>", "<|end|>", "```json"):
        for before in ("", "Sure: ", "<think>Hm.</think>", "```json\n"):
            text = f"{before}{json.dumps({'t': value})}"
            assert schema_of("t str").read(text) == {"t": value}
    assert schema_of("t str").read('{"t": "one\ntwo"}') == {"t": "one\ntwo"}


@pytest.mark.parametrize(
    "text",
    [
        '{"b": {"a": 1}, "c": [',
        'Here: {"b": {"a": 1}',
        '```json\n{"b": {"a": 1}\n```',
        'Here: {"b": "of {\\"a\\": 1} the',
        '{"a": 1, "b": {"a": 1}, ',
        "{" * 100_000,
        '{"' * 100_000,
        '{"a":' * 100_000,
        "<think>" * 50_000,
    ],
)
def test_no_part_of_a_cut_object_is_used(text: str) -> None:
    """The result is returned quickly, however deeply the object is nested."""
    began = time.monotonic()
    with pytest.raises(ValueError, match="it is not JSON"):
        schema_of("a int").read(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I cannot do that.", "it is not JSON (Expecting value"),
        ('{"a": 1', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('Here: {"a": ' + "1" * 5000 + "}", "it is not JSON"),
        ("[1]", "Input should be an object (got [1])"),
        ("null", "Input should be an object (got None)"),
        ('{"a": "high"}', "a: Input should be a valid integer"),
        ('{"a": NaN}', "a: Input should be"),
        ("{}", "a: Field required"),
        (json.dumps({"a": "x" * 10_000}), "(got 'xxx"),
    ],
)
def test_a_mismatch_is_described(text: str, said: str) -> None:
    """In a few words, whatever the reply was."""
    with pytest.raises(ValueError, match=r".") as caught:
        schema_of("a int").read(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("form", ["{}", "Here: {}", "{} \\ud800"])
def test_a_deeply_nested_reply_is_a_mismatch(form: str) -> None:
    """It can be parsed, but checking it takes more levels than Python has."""
    tree = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    text = '{"a": ' * 300 + "{}" + "}" * 300
    with pytest.raises(ValueError, match="it is nested too deeply"):
        schema_of(tree).read(form.replace("{}", text))


def test_only_the_first_of_many_problems_are_named() -> None:
    """The message has the number of the others."""
    line = ", ".join(f"f{number} int" for number in range(9))
    with pytest.raises(ValueError, match=r"f0: Field required; .*f4: Field required; and 4 more"):
        schema_of(line).read("{}")


def test_a_missing_jsonschema_package_is_named() -> None:
    """The message names the extra before anything is sent; classes and lines do not need it."""
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from arche_magic.llm_providers.schemas import schema_of\n"
        "schema_of('a int')\n"
        "try:\n    schema_of({'type': 'object', 'properties': {}})\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigurationError")
    assert "pip install 'arche_magic[schema]'" in done.stdout


class Taste(Enum):
    """A choice."""

    SWEET = "sweet"
    SOUR = "sour"


class Level(IntEnum):
    """Numbers to choose from."""

    LOW = 1
    HIGH = 2


class Meal(BaseModel):
    """A field of each kind, some with another name in the reply."""

    taste: Taste = Field(alias="theTaste")
    level: Level | None = None
    word: Literal["a", "b"] | None
    open_word: Literal["a"] | str  # noqa: PYI051  # two kinds in the schema
    number: float | int
    sure: bool
    day: datetime.date
    at: datetime.datetime
    price: Decimal
    mixed: Literal["a", 1]
    either: int | str
    several: list[int]
    parts: Meal | None


def test_fields_have_the_names_and_types_of_the_value() -> None:
    """Aliases are not used, null is ignored, and references and alternatives are followed."""
    fields = schema_of(Meal).fields
    kinds = {name: field.kind for name, field in fields.items()}
    assert kinds == {
        "taste": "choice", "level": "integer", "word": "choice", "open_word": "text",
        "number": "number", "sure": "boolean", "day": "date", "at": "other", "price": "other",
        "mixed": "other", "either": "other", "several": "other", "parts": "other",
    }  # fmt: skip
    assert fields["taste"].choices == ("sweet", "sour")
    pytest.importorskip("jsonschema")
    # Values that jsonschema checks stay strings.
    described = schema_of(
        {
            "type": "object",
            "properties": {
                "day": {"type": "string", "format": "date"},
                "word": {"oneOf": [{"const": "a"}, {"const": "b"}, {"type": "null"}]},
                "shared": {"$ref": "#/definitions/share"},
                "looped": {"$ref": "#/definitions/loop"},
                "escaped": {"$ref": "#/definitions/yes~1no"},
                "anything": True,
            },
            "definitions": {
                "share": {"type": ["number", "null"]},
                "yes/no": {"enum": ["yes", "no"]},
                "loop": {"anyOf": [{"$ref": "#/definitions/loop"}, {"type": "string"}]},
            },
        }
    )
    kinds = {name: field.kind for name, field in described.fields.items()}
    assert kinds == {
        "day": "text", "word": "choice", "shared": "number", "looped": "other",
        "escaped": "choice", "anything": "other",
    }  # fmt: skip
