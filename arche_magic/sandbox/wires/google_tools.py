"""Tools in Gemini's requests and replies: function declarations, calls, responses, signatures.

Sources: google-genai 3.6 (types.py) for the fields; error texts in github.com/google-gemini/
gemini-cli/issues/7869 (names), .../issues/16984 (number of responses), lbjlaq/Antigravity-Manager/
issues/3202 and nearai/ironclaw/issues/1510 (signatures), vercel/ai/pull/16540 (JSON with tools).
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from ..exchange import Message, Refusal, Tool, ToolCall
from .base import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_SIGNED = "sandbox signature of "
# A client sends one of these with a call that another model made, see
# ai.google.dev/gemini-api/docs/thought-signatures and github.com/jeremychone/rust-genai/pull/115.
_SKIP = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
# The fields of Schema in google-genai 3.6. Other JSON Schema is sent as parametersJsonSchema.
_SCHEMA = names(
    """anyOf default description enum example format items maxItems maxLength maxProperties maximum
    minItems minLength minProperties minimum nullable pattern properties propertyOrdering required
    title type"""
)


def invalid(text: str) -> NoReturn:
    """Raise Refusal with Google's own text."""
    raise Refusal("invalid_request", problem="stated", text=text)


def field(value: Mapping[str, Any], name: str) -> Any:
    """A field of protocol buffers' JSON, which has two spellings: `toolConfig`, `tool_config`."""
    return value.get(name, value.get(re.sub("([A-Z])", r"_\1", name).lower()))


def is_signing(model: str) -> bool:
    """Whether a model signs its calls and wants the signatures back: Gemini 3 and later."""
    found = re.match(r"gemini-(\d+)", model)
    return found is not None and int(found[1]) >= 3


