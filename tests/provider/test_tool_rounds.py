"""`generate(tools=[f, g])` over real HTTP: functions run here, and the model gets results."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from provider_parts import MODELS, PROVIDERS, Start, asked, server_count

from arche_magic.llm_providers import (
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    Reply,
    get_llm_provider,
)
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.events import Event, Piece, Started
from arche_magic.llm_providers.functions import Function, in_rounds
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.tools import ToolCall, ToolRun

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

TEMPERATURES = {"Oslo": 4, "Rome": 19}
ASKED = "Call weather city=Oslo"
DEFINITION = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
}


def weather(city: str) -> str:
    """The temperature in a city now."""
    return f"{TEMPERATURES[city]} °C"


def count(items: int) -> int:
    """Twice the number."""
    return 2 * items


def generate(provider: Any, prompt: str, **options: Any) -> Reply:
    return provider.generate(prompt, **options)


def chat(provider: Any, prompt: str, **options: Any) -> Reply:
    return provider.generate_chat([{"role": "user", "content": prompt}], **options)


def stream(provider: Any, prompt: str, **options: Any) -> Reply:
    pieces = provider.stream(prompt, **options)
    text = "".join(pieces)
    assert text == pieces.reply
    return pieces.reply


def awaited(provider: Any, prompt: str, **options: Any) -> Reply:
    return asyncio.run(provider.agenerate(prompt, **options))


@pytest.mark.parametrize("ask", [generate, chat, stream, awaited])
@pytest.mark.parametrize("name", PROVIDERS)
def test_the_function_runs_and_the_model_answers(
    sandbox: Sandbox, name: str, ask: Callable[..., Reply]
) -> None:
    """The reply is that of the last round, with the sums of both rounds."""
    reply = ask(get_llm_provider(name), ASKED, tools=[weather, count])
    assert "4 °C" in reply
    (run,) = reply.tool_runs
    assert (run.call.name, run.result, run.failed, run.round) == ("weather", "4 °C", False, 1)
    assert reply.tool_calls == ()
    assert reply.finish_reason == "stop"
    assert asked(sandbox) == [name, name]
    assert [attempt.outcome for attempt in reply.attempts] == ["served", "served"]
    assert reply.usage.output_tokens == server_count(sandbox, "output_tokens")
    assert reply.usage.input_tokens == sum(attempt.input_tokens for attempt in reply.attempts)
    assert len(reply.decisions) == 1


@pytest.mark.parametrize("name", PROVIDERS)
def test_several_calls_of_one_round_run_in_order(sandbox: Sandbox, name: str) -> None:
    """Each result is sent with the id of its call."""
    prompt = "Call weather city=Rome, then count items=21, then weather city=Oslo"
    reply = get_llm_provider(name).generate(prompt, tools=[weather, count])
    results = [(run.call.name, run.result) for run in reply.tool_runs]
    assert results == [("weather", "19 °C"), ("count", "42"), ("weather", "4 °C")]
    assert len({run.call.id for run in reply.tool_runs}) == 3
    assert all(text in reply for text in ("19 °C", "42", "4 °C"))
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Call weather city=Atlantis", "KeyError: 'Atlantis'"),
        ("Call count items=many", "invalid arguments: items: Input should be a valid integer"),
    ],
)
def test_errors_are_sent_to_the_model(sandbox: Sandbox, prompt: str, words: str) -> None:
    """They are exceptions of the function, or invalid arguments."""
    reply = get_llm_provider().generate(prompt, tools=[weather, count])
    (run,) = reply.tool_runs
    assert run.failed
    assert run.result.startswith(words)
    assert words in reply
    assert [attempt.outcome for attempt in reply.attempts] == ["served", "served"]


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_last_round_forbids_calls(sandbox: Sandbox, name: str) -> None:
    """The model has to answer with what it has. A number of NumPy is a number here too."""
    reply = get_llm_provider(name).generate(ASKED, tools=[weather], max_rounds=np.int64(2))
    assert "4 °C" in reply
    first, last = (request.body for request in sandbox.requests)
    if name == "google":
        assert "toolConfig" not in first
        assert last["toolConfig"]["functionCallingConfig"]["mode"] == "NONE"
    else:
        assert first.get("tool_choice", "auto") == "auto"
        assert last["tool_choice"] == "none"


def test_a_forced_call_is_forced_in_the_first_round_only(sandbox: Sandbox) -> None:
    """Otherwise the model could never answer."""
    reply = get_llm_provider("groq").generate(
        "[no tools] weather city=Oslo", tools=[weather], tool_choice="required"
    )
    assert len(reply.tool_runs) == 1
    first, second = (request.body for request in sandbox.requests)
    assert first["tool_choice"] == "required"
    assert "tool_choice" not in second


def test_a_reply_without_calls_takes_one_round(sandbox: Sandbox) -> None:
    """It is like any other reply."""
    reply = get_llm_provider().generate("[no tools] Hello", tools=[weather])
    assert reply.tool_runs == ()
    assert len(sandbox.requests) == 1


def test_events_report_each_call(sandbox: Sandbox) -> None:
    """Before it runs, and with its result; then the text follows."""
    events = list(get_llm_provider().events(ASKED, tools=[weather]))
    call, run, *text = (event for event in events if not isinstance(event, Started))
    assert isinstance(call, ToolCall)
    assert isinstance(run, ToolRun)
    assert run.call == call
    assert run.seconds >= 0
    assert text
    assert all(isinstance(event, Piece) for event in text)


def test_another_provider_continues_when_a_limit_is_reached(start: Start) -> None:
    """It starts with the second round, and gets the calls and results of the first round."""
    sandbox = start(keys={"groq": 1, "mistral": 1}, left={"groq": {"requests_per_day": 1}})
    reply = get_llm_provider().generate(ASKED, tools=[weather], patience=0)
    assert asked(sandbox) == ["groq", "mistral"]
    assert "4 °C" in reply
    assert reply.provider == "mistral"
    served = [attempt.provider for attempt in reply.attempts if attempt.outcome == "served"]
    assert served == ["groq", "mistral"]


def test_an_error_in_a_later_round_has_the_attempts_of_all_rounds(start: Start) -> None:
    """The error says what opens when, as for any request."""
    start(keys={"groq": 1}, left={"groq": {"requests_per_day": 1}})
    with pytest.raises(NoRouteAvailable) as caught:
        get_llm_provider().generate(ASKED, tools=[weather], patience=0)
    outcomes = [attempt.outcome for attempt in caught.value.attempts]
    assert outcomes == ["served", "skipped"]
    assert caught.value.next_available_at is not None


@pytest.mark.parametrize("tools", [[DEFINITION], [weather, DEFINITION]])
def test_with_a_definition_among_the_tools_no_function_runs(
    sandbox: Sandbox, tools: list[Any]
) -> None:
    """There is one request, and the caller runs the calls."""
    reply = get_llm_provider().generate("Call search", tools=tools)
    (call,) = reply.tool_calls
    assert call.name == "search"
    assert reply.tool_runs == ()
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [weather], "max_rounds": 1}, "max_rounds is 1; it must be a whole number, 2"),
        ({"tools": [weather], "max_rounds": True}, "max_rounds is True"),
        ({"tools": [weather], "max_rounds": "8"}, "max_rounds is '8'"),
        ({"max_rounds": 3}, "max_rounds requires that all tools are functions"),
        ({"tools": [DEFINITION], "max_rounds": 3}, "max_rounds requires that all tools"),
        ({"tools": [weather], "schema": "mood str"}, "functions cannot be combined with schema"),
        ({"tools": [weather, weather]}, "'weather'"),
        ({"tools": [lambda city: city]}, "a lambda has no name"),
        ({"tools": weather}, "tools must be a list of functions"),
        ({"tools": [5]}, "not a value of type int"),
    ],
)
def test_invalid_tools_are_refused_in_one_line(
    sandbox: Sandbox, options: dict[str, Any], words: str
) -> None:
    """Nothing is sent."""
    with pytest.raises(InvalidRequest, match=words):
        get_llm_provider().generate(ASKED, **options)
    assert not sandbox.requests


def test_a_preview_takes_the_options_of_a_call_with_functions(sandbox: Sandbox) -> None:
    """Their descriptions are tokens of the prompt."""
    provider = get_llm_provider()
    without = provider.preview(ASKED).usage.input_tokens
    options: dict[str, Any] = {"tools": [weather], "max_rounds": np.int64(2), "on_wait": print}
    assert provider.preview(ASKED, **options).usage.input_tokens > without
    assert provider.kept(ASKED, keep=True, **options) is None
    assert not sandbox.requests


def test_kept_rounds_are_not_sent_again(sandbox: Sandbox) -> None:
    """The function runs again; if its result differs, the next round is sent."""
    temperatures = iter([4, 4, 5])

    def weather() -> str:
        return f"{next(temperatures)} °C"

    def ask() -> Reply:
        return get_llm_provider("groq").generate("weather", tools=[weather], keep=True)

    first, again, changed = ask(), ask(), ask()
    assert len(sandbox.requests) == 3
    assert first.from_memory is None
    assert again == first
    assert again.from_memory is not None
    assert again.attempts == ()
    assert again.usage == first.usage
    assert "5 °C" in changed
    assert changed.from_memory is None
    assert len(changed.attempts) == 1


def test_a_key_in_a_result_is_not_sent(sandbox: Sandbox) -> None:
    """The model and the caller are told, without the key."""
    key = get_configuration().keys[0]

    def settings() -> dict[str, str]:
        return {"key": key.secret()}

    reply = get_llm_provider().generate("settings", tools=[settings])
    (run,) = reply.tool_runs
    assert run.failed
    assert run.result == f"the result contains the key {key.label}, so it is not sent"
    assert all(key.secret() not in str(request.body) for request in sandbox.requests)


def test_an_interrupt_in_a_function_ends_the_request(sandbox: Sandbox) -> None:
    """Nothing more is sent, and the next request is answered."""

    def waits() -> None:
        raise KeyboardInterrupt

    provider = get_llm_provider()
    with pytest.raises(KeyboardInterrupt):
        provider.generate("waits", tools=[waits])
    assert len(sandbox.requests) == 1
    assert provider.generate("Hello")


def test_cancelling_an_async_request_sends_no_further_round(sandbox: Sandbox) -> None:
    """The running function ends by itself; no other one starts."""
    running, ended, ran = threading.Event(), threading.Event(), []

    def slow(number: int) -> None:
        ran.append(number)
        running.set()
        ended.wait(10)

    async def cancel() -> None:
        prompt = "slow number=1 slow number=2"
        task = asyncio.create_task(get_llm_provider("groq").agenerate(prompt, tools=[slow]))
        await asyncio.to_thread(running.wait, 10)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, ended.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert ran == [1]
    assert len(sandbox.requests) == 1


class Model:
    """Replies in a given order; the sandbox's models only ask for calls in the first round."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []

    def ask(self, request: Request) -> Generator[Event, None, Reply]:
        self.requests.append(request)
        yield from ()
        return self.replies.pop(0)


