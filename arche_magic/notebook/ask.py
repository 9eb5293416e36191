"""Sends the prompt of a cell according to its options, and shows the reply as it arrives.

With `--show-prompt` and `--dry-run`, it prints what would be sent and which route would answer.
"""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, Preview, ToolCall, ToolRun
from arche_magic.llm_providers.attempt_log import Ended, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.events import Event
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message, Request
from arche_magic.llm_providers.types import in_seconds
from arche_magic.prompts import Prompt, fill, image_of

from .arguments import options_in_text
from .cell import (
    bind,
    check_prompt,
    first_given,
    request_options,
    typed_prompt,
    with_attachments,
    with_values,
)
from .command import CellInterrupted, SentPrompt, Session, Typed, one_interrupt
from .commands.llm import FORMATS
from .commands.llm import llm as llm_magic
from .display import ReplyDisplay
from .live_line import follow
from .receipt import receipt_line
from .reply_formats import STRUCTURED
from .words import paid_text

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending

    from .chat import Chat
    from .magics import Defaults


# Options without a default, which have the same names in Python.
_AS_TYPED = ("schema", "same_model", "tools", "max_rounds")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Parameters that `--show-prompt` shows.
_PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed")


def ask(session: Session, typed: Typed) -> Reply | Pending[Reply] | pd.DataFrame | None:
    """Send the prompt and show the reply as it arrives; with `--compare`, several side by side.

    Raises:
        LLMProviderError: the request is wrong, or no route answered it.
        CellInterrupted: the user stopped it.
    """
    options, names, text = typed.options, typed.names, typed_prompt(typed)
    budget = first_given(options.budget, session.defaults.budget)
    if budget < 1:
        raise InvalidRequest(f"%llm: --budget is {budget}; it must be 1 or more")
    prompt = Prompt(text) if options.raw else fill(text, names, budget)
    hints = _hints(typed, text)
    notes = (*prompt.notes, *with_values(options, names, budget), *hints)
    images = [image_of(source, names) for source in options.image or ()]
    prompt = replace(prompt, images=(*prompt.images, *images), notes=notes)
    prompt = with_attachments(session.shell, options, prompt, names)
    if options.compare is not None:
        from .compare import compare

        return compare(session, options, prompt)
    return send(session, options, prompt)


def _hints(typed: Typed, text: str) -> list[str]:
    """Notes about lines in which the user may have meant the text to begin or end elsewhere."""
    hints, system = [], typed.options.system
    if typed.cell is not None:
        return []
    if late := options_in_text(llm_magic, text):
        hints.append(f"{late!r} is part of the prompt; options come before it")
    # `-s Brief. What is X?` is a whole sentence, `-s Be brief. What is X?` lacks its quotes.
    is_part = system and system[-1].isalnum() and typed.line.rstrip().endswith(f"{system} {text}")
    if is_part and system not in typed.names:
        words = f'-s "{system} …"'
        hints.append(f"the system prompt is {system!r}; put a longer one in quotes: {words}")
    return hints


@one_interrupt()
def send(
    session: Session, options: Namespace, prompt: Prompt, again: SentPrompt | None = None
) -> Reply | Pending[Reply] | None:
    """Send a finished prompt with the options of `%llm`; see `ask`.

    `again` is the prompt that this one repeats. Its reply is shown beside the new one, which
    replaces it in a conversation.
    """
    check_prompt(session, options, prompt)
    options.chat = first_given(options.chat, session.defaults.chat)
    chat = session.chats.named(options.chat) if options.chat else None
    old, turn = (again.reply, again.turn) if again else (None, None)
    if chat:
        chat = chat.without(turn)
    form, request = _request(options, session.defaults, chat)
    llm = IntelligentLLMOrchestrator()
    question = Message("user", prompt.text, prompt.images)
    messages: tuple[Message, ...] = (question,)
    notes = prompt.notes
    if chat:
        room = llm.preview(messages, **request).room if get_configuration().keys else math.inf
        messages, left_out = chat.messages(question, room)
        notes = (*notes, left_out) if left_out else notes
    if options.show_prompt or options.dry_run:
        _print_preview(options, llm, messages, request, notes)
        return None
    if options.background and get_configuration().keys:
        # A wrong option must be an error of this cell.
        llm.preview(messages, **request)
    asked = session.asked = SentPrompt(prompt, options, old, turn)
    events = llm.events(messages, **request)
    if options.background:
        from .background import ReplyJob

        job = ReplyJob(session, asked, form, partial(_show, session, events))
        for note in notes:
            job.view.note(note)
        session.jobs.start(job)
        bind(session, options, job.pending)
        return job.pending
    show = ReplyDisplay(session.shell, options.quiet, form, old)
    for note in notes:
        show.note(note)
    reply = _show(session, events, show, partial(bind, session, options))
    asked.reply = session.reply = reply
    bind(session, options, reply)
    more = []
    if chat:
        is_private = first_given(request["private"], llm.configuration.always_private)
        asked.turn = chat.add(question, reply, options.system, private=is_private)
        session.chats[chat.name] = chat
        more = [f"chat {chat.name}, turn {len(chat.turns)}"]
    show.finish(reply, *more)
    return reply


