"""The server of this kernel: start it, stop it, and say where it runs."""

from __future__ import annotations

import math

from arche_magic.llm_providers.bounded import within
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.openai_api.server import Server

_running: Server | None = None


def start(port: int | None, allow_origins: list[str]) -> str:
    """Start the server if it is not running; returns what to print.

    Raises:
        InvalidRequest: an option is wrong, or the running server has other options.
        ConfigurationError: as `Server.start`.
    """
    global _running
    if _running is None:
        server = Server(port=port, allow_origins=allow_origins)
        # Not in the main thread, where an interrupt would break an import.
        _running = within(math.inf, server.start, unclaimed=Server.stop)
        return f"Serving {_where(server)}"
    if port not in (None, _running.port) or allow_origins:
        raise InvalidRequest(
            f"%llm_serve: the server is already running at {_running.base_url}; to change options, "
            "run %llm_serve stop first"
        )
    return f"Already serving {_where(_running)}"


def stop() -> str:
    """Stop the server; returns what to print."""
    global _running
    if _running is None:
        return "The server is not running."
    base_url, server = _running.base_url, _running
    _running = None
    server.stop()
    return f"The server at {base_url} has stopped."


def status() -> str:
    """Where the server runs, in words."""
    if _running is None:
        return "The server is not running; %llm_serve starts it."
    return f"Serving {_where(_running)}"


def running() -> Server | None:
    """The server, if it runs."""
    return _running


def _where(server: Server) -> str:
    return (
        f"programs on this machine; %llm_serve stop ends it. For their shell:\n"
        f"{server.shell_lines()}"
    )