def calling(name: str = "weather", arguments: str = '{"city": "Oslo"}', text: str = "") -> Reply:
    number = str(len(arguments))
    return Reply(
        text,
        tool_calls=(ToolCall(number, name, arguments),),
        finish_reason="tool_calls",
        cost=0.25,
        attempts=(Attempt("groq", "groq_key_1", MODELS["groq"], "served"),),
    )


def run(model: Model, most: int = 8) -> Reply:
    functions = {"weather": Function.of(weather)}
    events = in_rounds(Request((Message("user", ASKED),)), model.ask, functions, most, ())
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def test_rounds_continue_until_a_reply_has_no_calls() -> None:
    """Each adds the model's turn with its text, and a turn per result."""
    model = Model(
        calling(text="One moment."), calling(arguments='{"city": "Rome"}'), Reply("Done.")
    )
    reply = run(model)
    assert reply == "Done."
    assert [(run.result, run.round) for run in reply.tool_runs] == [("4 °C", 1), ("19 °C", 2)]
    last = model.requests[-1].messages
    assert [(m.role, m.content) for m in last[1:]] == [
        ("assistant", "One moment."), ("tool", "4 °C"), ("assistant", ""), ("tool", "19 °C"),
    ]  # fmt: skip
    assert [m.tool_call_id for m in last[1:]] == ["", "16", "", "16"]
    assert len(reply.attempts) == 2


