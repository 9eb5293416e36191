"""One way to ask each provider of a sandbox through its own, unmodified SDK."""

from __future__ import annotations

import json
import ssl
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import groq
import httpx
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from mistralai.client import Mistral
from mistralai.client.errors import MistralError

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

PROVIDERS = ("groq", "mistral", "google", "openai")
MODELS = {
    "groq": "openai/gpt-oss-120b",
    "mistral": "mistral-small-latest",
    "google": "gemini-3.8-flash",
    "openai": "gpt-4.1-mini",
}
EMBEDDERS = {
    "mistral": "mistral-embed",
    "google": "gemini-embedding-001",
    "openai": "text-embedding-3-small",
}
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

KINDS = (groq.APIStatusError, openai.APIStatusError, MistralError, genai_errors.APIError)

# Sandboxes speak plain HTTP. Each client would read the machine's certificates, which takes 50 ms.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNUSED: Any = {"verify": NO_CERTIFICATES, "trust_env": False}


@dataclass
class Called:
    """A call of a tool, with its arguments read from JSON."""

    id: str
    name: str
    arguments: Any


@dataclass
class Outcome:
    """A reply as an SDK read it, in the same form for all providers."""

    text: str | None
    finish: str | None
    input_tokens: int | None
    output_tokens: int | None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    content: Any = None


@dataclass
class Refused:
    """An error status as an SDK read it."""

    status: int
    body: Any
    headers: dict[str, str]
    error: Exception

    @property
    def message(self) -> str:
        return self.body["error"]["message"]


