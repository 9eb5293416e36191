"""A prompt on its way: sent as the options say, and its reply shown as it comes."""

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

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.attempts import Ended, attempt_log, name_notebook
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.reply import Discarded, Event, Reply, Waiting
from arche_magic.llm_providers.types import Message
from arche_magic.prompts import Prompt, fill, image_of

from .display import CellInterrupted, ReplyDisplay, receipt_line
from .first_steps import require_keys
from .formats import ASKS
from .interrupts import one_interrupt
from .llm_options import given_without_over
from .preview import prompt_text, route_text
from .structured import schema_named
from .sums import notebook_name

if TYPE_CHECKING:
    import pandas as pd

    from .magics import ArcheMagics

# IPython's results and inputs (`_`, `_3`, `_i`, `_i3`, `_oh`), and what Python keeps in a module.
_RESERVED = re.compile(r"In|Out|get_ipython|exit|quit|_{1,3}|_i{1,3}|_i?\d+|_[iod]h|__\w*__")


def ask(
    magics: ArcheMagics,
    options: Namespace,
    text: str,
    cell: str | None,
    names: Mapping[str, Any] | None,
) -> Reply | pd.DataFrame | None:
    """Send the prompt and show the reply as it comes; with `--compare`, several beside each other.

    `names` are the variables that the prompt may speak of, the notebook's own aside.

    Raises:
        LLMProviderError: the request is wrong, or nobody answered it.
        CellInterrupted: the user stopped it.
    """
    body = body_of(text, cell)
    if flag := given_without_over(options):
        raise InvalidRequest(f"%llm: {flag} goes with --over FRAME")
    names = ChainMap(dict(names or {}), magics.shell.user_ns)
    budget = first_given(options.budget, magics.budget)
    if budget < 1:
        raise InvalidRequest(f"%llm: --budget is {budget}; it must be 1 or more")
    prompt = Prompt(body) if options.raw else fill(body, names, budget)
    images = [image_of(source, names) for source in options.image or ()]
    if options.schema is not None:
        options.schema = schema_named(options.schema, names)
    return send(magics, options, replace(prompt, images=(*prompt.images, *images)))


@one_interrupt()
def send(magics: ArcheMagics, options: Namespace, prompt: Prompt) -> Reply | pd.DataFrame | None:
    """Send a prompt that is ready, as the options of `%llm` say; see `ask`."""
    name_notebook(notebook_name(magics.shell.user_ns))
    name = options.output
    if name is not None:
        check_variable("-o", name)

    def keep_as(value: Reply | pd.DataFrame) -> None:
        """Bind the variable of `-o`, if one was named."""
        if name is not None:
            magics.shell.user_ns[name] = value

    keep = first_given(options.keep, magics.keep)
    require_keys(replay=bool(keep))
    if not prompt.text.strip():
        raise InvalidRequest("the prompt is empty")
    if options.compare:
        from .compare import compare

        frame = compare(magics, options, prompt, keep_as)
        keep_as(frame)
        return frame
    if options.schema is not None and options.format:
        raise InvalidRequest("%llm: --schema goes without --format: it is JSON, and shown as read")
    form = "markdown" if options.schema is not None else first_given(options.format, magics.format)
    chat = magics.chats.named(options.chat) if options.chat else None
    system = first_given(options.system, chat and chat.system, magics.system)
    request: dict[str, Any] = {
        "provider": first_given(options.provider, magics.provider) or None,
        "model": first_given(options.model, magics.model) or None,
        "system": "\n\n".join(filter(None, (system, ASKS[form]))) or None,
        "temperature": first_given(options.temperature, magics.temperature),
        "max_tokens": first_given(options.max_tokens, magics.max_tokens),
        "patience": first_given(options.patience, magics.patience),
        "fallback_on_filter": options.fallback_on_filter,
        "schema": options.schema,
        "keep": keep,
        "fresh": options.fresh,
        "tag": options.tag,
        # What was said in private stays so when the conversation goes on.
        "private": first_given(options.private, (chat and chat.private) or None, magics.private),
    }
    if options.same_model:
        request["same_model"] = True
        if chat and chat.turns and request["model"] is None:
            spoke = chat.turns[-1]
            request["model"] = f"{spoke.provider}/{spoke.model}"
    llm = IntelligentLLMOrchestrator()
    is_private = first_given(request["private"], llm.configuration.private.always)
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
    show = ReplyDisplay(magics.shell, options.quiet, form, structured=options.schema is not None)
    log = attempt_log(llm.configuration.store)
    before = log.last

    def ended() -> Ended | None:
        return log.last if log.last is not before else None

    events = llm.events(messages, **request)
    for note in notes:
        show.note(note)
    reply = _follow(events, show, ended, keep_as)
    keep_as(reply)
    if chat:
        chat.add(question, reply, options.system)
        chat.private = chat.private or is_private
        magics.chats[chat.name] = chat
    show.finish(reply, *([f"chat {chat.name}, turn {len(chat.turns)}"] if chat else ()))
    return reply


