"""The schema of a structured reply, from a class, a JSON Schema or a short line.

Pydantic is imported when the first schema is used.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NotRequired

from ..bounded import library
from ..errors import ConfigurationError, InvalidRequest
from ..request import Message, Request, Schema
from ..text.characters import whole_characters
from ..text.json_values import Misfit, Problem, json_in, value_in
from ..text.wording import did_you_mean
from .json_schema import as_object, fields_in, strict_form

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["schema_as_sent", "schema_of", "validator", "with_correction"]

_ACCEPTED = (
    "a schema is a pydantic model, a dataclass, a TypedDict, a JSON Schema as a dict, or a line "
    "such as 'sentiment pos|neg, score float, tags list[str], note str?'"
)

# The short form of a schema: `sentiment pos|neg, score float, note str?`.
_TYPES: dict[str, type] = {
    "str": str, "int": int, "float": float, "bool": bool, "date": datetime.date,
}  # fmt: skip
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_FIELD = re.compile(r"\s*([^\W\d]\w*)(?:\s*:\s*|\s+|$)(.*)", re.DOTALL)
_LIST = re.compile(r"list\s*\[(.*)\]", re.DOTALL)


def schema_of(described: Any) -> Schema:
    """Return a schema from a class, a JSON Schema or a short line.

    The value of a pydantic model or dataclass is an instance. All other values are dicts.

    Raises:
        InvalidRequest: it does not describe an object, or is none of these.
        ConfigurationError: a JSON Schema needs the package jsonschema, which is not installed.
    """
    if isinstance(described, Schema):
        return described
    if "pydantic" not in sys.modules:
        library("pydantic")
    if isinstance(described, str):
        return _of_line(whole_characters(described))
    if isinstance(described, Mapping):
        return _of_json_schema(dict(described))
    if isinstance(described, type):
        return _of_class(described)
    raise InvalidRequest(f"schema is of type {type(described).__name__}; {_ACCEPTED}")


def schema_as_sent(
    name: str, definition: Mapping[str, Any], *, strict: bool, description: str = ""
) -> Schema:
    """Return a schema that is sent unchanged, for a caller that checks the reply itself.

    The value is the JSON of the reply, of any type.
    """
    text = json.dumps(definition, separators=(",", ":"), ensure_ascii=False)
    return Schema(name, whole_characters(text), strict, json_in, description=description)


def with_correction(request: Request, text: str, problems: str) -> Request:
    """Return a request that continues from a reply that did not fit, and says what was wrong."""
    correction = (
        f"This does not fit the schema: {problems}. Reply once more with the corrected JSON alone."
    )
    said = Message("assistant", whole_characters(text))
    asked = Message("user", whole_characters(correction))
    return replace(request, messages=(*request.messages, said, asked))


def _of_line(line: str) -> Schema:
    from typing_extensions import TypedDict

    fields = _fields_of(line)
    # Names are only data here, so keywords and names of methods are allowed.
    adapter = _adapter(TypedDict("Reply", fields))  # type: ignore[operator]
    validate = validator(adapter)

    def complete(value: Any) -> dict[str, Any]:
        found = validate(value)
        return {name: found.get(name) for name in fields}

    return _schema("reply", adapter.json_schema(), complete, formats=True)


def _fields_of(line: str) -> dict[str, Any]:
    """Return the fields of a short line, each with its type.

    A field is a name and a type: `str` (the default), `int`, `float`, `bool`, `date`,
    `list[TYPE]`, or a choice of words, `pos|neg|"not sure"`. A `?` after it allows null.
    """
    fields: dict[str, Any] = {}
    for part in _split(line, ","):
        field = _FIELD.fullmatch(part)
        if field is None:
            raise InvalidRequest(
                f"schema: {part.strip()!r} is not a field; write a name and a type, such as 'score "
                "float', with commas between fields"
            )
        name, kind = field[1], field[2].strip()
        if name in fields:
            raise InvalidRequest(f"schema: there are two fields named {name!r}")
        optional = kind.endswith("?")
        found = _type_of(name, kind.removesuffix("?").rstrip() or "str")
        fields[name] = NotRequired[found | None] if optional else found
    return fields


def _type_of(name: str, kind: str) -> Any:
    if kind in _TYPES:
        return _TYPES[kind]
    if listed := _LIST.fullmatch(kind):
        return list[_type_of(name, listed[1].strip())]  # type: ignore[misc]  # made at run time
    choices = [choice.strip() for choice in _split(kind, "|")]
    if len(choices) == 1:
        hint = did_you_mean(kind, [*_TYPES, "list"])
        raise InvalidRequest(
            f"schema: unknown type {kind!r} of {name!r}{hint}; known types: {', '.join(_TYPES)}, "
            "list[TYPE], and choices of words, such as pos|neg"
        )
    if "" in choices:
        raise InvalidRequest(f"schema: {name!r} has an empty choice in {kind!r}")
    if mixed := [choice for choice in choices if choice in _TYPES]:
        raise InvalidRequest(
            f"schema: {name!r} has {mixed[0]!r} as a choice; put a choice that is the name of a "
            "type into quotes, and use a class for a field of several types"
        )
    # `01` is a word, because the number would be 1.
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,14}", choice) for choice in choices):
        return Literal[tuple(dict.fromkeys(map(int, choices)))]
    unquoted = (choice[1:-1] if _QUOTED.fullmatch(choice) else choice for choice in choices)
    return Literal[tuple(dict.fromkeys(unquoted))]


def _split(text: str, sign: str) -> list[str]:
    """Return the parts between separators. Quoted text is not split."""
    hidden = _QUOTED.sub(lambda quoted: "\0" * len(quoted[0]), text)
    parts, start = [], 0
    for end in [place for place, found in enumerate(hidden) if found == sign] + [len(text)]:
        parts.append(text[start:end])
        start = end + 1
    return parts


def _of_class(described: type) -> Schema:
    adapter = _adapter(described)
    from pydantic.errors import PydanticUserError

    try:
        sent, named = adapter.json_schema(), adapter.json_schema(by_alias=False)
    except PydanticUserError as error:
        raise InvalidRequest(f"schema {described.__name__}: {_first_line(error)}") from None
    return _schema(described.__name__, sent, validator(adapter), named, formats=True)


def _of_json_schema(definition: dict[str, Any]) -> Schema:
    try:
        library("jsonschema")
        from jsonschema import FormatChecker
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
    except ImportError:
        raise ConfigurationError(
            "checking a JSON Schema needs the package jsonschema, which is not installed: "
            "pip install 'arche_magic[schema]', or describe the reply with a class or a short line"
        ) from None
    try:
        text = json.dumps(definition, ensure_ascii=False, allow_nan=False)
        definition = json.loads(whole_characters(text))
        kind = validator_for(definition if isinstance(definition.get("$schema"), str) else {})
        kind.check_schema(definition)
    except SchemaError as error:
        place = "".join(f"[{step!r}]" for step in error.absolute_path)
        raise InvalidRequest(f"schema{place}: {error.message}") from None
    except RecursionError:
        raise InvalidRequest("schema is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"schema is not JSON: {error}") from None
    validator = kind(definition, format_checker=FormatChecker())

    def validate(value: Any) -> Any:
        errors = sorted(validator.iter_errors(value), key=lambda error: list(error.absolute_path))
        if errors:
            raise Misfit([Problem(tuple(e.absolute_path), e.message) for e in errors])
        return value

    return _schema(str(definition.get("title") or "reply"), definition, validate, formats=False)


def _schema(
    name: str,
    definition: dict[str, Any],
    validate: Callable[[Any], Any],
    named: dict[str, Any] | None = None,
    *,
    formats: bool,
) -> Schema:
    # `named` has the names of the class, which the value has; the reply has its aliases.
    try:
        definition = as_object(definition)
        fields = fields_in(as_object(named) if named else definition, formats=formats)
    except ValueError as error:
        raise InvalidRequest(f"schema {name}: {error}") from None
    strict = strict_form(definition)
    return Schema(
        name=re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64] or "reply",
        text=whole_characters(
            json.dumps(strict or definition, separators=(",", ":"), ensure_ascii=False)
        ),
        strict=strict is not None,
        read=partial(value_in, validate=validate),
        fields=fields,
    )


def _adapter(described: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        return TypeAdapter(described)
    except PydanticSchemaGenerationError as error:
        why = str(error).partition(". ")[0]
        raise InvalidRequest(f"schema {described.__name__}: {why}; {_ACCEPTED}") from None
    except (PydanticUserError, NameError) as error:
        raise InvalidRequest(f"schema {described.__name__}: {_first_line(error)}") from None


def validator(adapter: TypeAdapter[Any]) -> Callable[[Any], Any]:
    """Return the adapter's check of a value from JSON; it raises Misfit."""
    from pydantic import ValidationError

    def validate(value: Any) -> Any:
        try:
            # From JSON, so that dates and enumerations are parsed from strings.
            return adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems = [
                Problem(one["loc"], one["msg"], one["type"] != "missing", one["input"])
                for one in found
            ]
        raise Misfit(problems)

    return validate


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
