"""LlamaIndex: the transport below `OpenAILike`."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
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
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

import arche_magic

HELLO = [ChatMessage("Hello")]


def language_model(model: str = "auto") -> OpenAILike:
    transport = arche_magic.openai_transport()
    return OpenAILike(
        model=model,
        api_key="not-needed",
        http_client=openai.DefaultHttpxClient(transport=transport),
        async_http_client=openai.DefaultAsyncHttpxClient(transport=transport),
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,  # It retries on its own, whatever the server says.
    )


def test_complete_and_chat_return_replies() -> None:
    """The reply has the route and the usage."""
    assert "You asked: “Hello”" in language_model().complete("Hello").text
    reply = language_model().chat(HELLO)
    assert "You asked: “Hello”" in reply.message.content
    assert reply.raw.usage.completion_tokens > 10
    assert reply.raw.arche["route"]["provider"] == "groq"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_is_streamed(provider: str) -> None:
    deltas = [chunk.delta for chunk in language_model(provider).stream_chat(HELLO)]
    assert len(deltas) > 5
    assert "You asked: “Hello”" in "".join(deltas)


def test_async_calls_work() -> None:
    async def ask() -> list[Any]:
        model = language_model()
        return await asyncio.gather(*(model.achat(HELLO) for _ in range(5)))

    assert all("You asked" in reply.message.content for reply in asyncio.run(ask()))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_fits_a_schema(provider: str) -> None:
    """With a tool, which is LlamaIndex's way for such models."""
    city = language_model(provider).structured_predict(City, PromptTemplate("Which? name=Oslo"))
    assert city.name == "Oslo"
    assert providers_that_answered() == [provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_is_called(provider: str) -> None:
    tool = FunctionTool.from_defaults(temperature)
    reply = language_model(provider).predict_and_call([tool], ASK_FOR_TEMPERATURE)
    assert reply.response == "21 degrees in Oslo"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agent_calls_a_tool(provider: str) -> None:
    async def ask() -> Any:
        agent = FunctionAgent(tools=[temperature], llm=language_model(provider))
        return await agent.run(ASK_FOR_TEMPERATURE)

    assert "21 degrees in Oslo" in str(asyncio.run(ask()))
    assert providers_that_answered() == [provider] * 2


def test_the_next_key_answers(sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    language_model().complete("Hello")
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(sandbox: Any) -> None:
    """It raises the official client's error, which says what opens when, without retries."""
    spend(sandbox, "*")
    with pytest.raises(openai.RateLimitError, match=WHAT_OPENS_WHEN):
        language_model().complete("Hello")
    assert len(sandbox.requests) == 5
