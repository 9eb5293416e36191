"""Build a `Request` from a caller's arguments, and check them before anything is sent.

`messages` reads conversations and tools, and `values` single options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

from ..config import Configuration
from ..errors import InvalidRequest
from ..request import Image, Message, Request, Schema
from ..schemas import schema_as_sent, schema_of
from ..secrets import is_key_like, key_in
from ..text.characters import whole_characters
from ..text.wording import suggestion
from ..tools import Tool, is_name
from ..types import Key, ReplayMode
from .messages import (
    Messages,
    read_images,
    read_messages,
    read_parallel,
    read_tool_choice,
    read_tools,
)
from .values import (
    READERS,
    check_callable,
    check_fields,
    json_number,
    python_number,
    read_flag,
    read_text,
    shown,
)

if TYPE_CHECKING:
    from ..events import OnWait

__all__ = [
    "Options",
    "build_request",
    "check_callable",
    "check_for_keys",
    "check_names",
    "json_number",
    "keys_to_check",
    "python_number",
    "read_flag",
    "shown",
    "with_prompt",
]

T = TypeVar("T")
# Fields of OpenAI's chat completions that must not be in `extra`, because they are options.
_OPTIONS_OF_THEIR_OWN = (
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "temperature", "top_p",
    "stop", "seed", "max_tokens", "max_completion_tokens", "stream",
)  # fmt: skip
_NAMES_OF_OPTIONS = {"max_completion_tokens": "max_tokens", "stream": "stream()"}
_LONGEST_FIELD = 100
_SCHEMA_FIELDS = ("name", "schema", "strict", "description")


class Options(TypedDict, total=False):
    """The options of `generate` besides model, max_tokens and temperature; see its docstring.

    None means that the option is not set.
    """

    provider: str | None
    max_output_tokens: int | None
    system: str | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    patience: float | None
    timeout: float | None
    fallback_on_filter: bool | None
    keep: bool | None
    fresh: bool | None
    schema: Any
    images: Sequence[Image | str | Path | bytes] | None
    reserve: float | None
    private: bool | None
    same_model: bool | None
    tag: str | None
    tools: Sequence[Tool | Mapping[str, Any] | Callable[..., Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    extra: Mapping[str, Any] | None
    max_rounds: int | None
    on_wait: OnWait | None


# These are for the code that runs the request. They are not part of the request.
_NOT_OF_THE_REQUEST = ("max_rounds", "on_wait")
_OPTIONS = [
    name
    for name in ("model", "max_tokens", "temperature", *Options.__annotations__)
    if name not in _NOT_OF_THE_REQUEST
]


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Raise InvalidRequest for an unknown option; the message offers the nearest, or lists all."""
    for name in given:
        if name not in known:
            hint = suggestion(name, known, "known options:")
            raise InvalidRequest(f"unknown option {name!r}{hint}", option=name)


def build_request(prompt: str | Messages, configuration: Configuration, **options: Any) -> Request:
    """Return a request from a prompt or chat messages and the options of `generate`.

    Lone surrogates in its texts are replaced, as in replies, because they cannot be sent.

    Raises:
        InvalidRequest: an option is unknown or wrong, the prompt is empty, or a text contains one
            of the keys.
        ConfigurationError: a JSON Schema needs a package that is not installed.
    """
    texts: list[str] = []
    try:
        request = _built(prompt, configuration, options)
    except InvalidRequest as error:
        # The message may quote a key that was typed instead of a value, perhaps shortened.
        texts = [str(error), *(value for value in options.values() if isinstance(value, str))]
        if not key_in(texts, configuration.keys):
            raise
    # Outside the handler, so that an error that quotes a key is not the context of this one.
    check_for_keys(texts or request, configuration.keys)
    return request


def _built(
    prompt: str | Messages, configuration: Configuration, options: Mapping[str, Any]
) -> Request:
    check_names(options, _OPTIONS)
    given = {
        "patience": configuration.patience,
        "timeout": configuration.timeouts.total,
        "private": configuration.always_private,
    } | {name: value for name, value in options.items() if value is not None}
    names = [name for name in ("max_tokens", "max_output_tokens") if name in given]
    most = {_read(name, READERS["max_tokens"], name, given[name]) for name in names}
    if len(most) > 1:
        raise InvalidRequest(
            "max_tokens and max_output_tokens are the same option; use one", option="max_tokens"
        )
    given["max_tokens"] = next(iter(most), None)
    tools = _read("tools", read_tools, given.get("tools"))
    extra, schema = _extra(given.get("extra"))
    if "schema" in given:
        if schema or "response_format" in extra:
            raise InvalidRequest("use either schema or the response_format in extra")
        schema = _read("schema", schema_of, given["schema"])
    images = _read("images", read_images, given.get("images"))
    messages = _read("messages", _messages, prompt, given.get("system"), images)
    fields = {
        name: _read(name, read, name, given[name])
        for name, read in READERS.items()
        if given.get(name) is not None
    }
    return Request(
        messages=messages,
        model=configuration.without_alias(fields.pop("model", None)),
        schema=schema,
        replay=_replay(given.get("keep"), configuration.replay),
        tools=tools,
        tool_choice=_read("tool_choice", read_tool_choice, given.get("tool_choice"), tools),
        parallel_tool_calls=_read(
            "parallel_tool_calls", read_parallel, given.get("parallel_tool_calls"), tools
        ),
        extra=extra,
        **fields,
    )


