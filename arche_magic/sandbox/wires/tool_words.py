"""The errors of OpenAI, Groq and Mistral for requests with tools, in their own words.

Sources, from 2024 to 2026: error texts in github.com/nearai/ironclaw/issues/1241 (Mistral's ids),
mistralai/client-ts/issues/106 and datapizza-labs/datapizza-ai/issues/98 (Mistral's order),
BerriAI/litellm/issues/11001 and julep-ai/julep/issues/885 (Groq), vllm-project/vllm/pull/40399 and
writer/writer-framework/pull/1013 (OpenAI). Texts marked "assumed" follow the provider's style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# By problem: the text and the code.
_OPENAI: dict[str, tuple[str, str | None]] = {
    "tools_many": (
        (
            "Invalid '{param}': array too long. Expected an array with maximum length {bound}, but "
            "got an array with length {value} instead."
        ),
        "array_above_max_length",
    ),
    "tool_name": (
        (
            "Invalid '{param}': string does not match pattern. Expected a string that matches the "
            "pattern '^[a-zA-Z0-9_-]+$'."
        ),
        "invalid_value",
    ),
    "tool_schema": (
        (
            "Invalid schema for function '{tool}': schema must be a JSON Schema of 'type: "
            '"object"\', got \'type: "{value}"\'.'
        ),
        "invalid_function_parameters",
    ),
    "tool_strict": (
        "Invalid schema for function '{tool}': In context={place}, {words}",
        "invalid_function_parameters",
    ),
    "parallel_alone": (
        (
            "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when "
            "'tools' are specified."
        ),
        None,
    ),
    "choice_alone": (
        (
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are "
            "specified."
        ),
        None,
    ),
    "choice_unknown": ("Tool choice 'function' not found in 'tools' parameter.", None),
    "choice_value": (
        "Invalid value: '{value}'. Supported values are: 'none', 'auto', and 'required'.",
        "invalid_value",
    ),
    "result_alone": (
        (
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'."
        ),
        None,
    ),
    "result_unknown": (
        (
            "Invalid parameter: 'tool_call_id' of '{value}' not found in 'tool_calls' of previous "
            "message."
        ),
        None,
    ),
    "calls_alone": (
        (
            "An assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have response "
            "messages: {value}"
        ),
        None,
    ),
    "no_tools": (
        (
            "tools is not supported in this model. For a list of supported models, refer to "
            "https://platform.openai.com/docs/guides/function-calling"
            "#models-supporting-function-calling."
        ),
        None,
    ),
}
_GROQ: dict[str, tuple[str, str | None]] = {
    "tools_many": ("'tools' : maximum number of items is {bound}", None),
    "tool_name": ("'{param}' : value does not match pattern '^[a-zA-Z0-9_-]{{1,64}}$'", None),
    "tool_schema": (
        'invalid JSON schema for tool {tool}, {param}: `/type`: value must be "object"',
        None,
    ),
    "choice_alone": ("'tool_choice' is set, but no tools were provided", None),  # assumed
    "choice_unknown": ("requested tool does not exist", None),
    "choice_value": (
        "Only allowed string values for 'tool_choice' are none, auto, and required",
        None,
    ),
    "result_alone": (  # assumed; the text of the chat template of gpt-oss
        "Message has tool role, but there was no previous assistant message with a tool call!",
        None,
    ),
    "result_unknown": ("'{param}' : no tool call has the id '{value}'", None),  # assumed
    "no_tools": ("`tool calling` is not supported with this model", None),
}
_ORDER = ("invalid_request_message_order", "3230")
_MISTRAL: dict[str, tuple[str, tuple[str, str]]] = {
    "call_id": (
        "Tool call id was {value} but must be a-z, A-Z, 0-9, with a length of 9.",
        ("invalid_function_call", "3280"),
    ),
    "tool_name": (
        (
            "Function name was {value} but must be a-z, A-Z, 0-9, or contain underscores and "
            "dashes, with a maximum length of 64."
        ),
        ("invalid_function_call", "3280"),
    ),
    "result_alone": ("Unexpected role 'tool' after role '{value}'", _ORDER),
    "result_unknown": ("Unexpected tool call id {value} in tool results", _ORDER),
    "calls_count": ("Not the same number of function calls and responses", _ORDER),
    "order_after_tool": ("Unexpected role '{value}' after role 'tool'", _ORDER),
    "choice_alone": ("tool_choice requires tools", ("invalid_request_invalid_args", "3051")),
    "choice_unknown": (  # assumed
        "tool_choice names {tool}, which is not among the tools",
        ("invalid_request_invalid_args", "3051"),
    ),
    "tool_schema": (  # assumed
        "Invalid tool schema for function {tool}: the type must be object",
        ("invalid_request_invalid_args", "3051"),
    ),
    "no_tools": (  # assumed
        "Function calling is not enabled for this model",
        ("invalid_request_invalid_args", "3051"),
    ),
}


def _text(template: str, details: Mapping[str, Any]) -> str:
    return template.format(**{"value": None, **details})


def openai_words(details: Mapping[str, Any], words: str) -> tuple[str, str | None] | None:
    """OpenAI's text and code for a problem with tools, or None for another problem.

    `words` say which rule of strict schemas is broken.
    """
    found = _OPENAI.get(str(details.get("problem")))
    return (_text(found[0], {**details, "words": words}), found[1]) if found else None


def groq_words(details: Mapping[str, Any]) -> str | None:
    """Groq's text for a problem with tools, or None for another problem."""
    found = _GROQ.get(str(details.get("problem")))
    return _text(found[0], details) if found else None


def mistral_words(details: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Mistral's text, type and code for a problem with tools, or None for another problem."""
    found = _MISTRAL.get(str(details.get("problem")))
    return (_text(found[0], details), *found[1]) if found else None
