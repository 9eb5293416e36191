"""Refusals of tools, and how they differ from refusals of one way to use them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from adapter_calls import HELLO, MODELS, Build, Script, complete, failure_of
from tool_answers import ASKED, chat_call, chat_chunk, google_answer

from arche_magic.llm_providers.provider_failure import Remedy


@pytest.mark.parametrize(
    ("wire", "status", "words"),
    [
        # Ollama, OpenRouter, vLLM, llama.cpp and SambaNova speak OpenAI's wire.
        ("openai", 400, "registry.ollama.ai/library/x does not support tools"),
        ("openai", 404, "No endpoints found that support tool use"),
        ("openai", 400, '"auto" tool choice requires --enable-auto-tool-choice to be set'),
        ("openai", 500, "tools param requires --jinja flag"),
        ("openai", 400, "This model does not support function calling."),
        ("openai", 400, "tools is not supported in this model. For a list of supported models …"),
        ("groq", 400, "`tool calling` is not supported with this model"),
        ("mistral", 400, "Function calling is not enabled for this model"),
        ("google", 400, "Function calling is not enabled for models/gemma-3-27b-it"),
    ],
)
def test_a_model_without_tools_is_noted(
    script: Script, build: Build, wire: str, status: int, words: str
) -> None:
    """Later requests with tools go elsewhere. The words mean nothing in other requests."""
    script.answer(status, {"error": {"message": words}})
    failure = failure_of(build(wire), request=ASKED)
    assert (failure.lacks, failure.remedy) == ("tools", Remedy.FIX_REQUEST)
    assert failure.summary.startswith("takes no tools (")
    assert failure_of(build(wire), request=HELLO).lacks == ""


@pytest.mark.parametrize(
    "words",
    [
        "tool_choice 'required' is not supported with this model",
        "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.",
        "Function calling with a response mime type: 'application/json' is unsupported",
        "json mode cannot be combined with tool/function calling",
        "Invalid schema for function 'f': schema must be a JSON Schema of 'type: \"object\"'",
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    ],
)
def test_a_refused_option_does_not_mean_that_tools_are_refused(
    script: Script, build: Build, words: str
) -> None:
    """The model may accept tools with other options."""
    script.answer(400, {"error": {"message": words, "type": "invalid_request_error"}})
    failure = failure_of(build("openai"), request=ASKED)
    assert (failure.lacks, failure.remedy) == ("", Remedy.FIX_REQUEST)


@pytest.mark.parametrize("wire", ["openai", "groq", "mistral"])
def test_a_stream_that_ends_within_a_call_is_a_failure(
    script: Script, build: Build, wire: str
) -> None:
    """Half of the arguments would be worse than none."""
    script.events(chat_chunk({"index": 0, **chat_call("abcdefghi", "f", '{"x"')}), done=False)
    failure = failure_of(build(wire), request=ASKED, stream=True)
    assert failure.remedy is Remedy.RETRY_LATER


def test_a_reply_cut_within_a_call_says_length(script: Script, build: Build) -> None:
    """The caller sees that the arguments may be incomplete."""
    script.events(
        chat_chunk({"index": 0, **chat_call("abcdefghi", "f", '{"x"')}), chat_chunk(ending="length")
    )
    last = complete(build("openai"), MODELS["openai"], ASKED, stream=True)[-1]
    assert last.finish_reason == "length"
    assert last.tool_calls[0].arguments == '{"x"'


def test_gemini_may_sign_with_anything(script: Script, build: Build) -> None:
    """A signature that is not base64 does not cost the whole reply."""
    answer = google_answer({"name": "get_time", "args": None}, {"name": "f", "args": [1], "id": 5})
    answer["candidates"][0]["content"]["parts"][0]["thoughtSignature"] = "not base64!"
    script.answer(200, answer)
    (completion,) = complete(build("google"), MODELS["google"], ASKED)
    one, two = completion.tool_calls
    assert (one.name, one.arguments, one.signature) == ("get_time", "{}", "")
    assert (two.name, two.arguments) == ("f", "{}")


def test_a_strict_tool_is_strict_at_gemini(script: Script, build: Build) -> None:
    """Gemini's mode VALIDATED makes arguments fit their schema."""
    script.answer(200, google_answer(text="Hi"))
    strict = replace(ASKED, tools=(replace(ASKED.tools[0], strict=True),))
    complete(build("google"), MODELS["google"], strict)
    config = script.received[-1]["body"]["toolConfig"]
    assert config == {"functionCallingConfig": {"mode": "VALIDATED"}}
