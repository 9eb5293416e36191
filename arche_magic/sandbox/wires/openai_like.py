"""What Groq, OpenAI and Mistral share: chat completions, their requests and their chunks."""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ..exchange import Answer, Call, Message, Refusal
from ..schemas import strict_problem
from . import base
from .chat_tools import link_results, read_calls, read_choice, read_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..exchange import Breach, Caller, Reply, ToolCall

_PERIODS = {"second": "S", "minute": "M", "hour": "H", "day": "D", "month": "MO"}
_UNITS = {"requests": "R", "tokens": "T", "input_tokens": "IT", "output_tokens": "OT"}


class ChatWire(base.Wire):
    """A wire with the requests of OpenAI's chat completions."""

    known: frozenset[str]
    """Names of all parameters."""
    roles: tuple[str, ...]
    seed = "seed"
    least_seed = -(2**63)
    least_max_tokens = 1
    highest_temperature = 2.0
    most_stops = 4
    strict = True
    """Whether strict schemas and prompts for JSON are checked, as OpenAI and Groq do."""
    most_choices = 1

    def key_text(self, headers: Mapping[str, str]) -> str | None:
        """The key in the Authorization header."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        return text.strip() or None if scheme.lower() == "bearer" else None

    def read(self, body: Mapping[str, Any], path: str) -> Call:
        """Read and check a request. Raises Refusal."""
        if path == "embeddings":
            return self.read_embeddings(body)
        _check_unknown(body, self.known)
        if not isinstance(body.get("model"), str):
            raise Refusal("invalid_request", param="model", problem="missing")
        self.check_model(body)
        messages = link_results(
            _read_messages(body, self.roles, self.provider), body["messages"], self.provider
        )
        tools = read_tools(body, self.provider)
        base.check_number(body, "temperature", 0, self.highest_temperature)
        base.check_number(body, "top_p", 0, 1)
        choices = base.check_integer(body, "n", 1) or 1
        if choices > self.most_choices:
            raise Refusal(
                "invalid_request",
                param="n",
                problem="above",
                bound=self.most_choices,
                value=choices,
            )
        most = [
            base.check_integer(body, name, self.least_max_tokens)
            for name in ("max_completion_tokens", "max_tokens")
        ]
        json_wanted, schema = _read_format(body, strict=self.strict)
        return Call(
            provider=self.provider,
            model=body["model"],
            messages=messages,
            stream=bool(body.get("stream")),
            max_tokens=next((number for number in most if number is not None), None),
            stop=base.read_stop(body, "stop", self.most_stops),
            seed=base.check_integer(body, self.seed, self.least_seed),
            json_wanted=json_wanted,
            json_schema=schema,
            usage_wanted=bool((body.get("stream_options") or {}).get("include_usage")),
            tools=tools,
            tool_choice=read_choice(body, tools, self.provider),
            parallel=body.get("parallel_tool_calls") is not False,
            choices=choices,
        )

    def read_embeddings(self, body: Mapping[str, Any]) -> Call:
        """Read and check a request for embeddings. Raises Refusal."""
        raise Refusal("unknown_url")

    def check_model(self, body: Mapping[str, Any]) -> None:
        """Raise Refusal for parameters that this model does not accept."""

    def models(self, names: Mapping[str, int], caller: Caller) -> Answer:
        """The list of models, given with their context windows in tokens."""
        data = [
            {
                "id": name,
                "object": "model",
                "created": int(caller.now),
                **self.model_fields(name, window),
            }
            for name, window in names.items()
        ]
        return Answer(200, [base.JSON_TYPE], base.json_bytes({"object": "list", "data": data}))

    @abstractmethod
    def model_fields(self, name: str, window: int) -> dict[str, Any]:
        """What the list of models says about a model with this context window."""


def limit_headers(caller: Caller, shown: Mapping[str, str]) -> base.Headers:
    """The headers of OpenAI and Groq for limits; `shown` has the limit for each header's name."""
    headers = []
    for what, name in shown.items():
        if state := caller.limits.get(name):
            headers += [
                (f"x-ratelimit-limit-{what}", str(state.limit)),
                (f"x-ratelimit-remaining-{what}", str(state.remaining)),
                (f"x-ratelimit-reset-{what}", base.go_duration(state.reset_seconds)),
            ]
    return headers