def _request(
    options: Namespace, defaults: Defaults, chat: Chat | None
) -> tuple[str, dict[str, Any]]:
    """The form in which the reply is shown, and the arguments of the request."""
    if options.schema is not None and options.format:
        raise InvalidRequest("%llm: --schema cannot be combined with --format: the reply is JSON")
    form = first_given(options.format, defaults.format)
    if options.schema is not None:
        form = STRUCTURED
    request = request_options(options, defaults, "provider", "model", "patience", "keep")
    system = first_given(options.system, chat and chat.system, defaults.system)
    request["system"] = "\n\n".join(filter(None, (system, FORMATS.get(form)))) or None
    # A conversation that was private once stays private.
    in_private = (chat and chat.private) or None
    request["private"] = first_given(options.private, in_private, defaults.private)
    request |= {name: getattr(options, name) for name in _AS_TYPED}
    if options.same_model and chat and chat.turns and request["model"] is None:
        spoke = chat.turns[-1]
        request["model"] = f"{spoke.provider}/{spoke.model}"
    return form, request


def _show(
    session: Session,
    events: Generator[Event, None, Reply],
    show: ReplyDisplay,
    keep_part: Callable[[Reply], None] = lambda part: None,
) -> Reply:
    """Show a request as it happens; returns its reply.

    `keep_part` is called with the part of an interrupted reply that arrived.
    """
    log = attempt_log(get_configuration().store)
    before = log.last
    rounds: list[Ended] = []

    def note_round() -> None:
        if log.last is not None and log.last is not (rounds[-1] if rounds else before):
            rounds.append(log.last)

    def on_tool(event: ToolCall | ToolRun) -> None:
        if isinstance(event, ToolCall):
            note_round()
            show.calling(event)
        else:
            show.ran(event)

    def ended() -> Ended | None:
        note_round()
        attempts = tuple(attempt for one in rounds for attempt in one.attempts)
        return Ended(attempts, rounds[-1].decisions) if rounds else None

    try:
        with show.running():
            reply = follow(events, show, on_tool)
    except KeyboardInterrupt:
        if part := show.interrupted(ended()):
            keep_part(part)
        raise CellInterrupted("the request was stopped; its tokens so far are counted") from None
    except SchemaMismatch as error:
        show.mismatched(error.text, ended())
        raise
    except LLMProviderError:
        show.failed(ended())
        raise
    return reply


def _print_preview(
    options: Namespace,
    llm: IntelligentLLMOrchestrator,
    messages: Sequence[Message],
    request: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Print what would be sent, and which route would answer."""
    shown = [*notes]
    if options.show_prompt:
        shown.append(_prompt_text(llm.preview(messages, **request).request))
    if options.dry_run:
        kept = llm.kept(messages, **request)
        # If the kept reply calls a function, another request follows.
        if kept is not None and not kept.tool_calls:
            shown.append(f"{receipt_line(kept)}\nNothing was sent, and nothing would be sent.")
        else:
            shown.append(_route_text(llm.preview(messages, **request)))
    print("\n\n".join(shown))


def _prompt_text(request: Request) -> str:
    """Everything that would be sent, message by message; for an image, its size.

    Control characters are shown as escapes.
    """
    parts = [_message(message) for message in request.messages]
    if request.schema:
        fields = json.dumps(request.schema.definition, indent=2, ensure_ascii=False)
        parts.append(f"── schema {request.schema.name} ──\n{fields}")
    for tool in request.tools:
        about = [tool.description] if tool.description else []
        described = json.dumps(tool.schema, indent=2, ensure_ascii=False)
        parts.append("\n".join([f"── function {tool.name} ──", *about, described]))
    given = {name: getattr(request, name) for name in _PARAMETERS} | dict(request.extra)
    settings = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in given.items()
        if value not in (None, ())
    )
    return "\n\n".join([*parts, f"({settings})"] if settings else parts)


def _route_text(preview: Preview) -> str:
    """Which route would answer, when, at how many tokens, and which routes are skipped."""
    spent = preview.usage
    size = f"about {spent.input_tokens:,} tokens in, {spent.output_tokens:,} out"
    if preview.route is None:
        patience = f"{preview.request.patience:g} s"
        opens = f"; the first opens {in_seconds(preview.wait)}" if preview.wait < math.inf else ""
        lines = [f"No route would answer within {patience}{opens} · {size}"]
    else:
        when = "now" if preview.wait <= 0 else in_seconds(preview.wait)
        lines = [f"{preview.route} would answer {when} · {size} · {paid_text(preview.cost)}"]
    lines += [f"  {route} is skipped: {reason}" for route, _, reason in preview.closed]
    if preview.request.tools:
        names = ", ".join(tool.name for tool in preview.request.tools)
        lines.append(f"This is the first round; calls of {names} lead to another round.")
    if preview.request.private:
        lines.append("Private: only marked routes would be used.")
    return "\n".join([*lines, "Nothing was sent."])


def _message(message: Message) -> str:
    shown = _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", message.content)
    images = [f"[image {number}: {image}]" for number, image in enumerate(message.images, 1)]
    return "\n".join([f"── {message.role} ──", shown.rstrip("\n"), *images])
