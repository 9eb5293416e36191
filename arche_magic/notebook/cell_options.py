"""What the options of a cell mean: defaults, values of variables, and which exclude others."""

from __future__ import annotations

import builtins
import keyword
import re
from argparse import Namespace
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import Function
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.text.wording import did_you_mean
from arche_magic.prompts import is_reference, look_up, own_names

if TYPE_CHECKING:
    from .defaults import Defaults

# IPython's results and inputs (`_`, `_3`, `_i`, `_i3`, `_oh`), and names of a Python module.
_RESERVED = re.compile(r"In|Out|get_ipython|exit|quit|_{1,3}|_i{1,3}|_i?\d+|_[iod]h|__\w*__")

_LINE_ENDS = re.compile(r"(\\n)+")


def first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def is_given(value: Any) -> bool:
    """Whether the value of an option was typed; 0 and "" can be."""
    return value is not None and value is not False


def typed_or_default(options: Namespace, defaults: Defaults, *names: str) -> dict[str, Any]:
    """Options of the cell, or their defaults; an empty text counts as not given."""
    given = {
        name: first_given(getattr(options, name, None), getattr(defaults, name)) for name in names
    }
    return {name: None if value == "" else value for name, value in given.items()}


def request_options(options: Namespace, defaults: Defaults, *names: str) -> dict[str, Any]:
    """The arguments of a request that every prompt has, and those of `names`, from a cell."""
    names = ("system", "temperature", "max_tokens", "private", *names)
    stop = [
        text.replace(r"\n", "\n") if _LINE_ENDS.fullmatch(text) else text
        for text in options.stop or ()
    ]
    return typed_or_default(options, defaults, *names) | {
        "top_p": options.top_p,
        "seed": options.seed,
        "stop": stop or None,
        "extra": {"reasoning_effort": options.effort} if options.effort else None,
        "fresh": options.fresh,
        "tag": options.tag,
        "fallback_on_filter": options.fallback_on_filter,
    }


def refuse_with(flag: str, options: Namespace, *names: str) -> None:
    """Raise InvalidRequest if one of these options was typed together with `flag`."""
    for name in names:
        if is_given(getattr(options, name)):
            raise InvalidRequest(f"%llm: {flag} cannot be combined with --{name.replace('_', '-')}")


def check_together(options: Namespace, defaults: Defaults) -> None:
    """Raise InvalidRequest for options that exclude each other."""
    if options.tools is not None:
        refuse_with("--tools", options, "schema", "compare")
    elif options.max_rounds is not None:
        raise InvalidRequest("%llm: --max-rounds needs --tools f,g")
    if options.background:
        refuse_with("--background", options, "tools", "compare", "show_prompt", "dry_run")
        if first_given(options.chat, defaults.chat):
            hint = "" if options.chat else "; add --chat '' to leave this cell out of it"
            raise InvalidRequest(
                "%llm: --background cannot be combined with --chat: the next turn would not know "
                f"this one{hint}"
            )


def check_variable(option: str, name: str) -> None:
    """Raise InvalidRequest unless a variable that an option binds can have this name."""
    problem = ""
    if not name.isidentifier() or keyword.iskeyword(name):
        problem = "is not a valid variable name"
    elif _RESERVED.fullmatch(name):
        problem = "is a name that IPython or Python uses; choose another"
    elif hasattr(builtins, name):
        problem = f"would hide the builtin {name}; choose another name"
    if problem:
        raise InvalidRequest(f"{option} {name!r} {problem}")


def with_values(options: Namespace, names: Mapping[str, Any]) -> None:
    """Replace the names of a schema and of functions in the options by their values.

    Raises:
        InvalidRequest: the variable does not exist, or has the wrong type.
    """
    if options.schema is not None:
        options.schema = schema_named(options.schema, names)
    if options.tools is not None:
        options.tools = _functions_named(options.tools, names)


def schema_named(text: str, names: Mapping[str, Any]) -> Any:
    """The schema that `--schema TEXT` means: a variable's value, or TEXT if it is not a name.

    Raises:
        InvalidRequest: no variable has that name.
    """
    if "[" in text and is_reference(text, names):
        return look_up(text, names)
    first, *attributes = text.split(".")
    if not all(part.isidentifier() for part in (first, *attributes)):
        return text
    if first not in names:
        fitting = [name for name, value in names.items() if isinstance(value, type | dict)]
        raise InvalidRequest(
            f"%llm: --schema {text!r} is not a variable; a short line has a type after each name, "
            f"such as 'score float'{did_you_mean(first, fitting)}"
        )
    return _attribute(text, names, "--schema")


def _functions_named(text: str, names: Mapping[str, Any]) -> list[Function]:
    """The functions that `--tools TEXT` names, such as `lookup,db.query`."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InvalidRequest("%llm: --tools takes names of functions, such as f,g")
    return [_function(word, names) for word in words]


def _function(word: str, names: Mapping[str, Any]) -> Function:
    """The function of that name, which a model calls by its last part: `query` for `db.query`."""
    first = word.partition(".")[0]
    if first not in names:
        fitting = [name for name in own_names(names) if callable(names[name])]
        raise InvalidRequest(
            f"%llm: --tools {word!r} is not a variable{did_you_mean(first, fitting)}"
        )
    value = _attribute(word, names, "--tools")
    if not callable(value):
        kind = type(value).__name__
        raise InvalidRequest(f"%llm: --tools {word!r} is of type {kind}; it must be a function")
    return Function.of(value, word.rpartition(".")[2])


def _attribute(text: str, names: Mapping[str, Any], option: str) -> Any:
    """The value of `name.attribute`, whose name exists; `option` is what it was typed after."""
    first, _, attributes = text.partition(".")
    try:
        return attrgetter(attributes)(names[first]) if attributes else names[first]
    except AttributeError as error:
        raise InvalidRequest(f"%llm: {option} {text!r}: {error}") from None
