"""LangChain: the transport below `ChatOpenAI`."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import ModelRateLimitError
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
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

import arche_magic


def chat_model(model: str = "auto", **options: Any) -> ChatOpenAI:
    transport = arche_magic.openai_transport()
    return ChatOpenAI(
        model=model,
        api_key="not-needed",
        http_client=openai.DefaultHttpxClient(transport=transport),
        http_async_client=openai.DefaultAsyncHttpxClient(transport=transport),
        **options,
    )


def test_invoke_returns_a_reply() -> None:
    """The reply has the usage, the real model, and the route in its headers."""
    reply = chat_model(include_response_headers=True).invoke("Hello")
    assert "You asked: “Hello”" in reply.content
    assert reply.usage_metadata["output_tokens"] > 10
    assert reply.response_metadata["model_name"] == "openai/gpt-oss-120b"
    assert reply.response_metadata["headers"]["x-arche-route"].startswith("groq groq_key_")


def test_a_batch_uses_both_keys() -> None:
    """Requests of a batch run at the same time, on both keys."""
    replies = chat_model().batch([f"Number {number}" for number in range(12)])
    assert all(f"“Number {number}”" in reply.content for number, reply in enumerate(replies))
    assert len(keys_that_answered()) == 12


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_is_streamed(provider: str) -> None:
    chunks = list(chat_model(provider, stream_usage=True).stream("Hello"))
    assert len(chunks) > 5
    whole = sum(chunks[1:], chunks[0])
    assert "You asked: “Hello”" in whole.content
    assert whole.usage_metadata["output_tokens"] > 10


def test_async_calls_work() -> None:
    async def ask() -> tuple[Any, list[Any], list[Any]]:
        model = chat_model()
        return (
            await model.ainvoke("Hello"),
            await model.abatch(["Hello"] * 5),
            [chunk async for chunk in model.astream("Hello")],
        )

    reply, batch, chunks = asyncio.run(ask())
    assert "You asked: “Hello”" in reply.content
    assert len(batch) == 5
    assert "You asked: “Hello”" in "".join(chunk.content for chunk in chunks)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_structured_output_is_parsed(provider: str) -> None:
    city = chat_model(provider).with_structured_output(City).invoke("Which city?")
    assert isinstance(city, City)
    assert providers_that_answered() == [provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_structured_output_is_parsed_from_a_tool_call(provider: str) -> None:
    model = chat_model(provider).with_structured_output(City, method="function_calling")
    assert model.invoke("Which city? name=Oslo").name == "Oslo"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agent_calls_a_tool(provider: str) -> None:
    """The call, its result and the answer are three messages."""
    agent = create_agent(chat_model(provider), [temperature])
    messages = agent.invoke({"messages": [("user", ASK_FOR_TEMPERATURE)]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"city": "Oslo"}
    assert messages[2].content == "21 degrees in Oslo"
    assert "21 degrees in Oslo" in messages[3].content


def test_the_answer_of_an_agent_fits_a_schema() -> None:
    """The answer of an agent fits a schema."""
    agent = create_agent(chat_model(), [temperature], response_format=City)
    state = agent.invoke({"messages": [("user", ASK_FOR_TEMPERATURE)]})
    assert isinstance(state["structured_response"], City)


def test_an_agent_streams() -> None:
    agent = create_agent(chat_model(), [temperature])
    asked = {"messages": [("user", ASK_FOR_TEMPERATURE)]}
    text = "".join(
        chunk.content for chunk, _ in agent.stream(asked, stream_mode="messages") if chunk.content
    )
    assert "answered: 21 degrees in Oslo" in text


def test_texts_are_embedded() -> None:
    """Texts are sent unchanged; by default, LangChain sends token ids of an OpenAI model."""
    embeddings = OpenAIEmbeddings(
        model="mistral/mistral-embed",
        api_key="not-needed",
        http_client=openai.DefaultHttpxClient(transport=arche_magic.openai_transport()),
        check_embedding_ctx_length=False,
    )
    one, two, again = embeddings.embed_documents(["one", "two", "one"])
    assert len(one) == 1024
    assert one == again != two
    assert set(keys_that_answered()) == {"mistral_key_1"}


def test_the_next_key_answers(sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    model = chat_model(include_response_headers=True)
    route = model.invoke("Hello").response_metadata["headers"]["x-arche-route"]
    assert route == "groq groq_key_2 openai/gpt-oss-120b"


def test_an_agent_continues_with_the_next_provider(sandbox: Any) -> None:
    """One provider calls the tool, and another answers with its result."""
    agent = create_agent(chat_model(), [temperature])
    sandbox.fail("groq", "rate_limit_day", times=None, after=1)
    messages = agent.invoke({"messages": [("user", ASK_FOR_TEMPERATURE)]})["messages"]
    assert "21 degrees in Oslo" in messages[-1].content
    assert providers_that_answered() == ["groq", "mistral"]


def test_an_error_says_what_opens_when(sandbox: Any) -> None:
    """It raises LangChain's own error, which says what opens when, without retries."""
    spend(sandbox, "*")
    with pytest.raises(ModelRateLimitError, match=WHAT_OPENS_WHEN) as caught:
        chat_model().invoke("Hello")
    assert isinstance(caught.value, openai.RateLimitError)
    assert len(sandbox.requests) == 5
