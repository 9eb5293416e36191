"""Python functions as tools: their definition for a model, their calls, and requests in rounds.

In a round, a model asks for functions, they run here, and it gets their results. Each round is one
request to the loop, so another route may answer it. Pydantic describes the parameters and checks
the arguments. It is imported with the first function.
"""

from __future__ import annotations

import inspect
import json
import time
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

from .bounded import library
from .errors import InvalidRequest, LLMProviderError
from .events import Event
from .options import python_number, shown
from .reply import Attempt, Reply
from .request import Message, Request
from .schemas import validator
from .secrets import key_in
from .stopping import raise_if_stopped
from .text.characters import whole_characters
from .text.json_values import fitted
from .text.wording import shortened
from .tools import LONGEST_NAME, Tool, ToolCall, ToolRun, is_name
from .types import Key, Usage

MOST_CHARACTERS = 8_000
"""The longest result that is sent to a model, about 2,000 tokens; the rest is cut."""
MOST_ROUNDS = 8
"""Requests for one prompt, if `max_rounds` is not given."""
# OpenAI's limit until 2025; compatible services may still have it (getsentry/sentry-mcp#106).
_LONGEST_DESCRIPTION = 1024
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# Rows of a pandas table; its own text leaves out columns.
_MOST_ROWS = 100


@dataclass(frozen=True)
class Function:
    """A Python function that a model may call.

    Attributes:
        tool: what the model is told about it.
    """

    tool: Tool
    _function: Callable[..., Any] = field(repr=False)
    _check: Callable[[Any], dict[str, Any]] = field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any], name: str = "") -> Function:
        """Return a function as a tool.

        The description is its docstring, and the parameters are those of its signature, with their
        annotations. A parameter without annotation takes any JSON value. Arguments that a `partial`
        has set are not shown to the model.

        Args:
            function: a function, method, partial or other callable object.
            name: what the model calls it; the function's own name if not given.

        Raises:
            InvalidRequest: it has no usable name, is a class or async, or has parameters that
                JSON cannot give: `*args`, `**kwargs`, positional-only, or of other types.
        """
        whole: Any = function
        while isinstance(whole, partial):
            whole = whole.func
        name = name or getattr(whole, "__name__", type(whole).__name__)
        if name == "<lambda>":
            raise InvalidRequest("tools: a lambda has no name; write a function with def")
        if not is_name(name):
            raise InvalidRequest(
                f"tools: {name!r} is not a valid name for a tool; use at most 64 letters (a-z), "
                "digits, _ and -"
            )
        if isinstance(whole, type):
            raise InvalidRequest(f"tools: {name} is a class; pass a function")
        code = whole if inspect.isroutine(whole) else whole.__call__
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise InvalidRequest(
                f"tools: {name} is async; pass a function that runs it, as with asyncio.run"
            )
        schema, check = _described(name, _parameters(name, function, code))
        description = shortened(whole_characters(inspect.getdoc(whole) or ""), _LONGEST_DESCRIPTION)
        return cls(Tool(name, description, json.dumps(schema, ensure_ascii=False)), function, check)

    def run(self, arguments: str) -> tuple[str, bool]:
        """Call the function with a model's arguments, given as JSON.

        Returns the text for the model, and whether it is an error: wrong arguments, or what the
        function raised, without its traceback. An interrupt is raised.
        """
        try:
            values = self._check(json.loads(arguments or "{}"))
        except ValueError as error:
            return f"invalid arguments: {error}", True
        except RecursionError:
            return "invalid arguments: they are nested too deeply", True
        try:
            return result_text(self._function(**values)), False
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's function raises
            return _cut(_said(error)), True


def result_text(value: Any) -> str:
    """Return a function's result as text for a model: text unchanged, other values as JSON.

    A value that JSON cannot represent is sent as its `str`. Long texts are cut and marked.
    """
    if isinstance(value, str):
        return _cut(str(value))
    if hasattr(value, "to_string"):  # pandas
        return _cut(value.to_string(max_rows=_MOST_ROWS))
    from pydantic_core import to_jsonable_python

    if isinstance(value, Iterator):
        # It may be endless. Each value takes at least one character, so more values cannot fit.
        value = list(islice(value, MOST_CHARACTERS))
    try:
        plain = to_jsonable_python(value, fallback=_plain)
    except ValueError:  # bytes that are not text, or a value within itself
        plain = str(value)
    return _cut(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)  # numpy


