"""Conversations with tools through each SDK."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from google.genai import types as genai_types
from sdk_clients import KINDS, MODELS, Called, Client, Outcome, Refused

TOOLS: Any = [
    {
        "name": "get_weather",
        "description": "The weather in a city for some days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
    {
        "name": "get_time",
        "description": "The time in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
]


class ToolClient(Client):
    """A client that sends two tools, reads calls and sends results."""

    def tools(self, choice: str = "auto") -> Any:
        """Two tools in the SDK's own format; for Google the whole configuration with `choice`."""
        if self.provider != "google":
            return [{"type": "function", "function": tool} for tool in TOOLS]
        mode = {"auto": "AUTO", "none": "NONE"}.get(choice, "ANY")
        named = None if choice in ("auto", "none", "required") else [choice]
        return {
            "tools": [{"function_declarations": TOOLS}],
            "tool_config": {
                "function_calling_config": {"mode": mode, "allowed_function_names": named}
            },
            "automatic_function_calling": {"disable": True},
        }

    def call_tools(
        self, prompt: Any, model: str = "", choice: str = "auto", *, streamed: bool = False,
        **options: Any,
    ) -> Outcome:  # fmt: skip
        """The reply to a request with two tools; `calls` has its calls."""
        ask = self.stream if streamed else self._whole
        if self.provider == "google":
            reply = ask(prompt, model, **self.tools(choice))
            return self._gemini_calls(list(reply) if streamed else [reply])
        named: Any = choice
        if choice not in ("auto", "none", "required"):
            named = {"type": "function", "function": {"name": choice}}
        if self.provider == "mistral" and choice == "required":
            named = "any"
        reply = ask(prompt, model, tools=self.tools(), tool_choice=named, **options)
        return self._chat_calls(reply) if not streamed else self._streamed_calls(reply)

    def history(self, prompt: str, called: Outcome, results: list[str]) -> list[Any]:
        """The messages of a conversation up to the results of its calls."""
        if self.provider == "google":
            answers = [
                genai_types.Part.from_function_response(name=c.name, response={"result": text})
                for c, text in zip(called.calls, results, strict=True)
            ]
            return [
                genai_types.Content(role="user", parts=[genai_types.Part(text=prompt)]),
                called.content,
                genai_types.Content(role="user", parts=answers),
            ]
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in called.calls
        ]
        return [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": "", "tool_calls": calls},
            *(
                {"role": "tool", "tool_call_id": call.id, "content": text}
                for call, text in zip(called.calls, results, strict=True)
            ),
        ]

    def answer_tools(
        self, prompt: str, called: Outcome, results: list[str], choice: str = "auto"
    ) -> Outcome:
        """The reply to the results of calls."""
        return self.call_tools(self.history(prompt, called, results), choice=choice)

    def refused_answer(self, *arguments: Any) -> Refused:
        """Send the results of calls, and return the error status that must come back."""
        with pytest.raises(KINDS) as caught:
            self.answer_tools(*arguments)
        return self._refused(caught.value)

    def _whole(self, prompt: Any, model: str = "", **options: Any) -> Any:
        model = model or MODELS[self.provider]
        if self.provider == "google":
            return self.sdk.models.generate_content(model=model, contents=prompt, config=options)
        return self._create(prompt, model, stream=False, **options)

    def _chat_calls(self, reply: Any) -> Outcome:
        choice = reply.choices[0]
        return Outcome(
            choice.message.content,
            choice.finish_reason,
            reply.usage.prompt_tokens,
            reply.usage.completion_tokens,
            calls=[
                Called(call.id, call.function.name, json.loads(call.function.arguments))
                for call in choice.message.tool_calls or ()
            ],
        )

    def _streamed_calls(self, chunks: Any) -> Outcome:
        kept = list(chunks)
        result = self.read(kept)
        pieces: dict[int, list[Any]] = {}
        for item in kept:
            chunk = item.data if self.provider == "mistral" else item
            for part in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
                pieces.setdefault(part.index, []).append(part)
        for parts in pieces.values():
            arguments = "".join(part.function.arguments for part in parts)
            name = parts[0].function.name
            result.calls.append(Called(parts[0].id, name, json.loads(arguments)))
        return result

    def _gemini_calls(self, replies: list[Any]) -> Outcome:
        found = [reply for reply in replies if reply.function_calls]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "there are non-text parts"
            result = self._gemini(replies[-1])
        result.content = found[0].candidates[0].content if found else None
        result.calls = [
            Called(call.id, call.name, call.args)
            for reply in found
            for call in reply.function_calls
        ]
        return result
