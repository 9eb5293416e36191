"""`%llm_serve`: let other programs use the providers of this kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..command import Session, Shown, Typed, command, option

if TYPE_CHECKING:
    from arche_magic.openai_api.server import Server


@command(
    option(
        "--port N", "Port to listen on (default: 8377, or a free one if that is in use).", type=int
    ),
    option(
        "--allow-origin URL",
        "Allow requests from web pages of this origin, such as https://app.example.org.",
        action="append",
    ),
)
def llm_serve(session: Session, typed: Typed) -> Shown:
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
    from arche_magic.llm_providers.bounded import library, within
    from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest

    options, verb, server = typed.options, typed.text.strip() or "start", session.server
    origins = options.allow_origin or []
    if verb not in ("start", "stop", "status"):
        raise InvalidRequest(f"%llm_serve: {verb!r} is not start, stop or status")
    if verb != "start" and (options.port is not None or origins):
        raise InvalidRequest(f"%llm_serve: {verb} takes no options")
    if server is None and verb != "start":
        more = "" if verb == "stop" else "; %llm_serve starts it"
        return f"The server is not running{more}.", None
    if server is not None and verb == "stop":
        base_url, session.server = server.base_url, None
        server.stop()
        return f"The server at {base_url} has stopped.", None
    begin = "Serving"
    if server is None:
        if problem := _settings_problem():
            raise ConfigurationError(f"%llm_serve: the server was not started: {problem}")
        kind: type[Server] = library("arche_magic.openai_api.server").Server
        new = kind(port=options.port, allow_origins=origins)
        # Not in the main thread, where an interrupt would break an import.
        server = session.server = within(math.inf, new.start, unclaimed=kind.stop)
    elif verb == "start":
        if options.port not in (None, server.port) or origins:
            raise InvalidRequest(
                f"%llm_serve: the server is already running at {server.base_url}; to change "
                "options, run %llm_serve stop first"
            )
        begin = "Already serving"
    line = f"{begin} programs on this machine; %llm_serve stop ends it. For their shell:"
    return f"{line}\n{server.shell_lines()}", server


def _settings_problem() -> str:
    """What is wrong with the settings; "" if nothing is, even if there is no key yet."""
    from arche_magic.llm_providers.config import env_file_problem, get_configuration
    from arche_magic.llm_providers.errors import ConfigurationError

    try:
        if get_configuration().keys:
            return ""
    except ConfigurationError as error:
        return str(error)
    problem = env_file_problem()
    return f"{problem}, and no key is configured" if problem else ""
