"""The sandbox's ASGI application: its addresses, and how it sends and breaks off responses."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from ..local_server import until_disconnected
from .service import hide_secrets
from .types import Answer, ReceivedRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .sandbox import Sandbox

_BATCH = 32  # events per write when nothing asks for a pause between them
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close with a reset


def application(sandbox: Sandbox) -> Router:
    """The application of a sandbox, with an address for every method of every provider."""
    routes = []
    for provider, prefix, methods in (
        ("groq", "/groq/openai/v1", ("/chat/completions", "/embeddings")),
        ("mistral", "/mistral/v1", ("/chat/completions", "/embeddings")),
        ("openai", "/openai/v1", ("/chat/completions", "/embeddings")),
        ("google", "/google/v1", ("/models/{method}",)),
        ("google", "/google/v1beta", ("/models/{method}",)),
    ):
        models = partial(_models, sandbox, provider)
        routes += [Route(prefix + path, models) for path in ("/models", "/models/{name:path}")]
        call = partial(_call, sandbox, provider)
        routes += [Route(prefix + method, call, methods=["POST"]) for method in methods]
    elsewhere = partial(_elsewhere, sandbox)
    routes.append(Route("/elsewhere", elsewhere, methods=["GET", "POST"]))
    return Router([*routes, *_control(sandbox)])


async def _call(sandbox: Sandbox, provider: str, request: Request) -> ASGIApp:
    """Answer a request for a reply or for embeddings."""
    try:
        content = await request.body()
    except ClientDisconnect:
        return Response(status_code=400)
    # Such as "completions", "embeddings" or "gemini-3.8-flash:generateContent".
    path = request.scope["path"].rpartition("/")[2]
    finish = sandbox.service.begin(provider, path, dict(request.headers), content)
    await asyncio.sleep(sandbox.latency)
    return partial(_send, sandbox, finish())


async def _models(sandbox: Sandbox, provider: str, request: Request) -> ASGIApp:
    name = request.path_params.get("name")
    return partial(_send, sandbox, sandbox.service.models(provider, dict(request.headers), name))


async def _elsewhere(sandbox: Sandbox, request: Request) -> Response:
    """The default target of redirects, which records what reaches it."""
    await request.body()
    now, headers = sandbox.clock(), hide_secrets(request.headers)
    sandbox.service.received.append(ReceivedRequest(now, "elsewhere", headers=headers))
    return JSONResponse({"hello": 1})


async def _send(
    sandbox: Sandbox, answer: Answer, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a response and end it as its failure says; a stream is charged for what was sent."""
    body = {"type": "http.response.body", "body": answer.body}
    if answer.events is not None:
        if not await _send_events(sandbox, answer, answer.events, receive, send):
            return
        body["body"] = b""
    elif answer.status:
        # A body that breaks off is shorter than announced.
        announced = len(answer.body) * (2 if answer.ending == "broken" else 1)
        await send(_start(answer, ("content-length", str(announced))))
    if answer.ending == "complete":
        await send(body)
        return
    if answer.ending == "broken":
        await send({**body, "more_body": True})
    connection: asyncio.Transport = scope["state"]["connection"]
    if answer.ending == "reset":
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    if answer.ending != "stall":
        connection.abort()
    await until_disconnected(receive)


async def _send_events(
    sandbox: Sandbox, answer: Answer, events: list[bytes], receive: Receive, send: Send
) -> bool:
    """Send the events, and charge for what was sent. Returns False if the client has gone."""
    pause = sandbox.seconds_per_chunk
    size = 1 if pause > 0 else _BATCH
    share = 0.0
    gone = asyncio.ensure_future(until_disconnected(receive))
    try:
        await send(_start(answer))
        for first in range(0, len(events), size):
            batch = b"".join(events[first : first + size])
            share = min(1.0, (first + size) / len(events))
            if share == 1.0:
                # Before the last bytes: a client that has read them can rely on the charge.
                answer.charge(share)
            await send({"type": "http.response.body", "body": batch, "more_body": True})
            await asyncio.sleep(pause)
            if gone.done():
                return False
        return True
    finally:
        gone.cancel()
        if share < 1.0:
            answer.charge(share)


def _start(answer: Answer, *more: tuple[str, str]) -> dict[str, Any]:
    """The message with status and headers."""
    headers = [*answer.headers, *more]
    raw = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers]
    return {"type": "http.response.start", "status": answer.status, "headers": raw}


def _control(sandbox: Sandbox) -> list[Route]:
    """The sandbox's own addresses, for other processes."""
    reads: dict[str, Callable[[], Any]] = {
        "usage": sandbox.usage,
        "quota": sandbox.quota,
        "requests": lambda: [asdict(entry) for entry in sandbox.requests],
        "clock": lambda: {"now": sandbox.clock(), "scale": sandbox.time_scale},
    }
    writes = (sandbox.fail, sandbox.fail_randomly, sandbox.clear_failures, sandbox.reset)
    return [Route(f"/_sandbox/{name}", partial(_read, get)) for name, get in reads.items()] + [
        Route(f"/_sandbox/{act.__name__}", partial(_write, act), methods=["POST"]) for act in writes
    ]


async def _read(get: Callable[[], Any], request: Request) -> Response:
    return JSONResponse(get())


async def _write(act: Callable[..., None], request: Request) -> Response:
    try:
        act(**json.loads(await request.body() or "{}"))
    except (ValueError, TypeError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse({"ok": True})