def usage_of(reply: Reply) -> dict[str, Any]:
    """The usage object of the OpenAI format."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def completion(
    call: Call, reply: Reply, caller: Caller, prefix: str = "chatcmpl"
) -> dict[str, Any]:
    """A chat.completion object without usage."""
    return {
        "id": f"{prefix}-{caller.request_id}",
        "object": "chat.completion",
        "created": int(caller.now),
        "model": call.model,
        "choices": [
            {"index": number, "message": _message(one), "finish_reason": one.finish}
            for number, one in enumerate((reply, *reply.others))
        ],
    }


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [call_object(made) for made in reply.calls]
    return message


def call_object(made: ToolCall) -> dict[str, Any]:
    """A tool call as it stands in a message."""
    function = {"name": made.name, "arguments": made.arguments}
    return {"id": made.id, "type": "function", "function": function}


def chunk(call: Call, caller: Caller, choices: list[Any], **more: Any) -> dict[str, Any]:
    """A chat.completion.chunk object."""
    return {
        "id": f"chatcmpl-{caller.request_id}",
        "object": "chat.completion.chunk",
        "created": int(caller.now),
        "model": call.model,
        "choices": choices,
        **more,
    }


def choice(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> list[Any]:
    """The choices of a chunk."""
    return [{"index": index, "delta": delta, "finish_reason": finish}]


def events(
    call: Call,
    reply: Reply,
    caller: Caller,
    *,
    first: dict[str, Any],
    last: dict[str, Any],
    every: dict[str, Any],
    closing: list[bytes],
    call_deltas: Callable[[Sequence[ToolCall]], list[dict[str, Any]]],
    calls_at_end: bool = False,
) -> list[bytes]:
    """All events of a streamed reply; `first`, `last` and `every` are extra fields of chunks.

    `call_deltas` makes the deltas of tool calls; `calls_at_end` puts the last of them into the
    chunk with the finish reason. Several replies come one after the other.
    """
    result: list[bytes] = []
    for index, one in enumerate((reply, *reply.others)):
        start = {"role": "assistant", "content": None if one.calls and not calls_at_end else ""}
        result.append(base.event(chunk(call, caller, choice(start, None, index), **first)))
        # The thousands of chunks of a long reply differ only in their text.
        mark = "\x00"
        frame = json.dumps(chunk(call, caller, choice({"content": mark}, None, index), **every))
        before, after = frame.split(json.dumps(mark))
        if call.top_logprobs is None:
            result += [f"data: {before}{json.dumps(p)}{after}\n\n".encode() for p in one.pieces]
        else:
            result += [
                base.event(_piece_with_logprobs(call, caller, index, piece, every))
                for piece in one.pieces
            ]
        deltas = call_deltas(one.calls)
        end = deltas.pop() if deltas and calls_at_end else {}
        result += [
            base.event(chunk(call, caller, choice(delta, None, index), **every)) for delta in deltas
        ]
        result.append(base.event(chunk(call, caller, choice(end, one.finish, index), **last)))
    return [*result, *closing, base.DONE]


def _piece_with_logprobs(
    call: Call, caller: Caller, index: int, piece: str, every: dict[str, Any]
) -> dict[str, Any]:
    choices = choice({"content": piece}, None, index)
    choices[0]["logprobs"] = logprobs((piece,), call.top_logprobs or 0)
    return chunk(call, caller, choices, **every)


def logprobs(pieces: Sequence[str], top: int) -> dict[str, Any]:
    """The logarithms of probabilities: of each piece, and of `top` likely ones in its place."""
    content = []
    for piece in pieces:
        likely = -(zlib.crc32(piece.encode("utf-8", "replace")) % 1000) / 2000
        options = [_token(piece, likely)] + [
            _token(f"{piece}~{rank}", likely - rank) for rank in range(1, top)
        ]
        content.append({**_token(piece, likely), "top_logprobs": options[:top]})
    return {"content": content, "refusal": None}


def _token(text: str, likely: float) -> dict[str, Any]:
    return {"token": text, "logprob": likely, "bytes": list(text.encode("utf-8", "replace"))}


def whole_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """One delta for each call, with all of it, as Groq streams.

    Seen in github.com/ogx-ai/ogx/pull/630, 2024-12.
    """
    return [
        {"tool_calls": [{"index": number, **call_object(made)}]}
        for number, made in enumerate(calls)
    ]


def limit_words(breach: Breach, minute: str) -> str:
    """Words like "tokens per minute (TPM)"; `minute` is the provider's word for a minute."""
    period = minute if breach.period == "minute" else breach.period
    short = f"{_UNITS[breach.unit]}P{_PERIODS[breach.period]}"
    return f"{breach.unit.replace('_', ' ')} per {period} ({short})"


