"""Wrong requests with tools are refused in the provider's own words, and nothing is charged."""

from __future__ import annotations

import copy

import openai
import pytest
from sdk_clients import MODELS, TOOLS

LIKE_OPENAI = ("groq", "mistral", "openai")
USER = {"role": "user", "content": "hi"}


@pytest.fixture
def post(shared, connect):
    """Send a body unchanged, because an SDK would check it. Returns status and text."""

    def send(provider, path="", **body):
        client = connect(shared, provider)
        if provider == "google":
            url = f"{shared.url}/google/v1beta/models/{path or MODELS[provider]}:generateContent"
            headers = {"x-goog-api-key": client.key}
        else:
            base = {"groq": "groq/openai", "mistral": "mistral", "openai": "openai"}[provider]
            url = f"{shared.url}/{base}/v1/chat/completions"
            headers = {"Authorization": f"Bearer {client.key}"}
            body = {"model": MODELS[provider], "messages": [USER], **body}
        response = client._http.post(url, headers=headers, json=body)
        return response.status_code, response.text

    return send


def tool(**changes):
    """The definition of a tool, with changes to its function."""
    function = copy.deepcopy(TOOLS[1])
    function.update(changes)
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not ...}}


def call(name="get_time", key="call_1"):
    """An assistant's message with one call."""
    function = {"name": name, "arguments": "{}"}
    calls = [{"id": key, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(key="call_1"):
    """The result of a call."""
    return {"role": "tool", "tool_call_id": key, "content": "noon"}


@pytest.mark.parametrize(("provider", "status", "words"), [
    ("groq", 400, "tools[0].function.name"),
    ("mistral", 400, "Function name was get time"),
    ("openai", 400, "string does not match pattern"),
])  # fmt: skip
def test_names_of_tools_are_checked(post, provider, status, words):
    """A name with a space is refused."""
    answer = post(provider, tools=[tool(name="get time")])
    assert answer[0] == status
    assert words in answer[1]


@pytest.mark.parametrize(("provider", "words"), [
    ("groq", "invalid JSON schema for tool get_time"),
    ("mistral", "type must be object"),
    ("openai", "schema must be a JSON Schema of 'type: \\\"object\\\"', got 'type: \\\"string"),
])  # fmt: skip
def test_parameters_of_tools_must_be_an_object(post, provider, words):
    """A schema of another type is refused."""
    status, text = post(provider, tools=[tool(parameters={"type": "string"})])
    assert (status, words in text) == (400, True)


def test_mistral_needs_parameters(post):
    """The field is required, as in its SDK."""
    status, text = post("mistral", tools=[tool(parameters=...)])
    assert (status, '"parameters"' in text) == (422, True)
    assert post("openai", tools=[tool(parameters=...)])[0] == 200


def test_openai_checks_strict_tools(post):
    """A strict tool must close its objects."""
    status, text = post("openai", tools=[tool(strict=True)])
    assert status == 400
    assert "invalid_function_parameters" in text
    assert "additionalProperties" in text
    closed = {**TOOLS[1]["parameters"], "additionalProperties": False}
    assert post("openai", tools=[tool(strict=True, parameters=closed)])[0] == 200


@pytest.mark.parametrize(("provider", "body", "words"), [
    ("openai", {"tools": []}, "empty array"),
    ("openai", {"tools": [tool()] * 129}, "maximum length 128"),
    ("openai", {"tools": [{"type": "magic"}]}, "Supported values are"),
    ("openai", {"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
    ("openai", {"parallel_tool_calls": True}, "only allowed when 'tools' are specified"),
    ("groq", {"tools": [tool()], "tool_choice": "any"}, "none, auto, and required"),
    ("groq", {"tools": [{"function": {}}]}, "tools[0].type"),
])  # fmt: skip
def test_tools_and_choice_must_make_sense(post, provider, body, words):
    """Each error is a 400 that says what is wrong."""
    status, text = post(provider, **body)
    assert (status, words in text) == (400, True), text


@pytest.mark.parametrize(("provider", "words"), [
    ("groq", "requested tool does not exist"),
    ("mistral", "get_sun"),
    ("openai", "not found in 'tools' parameter"),
])  # fmt: skip
def test_choice_of_an_unknown_tool_is_refused(post, provider, words):
    """`tool_choice` must name one of the tools."""
    named = {"type": "function", "function": {"name": "get_sun"}}
    status, text = post(provider, tools=[tool()], tool_choice=named)
    assert (status, words in text) == (400, True)


@pytest.mark.parametrize(("provider", "model", "words"), [
    ("groq", "meta-llama/llama-prompt-guard-2-22m", "`tool calling` is not supported with"),
    ("mistral", "open-codestral-mamba", "Function calling is not enabled for this model"),
    ("openai", "gpt-4o-search-preview", "tools is not supported in this model"),
])  # fmt: skip
def test_some_models_refuse_tools(post, provider, model, words):
    """The same model answers without tools."""
    status, text = post(provider, model=model, tools=[tool()])
    assert (status, words in text) == (400, True)
    assert post(provider, model=model)[0] == 200


@pytest.mark.parametrize(("provider", "words"), [
    ("groq", "no previous assistant message with a tool call"),
    ("mistral", "Unexpected role 'tool' after role 'user'"),
    ("openai", "must be a response to a preceeding message with 'tool_calls'"),
])  # fmt: skip
def test_results_need_a_call(post, provider, words):
    """A tool's message without a call before it is refused."""
    status, text = post(provider, messages=[USER, result("abcdefghi")], tools=[tool()])
    assert (status, words in text) == (400, True)


@pytest.mark.parametrize("provider", LIKE_OPENAI)
def test_results_must_name_a_call(post, provider):
    """The id of a result is that of a call, and it is required."""
    messages = [USER, call(key="abcdefghi"), result("abcdefghj")]
    status, text = post(provider, messages=messages, tools=[tool()])
    assert (status, "abcdefghj" in text) == (400, True)
    del messages[2]["tool_call_id"]
    status, text = post(provider, messages=messages, tools=[tool()])
    assert (status, "tool_call_id" in text) == (422 if provider == "mistral" else 400, True)


@pytest.mark.parametrize("after", [[], [USER]], ids=["at the end", "before the user"])
def test_openai_wants_every_call_answered(post, after):
    """The error names the calls without results."""
    first = call(key="call_1")
    first["tool_calls"] += call(key="call_2")["tool_calls"]
    messages = [USER, first, result("call_2"), *after]
    status, text = post("openai", messages=messages, tools=[tool()])
    assert status == 400
    assert "must be followed by tool messages responding to each 'tool_call_id'" in text
    assert "did not have response messages: call_1" in text


def test_mistral_wants_as_many_results_as_calls(post):
    """The last message cannot be a user's after a result."""
    first = call(key="abcdefgh1")
    first["tool_calls"] += call(key="abcdefgh2")["tool_calls"]
    messages = [USER, first, result("abcdefgh2")]
    status, text = post("mistral", messages=messages, tools=[tool()])
    assert (status, "Not the same number of function calls and responses" in text) == (400, True)
    messages = [USER, call(key="abcdefgh1"), result("abcdefgh1"), USER]
    status, text = post("mistral", messages=messages, tools=[tool()])
    assert (status, "Unexpected role 'user' after role 'tool'" in text) == (400, True)


def test_mistral_ids_have_nine_characters(post):
    """Ids of other providers are refused."""
    status, text = post("mistral", messages=[USER, call(), result()], tools=[tool()])
    assert (status, '"code":"3280"' in text) == (400, True)
    assert "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9." in text


def test_groq_refuses_json_mode_with_tools(post):
    """JSON mode and tools exclude each other."""
    body = {"tools": [tool()], "response_format": {"type": "json_object"}}
    status, text = post("groq", messages=[{"role": "user", "content": "json"}], **body)
    assert (status, "cannot be combined with tool/function calling" in text) == (400, True)


def contents(*parts):
    """Contents that alternate between the user and the model."""
    roles = ("user", "model")
    return [{"role": roles[n % 2], "parts": list(p)} for n, p in enumerate(parts)]


CALL = {"functionCall": {"name": "get_time", "args": {}}}
RESPONSE = {"functionResponse": {"name": "get_time", "response": {"result": "noon"}}}
TEXT = {"text": "hi"}
DECLARED = [{"functionDeclarations": [TOOLS[1]]}]


@pytest.mark.parametrize(("parts", "words"), [
    ([[TEXT], [CALL, CALL], [RESPONSE]], "number of function response parts is equal to"),
    ([[TEXT], [CALL], [TEXT]], "number of function response parts is equal to"),
    ([[RESPONSE]], "function response turn comes immediately after a function call turn"),
    ([[TEXT], [CALL], [{"functionResponse": {"response": {}}}]], "Name cannot be empty"),
])  # fmt: skip
def test_gemini_matches_responses_with_calls(post, parts, words):
    """Each call has one response, in the next content."""
    status, text = post("google", "gemini-2.5-flash", contents=contents(*parts), tools=DECLARED)
    assert (status, words in text) == (400, True), text


@pytest.mark.parametrize(("changes", "words"), [
    ({"tools": [{"functionDeclarations": [{"name": "1st"}]}]}, "Invalid function name"),
    ({"tools": [{"functionDeclarations": [TOOLS[1], TOOLS[1]]}]}, "Duplicate function declaration"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "requires function declarations"),
    (
        {
            "tools": DECLARED,
            "toolConfig": {
                "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_sun"]}
            },
        },
        "get_sun is not a declared function",
    ),
    (
        {
            "tools": [
                {
                    "functionDeclarations": [
                        {"name": "f", "parameters": {"type": "object", "$schema": "x"}}
                    ]
                }
            ]
        },
        "Unknown name \\\"$schema\\\" at 'tools[0].function_declarations[0].parameters'",
    ),
    (
        {"tools": DECLARED, "generationConfig": {"responseMimeType": "application/json"}},
        "Function calling with a response mime type: 'application/json' is unsupported",
    ),
])  # fmt: skip
def test_gemini_checks_declarations(post, changes, words):
    """Names, schemas and choices are checked as by the real service."""
    status, text = post("google", "gemini-2.5-flash", contents=contents([TEXT]), **changes)
    assert (status, words in text) == (400, True), text


def test_gemini_takes_any_json_schema_in_its_own_field(post):
    """`parametersJsonSchema` is not limited to the fields of Schema."""
    declared = {"name": "f", "parametersJsonSchema": {"type": "object", "$schema": "x"}}
    body = {"contents": contents([TEXT]), "tools": [{"functionDeclarations": [declared]}]}
    assert post("google", **body)[0] == 200


def test_nothing_is_charged_for_wrong_requests(start, connect):
    """The limits are as before."""
    sandbox = start()
    connect(sandbox, "openai").refused(tools=[])
    (limits,) = sandbox.quota()["openai_key_1"].values()
    assert all(limit["used"] == 0 for limit in limits.values())


def test_errors_have_the_sdks_own_classes(shared, connect):
    """A wrong tool is a BadRequestError with param and code."""
    error = connect(shared, "openai").refused(tools=[tool(name="a b")]).error
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.code) == ("tools[0].function.name", "invalid_value")
