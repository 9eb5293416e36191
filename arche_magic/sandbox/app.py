"""The HTTP server: an ASGI application on uvicorn, in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from uvicorn.protocols.http.h11_impl import H11Protocol

from .exchange import Answer, ReceivedRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .sandbox import Sandbox
    from .service import Exchange

_BATCH = 32  # events per write when nothing asks for a pause between them
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close with a reset


class Server:
    """A running server; `stop` closes its port and ends its thread. Raises OSError (port taken)."""

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self._sandbox = sandbox
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}
        # With protocol 0 asyncio would not set TCP_NODELAY: 40 ms more for every response.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self._router(),
            http=_protocol(self._transports),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=600,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arche-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Break every open connection, close the port, and wait for the thread to end."""
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._listener]))
        self._ready.set()
        await self._stopping.wait()
        # uvicorn's own shutdown polls every 0.1 s and waits for streams to end. This does neither.
        for listening in getattr(self._server, "servers", ()):
            listening.close()
        for transport in list(self._transports.values()):
            transport.abort()
        for _ in range(500):
            if not self._server.server_state.tasks:
                break
            await asyncio.sleep(0.001)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    def _router(self) -> ASGIApp:
        routes = []
        for provider, prefix in (
            ("groq", "/groq/openai/v1"),
            ("mistral", "/mistral/v1"),
            ("openai", "/openai/v1"),
        ):
            completions = self._completions(provider)
            embeddings = self._completions(provider, "embeddings")
            routes += [
                Route(f"{prefix}/chat/completions", _Endpoint(completions), methods=["POST"]),
                Route(f"{prefix}/embeddings", _Endpoint(embeddings), methods=["POST"]),
                Route(f"{prefix}/models", _Endpoint(self._models(provider))),
                Route(f"{prefix}/models/{{name:path}}", _Endpoint(self._models(provider))),
            ]
        for version in ("v1", "v1beta"):
            prefix = f"/google/{version}/models"
            completions = self._completions("google")
            routes += [
                Route(f"{prefix}/{{name}}", _Endpoint(completions), methods=["POST"]),
                Route(prefix, _Endpoint(self._models("google"))),
                Route(f"{prefix}/{{name}}", _Endpoint(self._models("google"))),
            ]
        routes += [
            Route("/elsewhere", _Endpoint(self._elsewhere), methods=["GET", "POST"]),
            *_control(self._sandbox),
        ]
        return Router(routes)

    def _completions(self, provider: str, path: str = "") -> ASGIApp:
        """The endpoint for replies, or for embeddings if `path` says so.

        Gemini's methods stand in the address itself.
        """
        service = self._sandbox.service

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            content = await _body(receive)
            method = scope["path_params"].get("name", path)
            exchange = service.begin(provider, method, _headers(scope), content)
            try:
                await self._pause(self._sandbox.latency)
                answer = service.finish(exchange, self.url)
                if answer.events is None:
                    await self._respond(answer, scope, receive, send)
                else:
                    await self._stream(exchange, answer, scope, receive, send)
            except _Gone:
                return

        return handle

    def _models(self, provider: str) -> ASGIApp:
        service = self._sandbox.service

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            name = scope["path_params"].get("name")
            answer = service.models(provider, _headers(scope), name)
            with contextlib.suppress(_Gone):
                await self._respond(answer, scope, receive, send)

        return handle

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The default target of redirects, which records what reaches it."""
        await _body(receive)
        headers = _headers(scope)
        secret = [name for name in ("authorization", "x-goog-api-key") if name in headers]
        self._sandbox.service.received.append(
            ReceivedRequest(
                at=self._sandbox.clock(),
                provider="elsewhere",
                key=None,
                account=None,
                model="",
                body={},
                stream=False,
                status=200,
                headers={n: "hidden" if n in secret else v for n, v in headers.items()},
            )
        )
        await self._respond(
            Answer(200, [("content-type", "application/json")], b'{"hello":1}'),
            scope,
            receive,
            send,
        )

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise _Gone

    async def _respond(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        if answer.ending == "reset":
            await self._break(scope, receive, reset=True)
        elif answer.ending == "stall":
            await self._wait_for_end(receive)
        elif answer.ending == "broken":
            await send(_start(answer, length=2 * len(answer.body)))
            await send({"type": "http.response.body", "body": answer.body, "more_body": True})
            await self._break(scope, receive)
        else:
            await send(_start(answer, length=len(answer.body)))
            await send({"type": "http.response.body", "body": answer.body})

    async def _stream(
        self, exchange: Exchange, answer: Answer, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the events, and charge for what was sent, even if the client has gone."""
        events = answer.events or []
        settle = self._sandbox.service.settle
        pause = self._sandbox.seconds_per_chunk
        size = 1 if pause > 0 else _BATCH
        share = 0.0
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await send(_start(answer))
            for first in range(0, len(events), size):
                batch = b"".join(events[first : first + size])
                share = min(1.0, (first + size) / len(events))
                if share == 1.0:
                    # Before the last bytes: a client that has read them can rely on the charge.
                    settle(exchange, share)
                await send({"type": "http.response.body", "body": batch, "more_body": True})
                await (self._pause(pause) if pause > 0 else asyncio.sleep(0))
                if gone.done():
                    raise _Gone
        finally:
            gone.cancel()
            settle(exchange, share)
        if answer.ending == "broken":
            await self._break(scope, receive)
        elif answer.ending == "stall":
            await self._wait_for_end(receive)
        else:
            await send({"type": "http.response.body", "body": b""})

    async def _break(self, scope: Scope, receive: Receive, *, reset: bool = False) -> None:
        """Close the connection in mid-response, with or without a TCP reset."""
        transport = self._transports.get(scope["client"])
        if transport is not None:
            if reset:
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        await _wait_for_disconnect(receive)

    async def _wait_for_end(self, receive: Receive) -> None:
        waits = [
            asyncio.ensure_future(_wait_for_disconnect(receive)),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        raise _Gone


class _Gone(Exception):
    """The client has left, or the sandbox stops."""


class _Endpoint:
    """Keeps Starlette from wrapping a plain ASGI function in a request and a response."""

    def __init__(self, handle: ASGIApp) -> None:
        self._handle = handle

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._handle(scope, receive, send)


def _protocol(transports: dict[tuple[str, int], asyncio.Transport]) -> type[asyncio.Protocol]:
    """A protocol that records its connections, so that they can be reset and closed."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transports[transport.get_extra_info("peername")] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self.transport.get_extra_info("peername"), None)
            super().connection_lost(exc)

    return Protocol


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(answer: Answer, length: int | None = None) -> dict[str, Any]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


def _control(sandbox: Sandbox) -> list[Route]:
    """The sandbox's own address, for other processes."""

    async def usage(request: Request) -> Response:
        return JSONResponse(sandbox.usage())

    async def quota(request: Request) -> Response:
        return JSONResponse(sandbox.quota())

    async def requests(request: Request) -> Response:
        return JSONResponse([asdict(entry) for entry in sandbox.requests])

    async def clock(request: Request) -> Response:
        return JSONResponse({"now": sandbox.clock(), "scale": sandbox.time_scale})

    def calling(act: Callable[..., None]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                act(**json.loads(await request.body() or "{}"))
            except (ValueError, TypeError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            return JSONResponse({"ok": True})

        return handle

    reads = (usage, quota, requests, clock)
    writes = (sandbox.fail, sandbox.fail_randomly, sandbox.clear_failures, sandbox.reset)
    return [Route(f"/_sandbox/{f.__name__}", f, methods=["GET"]) for f in reads] + [
        Route(f"/_sandbox/{f.__name__}", calling(f), methods=["POST"]) for f in writes
    ]
