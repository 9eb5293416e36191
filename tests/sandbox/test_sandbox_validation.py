"""Invalid requests are refused in the provider's own words."""

from __future__ import annotations

import groq
import mistralai.client.errors as mistral_errors
import openai
import pytest
from sdk_clients import PROVIDERS


def code_of(provider, refused):
    """The error's code or reason, wherever the provider puts it."""
    if provider == "mistral":
        return refused.body.get("code") or refused.body.get("detail")
    if provider == "google":
        details = refused.body["error"].get("details") or [{}]
        return details[0].get("reason") or refused.body["error"]["status"]
    return refused.body["error"]["code"]


@pytest.mark.parametrize(
    ("provider", "status", "code"),
    [
        ("groq", 401, "invalid_api_key"),
        ("mistral", 401, "Invalid API Key"),
        ("google", 400, "API_KEY_INVALID"),
        ("openai", 401, "invalid_api_key"),
    ],
)
def test_unknown_key_is_refused(start, connect, provider, status, code):
    """The status and the code are the provider's own."""
    sandbox = start()
    refused = connect(sandbox, provider, key="made-up-key-0000000000").refused()
    assert refused.status == status
    assert code_of(provider, refused) == code
    assert "made-up-key-0000000000" not in str(refused.body)
    assert sandbox.requests[0].key is None


def test_key_of_another_provider_is_refused(shared, connect):
    """Keys do not work across providers."""
    other = connect(shared, "openai").key
    assert connect(shared, "groq", key=other).refused().status == 401


@pytest.mark.parametrize(
    ("provider", "status", "code"),
    [
        ("groq", 404, "model_not_found"),
        ("mistral", 400, "1500"),
        ("google", 404, "NOT_FOUND"),
        ("openai", 404, "model_not_found"),
    ],
)
def test_unknown_model_is_refused(shared, connect, provider, status, code):
    """The status and the code are the provider's own."""
    refused = connect(shared, provider).refused("hi", "gpt-99")
    assert (refused.status, code_of(provider, refused)) == (status, code)


@pytest.mark.parametrize(
    ("provider", "code"),
    [
        ("groq", None),
        ("mistral", "3051"),
        ("google", "INVALID_ARGUMENT"),
        ("openai", "context_length_exceeded"),
    ],
)
def test_prompt_longer_than_the_context_window_is_refused(start, connect, provider, code):
    """The window is checked before any limit, and nothing is charged."""
    model = {"openai": "gpt-4o-mini"}.get(provider, "")
    sandbox = start()
    client = connect(sandbox, provider)
    refused = client.refused("word " * (900_000 if provider == "google" else 110_000), model)
    assert refused.status == 400
    if provider == "groq":
        assert refused.message == "Please reduce the length of the messages or completion."
    else:
        assert code_of(provider, refused) == code
    (limits,) = sandbox.quota()[f"{provider}_key_1"].values()
    assert all(limit["used"] == 0 for limit in limits.values())


@pytest.mark.parametrize(("provider", "status"), [("groq", 400), ("mistral", 422), ("openai", 400)])
def test_unknown_parameter_is_refused(shared, connect, provider, status):
    """A parameter of another provider is refused."""
    client = connect(shared, provider)
    if provider == "mistral":
        # The SDK refuses unknown parameters, so send them without the SDK.
        response = client._http.post(
            shared.environment()["MISTRAL_BASE_URL"] + "/v1/chat/completions",
            headers={"Authorization": f"Bearer {client.key}"},
            json={
                "model": "mistral-small-latest",
                "messages": [{"role": "user", "content": "hi"}],
                "seed": 3,
            },
        )
        assert response.status_code == status
        assert response.json()["detail"][0]["type"] == "extra_forbidden"
        assert response.json()["detail"][0]["loc"] == ["body", "seed"]
    else:
        refused = client.refused(extra_body={"random_seed": 3})
        assert refused.status == status
        assert "random_seed" in refused.message
        if provider == "openai":
            assert isinstance(refused.error, openai.BadRequestError)
            assert refused.error.code == "unknown_parameter"
            assert refused.error.param == "random_seed"


def test_google_refuses_unknown_fields(shared, connect):
    """Unknown fields of a request and of its configuration are INVALID_ARGUMENT."""
    client = connect(shared, "google")
    url = shared.environment()["GOOGLE_GEMINI_BASE_URL"]
    for version in ("v1", "v1beta"):
        response = client._http.post(
            f"{url}/{version}/models/gemini-3.8-flash:generateContent",
            headers={"x-goog-api-key": client.key},
            json={
                "contents": [{"parts": [{"text": "hi"}]}],
                "generationConfig": {"max_tokens": 5},
            },
        )
        error = response.json()["error"]
        assert (response.status_code, error["status"]) == (400, "INVALID_ARGUMENT")
        assert "Unknown name \"max_tokens\" at 'generation_config'" in error["message"]


