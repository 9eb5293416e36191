"""Python functions as tools: what the model sees of them, and what calls return."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
from functools import partial, wraps
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.functions import MOST_CHARACTERS, Function, result_text


class Place(BaseModel):
    name: str
    open: bool = True


@dataclasses.dataclass
class Point:
    x: int
    y: int


def weather(
    city: str,
    days: int = 3,
    unit: Literal["C", "F"] = "C",
    *,
    place: Place | None = None,
    tags: Annotated[list[str], Field(description="Words.")] = [],  # noqa: B006
    anything=None,
) -> dict[str, Any]:
    """The weather of a city.

    city is its name.
    """
    return {
        "city": city, "days": days, "unit": unit, "place": place, "tags": tags, "any": anything,
    }  # fmt: skip


class Store:
    """Answers questions."""

    def find(self, text: str, limit: int = 5) -> str:
        """Find a text."""
        return f"{text} {limit}"

    def __call__(self, text: str) -> str:
        return text


def logged(function: Any) -> Any:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return run


def properties(function: Any) -> dict[str, Any]:
    return Function.of(function).tool.schema["properties"]


def test_a_function_is_described_by_its_signature_and_docstring() -> None:
    """The model sees types, defaults, choices, objects, descriptions and the whole docstring."""
    tool = Function.of(weather).tool
    assert tool.name == "weather"
    assert tool.description == "The weather of a city.\n\ncity is its name."
    schema = tool.schema
    assert schema["required"] == ["city"]
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "city": {"type": "string"},
        "days": {"type": "integer", "default": 3},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Words."},
        "anything": {"default": None},
    }
    assert schema["$defs"]["Place"]["required"] == ["name"]


@pytest.mark.parametrize(
    ("function", "name", "description", "parameters"),
    [
        (Store().find, "find", "Find a text.", ["text", "limit"]),
        (partial(Store().find, limit=2), "find", "Find a text.", ["text"]),
        (partial(Store().find, "oslo"), "find", "Find a text.", ["limit"]),
        (Store(), "Store", "Answers questions.", ["text"]),
        (logged(weather), "weather", Function.of(weather).tool.description, None),
    ],
)
def test_other_callables_are_described_too(
    function: Any, name: str, description: str, parameters: list[str] | None
) -> None:
    """They are methods, partials without their bound arguments, objects and decorated functions."""
    tool = Function.of(function).tool
    assert (tool.name, tool.description) == (name, description)
    assert list(tool.schema["properties"]) == (parameters or list(properties(weather)))


def test_a_name_may_be_given() -> None:
    """As a cell does, which knows the variable's name."""
    assert Function.of(lambda city: city, "lookup").tool.name == "lookup"


def test_parameter_names_that_pydantic_uses_are_allowed() -> None:
    """`schema`, `copy` and `_id` are ordinary parameters."""

    def save(schema: str, copy: int, _id: str) -> list[Any]:
        return [schema, copy, _id]

    assert Function.of(save).run('{"schema": "a", "copy": 1, "_id": "b"}') == (
        '["a", 1, "b"]',
        False,
    )


def test_a_long_description_is_cut() -> None:
    """Some services refuse a request with more than 1,024 characters."""

    def talk() -> None: ...

    talk.__doc__ = "word " * 1000
    description = Function.of(talk).tool.description
    assert len(description) == 1024
    assert description.endswith("…")


async def waits(city: str) -> None: ...


def any_number(*cities: str) -> None: ...


def any_name(**cities: str) -> None: ...


def by_position(city: str, /) -> None: ...


def takes_a_frame(frame: pd.DataFrame) -> None: ...


def misspelled(city: "Sting") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


