"""Requests in rounds: a model asks for functions, they run here, and it gets their results.

Each round is one request to the loop, so another route may answer it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .errors import InvalidRequest, LLMProviderError
from .events import Event
from .functions import Function
from .options import python_number, shown
from .redaction import key_in
from .reply import Attempt, Reply
from .request import Message, Request
from .stopping import raise_if_stopped
from .text.wording import shortened
from .tools import LONGEST_NAME, ToolCall, ToolRun
from .types import Key, Usage

MOST_ROUNDS = 8
"""Requests for one prompt, if `max_rounds` is not given."""


def read_functions(
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Function], int]:
    """Return the options with tools in place of functions, the functions by name, and max_rounds.

    If a tool is not a function, the caller runs all calls, and no functions are returned.

    Raises:
        InvalidRequest: a function cannot be a tool, `max_rounds` is wrong or without functions, or
            a schema is given too. Names that repeat are refused with the request.
    """
    made = dict(options)
    most = made.pop("max_rounds", None)
    tools = made.get("tools")
    given = list(tools) if isinstance(tools, Iterable) and not isinstance(tools, str) else []
    read = [Function.of(one) if callable(one) else one for one in given]
    functions = [one for one in read if isinstance(one, Function)]
    if functions:
        made["tools"] = [one.tool if isinstance(one, Function) else one for one in read]
    if not functions or len(functions) < len(read):
        if most is not None:
            raise InvalidRequest("max_rounds requires that all tools are functions")
        return made, {}, MOST_ROUNDS
    rounds = MOST_ROUNDS if most is None else python_number(most)
    if not isinstance(rounds, int) or rounds < 2:
        raise InvalidRequest(
            f"max_rounds is {shown(most)}; it must be a whole number, 2 or more: one round to "
            "call, one to answer"
        )
    if made.get("schema") is not None:
        raise InvalidRequest("tools that are functions cannot be combined with schema")
    return made, {function.tool.name: function for function in functions}, rounds


def in_rounds(
    request: Request,
    ask: Callable[[Request], Generator[Event, None, Reply]],
    functions: Mapping[str, Function],
    most: int,
    keys: Sequence[Key],
) -> Generator[Event, None, Reply]:
    """Run the functions that a model asks for, until it answers.

    Yields what happens in all rounds, as it happens; returns the last reply, with all sums. A
    `tool_choice` that forces a call holds for the first round only.

    Args:
        request: the first round.
        ask: the events of one request.
        functions: what the model may ask for, by name.
        most: maximum number of requests. The last one forbids calls, so that the model must answer.
        keys: a result that contains one of them is not sent.

    Raises:
        LLMProviderError: a round got no reply, a reply with calls contains a key, or the last
            one still asks for calls. Its attempts are those of all rounds.
    """
    replies: list[Reply] = []
    runs: list[ToolRun] = []
    try:
        while True:
            if len(replies) == most - 1:
                request = replace(request, tool_choice="none")
            reply = yield from ask(request)
            replies.append(reply)
            if len(replies) == most and reply.tool_calls and not reply.strip():
                raise LLMProviderError(
                    f"the model still asks for calls after {most} rounds (max_rounds), "
                    "although the last round forbids them"
                )
            if not reply.tool_calls or len(replies) == most:
                return _with_sums(replies, runs)
            if key := key_in((str(reply), reply.tool_calls), keys):
                # The next round would send it, perhaps to another provider.
                raise LLMProviderError(
                    f"the reply that asks for calls contains the key {key.label}, so no call is run"
                )
            said = [Message("assistant", str(reply), tool_calls=reply.tool_calls)]
            for call in reply.tool_calls:
                yield call
                run = _run(call, functions, keys, len(replies))
                runs.append(run)
                yield run
                said.append(Message("tool", run.result, tool_call_id=call.id))
            request = replace(request, messages=(*request.messages, *said), tool_choice="")
    except LLMProviderError as error:
        error.attempts = (*_attempts(replies), *error.attempts)
        raise


def _run(
    call: ToolCall, functions: Mapping[str, Function], keys: Sequence[Key], number: int
) -> ToolRun:
    raise_if_stopped()
    function = functions.get(call.name)
    began = time.perf_counter()
    if function is None:
        known = ", ".join(functions)
        # A model may ask for a longer name than tools can have.
        name = shortened(call.name, LONGEST_NAME)
        result, failed = f"unknown function {name!r}; available functions: {known}", True
    else:
        result, failed = function.run(call.arguments)
    seconds = time.perf_counter() - began
    # A function may swallow the interrupt.
    raise_if_stopped()
    if key := key_in(result, keys):
        result, failed = f"the result contains the key {key.label}, so it is not sent", True
    return ToolRun(call, result, failed, seconds, number)


def _with_sums(replies: Sequence[Reply], runs: Sequence[ToolRun]) -> Reply:
    """Return the last reply with what all rounds took; kept ones count only if all of them are."""
    last = replies[-1]
    asked = [reply for reply in replies if reply.from_memory is None] or replies
    costs = [reply.cost for reply in asked]
    return last.changed(
        usage=Usage(
            sum(reply.usage.input_tokens for reply in asked),
            sum(reply.usage.output_tokens for reply in asked),
        ),
        attempts=_attempts(replies),
        seconds=sum(reply.seconds for reply in asked) + sum(run.seconds for run in runs),
        cost=None if None in costs else sum(cost or 0.0 for cost in costs),
        from_memory=last.from_memory if asked is replies else None,
        tool_runs=tuple(runs),
    )


def _attempts(replies: Iterable[Reply]) -> tuple[Attempt, ...]:
    return tuple(attempt for reply in replies for attempt in reply.attempts)