@pytest.mark.parametrize("method", ["", ":nope"])
def test_google_names_the_model_of_an_unknown_method(shared, connect, method):
    """Also if the address has no method."""
    client = connect(shared, "google")
    response = client._http.post(
        f"{shared.environment()['GOOGLE_GEMINI_BASE_URL']}/v1/models/gemini-3.8-flash{method}",
        headers={"x-goog-api-key": client.key},
        json={},
    )
    assert response.status_code == 404
    assert "models/gemini-3.8-flash is not found" in response.json()["error"]["message"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_temperature_out_of_range_is_refused(shared, connect, provider):
    """Each provider's own bounds hold: Mistral's end at 1.5, the others' at 2."""
    client = connect(shared, provider)
    highest = 1.5 if provider == "mistral" else 2.0
    client.ask(temperature=highest)
    client.ask(temperature=0.0)
    refused = client.refused(temperature=highest + 0.1)
    assert refused.status == (422 if provider == "mistral" else 400)
    assert "temperature" in str(refused.body)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_messages_are_refused(shared, connect, provider):
    """An empty list of messages is invalid everywhere."""
    client = connect(shared, provider)
    if provider == "google":
        # The SDK would refuse an empty list before it sends it.
        response = client._http.post(
            f"{client.sdk._api_client._http_options.base_url.rstrip('/')}"
            "/v1beta/models/gemini-3.8-flash:generateContent",
            headers={"x-goog-api-key": client.key},
            json={"contents": []},
        )
        assert response.status_code == 400
    else:
        assert client.refused([]).status == (422 if provider == "mistral" else 400)


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"temperature": 0.2}, "temperature", "unsupported_value"),
        ({"top_p": 0.5}, "top_p", "unsupported_value"),
        ({"stop": ["x"]}, "stop", "unsupported_parameter"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-5-nano", "gpt-6-luna", "o4-mini"])
def test_openai_reasoning_models_take_no_sampling_parameters(
    shared, connect, model, options, param, code
):
    """Reasoning models refuse max_tokens, temperature, top_p and stop by name."""
    error = connect(shared, "openai").refused("hi", model, **options).error
    assert (error.param, error.code) == (param, code)


def test_openai_reasoning_models_take_max_completion_tokens(shared, connect):
    """max_completion_tokens works instead of max_tokens, and temperature 1 is allowed."""
    client = connect(shared, "openai")
    reply = client.ask(model="gpt-5-nano", max_completion_tokens=5, temperature=1)
    assert reply.output_tokens == 5
    message = client.refused("hi", "gpt-5-nano", max_tokens=5).message
    assert "Use 'max_completion_tokens' instead." in message


def test_mistral_refuses_a_last_assistant_message(shared, connect):
    """At Mistral, the last message must be from the user or a tool."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    refused = connect(shared, "mistral").refused(messages)
    assert (refused.status, refused.body["code"]) == (400, "3230")


def test_mistral_validation_error_is_the_sdks_own_class(shared, connect):
    """The 422 list is in the form that the SDK parses."""
    error = connect(shared, "mistral").refused(temperature=9.0).error
    assert isinstance(error, mistral_errors.HTTPValidationError)
    assert error.data.detail[0].loc == ["body", "temperature"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_conversations_with_system_messages_are_accepted(shared, connect, provider):
    """System text, earlier turns, seeds and top_p are accepted under each provider's names."""
    client = connect(shared, provider)
    if provider == "google":
        turns = [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"text": "hello"}]},
            {"role": "user", "parts": [{"text": "and now?"}]},
        ]
        reply = client.ask(turns, system_instruction="Be brief.", seed=3, top_p=0.5)
    else:
        turns = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "and now?"},
        ]
        seed = "random_seed" if provider == "mistral" else "seed"
        reply = client.ask(turns, top_p=0.5, **{seed: 3})
    assert "“and now?”" in reply.text


@pytest.mark.parametrize(
    "content",
    [
        b"{bad",
        b"[]",
        b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "gpt-4o-mini", "messages": ["x"]}',
        (
            b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}],'
            b' "stream": true, "stream_options": 7}'
        ),
        (
            b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}],'
            b' "response_format": {"type": "json_schema", "json_schema":'
            b' {"name": "a", "schema": {"$ref": "#"}}}}'
        ),
        (
            b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}],'
            b' "response_format": {"type": "json_schema", "json_schema":'
            b' {"name": "a", "schema": {"type": "integer", "multipleOf": 0}}}}'
        ),
        b'{"model": ' + b"[" * 100_000,
    ],
)
def test_malformed_bodies_are_400(shared, connect, content):
    """For any malformed request, the answer is the provider's 400, never a crash."""
    client = connect(shared, "openai")
    response = client._http.post(
        f"{shared.url}/openai/v1/chat/completions",
        headers={"Authorization": f"Bearer {client.key}"},
        content=content,
    )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("model", "url", "said"),
    [
        ("openai/gpt-oss-20b", "data:image/png;base64,aGk=", "value must be a string"),
        ("qwen/qwen3.8-27b", "data:image/png;base64,a", "value must be base64 data"),
        ("qwen/qwen3.8-27b", "data:text/plain;base64,aGk=", "value must be an image"),
        ("qwen/qwen3.8-27b", "picture.png", "value must be an image URL"),
    ],
)
def test_images_are_read_and_refused(start, model, url, said):
    """A model without images refuses them, and other models refuse data that is not an image."""
    sandbox = start(keys={"groq": 1})
    variables = sandbox.environment()
    client = groq.Groq(
        api_key=variables["GROQ_API_KEY"], base_url=variables["GROQ_BASE_URL"], max_retries=0
    )
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    with pytest.raises(groq.BadRequestError, match=said):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
