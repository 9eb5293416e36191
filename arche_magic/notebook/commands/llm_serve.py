"""`%llm_serve`: let other programs use the providers of this kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Typed, argument, command

if TYPE_CHECKING:
    from arche_magic.openai_api.server import Server


@command(
    argument(
        "--port",
        type=int,
        metavar="N",
        help="Port to listen on (default: 8377, or a free one if that is in use).",
    ),
    argument(
        "--allow-origin",
        action="append",
        metavar="URL",
        help="Allow requests from web pages of this origin, such as https://app.example.org.",
    ),
    needs="serving",
)
def llm_serve(session: Session, typed: Typed) -> Server | None:
    """Let other programs on this machine use your providers through OpenAI's API.

    It prints the two environment variables that these programs need. Their requests use the same
    routes and the same quota as yours; %llm_stats --by client shows what each program used. It
    returns the server, which has base_url and api_key for libraries in this kernel.

    Usage:
      %llm_serve [OPTIONS] [start]
      %llm_serve status
      %llm_serve stop

    Examples:
      %llm_serve
      server = %llm_serve
      %llm_serve --port 8400 start
    """
    from arche_magic.llm_providers.errors import InvalidRequest

    from .. import serving

    options, verb = typed.options, typed.text.strip() or "start"
    if verb not in ("start", "stop", "status"):
        raise InvalidRequest(f"%llm_serve: {verb!r} is not start, stop or status")
    if verb != "start" and (options.port is not None or options.allow_origin):
        raise InvalidRequest(f"%llm_serve: {verb} takes no options")
    if verb == "stop":
        print(serving.stop())
        return None
    if verb == "status":
        print(serving.status())
    else:
        print(serving.start(options.port, options.allow_origin or []))
    return session.out.shown(serving.running())
