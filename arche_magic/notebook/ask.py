"""Sends the prompt of a cell according to its options, and shows the reply as it arrives."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, ToolCall, ToolRun
from arche_magic.llm_providers.attempt_log import Ended, attempt_log, name_notebook
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.events import Event
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Message
from arche_magic.prompts import Prompt, fill, image_of

from .arguments import options_in_text
from .cell import (
    EMPTY,
    check_together,
    check_variable,
    first_given,
    request_options,
    typed_prompt,
    with_attachments,
    with_values,
)
from .command import SentPrompt
from .commands.llm import FORMATS
from .commands.llm import llm as llm_magic
from .display import ReplyDisplay
from .dry_run import print_preview
from .interrupts import CellInterrupted, one_interrupt
from .keys import require_keys
from .live_line import follow
from .reply_formats import STRUCTURED

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending

    from .chat import Chat
    from .command import Session, Typed
    from .magics import Defaults


# Options without a default, which have the same names in Python.
_AS_TYPED = ("schema", "same_model", "tools", "max_rounds")


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
        return _compare(session, options, prompt)
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
    _check(session, options, prompt)
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
        print_preview(options, llm, messages, request, notes)
        return None
    if options.background and get_configuration().keys:
        # A wrong option must be an error of this cell.
        llm.preview(messages, **request)
    asked = session.asked = SentPrompt(prompt, options, old, turn)
    events = llm.events(messages, **request)
    if options.background:
        return _answer_later(session, asked, form, notes, partial(_show, session, events))
    show = ReplyDisplay(session.shell, options.quiet, form, old)
    for note in notes:
        show.note(note)
    reply = _show(session, events, show, partial(_bind, session, options))
    asked.reply = session.reply = reply
    _bind(session, options, reply)
    more = []
    if chat:
        is_private = first_given(request["private"], llm.configuration.always_private)
        asked.turn = chat.add(question, reply, options.system, private=is_private)
        session.chats[chat.name] = chat
        more = [f"chat {chat.name}, turn {len(chat.turns)}"]
    show.finish(reply, *more)
    return reply


@one_interrupt()
def _compare(session: Session, options: Namespace, prompt: Prompt) -> pd.DataFrame:
    """Ask several providers or models; returns a row for each."""
    from .compare import compare

    _check(session, options, prompt)
    bind = partial(_bind, session, options)
    frame = compare(session.shell, session.defaults, options, prompt, bind)
    bind(frame)
    return frame


def _answer_later(
    session: Session,
    asked: SentPrompt,
    form: str,
    notes: Sequence[str],
    show_reply: Callable[[ReplyDisplay], Reply],
) -> Pending[Reply]:
    """Start a job that answers the prompt; returns an object that waits for its reply."""
    from .background import ReplyJob

    job = ReplyJob(session, asked, form, show_reply)
    for note in notes:
        job.view.note(note)
    session.jobs.start(job)
    _bind(session, asked.options, job.pending)
    return job.pending


def _check(session: Session, options: Namespace, prompt: Prompt) -> None:
    """Check the requirements of a prompt before anything is sent."""
    check_together(options, session.defaults)
    name_notebook(session.notebook)
    if options.output is not None:
        check_variable("-o", options.output)
    require_keys(replay=bool(first_given(options.keep, session.defaults.keep)))
    if not prompt.text.strip():
        raise InvalidRequest(EMPTY)


def _bind(session: Session, options: Namespace, value: Any) -> None:
    """Set the variable of `-o`, if the cell names one."""
    if options.output is not None:
        session.shell.user_ns[options.output] = value


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
    bind: Callable[[Reply], None] = lambda part: None,
) -> Reply:
    """Show a request as it happens; returns its reply.

    `bind` is called with the part of an interrupted reply that arrived.
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
            bind(part)
        raise CellInterrupted("the request was stopped; its tokens so far are counted") from None
    except SchemaMismatch as error:
        show.mismatched(error.text, ended())
        raise
    except LLMProviderError:
        show.failed(ended())
        raise
    return reply
