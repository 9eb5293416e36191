"""Sends the prompt of a cell as its options say, and shows the reply as it comes."""

from __future__ import annotations

import builtins
import keyword
import math
import re
from argparse import Namespace
from collections import ChainMap
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, ToolCall, ToolRun
from arche_magic.llm_providers.attempt_log import Ended, attempt_log, name_notebook
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.reply import Event, Reply
from arche_magic.llm_providers.request import Message
from arche_magic.prompts import Prompt, fill, image_of

from .attachments import with_attachments
from .command import Asked
from .display import CellInterrupted, ReplyDisplay
from .dry_run import prompt_text, route_text
from .first_steps import require_keys
from .live_line import follow
from .named_prompts import system_prompt, with_saved_prompt
from .receipt import receipt_line
from .reply_formats import ASKS
from .sigint import one_interrupt
from .structured import schema_named
from .sums import notebook_name
from .tool_calls import functions_named

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending
    from arche_magic.llm_providers.attempt_log import AttemptLog

    from .chat import Chat
    from .command import Session, Typed
    from .defaults import Defaults

# IPython's results and inputs (`_`, `_3`, `_i`, `_i3`, `_oh`), and names of a Python module.
_RESERVED = re.compile(r"In|Out|get_ipython|exit|quit|_{1,3}|_i{1,3}|_i?\d+|_[iod]h|__\w*__")

_LINE_ENDS = re.compile(r"(\\n)+")


def ask(session: Session, typed: Typed) -> Reply | Pending[Reply] | pd.DataFrame | None:
    """Send the prompt and show the reply as it comes; with `--compare`, several side by side.

    Raises:
        LLMProviderError: the request is wrong, or no route answered it.
        CellInterrupted: the user stopped it.
    """
    options = typed.options
    body = with_saved_prompt(options, body_of(typed.text, typed.cell))
    names = ChainMap(dict(typed.names or {}), session.shell.user_ns)
    budget = first_given(options.budget, session.defaults.budget)
    if budget < 1:
        raise InvalidRequest(f"%llm: --budget is {budget}; it must be 1 or more")
    prompt = Prompt(body) if options.raw else fill(body, names, budget)
    if system := system_prompt(options, names, budget):
        options.system = system.text
        prompt = replace(prompt, notes=(*prompt.notes, *system.notes))
    images = [image_of(source, names) for source in options.image or ()]
    with_values(options, names)
    prompt = replace(prompt, images=(*prompt.images, *images))
    return send(session, options, with_attachments(session.shell, options, prompt, names))


def with_values(options: Namespace, names: Mapping[str, Any]) -> None:
    """Replace the names of a schema and of functions in the options by their values.

    Raises:
        InvalidRequest: the variable does not exist, or has the wrong type.
    """
    if options.schema is not None:
        options.schema = schema_named(options.schema, names)
    if options.tools is not None:
        options.tools = functions_named(options.tools, names)


@one_interrupt()
def send(
    session: Session, options: Namespace, prompt: Prompt, again: Asked | None = None
) -> Reply | Pending[Reply] | pd.DataFrame | None:
    """Send a finished prompt as the options of `%llm` say; see `ask`.

    `again` is the prompt that this one repeats: its reply is shown beside the new one, which takes
    its place in a conversation.
    """
    variables, defaults = session.shell.user_ns, session.defaults
    _check_together(options, defaults)
    name_notebook(notebook_name(variables))
    if options.output is not None:
        check_variable("-o", options.output)

    def bind(value: Reply | Pending[Reply] | pd.DataFrame) -> None:
        """Set the variable of `-o`, if the cell names one."""
        if options.output is not None:
            variables[options.output] = value

    require_keys(replay=bool(first_given(options.keep, defaults.keep)))
    if not prompt.text.strip():
        raise InvalidRequest("the prompt is empty")
    if options.compare:
        from .compare import compare

        frame = compare(session.shell, defaults, options, prompt, bind)
        bind(frame)
        return frame
    options.chat = first_given(options.chat, defaults.chat)
    chat = session.chats.named(options.chat) if options.chat else None
    old = again.reply if again else None
    if chat and old is not None:
        chat = chat.without(str(old))
    form, request = _request(options, defaults, chat)
    llm = IntelligentLLMOrchestrator()
    question = Message("user", prompt.text, prompt.images)
    messages: tuple[Message, ...] = (question,)
    notes = prompt.notes
    if chat:
        room = llm.preview(messages, **request).room if get_configuration().keys else math.inf
        messages, left_out = chat.messages(question, room)
        notes = (*notes, left_out) if left_out else notes
    if options.show_prompt or options.dry_run:
        _rehearse(options, llm, messages, request, notes)
        return None
    if options.background and get_configuration().keys:
        # A wrong option is an error of this cell.
        llm.preview(messages, **request)
    asked = session.asked = Asked(prompt, options, old)
    if options.background:
        from .background import ReplyJob

        log, events = attempt_log(llm.configuration.store), llm.events(messages, **request)
        job = ReplyJob(session, asked, form, lambda view: _show(events, view, log))
        for note in notes:
            job.view.note(note)
        session.jobs.start(job)
        bind(job.pending)
        return job.pending
    show = ReplyDisplay(
        session.shell, options.quiet, form, structured=options.schema is not None, old=old
    )
    for note in notes:
        show.note(note)
    log = attempt_log(llm.configuration.store)
    reply = _show(llm.events(messages, **request), show, log, bind)
    asked.reply = session.reply = reply
    bind(reply)
    if chat:
        is_private = first_given(request["private"], llm.configuration.private.always)
        chat.add(question, reply, options.system, private=is_private)
        session.chats[chat.name] = chat
    show.finish(reply, *([f"chat {chat.name}, turn {len(chat.turns)}"] if chat else ()))
    return reply


