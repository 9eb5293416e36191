"""Chatlas accepts a URL and a key, so it uses the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import chatlas
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

if TYPE_CHECKING:
    from arche_magic.openai_api.server import Server


def chat_of(server: Server, model: str = "auto") -> chatlas.Chat[Any, Any]:
    return chatlas.ChatOpenAICompletions(
        model=model, base_url=server.base_url, api_key=server.api_key
    )


def test_a_prompt_gets_a_reply(server: Server) -> None:
    """A second prompt continues the conversation."""
    chat = chat_of(server)
    assert "You asked: “Hello”" in str(chat.chat("Hello", echo="none"))
    assert "You asked: “And now?”" in str(chat.chat("And now?", echo="none"))
    assert [turn.role for turn in chat.get_turns()] == ["user", "assistant"] * 2
    assert chat.get_tokens()[-1]["tokens"] > 10


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_is_streamed(server: Server, provider: str) -> None:
    pieces = list(chat_of(server, provider).stream("Hello"))
    assert len(pieces) > 5
    assert "You asked: “Hello”" in "".join(pieces)


def test_async_calls_work(server: Server) -> None:
    async def ask() -> str:
        reply = await chat_of(server).chat_async("Hello", echo="none")
        return await reply.get_content()

    assert "You asked: “Hello”" in asyncio.run(ask())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_fits_a_schema(server: Server, provider: str) -> None:
    city = chat_of(server, provider).chat_structured("Which city?", data_model=City)
    assert isinstance(city, City)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_is_called(server: Server, provider: str) -> None:
    chat = chat_of(server, provider)
    chat.register_tool(temperature)
    assert "21 degrees in Oslo" in str(chat.chat(ASK_FOR_TEMPERATURE, echo="none"))
    assert providers_that_answered() == [provider] * 2


def test_the_next_key_answers(server: Server, sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    chat_of(server).chat("Hello", echo="none")
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(server: Server, sandbox: Any) -> None:
    """It raises the official client's error, which says what opens when, without retries."""
    spend(sandbox, "*")
    with pytest.raises(openai.RateLimitError, match=WHAT_OPENS_WHEN):
        chat_of(server).chat("Hello", echo="none")
    assert len(sandbox.requests) == 5
