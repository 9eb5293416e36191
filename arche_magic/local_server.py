"""An HTTP server on 127.0.0.1 in its own thread, for the sandbox and the OpenAI API.

This needs uvicorn, which the extras `sandbox` and `server` install.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_MOST_CONNECTIONS = 512
# How long stopping waits for requests to end.
_STOP_SECONDS = 3.0
# Without a handler, Python prints uvicorn's warnings, such as on malformed requests.
logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())


class LocalServer:
    """An open port of 127.0.0.1, and the thread that serves it once `serve` is called.

    Args:
        port: the port; 0 for any free one.
        name: the name of the thread.
        idle_seconds: how long a connection may stay open without a request, and how long a
            request may take to arrive.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, port: int, name: str, idle_seconds: int) -> None:
        self._name, self._idle_seconds = name, idle_seconds
        # With protocol 0, asyncio would not set TCP_NODELAY, and every response would take 40 ms
        # more.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if sys.platform != "win32":
                # On Windows, this option would let two programs use the same port.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(_MOST_CONNECTIONS)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()

    @property
    def url(self) -> str:
        """The address, like "http://127.0.0.1:40123"."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self, app: ASGIApp) -> None:
        """Serve an application in a new thread.

        The scope of a request has its connection as `scope["state"]["connection"]`, so that the
        application can break it.

        Raises:
            OSError: the process has reached its limit of open files.
        """
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(app,), name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> bool:
        """Close the port, break the connections, and cancel their requests and wait for them.

        Returns False in a forked child, which has this object and the socket, but whose parent has
        the server.
        """
        if self._process != os.getpid():
            self._socket.close()
            return False
        if self._thread is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        with suppress(OSError):
            # Otherwise, a process that was forked meanwhile would keep the port open.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        return True

    def _run(self, app: ASGIApp) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(app))

    async def _serve(self, app: ASGIApp) -> None:
        async def until_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
            # uvicorn would log the cancellation as an error.
            with suppress(asyncio.CancelledError):
                await app(scope, receive, send)

        config = uvicorn.Config(
            until_cancelled,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=self._idle_seconds,
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        await self._stopping.wait()
        # uvicorn's own shutdown waits for streams to end.
        for listening in getattr(server, "servers", ()):
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        if tasks := set(server.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client of a request has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Connection(H11Protocol):
    """A connection that the application can break, and that ends if no whole request arrives."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = self.app_state | {"connection": transport}
        self._look: asyncio.TimerHandle | None = None
        self._check(object())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _check(self, idle_since: Any) -> None:
        """Break the connection if it has been idle since the last check."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is idle_since:
            self.transport.abort()
            return
        now = self.cycle if is_idle else object()
        self._look = self.loop.call_later(self.timeout_keep_alive, self._check, now)
