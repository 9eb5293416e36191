"""`%llm_why`: why a reply came from its route."""

from __future__ import annotations

from ..command import Session, Shown, Typed, command


@command()
def llm_why(session: Session, typed: Typed) -> Shown:
    """Show why a reply came from its route, and return that as a DataFrame.

    The table has a row per route: what it had left, why it was skipped, and what would have changed
    the choice. Without a name, it explains the last request, even if that failed or was stopped.

    Usage:
      %llm_why [REPLY]     the name of a variable that holds a reply

    Examples:
      %llm_why
      %llm_why answer
    """
    from arche_magic.llm_providers import PendingReply
    from arche_magic.llm_providers.attempt_log import attempt_log
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.reply import Reply

    from ..why import outcome_sentence, reasons, why_bundle, why_frame

    name, configuration = typed.text.strip(), get_configuration()
    last = attempt_log(configuration.store).last
    if not name and session.unsent and session.unsent[1] is last:
        return {"text/plain": session.unsent[0]}, why_frame([])
    asked = session.shell.user_ns.get(name) if name else last
    if isinstance(asked, PendingReply):
        asked = asked.wait()
    if name and not isinstance(asked, Reply):
        raise InvalidRequest(
            f"%llm_why: {name!r} is not a reply; %%llm -o NAME stores one. Without a name, "
            "%llm_why explains the last request"
        )
    if asked is None:
        raise InvalidRequest("%llm_why: no request has been made yet; %llm sends a prompt")
    if not asked.decisions:
        was_made = isinstance(asked, Reply) and asked.from_memory is None
        why = "has no record of its routes" if was_made else "came from memory; no route was asked"
        return {"text/plain": f"the reply {why}"}, why_frame([])
    routes = configuration.routes()
    private = [route for route in routes if configuration.is_private(route)]
    attempts = asked.attempts
    if isinstance(asked, Reply) and asked.tool_runs:
        # Its decisions are about the last round only.
        attempts = tuple(attempt for attempt in attempts if attempt.request == asked.request)
    explained = reasons(asked.decisions, attempts, routes, private)
    bundle = why_bundle(explained, outcome_sentence(asked.decisions, attempts))
    return bundle, why_frame(explained)