def _read(option: str, read: Callable[..., T], *arguments: Any) -> T:
    """Return what a reader makes of an option; its error then says which option is wrong."""
    try:
        return read(*arguments)
    except InvalidRequest as error:
        error.option = error.option or option
        raise


def with_prompt(
    sample: Request, prompt: str, keys: Sequence[Key], images: Sequence[Image] = ()
) -> Request:
    """Return a result of `build_request` with another text and other images in its last message.

    Its other fields are not checked again. `keys` are the result of `keys_to_check`.

    Raises:
        InvalidRequest: the prompt is empty or contains one of the keys.
    """
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty")
    prompt = whole_characters(prompt)
    if keys:
        check_for_keys(prompt, keys)
    message = Message("user", prompt, read_images(images or None))
    # Three times as fast as `replace`, which matters for a million prompts.
    return Request(**(vars(sample) | {"messages": (*sample.messages[:-1], message)}))


def keys_to_check(prompts: Sequence[str], configuration: Configuration) -> Sequence[Key]:
    """Return the keys that `with_prompt` must check: none if no prompt contains one."""
    return configuration.keys if key_in(prompts, configuration.keys) else ()


def check_for_keys(request: Any, keys: Iterable[Key]) -> None:
    """Raise InvalidRequest, with the key's label, if a text of a request contains a key."""
    if key := key_in(request, keys):
        raise InvalidRequest(
            f"the request contains the key {key.label}; nothing was sent or kept. Remove the key "
            "from the prompt, and replace it if others have seen it"
        )


def _messages(
    prompt: str | Messages, system: object, images: tuple[Image, ...]
) -> tuple[Message, ...]:
    turns: list[Message] = []
    if instruction := _read("system", read_text, "system", system):
        turns.append(Message("system", instruction))
    if isinstance(prompt, str):
        turns.append(Message("user", whole_characters(prompt), images))
    elif images:
        raise InvalidRequest("in a conversation, put the images into the messages")
    elif isinstance(prompt, Iterable) and not isinstance(prompt, bytes | bytearray):
        turns.extend(read_messages(prompt))
    else:
        raise InvalidRequest(f"the prompt is of type {type(prompt).__name__}; it must be text")
    asked = (turn for turn in turns if turn.role != "system")
    if not any(turn.content.strip() or turn.images or turn.tool_calls for turn in asked):
        raise InvalidRequest("the prompt is empty")
    return tuple(turns)


def _replay(keep: object, configured: ReplayMode) -> ReplayMode:
    # `only` promises that nothing is sent in the whole run, so a call cannot override it.
    if keep is None or configured == "only":
        return configured
    return "keep" if read_flag("keep", keep) else "off"


def _extra(value: object) -> tuple[dict[str, Any], Schema | None]:
    """Return the fields with a value, and the schema that a `response_format` among them asks for.

    As a schema it works on every wire.
    """
    if value is None:
        return {}, None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidRequest("extra must be a dict of fields by name")
    for name in value:
        if is_key_like(name):
            raise InvalidRequest("extra: the name of a field looks like a key; nothing was sent")
        if name in _OPTIONS_OF_THEIR_OWN:
            option = _NAMES_OF_OPTIONS.get(name, name)
            raise InvalidRequest(f"extra: {name} is a separate option; use {option}", option=name)
        if len(name) > _LONGEST_FIELD:
            raise InvalidRequest(
                f"extra has the field {shown(name)}; a name has at most {_LONGEST_FIELD} characters"
            )
    given = {name: entry for name, entry in value.items() if entry is not None}
    try:
        text = json.dumps(given, ensure_ascii=False, allow_nan=False, default=json_number)
        # A copy, so that later changes by the caller have no effect.
        fields = cast("dict[str, Any]", json.loads(whole_characters(text)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"extra is not JSON: {error}") from None
    return _read("response_format", _without_schema, fields)


def _without_schema(fields: dict[str, Any]) -> tuple[dict[str, Any], Schema | None]:
    if "response_format" not in fields:
        return fields, None
    form = fields["response_format"]
    if not isinstance(form, dict) or not isinstance(form.get("type"), str):
        raise InvalidRequest("response_format must be a dict with a type, such as json_object")
    if form["type"] == "text":
        del fields["response_format"]
    if form["type"] != "json_schema":
        return fields, None
    described = form.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise InvalidRequest("response_format: json_schema needs a schema that is a dict")
    check_fields("response_format: json_schema", described, _SCHEMA_FIELDS)
    name = described.get("name")
    if not isinstance(name, str) or not is_name(name):
        raise InvalidRequest(
            "response_format: json_schema needs a name of 1 to 64 letters, digits, _ and -"
        )
    del fields["response_format"]
    strict, description = described.get("strict") or False, described.get("description") or ""
    if not isinstance(strict, bool) or not isinstance(description, str):
        raise InvalidRequest(
            "response_format: strict must be True or False, and description must be text"
        )
    return fields, schema_as_sent(name, described["schema"], strict=strict, description=description)
