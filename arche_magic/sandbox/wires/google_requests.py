"""Requests to Gemini's generateContent, with function declarations, calls and responses.

Sources: google-genai 3.6 (types.py) for the fields; error texts in github.com/google-gemini/
gemini-cli/issues/7869 (names), .../issues/16984 (number of responses), lbjlaq/Antigravity-Manager/
issues/3202 and nearai/ironclaw/issues/1510 (signatures), vercel/ai/pull/16540 (JSON with tools).
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from ..types import Call, Message, Refusal, Tool, ToolCall
from .common import check_base64, names, read_integer, read_number, read_stop, stated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Fields of GenerateContentRequest, its GenerationConfig and Schema in google-genai 3.6. Other JSON
# Schema is sent as parametersJsonSchema.
_KNOWN = names(
    """model contents systemInstruction tools toolConfig safetySettings generationConfig
    cachedContent serviceTier store labels"""
)
_KNOWN_CONFIG = names(
    """temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs
    presencePenalty frequencyPenalty seed responseMimeType responseSchema responseJsonSchema
    responseModalities mediaResolution speechConfig thinkingConfig imageConfig
    enableEnhancedCivicAnswers"""
)
_SCHEMA = names(
    """anyOf default description enum example format items maxItems maxLength maxProperties maximum
    minItems minLength minProperties minimum nullable pattern properties propertyOrdering required
    title type"""
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
SIGNATURE = "sandbox signature of "
# A client sends one of these with a call that another model made, see
# ai.google.dev/gemini-api/docs/thought-signatures and github.com/jeremychone/rust-genai/pull/115.
_SKIP = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")


def read_google(body: Mapping[str, Any], model: str, *, stream: bool) -> Call:
    """Read and check a request. Raises Refusal."""
    check_known(body, _KNOWN, "")
    config = body.get("generationConfig") or {}
    check_known(config, _KNOWN_CONFIG, "generation_config")
    messages = _contents(body)
    if is_signing(model):
        _check_signatures(body["contents"])
    choice, tools = _read_choice(body, _read_tools(body))
    for name, least, most in (("temperature", 0.0, 2.0), ("topP", 0.0, 1.0)):
        read_number(config, name, least, most)
    if (config.get("candidateCount") or 1) != 1:
        raise Refusal("above", "candidateCount", bound=1)
    mime = config.get("responseMimeType")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if mime not in (None, "text/plain", "application/json"):
        raise Refusal("value", "responseMimeType", known=[])
    if schema is not None and mime != "application/json":
        raise Refusal("mime", "responseSchema")
    if mime == "application/json" and tools and not is_signing(model):
        stated("Function calling with a response mime type: 'application/json' is unsupported")
    return Call(
        provider="google",
        model=model,
        messages=messages,
        stream=stream,
        max_tokens=read_integer(config, "maxOutputTokens", 1),
        stop=read_stop(config, "stopSequences", 5),
        seed=read_integer(config, "seed", -(2**31)),
        json_wanted=mime == "application/json",
        json_schema=schema,
        tools=tools,
        tool_choice=choice,
    )


def field(value: Mapping[str, Any], name: str) -> Any:
    """A field of protocol buffers' JSON, which has two spellings: `toolConfig`, `tool_config`."""
    return value.get(name, value.get(re.sub("([A-Z])", r"_\1", name).lower()))


def check_known(value: Mapping[str, Any], known: frozenset[str], place: str) -> None:
    """Raise Refusal for the first field with a name that is not known in either spelling."""
    for name in value:
        first, *others = name.split("_")
        if first + "".join(part.capitalize() for part in others) not in known:
            at = f" at '{place}'" if place else ""
            raise Refusal("unknown", name, place=place, at=at)


def is_signing(model: str) -> bool:
    """Whether a model signs its calls and wants the signatures back: Gemini 3 and later."""
    found = re.match(r"gemini-(\d+)", model)
    return found is not None and int(found[1]) >= 3


def _contents(body: Mapping[str, Any]) -> tuple[Message, ...]:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Refusal("empty", "contents")
    messages = []
    system = body.get("systemInstruction")
    if system:
        messages.append(Message("system", _text(system)))
    before = "model"
    calls: tuple[ToolCall, ...] = ()
    for number, content in enumerate(contents):
        role = content.get("role", "user") if isinstance(content, dict) else None
        if role not in ("user", "model", "function"):
            raise Refusal("value", "role", known=[])
        if not content.get("parts"):
            raise Refusal("empty", "parts")
        results = _results_in(content, f"contents[{number}]")
        made = _calls_in(content)
        _check_turn(made, results, before, calls)
        before, calls = role, made
        messages += results
        text, images = _text(content), _images(content)
        if role == "model":
            messages.append(Message("assistant", text, images, calls))
        elif text or images or not results:
            messages.append(Message("user", text, images))
    return tuple(messages)


def _parts(content: Mapping[str, Any], name: str) -> list[tuple[int, Any]]:
    """The parts of a content that have a field: their numbers, and the value of the field."""
    parts = enumerate(content.get("parts", ()))
    found = ((number, field(part, name)) for number, part in parts if isinstance(part, dict))
    return [(number, value) for number, value in found if value is not None]


def _text(content: Mapping[str, Any]) -> str:
    return "".join(str(text) for _, text in _parts(content, "text"))


def _images(content: Mapping[str, Any]) -> int:
    """The number of images among the parts. Raises Refusal if one cannot be read."""
    blobs = _parts(content, "inlineData")
    for _, blob in blobs:
        if not str(field(blob, "mimeType")).startswith("image/"):
            raise Refusal("value", "mimeType", known=[])
        check_base64(blob.get("data"), "inlineData.data")
    return len(blobs)