def read_tools(body: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The declared functions. Raises Refusal if one is invalid."""
    tools: list[Tool] = []
    for number, entry in enumerate(field(body, "tools") or ()):
        for position, item in enumerate(field(entry, "functionDeclarations") or ()):
            place = f"tools[{number}].function_declarations[{position}]"
            name = item.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                invalid(
                    f"* GenerateContentRequest.{place}.name: Invalid function name. Must start "
                    "with a letter or an underscore. Must be alphameric (a-z, A-Z, 0-9), "
                    "underscores (_), dots (.), colons (:), or dashes (-), with a maximum length "
                    "of 64.\n"
                )
            if name in {tool.name for tool in tools}:
                invalid(f"Duplicate function declaration found: {name}")
            schema = item.get("parameters")
            if schema is not None:
                _check_schema(schema, f"{place}.parameters")
            schema = schema or field(item, "parametersJsonSchema") or {}
            if schema and str(schema.get("type")).lower() != "object":
                invalid(
                    f"* GenerateContentRequest.{place}.parameters: schema type should be OBJECT\n"
                )
            tools.append(Tool(name, schema, str(item.get("description") or "")))
    return tuple(tools)


def _check_schema(schema: Any, place: str) -> None:
    for name, value in schema.items() if isinstance(schema, dict) else ():
        if re.sub("_([a-z])", lambda m: m[1].upper(), name) not in _SCHEMA:
            raise Refusal("invalid_request", param=name, problem="unknown", place=place)
        if name == "properties" and isinstance(value, dict):
            for inner, sub in value.items():
                _check_schema(sub, f"{place}.properties[{inner}]")
        if name == "items":
            _check_schema(value, f"{place}.items")


def read_choice(body: Mapping[str, Any], tools: Sequence[Tool]) -> tuple[str, tuple[Tool, ...]]:
    """The choice of tools ("auto", "none", "required") and the tools it allows. Raises Refusal."""
    config = field(field(body, "toolConfig") or {}, "functionCallingConfig") or {}
    mode = str(config.get("mode") or "AUTO").upper()
    allowed = field(config, "allowedFunctionNames") or []
    place = "* GenerateContentRequest.tool_config.function_calling_config"
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
        raise Refusal("invalid_request", param="mode", problem="value", value=mode)
    if allowed and mode not in ("ANY", "VALIDATED"):
        invalid(
            f"{place}.allowed_function_names: should be set only when the function calling mode "
            "is ANY or VALIDATED.\n"
        )
    if mode == "ANY" and not tools:
        invalid(f"{place}: mode ANY requires function declarations.\n")
    unknown = [name for name in allowed if name not in {tool.name for tool in tools}]
    if unknown:
        invalid(f"{place}.allowed_function_names: {unknown[0]} is not a declared function.\n")
    left = tuple(tool for tool in tools if not allowed or tool.name in allowed)
    return {"ANY": "required", "NONE": "none"}.get(mode, "auto"), left


def calls_in(content: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls among the parts of a content."""
    found = []
    for part in content.get("parts", ()):
        made = field(part, "functionCall") if isinstance(part, dict) else None
        if made:
            arguments = json.dumps(made.get("args") or {})
            found.append(ToolCall(str(made.get("id") or ""), str(made.get("name")), arguments))
    return tuple(found)


def results_in(content: Mapping[str, Any], place: str) -> list[Message]:
    """The results of tools among the parts of a content. Raises Refusal if one has no name."""
    found = []
    for number, part in enumerate(content.get("parts", ())):
        response = field(part, "functionResponse") if isinstance(part, dict) else None
        if response is None:
            continue
        name = response.get("name")
        if not name:
            invalid(
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


def check_turns(contents: Sequence[Mapping[str, Any]], model: str) -> None:
    """Raise Refusal if calls and responses do not match, or if a signature is missing or wrong."""
    calls = [calls_in(content) for content in contents]
    answers = [results_in(content, f"contents[{n}]") for n, content in enumerate(contents)]
    for number, (made, given) in enumerate(zip(calls, answers, strict=True)):
        before = calls[number - 1] if number else ()
        if made and (not number or contents[number - 1].get("role", "user") == "model"):
            invalid(
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn."
            )
        if given and not before:
            invalid(
                "Please ensure that function response turn comes immediately after a function "
                "call turn."
            )
        if len(given) != len(before):
            invalid(
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn."
            )
    if is_signing(model):
        _check_signatures(contents)


def _check_signatures(contents: Sequence[Mapping[str, Any]]) -> None:
    """Check the calls since the last words of the user, as the documentation says.

    The first call of each content must have its signature.
    """
    first = 0
    for number, content in enumerate(contents):
        texts = [
            part for part in content.get("parts", ()) if isinstance(part, dict) and part.get("text")
        ]
        if content.get("role", "user") == "user" and texts:
            first = number
    for number, content in enumerate(contents[first:], first):
        signed = [
            (field(part, "functionCall"), field(part, "thoughtSignature"))
            for part in content.get("parts", ())
            if isinstance(part, dict) and field(part, "functionCall")
        ]
        for position, (made, signature) in enumerate(signed):
            if signature is None and position == 0:
                invalid(
                    "Function call is missing a thought_signature in functionCall parts. This is "
                    "required for tools to work correctly, and missing thought_signature may lead "
                    "to degraded model performance. Additional data, function call "
                    f"`default_api:{made.get('name')}` , position {number + 1}. Please refer to "
                    "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
            if signature is not None and not _is_valid(str(signature), str(made.get("name"))):
                invalid("Thought signature is not valid.")


def _is_valid(signature: str, name: str) -> bool:
    if signature in _SKIP:
        return True
    try:
        text = base64.b64decode(signature.replace("-", "+").replace("_", "/") + "==").decode()
    except ValueError:
        return False
    return text in _SKIP or text == _SIGNED + name


def call_parts(calls: Sequence[ToolCall], model: str) -> list[dict[str, Any]]:
    """The parts of a reply that calls tools; Gemini 3 signs the first call and numbers all."""
    parts: list[dict[str, Any]] = []
    for number, made in enumerate(calls):
        function: dict[str, Any] = {"name": made.name, "args": json.loads(made.arguments)}
        part: dict[str, Any] = {"functionCall": function}
        if is_signing(model):
            function["id"] = made.id
            if number == 0:
                text = _SIGNED + made.name
                part["thoughtSignature"] = base64.b64encode(text.encode()).decode()
        parts.append(part)
    return parts