def _read_messages(
    body: Mapping[str, Any], roles: tuple[str, ...], provider: str
) -> tuple[Message, ...]:
    """The messages of a request. Raises Refusal if one is malformed."""
    given = body.get("messages")
    if given is None:
        raise Refusal("invalid_request", param="messages", problem="missing")
    if not isinstance(given, list) or not given:
        problem = "empty" if given == [] else "type"
        raise Refusal("invalid_request", param="messages", problem=problem, expected="an array")
    messages = []
    for number, item in enumerate(given):
        place = f"messages[{number}]"
        if not isinstance(item, dict):
            raise Refusal("invalid_request", param=place, problem="type", expected="an object")
        role, content = item.get("role"), item.get("content")
        if role not in roles:
            raise Refusal(
                "invalid_request", param=f"{place}.role", problem="value", value=role, known=roles
            )
        images = 0
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict)]
            images = sum(_is_image(part, f"{place}.content") for part in parts)
            content = "".join(str(part.get("text", "")) for part in parts)
        if content is None and role == "assistant":
            content = ""
        if not isinstance(content, str):
            raise Refusal(
                "invalid_request", param=f"{place}.content", problem="type", expected="a string"
            )
        calls = read_calls(item, place, provider)
        role = "system" if role == "developer" else role
        messages.append(Message(role, content, images, calls))
    return tuple(messages)


def _is_image(part: Mapping[str, Any], place: str) -> bool:
    """Whether a part of a message is an image. Raises Refusal if it cannot be read."""
    if part.get("type") != "image_url":
        return False
    value = part.get("image_url")
    address = value.get("url") if isinstance(value, dict) else value
    if not isinstance(address, str) or not address.startswith(("data:", "https://", "http://")):
        raise Refusal("invalid_request", param=place, problem="type", expected="an image URL")
    if address.startswith("data:"):
        kind, _, data = address.partition(";base64,")
        if not kind.startswith("data:image/"):
            raise Refusal("invalid_request", param=place, problem="type", expected="an image")
        base.check_base64(data, place)
    return True


def _check_unknown(body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise Refusal for the first unknown parameter."""
    for name in body:
        if name not in known:
            raise Refusal("invalid_request", param=name, problem="unknown", value=body[name])


def _read_format(body: Mapping[str, Any], *, strict: bool) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether `response_format` asks for JSON, and the schema if it has one. Raises Refusal.

    If `strict`, a strict schema must follow the rules of OpenAI and Groq, and a prompt for JSON
    without a schema must contain the word "json".
    """
    value = body.get("response_format")
    if value is None:
        return False, None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return False, None
    if kind == "json_object":
        if strict and "json" not in json.dumps(body.get("messages")).lower():
            raise Refusal("invalid_request", param="messages", problem="no_json_word")
        return True, None
    outer = value.get("json_schema") if kind == "json_schema" else None
    if isinstance(outer, dict):
        schema = outer.get("schema", outer.get("schema_definition"))
        if outer.get("name") and isinstance(schema, dict):
            if strict and outer.get("strict") and (found := strict_problem(schema)):
                place, rule, name = found
                raise Refusal(
                    "invalid_request",
                    param="response_format",
                    problem="schema",
                    schema=outer["name"],
                    place=place,
                    rule=rule,
                    name=name,
                )
            return True, schema
        raise Refusal("invalid_request", param="response_format.json_schema", problem="missing")
    raise Refusal(
        "invalid_request",
        param="response_format",
        problem="value",
        value=kind,
        known=("text", "json_object", "json_schema"),
    )
