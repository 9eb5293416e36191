"""DSPy accepts a URL and a key, so it uses the server, with its own engine or LiteLLM."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from library_parts import KEYS, WHAT_OPENS_WHEN, keys_that_answered, spend, temperature

from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arche_magic.openai_api.server import Server


def in_the_form_of_dspy(model: str, messages: list[dict[str, str]]) -> str:
    """The reply of a model that follows DSPy's instructions: each field below its name."""
    asked = messages[-1]["content"]
    values = {
        "answer": "Oslo",
        "population": "700000",
        "reasoning": "It is the largest city.",
        "next_thought": "I need the temperature.",
        "next_tool_name": "finish" if "21 degrees" in asked else "temperature",
        "next_tool_args": "{}" if "21 degrees" in asked else '{"city": "Oslo"}',
    }
    fields = re.findall(r"`\[\[ ## (\w+) ## \]\]`", asked.rpartition("Respond with")[2])
    return "\n\n".join(f"[[ ## {name} ## ]]\n{values.get(name, '')}" for name in fields)


@pytest.fixture(scope="module")
def providers() -> Iterator[Sandbox]:
    with Sandbox(keys=KEYS, reply=in_the_form_of_dspy) as sandbox:
        yield sandbox


@pytest.fixture(params=["auto", "litellm"])
def lm(request: pytest.FixtureRequest, server: Server) -> Iterator[dspy.LM]:
    """The engine that DSPy chooses itself, and LiteLLM, its engine before 3.4."""
    lm = dspy.LM(
        "openai/auto",
        api_base=server.base_url,
        api_key=server.api_key,
        engine=request.param,
        cache=False,
        num_retries=0,
    )
    with dspy.context(lm=lm):
        yield lm


def test_a_prompt_gets_a_reply(lm: dspy.LM) -> None:
    """The model that answered, and the tokens, are in the history."""
    assert dspy.Predict("question -> answer")(question="Capital of Norway?").answer == "Oslo"
    assert lm.history[-1]["response_model"] == "openai/gpt-oss-120b"
    assert lm.history[-1]["usage"]["completion_tokens"] > 5


def test_a_signature_returns_typed_fields(lm: dspy.LM) -> None:
    """DSPy's schema: it describes the fields in the prompt and reads them from the text."""

    class Largest(dspy.Signature):
        """Name the largest city of a country."""

        country: str = dspy.InputField()
        answer: str = dspy.OutputField()
        population: int = dspy.OutputField()

    found = dspy.ChainOfThought(Largest)(country="Norway")
    assert (found.answer, found.population) == ("Oslo", 700_000)


def test_an_agent_calls_a_tool(lm: dspy.LM) -> None:
    """DSPy requests tool calls in its own format, as text."""
    found = dspy.ReAct("question -> answer", tools=[temperature])(question="Is it warm in Oslo?")
    assert found.answer == "Oslo"
    assert found.trajectory["observation_0"] == "21 degrees in Oslo"


def test_a_batch_shares_the_keys(lm: dspy.LM) -> None:
    """A batch runs in threads, and all of them share the keys."""
    questions = [dspy.Example(question=f"{n}?").with_inputs("question") for n in range(10)]
    found = dspy.Predict("question -> answer").batch(questions, disable_progress_bar=True)
    assert [prediction.answer for prediction in found] == ["Oslo"] * 10


def test_requests_are_counted_for_dspy(lm: dspy.LM) -> None:
    """Each engine sends its own name, which `%llm_stats --by client` shows."""
    dspy.Predict("question -> answer")(question="Capital of Norway?")
    (attempt,) = attempt_log(get_configuration().store).session()
    assert attempt.tag in ("lm15/stdlib", "DSPy")


def test_the_next_key_answers(lm: dspy.LM, sandbox: Sandbox) -> None:
    spend(sandbox, "groq_key_1")
    assert dspy.Predict("question -> answer")(question="Capital of Norway?").answer == "Oslo"
    assert keys_that_answered() == ["groq_key_2"]


def test_an_error_says_what_opens_when(lm: dspy.LM, sandbox: Sandbox) -> None:
    """It raises DSPy's own error, which says what opens when, without retries."""
    spend(sandbox, "*")
    caught: Any
    with pytest.raises(dspy.LMRateLimitError, match=WHAT_OPENS_WHEN) as caught:
        dspy.Predict("question -> answer")(question="Capital of Norway?")
    assert caught.value.status == 429
    assert len(sandbox.requests) == 5
