"""`%llm_retry`: the last prompt once more."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, cast

from ..command import Session, Typed, command
from .llm import OPTIONS

if TYPE_CHECKING:
    from arche_magic.llm_providers import Reply

# The prompt, its images and its conversation do not change.
_LEFT_OUT = (
    "--prompt", "--file", "--url", "--image", "--chat", "--compare", "--budget", "--raw", "--fresh",
    "--background", "--show-prompt", "--dry-run",
)  # fmt: skip


@command(*(one for one in OPTIONS if one.args[-1] not in _LEFT_OUT), needs="ask")
def llm_retry(session: Session, typed: Typed) -> Reply:
    """Send the last prompt again, with other options, and return the reply.

    The new reply is shown beside the previous one, and replaces it in a conversation. Options
    that you leave out stay as they were, except -o and -q. -m or -p replaces both model and
    provider, and -f or --schema replaces both format and schema. The new reply also replaces a
    kept reply. Comparisons and --over do not count as the last prompt.

    Usage:
      %llm_retry [OPTIONS]

    Examples:
      %llm_retry
      %llm_retry -m mistral-small-latest
      %llm_retry -t 1 -o second
    """
    from ..ask import send
    from ..cell import first_given, with_values

    asked, given = session.asked, typed.options
    if asked is None:
        raise session.no_prompt("%llm_retry: no prompt has been sent yet; %llm sends one")
    with_values(given, typed.names, session.defaults.budget)
    options = Namespace(**vars(asked.options))
    options.background = False
    options.fresh, options.output, options.quiet = True, given.output, given.quiet
    if first_given(given.provider, given.model) is not None:
        options.provider = options.model = None
    if first_given(given.schema, given.format) is not None:
        options.schema = options.format = None
    for name, value in vars(given).items():
        # `!=` cannot be used, because the value of --schema may be anything, such as an array.
        if value is not llm_retry.parser.get_default(name):
            setattr(options, name, value)
    # With these options it is one reply.
    reply = cast("Reply", send(session, options, asked.prompt, asked))
    return session.out.shown(reply, itself=not given.quiet)
