"""Finish reasons in the words of many servers."""

from __future__ import annotations

from typing import Any

import pytest
from adapter_calls import HELLO, WIRES, Build, Script, complete, failure_of, text_of

from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.request import Request, Schema
from arche_magic.llm_providers.types import Usage

# Google's SDK warns of words that are not Google's.
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
MISTRAL = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
STOPPED = (
    "stop", "STOP", "eos", "eos_token", "EosToken", "end_turn", "COMPLETE", "stop_sequence", "done",
    "tool_calls", "a_word_of_next_year",
)  # fmt: skip
CUT = (
    "length", "MAX_TOKENS", "max_tokens", "maxTokens", "max_output_tokens", "model_length",
    "model_context_window_exceeded", "token_limit", "maximum_tokens", "length_limit", "incomplete",
)  # fmt: skip
FILTERED = ("content_filter", "SAFETY", "content_filtered", "refusal", "ERROR_TOXIC", "sensitive")
OURS = ("content_filter", "error")
BROKEN = (
    "error", "ERROR", "cancelled", "network_error", "insufficient_system_resource",
    "MALFORMED_FUNCTION_CALL", "OTHER", "timeout",
)  # fmt: skip


def answer(
    script: Script,
    wire: str,
    text: str,
    ending: str | None,
    *,
    stream: bool = False,
    output_tokens: int = 300,
) -> None:
    """Make the server answer with a text and this finish reason."""
    if wire == "google":
        usage = {"promptTokenCount": 5, "thoughtsTokenCount": output_tokens}
        content = {"role": "model", "parts": [{"text": text}]}
        whole: dict[str, Any] = {
            "candidates": [{"content": content, "finishReason": ending}], "usageMetadata": usage,
        }  # fmt: skip
    else:
        usage = {"prompt_tokens": 5, "completion_tokens": output_tokens}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta" if stream else "message": message, "finish_reason": ending}
        whole = {**MISTRAL, "choices": [choice], "usage": {**usage, "total_tokens": 0}}
    if stream:
        script.events(whole, done=wire != "google")
    else:
        script.answer(200, whole)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_finish_reasons_of_all_servers_are_understood(
    script: Script, build: Build, wire: str, stream: bool
) -> None:
    """A complete text is a reply, one at its limit is cut, and the rest are failures."""
    for words, finish_reason in ((STOPPED, "stop"), (CUT, "length")):
        for word in words:
            answer(script, wire, "Four.", word, stream=stream)
            completions = complete(build(wire), "m", stream=stream)
            assert text_of(completions) == "Four.", word
            assert completions[-1].finish_reason == finish_reason, word
    for words, remedy in ((FILTERED, Remedy.CHANGE_PROMPT), (BROKEN, Remedy.RETRY_LATER)):
        for word in words:
            answer(script, wire, "Four.", word, stream=stream)
            failure = failure_of(build(wire), stream=stream)
            assert failure.remedy is remedy, word
            assert failure.text == "Four.", word
            assert f"({word})" in str(failure) or word.casefold() in OURS, word


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_without_a_finish_reason_is_incomplete(
    script: Script, build: Build, wire: str
) -> None:
    """The text `null` and Google's "unspecified" do not end a stream."""
    for word in ("null", "", None, "FINISH_REASON_UNSPECIFIED"):
        answer(script, wire, "Four.", word, stream=True)
        assert "ended early" in str(failure_of(build(wire), stream=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("text", ["", " \n", "<think>Two and two", "[THINK]Hm[/THINK]\n"])
def test_a_reply_of_reasoning_alone_is_a_failure(
    script: Script, build: Build, wire: str, stream: bool, text: str
) -> None:
    """The error states the number of tokens and a remedy. The tokens are counted."""
    answer(script, wire, text, "length", stream=stream)
    failure = failure_of(build(wire), stream=stream)
    assert failure.remedy is Remedy.RAISE_MAX_TOKENS
    assert "the model used all 300 tokens for reasoning; raise --max-tokens" in str(failure)
    assert failure.usage == Usage(5, 300)


def test_reasoning_is_distinguished_from_an_answer(script: Script, build: Build) -> None:
    """Text outside the reasoning is an answer. So is JSON inside it if JSON was requested."""
    only_reasoning = "<think>It is four.</think>\n"
    answer(script, "openai", only_reasoning, "stop")
    assert str(failure_of(build("openai"))) == "an empty reply"
    schema = Request(HELLO.messages, schema=Schema("reply", "{}", strict=False, read=str))
    (completion,) = complete(build("openai"), "m", schema)
    assert completion.text == only_reasoning
    for text in ("<think>Hm.</think>Four", "Hm.</think>Four", "Fo", "Use <think> for it"):
        answer(script, "openai", text, "length")
        (completion,) = complete(build("openai"), "m")
        assert completion.text == text
    analysis = "<|channel|>analysis<|message|>Two and two"
    answer(script, "openai", analysis, "length")
    assert failure_of(build("openai")).remedy is Remedy.RAISE_MAX_TOKENS
    answer(script, "openai", f"{analysis}<|end|><|channel|>final<|message|>Four", "length")
    assert complete(build("openai"), "m")


@pytest.mark.parametrize("count", [0, -5, 10**30])
def test_an_error_without_a_count_states_the_requested_limit(
    script: Script, build: Build, count: int
) -> None:
    """The error for an absurd count states it too."""
    answer(script, "groq", "", "length", output_tokens=count)
    request = Request(HELLO.messages, max_tokens=20)
    assert "all 20 tokens for reasoning" in str(failure_of(build("groq"), request=request))
    assert "all its tokens for reasoning" in str(failure_of(build("groq")))