@pytest.mark.parametrize("place", ["name", "arguments", "text"])
def test_a_key_in_a_reply_with_calls_ends_the_request(sandbox: Sandbox, place: str) -> None:
    """The call does not run, and the next round would send the key to another provider."""
    keys = get_configuration().keys
    secret = keys[0].secret()
    model = Model(calling(**{place: f'{{"city": "{secret}"}}'}), Reply("Done."))
    functions = {"weather": Function.of(weather)}
    events = in_rounds(Request((Message("user", ASKED),)), model.ask, functions, 8, keys)
    with pytest.raises(LLMProviderError, match=f"contains the key {keys[0].label}") as caught:
        list(events)
    assert secret not in str(caught.value)
    assert len(model.requests) == len(caught.value.attempts) == 1


def test_a_long_name_of_an_unknown_function_is_cut() -> None:
    model = Model(calling(name="f" * 100_000), Reply("Done."))
    assert len(run(model).tool_runs[0].result) < 200


def test_an_unknown_function_is_reported_to_the_model() -> None:
    """The message has the names of the available functions."""
    reply = run(Model(calling(name="wether"), Reply("Sorry.")))
    (tried,) = reply.tool_runs
    assert tried.failed
    assert tried.result == "unknown function 'wether'; available functions: weather"
    assert reply == "Sorry."


def test_a_model_that_never_answers_is_an_error() -> None:
    """It makes calls even in the last round. The error has the attempts of all rounds."""
    model = Model(*[calling()] * 4)
    with pytest.raises(LLMProviderError, match="still asks for calls after 3 rounds") as caught:
        run(model, most=3)
    assert [request.tool_choice for request in model.requests] == ["", "", "none"]
    assert len(caught.value.attempts) == 3


def test_a_last_round_with_text_is_a_reply() -> None:
    """Calls in it do not run."""
    reply = run(Model(calling(), calling(text="Cold.")), most=2)
    assert reply == "Cold."
    assert len(reply.tool_runs) == 1


@pytest.mark.parametrize(("cost", "whole"), [(0.5, 0.75), (None, None)])
def test_the_cost_is_the_sum_of_all_rounds(cost: float | None, whole: float | None) -> None:
    """It is unknown if the cost of one round is."""
    assert run(Model(calling(), Reply("Done.", cost=cost))).cost == whole