def _said(error: BaseException) -> str:
    """Return the type and the message of an error, which may fail to make its message."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # whatever its `__str__` raises
        return type(error).__name__


def _cut(text: str) -> str:
    text = whole_characters(text)
    if len(text) <= MOST_CHARACTERS:
        return text
    return (
        f"{text[:MOST_CHARACTERS]}\n[cut: the first {MOST_CHARACTERS:,} of {len(text):,} "
        "characters]"
    )


def _parameters(
    name: str, function: Callable[..., Any], code: Callable[..., Any]
) -> dict[str, Any]:
    """Return the types of a function's parameters, by name; `code` has its annotations."""
    library("pydantic")
    from pydantic import Field

    code = inspect.unwrap(code)
    # Without the type of the result, which need not exist at runtime.
    annotated = SimpleNamespace(__annotations__=dict(getattr(code, "__annotations__", {})))
    annotated.__annotations__.pop("return", None)
    try:
        hints = typing.get_type_hints(
            annotated, globalns=getattr(code, "__globals__", {}), include_extras=True
        )
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError, NameError, SyntaxError, AttributeError) as error:
        raise InvalidRequest(f"tools: {name}: its parameters cannot be read: {error}") from None
    given = function.keywords if isinstance(function, partial) else {}
    types: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in _NAMED:
            raise InvalidRequest(
                f"tools: {name}: its parameter {parameter} is {parameter.kind.description}; "
                "models pass arguments by name"
            )
        if parameter.name in given:
            continue
        hint = hints.get(parameter.name, Any)
        default = parameter.default
        if default is not parameter.empty:
            if isinstance(default, str | int | float | bool | None):
                hint = typing.Annotated[hint, Field(json_schema_extra={"default": default})]
            hint = typing.NotRequired[hint]
        types[parameter.name] = hint
    return types


