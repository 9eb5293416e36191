"""The HTTP server: a Starlette router on uvicorn, in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from uvicorn.protocols.http.h11_impl import H11Protocol

from .service import Admitted, hide_secrets
from .types import Answer, ReceivedRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .sandbox import Sandbox

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
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
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

    def _router(self) -> Router:
        routes = []
        for provider, prefix in (
            ("groq", "/groq/openai/v1"),
            ("mistral", "/mistral/v1"),
            ("openai", "/openai/v1"),
        ):
            replies = partial(self._call, provider, "")
            embeddings = partial(self._call, provider, "embeddings")
            models = partial(self._models, provider)
            routes += [
                Route(f"{prefix}/chat/completions", replies, methods=["POST"]),
                Route(f"{prefix}/embeddings", embeddings, methods=["POST"]),
                Route(f"{prefix}/models", models),
                Route(f"{prefix}/models/{{name:path}}", models),
            ]
        for prefix in ("/google/v1/models", "/google/v1beta/models"):
            call, models = partial(self._call, "google", ""), partial(self._models, "google")
            routes += [
                Route(f"{prefix}/{{name}}", call, methods=["POST"]),
                Route(prefix, models),
                Route(f"{prefix}/{{name}}", models),
            ]
        routes.append(Route("/elsewhere", self._elsewhere, methods=["GET", "POST"]))
        return Router([*routes, *_control(self._sandbox)])

    async def _call(self, provider: str, path: str, request: Request) -> ASGIApp:
        """Answer a request for a reply or for embeddings.

        `path` is "embeddings" for these; Gemini's methods are part of the address.
        """
        try:
            content = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)
        service = self._sandbox.service
        path = request.path_params.get("name", path)
        begun = service.begin(provider, path, dict(request.headers), content)
        await self._pause(self._sandbox.latency)
        if self._stopping.is_set():
            return Response(status_code=500)
        if isinstance(begun, Answer):
            return partial(self._send, begun, None)
        return partial(self._send, service.finish(begun), begun)

    async def _models(self, provider: str, request: Request) -> ASGIApp:
        name = request.path_params.get("name")
        answer = self._sandbox.service.models(provider, dict(request.headers), name)
        return partial(self._send, answer, None)

    async def _elsewhere(self, request: Request) -> Response:
        """The default target of redirects, which records what reaches it."""
        await request.body()
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
                headers=hide_secrets(request.headers),
            )
        )
        return JSONResponse({"hello": 1})

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the sandbox stops."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _send(
        self, answer: Answer, admitted: Admitted | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a response and end it as its failure says; a stream charges `admitted`."""
        body = {"type": "http.response.body", "body": answer.body}
        if answer.events is not None and admitted is not None:
            if not await self._send_events(answer, admitted, receive, send):
                return
            body["body"] = b""
        elif answer.status:
            # A body that breaks off is shorter than announced.
            announced = len(answer.body) * (2 if answer.ending == "broken" else 1)
            await send(self._start(answer, [("content-length", str(announced))]))
        if answer.ending == "complete":
            await send(body)
        elif answer.ending == "stall":
            await self._wait_for_end(receive)
        else:
            if answer.ending == "broken":
                await send({**body, "more_body": True})
            await self._break(scope, receive, reset=answer.ending == "reset")

    async def _send_events(
        self, answer: Answer, admitted: Admitted, receive: Receive, send: Send
    ) -> bool:
        """Send the events, and charge for what was sent. Returns False if the client has gone."""
        events = answer.events or []
        settle = self._sandbox.service.settle
        pause = self._sandbox.seconds_per_chunk
        size = 1 if pause > 0 else _BATCH
        share = 0.0
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await send(self._start(answer, []))
            for first in range(0, len(events), size):
                batch = b"".join(events[first : first + size])
                share = min(1.0, (first + size) / len(events))
                if share == 1.0:
                    # Before the last bytes: a client that has read them can rely on the charge.
                    settle(admitted, share)
                await send({"type": "http.response.body", "body": batch, "more_body": True})
                await (self._pause(pause) if pause > 0 else asyncio.sleep(0))
                if gone.done() or self._stopping.is_set():
                    return False
            return True
        finally:
            gone.cancel()
            if share < 1.0:
                settle(admitted, share)

    def _start(self, answer: Answer, more: list[tuple[str, str]]) -> dict[str, Any]:
        """The message with status and headers. A redirect gets the sandbox's own address."""
        headers = [
            (name, self.url + text if name == "location" and text.startswith("/") else text)
            for name, text in (*answer.headers, *more)
        ]
        raw = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers]
        return {"type": "http.response.start", "status": answer.status, "headers": raw}

    async def _break(self, scope: Scope, receive: Receive, *, reset: bool) -> None:
        """Close the connection in mid-response, with or without a TCP reset."""
        transport = self._transports.get(scope["client"])
        if transport is not None:
            if reset:
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        await _wait_for_disconnect(receive)

    async def _wait_for_end(self, receive: Receive) -> None:
        """Wait until the client leaves or the sandbox stops."""
        waits = [
            asyncio.ensure_future(_wait_for_disconnect(receive)),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


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


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
