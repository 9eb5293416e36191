"""uvicorn in a thread of its own, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .request_thread import THREAD_NAME

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# How long a connection may stay without a request; the next one can take as long to arrive.
_IDLE_SECONDS = 20.0
_MOST_CONNECTIONS = 512
# How long stopping waits for requests that end.
_STOP_SECONDS = 3.0
_POLL_SECONDS = 0.01


class Listener:
    """An open port, and the thread that serves it once `serve` is called.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, port: int) -> None:
        # With protocol 0 asyncio would not set TCP_NODELAY: 40 ms more for every response.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if sys.platform != "win32":
                # There it would let two programs use one port.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(_MOST_CONNECTIONS)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    def serve(self, make_app: Callable[[], ASGIApp]) -> None:
        """Serve an application, which is made in the event loop of the thread."""
        # Without a handler, Python prints uvicorn's warnings on malformed requests.
        logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
        self._thread = threading.Thread(
            target=self._run, args=(make_app,), name="arche-server", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Close the port, break the connections, and wait until their requests have ended."""
        if self._thread is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        with suppress(OSError):
            # A process that was forked meanwhile has the socket too, and would keep the port open.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self, make_app: Callable[[], ASGIApp]) -> None:
        try:
            asyncio.run(self._serve(make_app))
        finally:
            self._ready.set()

    async def _serve(self, make_app: Callable[[], ASGIApp]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        config = uvicorn.Config(
            make_app(),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        self._ready.set()
        await self._stopping.wait()
        # uvicorn's own shutdown waits for streams to end. Here each request is told to stop.
        for listening in getattr(server, "servers", ()):
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for _ in range(int(_STOP_SECONDS / _POLL_SECONDS)):
            if not self._is_busy(server):
                break
            await asyncio.sleep(_POLL_SECONDS)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    def _is_busy(self, server: uvicorn.Server) -> bool:
        threads = (thread.name for thread in threading.enumerate())
        return bool(server.server_state.tasks) or THREAD_NAME in threads


class _Connection(H11Protocol):
    """A connection that ends if no whole request arrives in time, and that the app can break."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = self.app_state | {"abort": transport.abort}
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
        self._look = self.loop.call_later(_IDLE_SECONDS, self._check, now)