def _described(
    name: str, types: dict[str, Any]
) -> tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]:
    """Return the JSON Schema of parameters of these types, and the check of arguments from JSON."""
    from pydantic import ConfigDict, TypeAdapter, with_config
    from pydantic.errors import PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema
    from typing_extensions import TypedDict

    class WithoutTitles(GenerateJsonSchema):
        """Leaves out titles, which only repeat names."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    try:
        # Not a model, in which names such as `schema` or `_id` would mean something.
        arguments = TypedDict("arguments", types)  # type: ignore[misc]
        adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(arguments))
        schema = adapter.json_schema(schema_generator=WithoutTitles)
    except (PydanticUserError, NameError, TypeError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise InvalidRequest(
            f"tools: {name}: its parameters have types that JSON cannot represent: {why}"
        ) from None
    schema.pop("title", None)
    return schema, partial(fitted, validate=validator(adapter))


def read_functions(
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Function], int]:
    """Return the options with tools in place of functions, the functions by name, and max_rounds.

    If a tool is not a function, the caller runs all calls, and no functions are returned.

    Raises:
        InvalidRequest: a function cannot be a tool, `max_rounds` is wrong or without functions, or
            a schema is given too. Names that repeat are refused with the request.
    """
    made = dict(options)
    most = made.pop("max_rounds", None)
    tools = made.get("tools")
    given = list(tools) if isinstance(tools, Iterable) and not isinstance(tools, str) else []
    read = [Function.of(one) if callable(one) else one for one in given]
    functions = [one for one in read if isinstance(one, Function)]
    if functions:
        made["tools"] = [one.tool if isinstance(one, Function) else one for one in read]
    if not functions or len(functions) < len(read):
        if most is not None:
            raise InvalidRequest("max_rounds requires that all tools are functions")
        return made, {}, MOST_ROUNDS
    rounds = MOST_ROUNDS if most is None else python_number(most)
    if not isinstance(rounds, int) or rounds < 2:
        raise InvalidRequest(
            f"max_rounds is {shown(most)}; it must be a whole number, 2 or more: one round to "
            "call, one to answer"
        )
    if made.get("schema") is not None:
        raise InvalidRequest("tools that are functions cannot be combined with schema")
    return made, {function.tool.name: function for function in functions}, rounds


def in_rounds(
    request: Request,
    ask: Callable[[Request], Generator[Event, None, Reply]],
    functions: Mapping[str, Function],
    most: int,
    keys: Sequence[Key],
) -> Generator[Event, None, Reply]:
    """Run the functions that a model asks for, until it answers.

    Yields the events of all rounds as they happen; returns the last reply with the sums of all
    rounds. A `tool_choice` that forces a call applies only to the first round.

    Args:
        request: the first round.
        ask: the events of one request.
        functions: what the model may ask for, by name.
        most: maximum number of requests. The last one forbids calls, so that the model must answer.
        keys: a result that contains one of them is not sent.

    Raises:
        LLMProviderError: a round got no reply, a reply with calls contains a key, or the last
            one still asks for calls. Its attempts are those of all rounds.
    """
    replies: list[Reply] = []
    runs: list[ToolRun] = []
    try:
        while True:
            if len(replies) == most - 1:
                request = replace(request, tool_choice="none")
            reply = yield from ask(request)
            replies.append(reply)
            if len(replies) == most and reply.tool_calls and not reply.strip():
                raise LLMProviderError(
                    f"the model still asks for calls after {most} rounds (max_rounds), "
                    "although the last round forbids them"
                )
            if not reply.tool_calls or len(replies) == most:
                return _with_sums(replies, runs)
            if key := key_in((str(reply), reply.tool_calls), keys):
                # The next round would send it, perhaps to another provider.
                raise LLMProviderError(
                    f"the reply contains the key {key.label}, so its calls were not run"
                )
            said = [Message("assistant", str(reply), tool_calls=reply.tool_calls)]
            for call in reply.tool_calls:
                yield call
                run = _run(call, functions, keys, len(replies))
                runs.append(run)
                yield run
                said.append(Message("tool", run.result, tool_call_id=call.id))
            request = replace(request, messages=(*request.messages, *said), tool_choice="")
    except LLMProviderError as error:
        error.attempts = (*_attempts(replies), *error.attempts)
        raise


def _run(
    call: ToolCall, functions: Mapping[str, Function], keys: Sequence[Key], number: int
) -> ToolRun:
    raise_if_stopped()
    function = functions.get(call.name)
    began = time.perf_counter()
    if function is None:
        known = ", ".join(functions)
        # A model may ask for a longer name than tools can have.
        name = shortened(call.name, LONGEST_NAME)
        result, failed = f"unknown function {name!r}; available functions: {known}", True
    else:
        result, failed = function.run(call.arguments)
    seconds = time.perf_counter() - began
    # A function may swallow the interrupt.
    raise_if_stopped()
    if key := key_in(result, keys):
        result, failed = f"the result contains the key {key.label}, so it is not sent", True
    return ToolRun(call, result, failed, seconds, number)


def _with_sums(replies: Sequence[Reply], runs: Sequence[ToolRun]) -> Reply:
    """Return the last reply with the sums of all rounds; it counts as kept only if all are kept."""
    last = replies[-1]
    asked = [reply for reply in replies if reply.from_memory is None] or replies
    costs = [reply.cost for reply in asked]
    return last.changed(
        usage=Usage(
            sum(reply.usage.input_tokens for reply in asked),
            sum(reply.usage.output_tokens for reply in asked),
        ),
        attempts=_attempts(replies),
        seconds=sum(reply.seconds for reply in asked) + sum(run.seconds for run in runs),
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
        from_memory=last.from_memory if asked is replies else None,
        tool_runs=tuple(runs),
    )


def _attempts(replies: Iterable[Reply]) -> tuple[Attempt, ...]:
    return tuple(attempt for reply in replies for attempt in reply.attempts)
