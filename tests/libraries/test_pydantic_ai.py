"""Pydantic AI: `OpenAIProvider` with our client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from library_parts import (
    ASK_FOR_TEMPERATURE,
    PROVIDERS,
    WHAT_OPENS_WHEN,
    City,
    keys_that_answered,
    providers_that_answered,
    spend,
    temperature,
)
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import arche_magic


def chat_model(model: str = "auto") -> OpenAIChatModel:
    client = arche_magic.async_openai_client()
    return OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))


def test_a_prompt_gets_a_reply() -> None:
    result = Agent(chat_model(), system_prompt="Be brief.").run_sync("Hello")
    assert "You asked: “Hello”" in result.output
    assert result.usage.output_tokens > 10
    assert result.response.model_name == "openai/gpt-oss-120b"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_is_streamed(provider: str) -> None:
    async def ask() -> list[str]:
        async with Agent(chat_model(provider)).run_stream("Hello") as result:
            return [text async for text in result.stream_text(debounce_by=None)]

    texts = asyncio.run(ask())
    assert len(texts) > 5
    assert "You asked: “Hello”" in texts[-1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agent_calls_a_tool(provider: str) -> None:
    result = Agent(chat_model(provider), tools=[temperature]).run_sync(ASK_FOR_TEMPERATURE)
    assert "21 degrees in Oslo" in result.output
    assert providers_that_answered() == [provider] * 2


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("output", [City, NativeOutput(City)], ids=["tool", "native"])
def test_an_output_type_is_returned(provider: str, output: Any) -> None:
    """With a tool, which is the default, and with the provider's own schemas."""
    result = Agent(chat_model(provider), output_type=output).run_sync("Which city?")
    assert isinstance(result.output, City)


def test_an_output_type_can_be_combined_with_a_tool() -> None:
    """The agent calls the tool first, and then a tool for its output."""
    agent = Agent(chat_model(), output_type=City, tools=[temperature])
    result = agent.run_sync(f"{ASK_FOR_TEMPERATURE} Which city? name=Oslo")
    assert result.output.name == "Oslo"
    assert len(keys_that_answered()) == 2


def test_concurrent_agents_share_the_keys() -> None:
    """They share the keys."""

    async def ask() -> list[Any]:
        agent = Agent(chat_model(), tools=[temperature])
        return await asyncio.gather(*(agent.run(ASK_FOR_TEMPERATURE) for _ in range(8)))

    assert all("21 degrees" in result.output for result in asyncio.run(ask()))


def test_the_next_provider_continues(sandbox: Any) -> None:
    """One provider calls the tool, and another answers with its result."""
    sandbox.fail("groq", "rate_limit_day", times=None, after=1)
    result = Agent(chat_model(), tools=[temperature]).run_sync(ASK_FOR_TEMPERATURE)
    assert "21 degrees in Oslo" in result.output
    assert providers_that_answered() == ["groq", "mistral"]


def test_the_next_key_answers(sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    Agent(chat_model()).run_sync("Hello")
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(sandbox: Any) -> None:
    """It raises Pydantic AI's own error, with the status and what opens when, without retries."""
    spend(sandbox, "*")
    with pytest.raises(ModelHTTPError, match=WHAT_OPENS_WHEN) as caught:
        Agent(chat_model()).run_sync("Hello")
    assert caught.value.status_code == 429
    assert len(sandbox.requests) == 5