def _follow(
    events: Generator[Event, None, Reply],
    show: ReplyDisplay,
    ended: Callable[[], Ended | None],
    keep_part: Callable[[Reply], None],
) -> Reply:
    """Show a request as it happens; returns its reply.

    What had come of an interrupted one goes to `keep_part`.
    """
    try:
        while True:
            event = next(events)
            if isinstance(event, Waiting):
                show.waiting(event)
            elif isinstance(event, Discarded):
                show.start_over(event)
            else:
                show.add(event.text)
    except StopIteration as end:
        reply: Reply = end.value
        return reply
    except KeyboardInterrupt:
        events.close()
        if part := show.interrupted(ended()):
            keep_part(part)
        raise CellInterrupted("the request was stopped; its tokens so far are booked") from None
    except SchemaMismatch as error:
        show.mismatched(error.text, ended())
        raise
    except LLMProviderError:
        show.failed(ended())
        raise


def explain(magics: ArcheMagics, options: Namespace, text: str) -> Reply | None:
    """Ask about the last failure of a cell; see `send`.

    Raises:
        InvalidRequest: no cell has failed.
    """
    from .explain import FIX, QUESTION, SYSTEM, describe

    failure = magics.failures.last()
    if failure is None:
        raise InvalidRequest("%llm_explain: no cell has failed yet")
    options = Namespace(**{**vars(magics.llm.parser.parse_args([])), **vars(options)})
    options.system = SYSTEM
    question = text.strip() or (FIX if options.format == "code" else QUESTION)
    told = describe(failure, magics.shell, options.locals)
    reply = send(magics, options, Prompt(f"{told}\n\n{question}"))
    return reply if isinstance(reply, Reply) else None


def _rehearse(
    options: Namespace,
    llm: IntelligentLLMOrchestrator,
    messages: Sequence[Message],
    request: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    shown = [*notes]
    kept = llm.kept(messages, **request) if options.dry_run else None
    if options.show_prompt:
        shown.append(prompt_text(llm.preview(messages, **request).request))
    if kept is not None:
        shown.append(f"{receipt_line(kept)}\nNothing was sent, nor would be.")
    elif options.dry_run:
        shown.append(route_text(llm.preview(messages, **request)))
    print("\n\n".join(shown))


def body_of(text: str, cell: str | None) -> str:
    """The prompt of a line or cell magic, as it was typed: IPython ends every cell with a newline.

    Raises:
        InvalidRequest: a cell magic has one on its first line, too.
    """
    if cell is None:
        return text
    if text:
        raise InvalidRequest(
            f"%%llm: {text.split(maxsplit=1)[0]!r} is no option; the prompt goes in the lines below"
        )
    return cell.removesuffix("\n")


def check_variable(option: str, name: str) -> None:
    """Check the name of the variable that an option binds.

    Raises:
        InvalidRequest: it is not a name, or Python or IPython uses it.
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
    """The first that is not None."""
    return next((value for value in values if value is not None), None)