def _read_tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The declared functions. Raises Refusal if one is invalid."""
    tools: list[Tool] = []
    for number, entry in enumerate(field(body, "tools") or ()):
        for position, item in enumerate(field(entry, "functionDeclarations") or ()):
            place = f"tools[{number}].function_declarations[{position}]"
            name = item.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                stated(
                    f"* GenerateContentRequest.{place}.name: Invalid function name. Must start "
                    "with a letter or an underscore. Must be alphameric (a-z, A-Z, 0-9), "
                    "underscores (_), dots (.), colons (:), or dashes (-), with a maximum length "
                    "of 64.\n"
                )
            if name in {tool.name for tool in tools}:
                stated(f"Duplicate function declaration found: {name}")
            schema = item.get("parameters")
            if schema is not None:
                _check_schema(schema, f"{place}.parameters")
            schema = schema or field(item, "parametersJsonSchema") or {}
            if schema and str(schema.get("type")).lower() != "object":
                stated(
                    f"* GenerateContentRequest.{place}.parameters: schema type should be OBJECT\n"
                )
            tools.append(Tool(name, schema, str(item.get("description") or "")))
    return tuple(tools)


def _check_schema(schema: Any, place: str) -> None:
    if not isinstance(schema, dict):
        return
    check_known(schema, _SCHEMA, place)
    if isinstance(properties := schema.get("properties"), dict):
        for name, inner in properties.items():
            _check_schema(inner, f"{place}.properties[{name}]")
    _check_schema(schema.get("items"), f"{place}.items")


def _read_choice(body: Mapping[str, Any], tools: Sequence[Tool]) -> tuple[str, tuple[Tool, ...]]:
    """The choice of tools ("auto", "none", "required") and the tools it allows. Raises Refusal."""
    config = field(field(body, "toolConfig") or {}, "functionCallingConfig") or {}
    mode = str(config.get("mode") or "AUTO").upper()
    allowed = field(config, "allowedFunctionNames") or []
    place = "* GenerateContentRequest.tool_config.function_calling_config"
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
        raise Refusal("value", "mode", known=[])
    if allowed and mode not in ("ANY", "VALIDATED"):
        stated(
            f"{place}.allowed_function_names: should be set only when the function calling mode "
            "is ANY or VALIDATED.\n"
        )
    if mode == "ANY" and not tools:
        stated(f"{place}: mode ANY requires function declarations.\n")
    unknown = [name for name in allowed if name not in {tool.name for tool in tools}]
    if unknown:
        stated(f"{place}.allowed_function_names: {unknown[0]} is not a declared function.\n")
    left = tuple(tool for tool in tools if not allowed or tool.name in allowed)
    return {"ANY": "required", "NONE": "none"}.get(mode, "auto"), left


def _calls_in(content: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls among the parts of a content."""
    return tuple(
        ToolCall(
            str(made.get("id") or ""), str(made.get("name")), json.dumps(made.get("args") or {})
        )
        for _, made in _parts(content, "functionCall")
    )


def _results_in(content: Mapping[str, Any], place: str) -> list[Message]:
    """The results of tools among the parts of a content. Raises Refusal if one has no name."""
    found = []
    for number, response in _parts(content, "functionResponse"):
        name = response.get("name")
        if not name:
            stated(
                f"* GenerateContentRequest.{place}.parts[{number}].function_response.name: Name "
                "cannot be empty.\n"
            )
        found.append(Message("tool", _result(response.get("response")), tool=str(name)))
    return found


def _result(response: Any) -> str:
    """The text of a result; "output" and "result" are the usual names of the only field."""
    if isinstance(response, dict) and len(response) == 1:
        (name, value) = next(iter(response.items()))
        if name in ("output", "result"):
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(response, ensure_ascii=False)


def _check_turn(
    calls: Sequence[ToolCall], results: Sequence[Message], before: str, called: Sequence[ToolCall]
) -> None:
    """Check a content's calls and results; `before` is the last content's role, `called` its calls.

    Raises Refusal.
    """
    if calls and before == "model":
        stated(
            "Please ensure that function call turn comes immediately after a user turn or after a "
            "function response turn."
        )
    if results and not called:
        stated(
            "Please ensure that function response turn comes immediately after a function call "
            "turn."
        )
    if len(results) != len(called):
        stated(
            "Please ensure that the number of function response parts is equal to the number of "
            "function call parts of the function call turn."
        )


def _check_signatures(contents: Sequence[Mapping[str, Any]]) -> None:
    """Check the calls since the user's last text, as documented.

    The first call of each content must have its signature.
    """
    first = 0
    for number, content in enumerate(contents):
        if content.get("role", "user") == "user" and _text(content):
            first = number
    for number, content in enumerate(contents[first:], first):
        signatures = dict(_parts(content, "thoughtSignature"))
        for position, (part, made) in enumerate(_parts(content, "functionCall")):
            signature = signatures.get(part)
            if signature is None and position == 0:
                stated(
                    "Function call is missing a thought_signature in functionCall parts. This is "
                    "required for tools to work correctly, and missing thought_signature may lead "
                    "to degraded model performance. Additional data, function call "
                    f"`default_api:{made.get('name')}` , position {number + 1}. Please refer to "
                    "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
            if signature is not None and not _is_valid(str(signature), str(made.get("name"))):
                stated("Thought signature is not valid.")


def _is_valid(signature: str, name: str) -> bool:
    if signature in _SKIP:
        return True
    try:
        text = base64.b64decode(signature.replace("-", "+").replace("_", "/") + "==").decode()
    except ValueError:
        return False
    return text in _SKIP or text == SIGNATURE + name
