"""`%llm_explain`: ask about the last cell that failed."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, cast

from ..command import Session, Typed, command, option
from .llm import OPTIONS, llm

if TYPE_CHECKING:
    from arche_magic.llm_providers import Reply

_TAKEN = (
    "--provider", "--model", "--max-tokens", "--patience", "--private", "--output", "--quiet",
    "--format", "--chat", "--show-prompt", "--dry-run",
)  # fmt: skip


@command(
    *(one for one in OPTIONS if one.args[-1] in _TAKEN),
    option("--locals", "Also send the values of the variables used."),
    needs="ask",
)
def llm_explain(session: Session, typed: Typed) -> Reply | None:
    """Explain the last error and how to fix it, and return the reply.

    It sends the failed cell, your own frames of the traceback, and the error message. Only with
    --locals, it also sends the values of variables. `-f code` puts the fix into a new cell.

    Usage:
      %llm_explain [OPTIONS] [TEXT]    TEXT is your question about the error

    Examples:
      %llm_explain
      %llm_explain -f code --locals
    """
    from arche_magic.prompts import Prompt

    from ..ask import send
    from ..explain import FIX, QUESTION, SYSTEM, describe

    failure, ours = session.failures.last(), session.failures.ours
    if failure is None and ours is not None:
        raise session.no_prompt(
            f"%llm_explain: the last error came from arche_magic, and its message says what to do: "
            f"{type(ours).__name__}: {ours}"
        )
    if failure is None:
        raise session.no_prompt("%llm_explain: no cell has failed yet; run it after one that fails")
    note = (
        f"This explains {type(failure.error).__name__}. The error after it came from arche_magic, "
        "and its message says what to do."
    )
    # The request is one of `%llm`, with its defaults for what this command does not take.
    options = Namespace(**{**vars(llm.parser.parse_args([])), **vars(typed.options)})
    # A conversation that every cell continues is not about the error.
    options.chat = options.chat or ""
    # An older conversation keeps its own system prompt.
    chat = session.chats.get(options.chat)
    options.system = (chat and chat.system) or SYSTEM
    question = typed.text.strip() or (FIX if options.format == "code" else QUESTION)
    described = describe(failure, session.shell, options.locals)
    prompt = Prompt(f"{described}\n\n{question}", notes=(note,) if ours is not None else ())
    reply = send(session, options, prompt)
    # With these options it is one reply, or None if nothing was sent.
    return cast("Reply | None", session.out.shown(reply, itself=not options.quiet))