def _check_together(options: Namespace, defaults: Defaults) -> None:
    """Check that options that were typed go together.

    Raises:
        InvalidRequest: they do not.
    """
    if options.tools is not None:
        refuse_with("--tools", options, "schema", "compare")
    elif options.max_rounds is not None:
        raise InvalidRequest("%llm: --max-rounds needs --tools f,g")
    if options.background:
        refuse_with("--background", options, "tools", "compare", "show_prompt", "dry_run")
        if first_given(options.chat, defaults.chat):
            hint = "" if options.chat else "; add --chat '' to leave this cell out of it"
            raise InvalidRequest(
                "%llm: --background cannot be combined with --chat: the next turn would not know "
                f"this one{hint}"
            )


def _request(
    options: Namespace, defaults: Defaults, chat: Chat | None
) -> tuple[str, dict[str, Any]]:
    """The form in which the reply is shown, and the arguments of the request."""
    if options.schema is not None and options.format:
        raise InvalidRequest("%llm: --schema cannot be combined with --format: the reply is JSON")
    form = (
        "markdown" if options.schema is not None else first_given(options.format, defaults.format)
    )
    request = typed_or_default(
        options, defaults, "provider", "model", "temperature", "max_tokens", "patience", "keep"
    )
    system = first_given(options.system, chat and chat.system, defaults.system)
    request["system"] = "\n\n".join(filter(None, (system, ASKS[form]))) or None
    # A conversation that was private once stays private.
    in_private = (chat and chat.private) or None
    request["private"] = first_given(options.private, in_private, defaults.private)
    request |= sampling(options)
    for name in (
        "fallback_on_filter",
        "schema",
        "fresh",
        "tag",
        "same_model",
        "tools",
        "max_rounds",
    ):
        request[name] = getattr(options, name)
    if options.same_model and chat and chat.turns and request["model"] is None:
        spoke = chat.turns[-1]
        request["model"] = f"{spoke.provider}/{spoke.model}"
    return form, request


def _show(
    events: Generator[Event, None, Reply],
    show: ReplyDisplay,
    log: AttemptLog,
    bind: Callable[[Reply], None] = lambda part: None,
) -> Reply:
    """Show a request as it happens; returns its reply.

    `bind` takes the part of an interrupted reply that arrived.
    """
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
            return follow(events, show, on_tool)
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


def _rehearse(
    options: Namespace,
    llm: IntelligentLLMOrchestrator,
    messages: Sequence[Message],
    request: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Print what would be sent, and which route would answer."""
    shown = [*notes]
    if options.show_prompt:
        shown.append(prompt_text(llm.preview(messages, **request).request))
    if options.dry_run:
        kept = llm.kept(messages, **request)
        # After a kept call of a function more is asked.
        if kept is not None and not kept.tool_calls:
            shown.append(f"{receipt_line(kept)}\nNothing was sent, and nothing would be.")
        else:
            shown.append(route_text(llm.preview(messages, **request)))
    print("\n\n".join(shown))


def body_of(text: str, cell: str | None) -> str:
    """The prompt of a line or cell magic, without the newline that IPython adds to every cell.

    Raises:
        InvalidRequest: a cell magic has text on its first line, too.
    """
    if cell is None:
        return text
    if text:
        raise InvalidRequest(
            f"%%llm: {text.split(maxsplit=1)[0]!r} is not an option; the prompt goes in the lines "
            "below"
        )
    return cell.removesuffix("\n")


def check_variable(option: str, name: str) -> None:
    """Check the name of the variable that an option binds.

    Raises:
        InvalidRequest: it is not a valid name, or Python or IPython uses it.
    """
    problem = ""
    if not name.isidentifier() or keyword.iskeyword(name):
        problem = "is not a valid variable name"
    elif _RESERVED.fullmatch(name):
        problem = "is a name that IPython or Python uses; choose another"
    elif hasattr(builtins, name):
        problem = f"would hide the builtin {name}; choose another name"
    if problem:
        raise InvalidRequest(f"%llm: {option} {name!r} {problem}")


def first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def typed_or_default(options: Namespace, defaults: Defaults, *names: str) -> dict[str, Any]:
    """Options of the cell, or their defaults; an empty text counts as not given."""
    given = {
        name: first_given(getattr(options, name, None), getattr(defaults, name)) for name in names
    }
    return {name: None if value == "" else value for name, value in given.items()}


def sampling(options: Namespace) -> dict[str, Any]:
    """How the model chooses its words, as the options of the cell say."""
    stop = [
        text.replace(r"\n", "\n") if _LINE_ENDS.fullmatch(text) else text
        for text in options.stop or ()
    ]
    return {
        "top_p": options.top_p,
        "seed": options.seed,
        "stop": stop or None,
        "extra": {"reasoning_effort": options.effort} if options.effort else None,
    }


def refuse_with(flag: str, options: Namespace, *names: str) -> None:
    """Check that none of these options was typed together with `flag`.

    Raises:
        InvalidRequest: one was.
    """
    for name in names:
        if getattr(options, name) not in (None, False):
            raise InvalidRequest(f"%llm: {flag} cannot be combined with --{name.replace('_', '-')}")