def température(city: str) -> None: ...  # noqa: PLC2401


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (waits, "tools: waits is async"),
        (partial(waits, city="Oslo"), "tools: waits is async"),
        (any_number, r"any_number: its parameter \*cities: 'str' is variadic positional; models"),
        (any_name, r"any_name: its parameter \*\*cities: 'str' is variadic keyword; models pass"),
        (by_position, "by_position: its parameter city: 'str' is positional-only; models pass"),
        (math.sqrt, "sqrt: its parameter x is positional-only"),
        (takes_a_frame, r"takes_a_frame: .* JSON cannot represent: .*DataFrame'>$"),
        (misspelled, "misspelled: its parameters cannot be read: name 'Sting' is not defined"),
        (lambda city: city, "a lambda has no name; write a function with def"),
        (température, "'température' is not a valid name for a tool; use at most 64 letters"),
        (Place, "Place is a class; pass a function"),
    ],
)
def test_an_unsuitable_function_is_refused_in_one_line(function: Any, words: str) -> None:
    """The error comes before anything is sent."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        Function.of(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ('{"city": "Oslo"}', {}),
        ('{"city": "Oslo", "days": 5}', {"days": 5}),
        ('{"city": "Oslo", "days": "5"}', {"days": 5}),
        ('{"city": "Oslo", "days": null}', {}),
        ('{"city": "Oslo", "place": {"name": "a"}}', {"place": {"name": "a", "open": True}}),
        ('{"city": "Oslo", "anything": [1, {"a": null}]}', {"any": [1, {"a": None}]}),
    ],
)
def test_arguments_are_converted_from_json(arguments: str, changed: dict[str, Any]) -> None:
    """They get the types of the signature. A missing or null argument gets its default."""
    result, failed = Function.of(weather).run(arguments)
    assert not failed
    default = {"city": "Oslo", "days": 3, "unit": "C", "place": None, "tags": [], "any": None}
    assert json.loads(result) == default | changed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "city: Field required"),
        ("{}", "city: Field required"),
        ('{"city": "Os', "Unterminated string"),
        ("[]", "Input should be an object"),
        ('{"city": 5}', "city: Input should be a valid string (got 5)"),
        ('{"city": "Oslo", "town": "a"}', "town: Extra inputs are not permitted"),
        ('{"city": "Oslo", "unit": "K"}', "unit: Input should be 'C' or 'F'"),
        ('{"city": "Oslo", "place": {}}', "place.name: Field required"),
    ],
)
def test_wrong_arguments_are_reported_to_the_model(arguments: str, words: str) -> None:
    """One line says how to correct them; the function is not called."""
    called: list[str] = []

    def spy(city: str, unit: Literal["C", "F"] = "C", place: Place | None = None) -> None:
        called.append(city)

    result, failed = Function.of(spy).run(arguments)
    assert failed
    assert result.startswith("invalid arguments: ")
    assert words in result
    assert not called


def test_an_exception_is_reported_to_the_model() -> None:
    """The model sees its type and message without the traceback; an interrupt ends everything."""

    def fails(how: str) -> None:
        if how == "interrupt":
            raise KeyboardInterrupt
        raise ValueError("no such city")

    function = Function.of(fails)
    assert function.run('{"how": "error"}') == ("ValueError: no such city", True)
    with pytest.raises(KeyboardInterrupt):
        function.run('{"how": "interrupt"}')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("12 °C", "12 °C"),
        (None, "null"),
        (12.5, "12.5"),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        (Place(name="bar"), '{"name": "bar", "open": true}'),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        ({"mean": np.float64(2.5), "all": np.arange(3)}, '{"mean": 2.5, "all": [0, 1, 2]}'),
        (pd.Series([1, 2], name="n"), "0    1\n1    2"),
        (b"\xff", "b'\\xff'"),
        ("a\ud800b", "a\ufffdb"),
    ],
)
def test_results_become_text(value: object, text: str) -> None:
    """Text stays as it is, and other values become JSON, or their `str` if that fails."""
    assert result_text(value) == text


def test_a_wide_table_keeps_all_its_columns() -> None:
    """`str` of a DataFrame omits columns; the model gets all columns of the first rows."""
    frame = pd.DataFrame({f"column{number}": range(500) for number in range(30)})
    text = result_text(frame)
    assert all(f"column{number}" in text for number in range(30))
    assert "[cut: the first 8,000 of " in text


def test_a_long_result_is_cut_and_marked() -> None:
    """A long message of an exception is cut too."""

    def fails() -> None:
        raise ValueError("x" * 20_000)

    text = result_text("x" * 20_000)
    assert text.startswith("x" * MOST_CHARACTERS + "\n[cut: the first 8,000 of 20,000 characters]")
    result, failed = Function.of(fails).run("{}")
    assert failed
    assert len(result) < MOST_CHARACTERS + 60


def test_a_result_whose_str_fails_is_reported_as_an_error() -> None:
    """The fault is in the user's class, and the request continues."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def broken() -> Broken:
        return Broken()

    assert Function.of(broken).run("{}") == ("RuntimeError: no text", True)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=6,
)


def echo(text: str, number: int, share: float, flags: list[bool], anything: Any = None):
    return {
        "text": text, "number": number, "share": share, "flags": flags, "anything": anything,
    }  # fmt: skip


echo_function = Function.of(echo)


@given(
    text=st.text(st.characters(codec="utf-8")),
    number=st.integers(-(2**53), 2**53),
    share=st.floats(allow_nan=False, allow_infinity=False),
    flags=st.lists(st.booleans(), max_size=4),
    anything=json_values,
)
def test_valid_arguments_reach_the_function_unchanged(
    text: str, number: int, share: float, flags: list[bool], anything: object
) -> None:
    """Arguments that fit the schema reach the function, and return as the same JSON."""
    arguments = {
        "text": text, "number": number, "share": share, "flags": flags, "anything": anything,
    }  # fmt: skip
    jsonschema.validate(arguments, echo_function.tool.schema)
    result, failed = echo_function.run(json.dumps(arguments))
    assert not failed
    if len(result) <= MOST_CHARACTERS:
        assert json.loads(result) == arguments


def test_deeply_nested_arguments_are_reported_to_the_model() -> None:
    def echo(a: Any = None) -> Any:
        return a

    function = Function.of(echo)
    for arguments in ("[" * 100_000, '{"a":' * 100_000):
        assert function.run(arguments) == ("invalid arguments: they are nested too deeply", True)


def test_a_function_that_exits_does_not_end_the_program() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert Function.of(leave).run("{}") == ("SystemExit: 3", True)


def test_an_exception_without_a_message_is_reported_by_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def fail() -> None:
        raise Mute

    assert Function.of(fail).run("{}") == ("Mute", True)


@pytest.mark.parametrize("endless", [itertools.count(), (n for n in itertools.count())])
def test_an_endless_iterator_is_cut(endless: Any) -> None:
    text = result_text(endless)
    assert text.startswith("[0, 1, 2,")
    assert "\n[cut: the first" in text
