"""Instructor: `from_openai` with our client. Its default mode calls a tool."""

from __future__ import annotations

import asyncio
from typing import Any

import instructor
import openai
import pytest
from instructor.core import InstructorRetryException
from library_parts import (
    PROVIDERS,
    WHAT_OPENS_WHEN,
    City,
    keys_that_answered,
    providers_that_answered,
    spend,
)
from pydantic import field_validator

import arche_magic

ASKED: list[Any] = [{"role": "user", "content": "Which city? name=Oslo"}]


def client(mode: instructor.Mode = instructor.Mode.TOOLS) -> instructor.Instructor:
    return instructor.from_openai(arche_magic.openai_client(), mode=mode)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_fits_a_schema(provider: str) -> None:
    city = client().create(model=provider, response_model=City, messages=ASKED)
    assert city.name == "Oslo"
    assert providers_that_answered() == [provider]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_fits_a_schema_without_a_tool(provider: str) -> None:
    """The provider enforces the schema."""
    by_schema = client(instructor.Mode.JSON_SCHEMA)
    city = by_schema.create(model=provider, response_model=City, messages=ASKED)
    assert isinstance(city, City)


def test_a_prompt_gets_a_reply() -> None:
    """Without a schema, the reply is the official object, with the route."""
    reply: Any = client().create(model="auto", response_model=None, messages=ASKED)
    assert "You asked: “Which city? name=Oslo”" in reply.choices[0].message.content
    assert reply.arche["route"]["provider"] == "groq"


def test_the_completion_is_returned_with_the_object() -> None:
    city, completion = client().create_with_completion(
        model="auto", response_model=City, messages=ASKED
    )
    assert city.name == "Oslo"
    assert completion.usage.completion_tokens > 0
    assert completion.arche["route"]["key"].startswith("groq_key_")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_objects_are_streamed(provider: str) -> None:
    """A stream can be an object that grows, or several objects one after another."""
    asked = {"model": provider, "response_model": City, "messages": ASKED}
    *_, whole = client().create_partial(**asked)
    assert whole.name == "Oslo"
    assert all(isinstance(city, City) for city in client().create_iterable(**asked))


def test_async_calls_work() -> None:
    cities = instructor.from_openai(arche_magic.async_openai_client())

    async def ask() -> list[City]:
        asked = {"model": "auto", "response_model": City, "messages": ASKED}
        return await asyncio.gather(*(cities.create(**asked) for _ in range(5)))

    assert [city.name for city in asyncio.run(ask())] == ["Oslo"] * 5


def test_a_reply_that_does_not_fit_is_corrected() -> None:
    """The second request has the first call and a description of the fault."""
    seen = []

    class Capital(City):
        @field_validator("name")
        @classmethod
        def once(cls, name: str) -> str:
            seen.append(name)
            if len(seen) == 1:
                raise ValueError("not a capital")
            return name

    capital = client().create(model="auto", response_model=Capital, messages=ASKED, max_retries=2)
    assert capital.name == "Oslo"
    assert len(keys_that_answered()) == 2


def test_the_next_key_answers(sandbox: Any) -> None:
    spend(sandbox, "groq_key_1")
    assert client().create(model="auto", response_model=City, messages=ASKED).name == "Oslo"
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(sandbox: Any) -> None:
    """It raises Instructor's own error, caused by the client's, without retries."""
    spend(sandbox, "*")
    with pytest.raises(InstructorRetryException, match=WHAT_OPENS_WHEN) as caught:
        client().create(model="auto", response_model=City, messages=ASKED)
    assert isinstance(caught.value.__cause__, openai.RateLimitError)
    assert len(sandbox.requests) == 5