class Client:
    """The official SDK of one provider, with one key of a sandbox."""

    def __init__(
        self,
        sandbox: Sandbox,
        provider: str,
        number: int = 1,
        key: str = "",
        timeout: float = 5.0,
    ) -> None:
        names = sandbox.environment()
        stem = f"{provider.upper()}_API_KEY"
        self.provider = provider
        self.key = key or names.get(f"{stem}_{number}") or names[stem]
        self.headers: dict[str, str] = {}
        self._http = httpx.Client(
            verify=NO_CERTIFICATES,
            trust_env=False,
            follow_redirects=True,
            event_hooks={"response": [self._note]},
        )
        if provider == "groq":
            self.sdk: Any = groq.Groq(
                api_key=self.key,
                base_url=names["GROQ_BASE_URL"],
                max_retries=0,
                timeout=timeout,
                http_client=self._http,
            )
        elif provider == "openai":
            self.sdk = openai.OpenAI(
                api_key=self.key,
                base_url=names["OPENAI_BASE_URL"],
                max_retries=0,
                timeout=timeout,
                http_client=self._http,
            )
        elif provider == "mistral":
            self.sdk = Mistral(
                api_key=self.key,
                server_url=names["MISTRAL_BASE_URL"],
                client=self._http,
                async_client=httpx.AsyncClient(**UNUSED),
                timeout_ms=int(timeout * 1000),
            )
        else:
            self.sdk = genai.Client(
                api_key=self.key,
                http_options=genai_types.HttpOptions(
                    base_url=names["GOOGLE_GEMINI_BASE_URL"],
                    httpx_client=self._http,
                    async_client_args={**UNUSED, "ssl": NO_CERTIFICATES},
                    timeout=int(timeout * 1000),
                ),
            )

    def _note(self, response: httpx.Response) -> None:
        self.headers = dict(response.headers)

    def ask(self, prompt: Any = "Why is the sky blue?", model: str = "", **options: Any) -> Outcome:
        """One reply, not streamed. `options` are the SDK's own."""
        reply = self.reply(prompt, model, **options)
        if self.provider == "google":
            return self._gemini(reply)
        choice = reply.choices[0] if reply.choices else None
        return Outcome(
            choice.message.content if choice else None,
            choice.finish_reason if choice else None,
            reply.usage.prompt_tokens if reply.usage else None,
            reply.usage.completion_tokens if reply.usage else None,
            self.headers,
        )

    def reply(self, prompt: Any, model: str = "", **options: Any) -> Any:
        """One reply as the SDK returns it, not streamed."""
        model = model or MODELS[self.provider]
        if self.provider == "google":
            return self.sdk.models.generate_content(
                model=model, contents=prompt, config=options or None
            )
        return self._create(prompt, model, stream=False, **options)

    def stream(self, prompt: Any = "Why is the sky blue?", model: str = "", **options: Any) -> Any:
        """The chunks of a streamed reply, as the SDK yields them."""
        model = model or MODELS[self.provider]
        if self.provider == "google":
            return self.sdk.models.generate_content_stream(
                model=model, contents=prompt, config=options or None
            )
        return self._create(prompt, model, stream=True, **options)

    def read(self, chunks: Any) -> Outcome:
        """The joined content of a stream."""
        result = Outcome(None, None, None, None, self.headers)
        for item in chunks:
            chunk = item.data if self.provider == "mistral" else item
            if self.provider == "google":
                part = self._gemini(chunk)
                text, finish = part.text, part.finish
                result.input_tokens, result.output_tokens = part.input_tokens, part.output_tokens
            else:
                choice = chunk.choices[0] if chunk.choices else None
                text = choice.delta.content if choice else None
                finish = choice.finish_reason if choice else None
                usage = chunk.usage
                if self.provider == "groq" and chunk.x_groq and chunk.x_groq.usage:
                    usage = chunk.x_groq.usage
                if usage:
                    result.input_tokens = usage.prompt_tokens
                    result.output_tokens = usage.completion_tokens
            if isinstance(text, str) and text:
                result.pieces.append(text)
            result.finish = finish if isinstance(finish, str) else result.finish
        result.text = "".join(result.pieces)
        return result

    def refused(self, *arguments: Any, streamed: bool = False, **options: Any) -> Refused:
        """Ask, and return the error status that must come back."""
        with pytest.raises(KINDS) as caught:
            list(self.stream(*arguments, **options)) if streamed else self.ask(
                *arguments, **options
            )
        return self._refused(caught.value)

    def embed(self, texts: list[str], model: str = "", **options: Any) -> list[list[float]]:
        """The vectors of texts. `options` are the SDK's own."""
        model = model or EMBEDDERS[self.provider]
        if self.provider == "google":
            reply = self.sdk.models.embed_content(
                model=model, contents=texts, config=options or None
            )
            return [entry.values for entry in reply.embeddings]
        name = "inputs" if self.provider == "mistral" else "input"
        reply = self.sdk.embeddings.create(model=model, **{name: texts}, **options)
        return [entry.embedding for entry in reply.data]

    def refused_embedding(self, *arguments: Any, **options: Any) -> Refused:
        """Ask for vectors, and return the error status that must come back."""
        with pytest.raises(KINDS) as caught:
            self.embed(*arguments, **options)
        return self._refused(caught.value)

    def _refused(self, error: Any) -> Refused:
        if self.provider == "google":
            return Refused(error.code, error.details, self.headers, error)
        text = error.body if self.provider == "mistral" else error.response.text
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        return Refused(error.status_code, body, self.headers, error)

    def _create(self, prompt: Any, model: str, *, stream: bool, **options: Any) -> Any:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self.provider == "mistral":
            call = self.sdk.chat.stream if stream else self.sdk.chat.complete
            return call(model=model, messages=messages, **options)
        return self.sdk.chat.completions.create(
            model=model, messages=messages, stream=stream, **options
        )

    def _gemini(self, reply: Any) -> Outcome:
        usage, candidates = reply.usage_metadata, reply.candidates
        finish = candidates[0].finish_reason if candidates else None
        return Outcome(
            reply.text,
            finish.name if finish else None,
            usage.prompt_token_count if usage else None,
            (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
            if usage
            else None,
            self.headers,
        )

    # --- conversations with tools

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
        ask = self.stream if streamed else self.reply
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

    def close(self) -> None:
        self._http.close()
