"""LiteLLM accepts a URL and a key, so it uses the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import litellm
import pytest
from library_parts import (
    ASK_FOR_TEMPERATURE,
    PROVIDERS,
    WHAT_OPENS_WHEN,
    City,
    keys_that_answered,
    spend,
)

if TYPE_CHECKING:
    from arche_magic.openai_api.server import Server

TEMPERATURE = {
    "type": "function",
    "function": {
        "name": "temperature",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def ask(server: Server, content: str = "Hello", model: str = "auto", **options: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    return litellm.completion(
        f"openai/{model}",
        messages,
        api_base=server.base_url,
        api_key=server.api_key,
        **options,
    )


def test_a_prompt_gets_a_reply(server: Server) -> None:
    reply = ask(server)
    assert "You asked: “Hello”" in reply.choices[0].message.content
    assert reply.model == "openai/gpt-oss-120b"
    assert reply.usage.completion_tokens > 10


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_is_streamed(server: Server, provider: str) -> None:
    chunks = list(ask(server, model=provider, stream=True))
    assert len(chunks) > 5
    whole = litellm.stream_chunk_builder(chunks)
    assert "You asked: “Hello”" in whole.choices[0].message.content


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_fits_a_schema(server: Server, provider: str) -> None:
    reply = ask(server, "Which city?", provider, response_format=City)
    assert City.model_validate_json(reply.choices[0].message.content)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_is_called(server: Server, provider: str) -> None:
    reply = ask(server, ASK_FOR_TEMPERATURE, provider, tools=[TEMPERATURE])
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("temperature", '{"city": "Oslo"}')


def test_the_next_key_answers(server: Server, sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    ask(server)
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(server: Server, sandbox: Any) -> None:
    """It raises LiteLLM's own error, which says what opens when, without retries."""
    spend(sandbox, "*")
    with pytest.raises(litellm.RateLimitError, match=WHAT_OPENS_WHEN):
        ask(server)
    assert len(sandbox.requests) == 5
