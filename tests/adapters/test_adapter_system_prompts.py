"""Models without system prompts get them in the user's turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from adapter_calls import SECRET, WIRES, Build, Script, complete, failure_of, reply_of, text_of

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.request import Image, Message, Request
from arche_magic.llm_providers.schemas import schema_of
from arche_magic.llm_providers.types import Key

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Hello")
ASKED = Request((SYSTEM, USER))
PICTURE = Image("image/png", b"png")
# From Gemini, OpenAI, and the chat templates of Gemma and Mistral in vLLM, SGLang and Ollama.
REFUSALS = (
    "Developer instruction is not enabled for models/gemma-3-27b-it",
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    "System role not supported",
    "This model doesn't support system messages",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    "Only user and assistant roles are supported!",
    "Unexpected role 'system'",
    "'system' is not one of ['user', 'assistant']",
)


def refuse(script: Script, message: str) -> None:
    status = {"status": "INVALID_ARGUMENT", "type": "invalid_request_error"}
    script.answer(400, {"error": {"code": 400, "message": message, **status}})


def turns(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The role and text of each turn, as sent."""
    assert "systemInstruction" not in body
    if "contents" in body:
        return [(turn["role"], turn["parts"][0]["text"]) for turn in body["contents"]]
    return [(turn["role"], turn["content"]) for turn in body["messages"]]


@pytest.mark.parametrize("wire", WIRES)
def test_a_refused_system_prompt_moves_into_the_users_turn(
    script: Script, build: Build, wire: str
) -> None:
    """One refusal is enough for the model. Other models are not affected."""
    for number, message in enumerate(REFUSALS):
        model = f"plain-{wire}-{number}"
        refuse(script, message)
        failure = failure_of(build(wire), model, ASKED)
        assert failure.remedy is Remedy.ASK_DIFFERENTLY, message
        assert "does not accept a system prompt" in str(failure)
        script.answer(200, reply_of(wire, "Hi"))
        complete(build(wire), model, ASKED)
        assert turns(script.received[-1]["body"]) == [("user", "Be brief.\n\nHello")]
        # A second refusal in the same words is not about the system prompt.
        refuse(script, message)
        assert failure_of(build(wire), model, ASKED).remedy is Remedy.FIX_REQUEST
    script.answer(200, reply_of(wire, "Hi"))
    complete(build(wire), f"other-{wire}", ASKED)
    assert "Be brief.\\n\\nHello" not in str(script.received[-1]["body"])


@pytest.fixture
def gemini(script: Script) -> Any:
    """Gemini itself, whose Gemma models are known."""
    adapter = build_adapter("google", Key.of("google", "google_key_1", SECRET), script.url)
    yield adapter
    adapter.close()


@pytest.mark.parametrize("model", ["gemma-3-27b-it", "gemma-3n-e4b-it", "models/gemma-2-9b-it"])
def test_gemma_on_gemini_gets_plain_prompts(script: Script, gemini: Any, model: str) -> None:
    """No request has a system prompt or JSON mode, not even the first."""
    script.answer(200, reply_of("google", '{"a": 1}'))
    schema = schema_of("a int")
    completions = complete(gemini, model, replace(ASKED, schema=schema))
    assert schema.read(text_of(completions)) == {"a": 1}
    body = script.received[-1]["body"]
    assert "responseMimeType" not in str(body)
    ((role, text),) = turns(body)
    assert role == "user"
    assert text.startswith("Be brief.\n\nReply with one JSON object")
    assert schema.text in text
    assert text.endswith("\n\nHello")
    complete(gemini, model, Request((USER,)))
    assert turns(script.received[-1]["body"]) == [("user", "Hello")]
    assert len(script.received) == 2


def test_a_newer_gemma_is_asked_as_gemini_is(script: Script, gemini: Any) -> None:
    """It gets a system prompt until it refuses one."""
    script.answer(200, reply_of("google", "Hi"))
    complete(gemini, "gemma-4-31b-it", ASKED)
    body = script.received[-1]["body"]
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]


def test_a_conversation_keeps_its_turns_and_images(script: Script, gemini: Any) -> None:
    """If the assistant speaks first, the system prompt becomes a turn."""
    script.answer(200, reply_of("google", "Hi"))
    talk = (USER, Message("assistant", "Hi"), Message("user", "Again"))
    complete(gemini, "gemma-3-1b-it", Request((SYSTEM, *talk)))
    assert turns(script.received[-1]["body"]) == [
        ("user", "Be brief.\n\nHello"), ("model", "Hi"), ("user", "Again"),
    ]  # fmt: skip
    complete(gemini, "gemma-3-1b-it", Request((SYSTEM, *talk[1:])))
    assert turns(script.received[-1]["body"])[0] == ("user", "Be brief.")
    complete(gemini, "gemma-3-1b-it", Request((SYSTEM, replace(USER, images=(PICTURE,)))))
    (turn,) = script.received[-1]["body"]["contents"]
    assert [list(part) for part in turn["parts"]] == [["text"], ["inlineData"]]
