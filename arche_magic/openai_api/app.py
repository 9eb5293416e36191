"""The server's ASGI application: access control, size limits, and sending of replies."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import LLMProviderError
from arche_magic.llm_providers.network import origin

from ..local_server import until_disconnected
from .handler import LARGEST_BODY, TAG_HEADER, TOO_LONG, handle
from .replies import ApiError, HttpReply
from .request_thread import RequestThread

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("arche_magic.openai_api")

_BODY_SECONDS = 60.0
# How long a client may leave its reply unread.
_UNREAD_SECONDS = 60.0
# Maximum number of chunks that wait for a slow client; then the request's thread waits too.
_MOST_WAITING = 100
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HTTP_PORT = 80
_LONGEST_CLIENT = 40
_START, _BODY = "http.response.start", "http.response.body"


def application(port: int, token: str, allow_origins: Collection[str]) -> ASGIApp:
    """Return the application; requests to `/v1` must contain the token.

    `port` is the port that clients use. Web pages of `allow_origins` may use the server too.
    """

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/health" and scope["method"] in ("GET", "HEAD"):
            response: Response = JSONResponse({"status": "ok"})
        elif not path.startswith("/v1/"):
            message = f"no such path; the base URL is http://127.0.0.1:{port}/v1"
            response = _refusal(404, message, "not_found")
        elif not _has_token(Headers(scope=scope), token):
            message = "wrong or missing token: send the header Authorization: Bearer TOKEN"
            response = _refusal(401, message, "invalid_api_key")
        else:
            await _answer(port, scope, receive, send)
            return
        await response(scope, receive, send)

    app: ASGIApp = served
    if allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins=allow_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-arche-route", "retry-after"),
        )

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if refused := _foreign(Headers(scope=scope), port, allow_origins):
            await _refusal(403, refused, "not_this_machine")(scope, receive, send)
        else:
            await app(scope, receive, send)

    return checked


def client_name(user_agent: str) -> str:
    """Return the name of the requesting program from its user agent; "" if it has none.

    `OpenAI/Python 3.57.0` is `OpenAI/Python`, and `litellm/1.80.0` is `litellm`.
    """
    word = user_agent.partition(" ")[0].removeprefix("Async")
    word = re.sub(r"/v?\d.*", "", word)
    return re.sub(r"[^\w./-]", "", word, flags=re.ASCII)[:_LONGEST_CLIENT]


def _foreign(headers: Headers, port: int, allow_origins: Collection[str]) -> str:
    """Return why a request from a web page is refused; "" if it is allowed.

    A page in a browser can make its host name resolve to 127.0.0.1 (DNS rebinding), but the browser
    then sends that name as `Host`. If a page requests 127.0.0.1 itself, the browser sends `Origin`.
    """
    names = [f"{name}:{port}" for name in _HOSTS]
    if port == _HTTP_PORT:
        # Clients omit the standard port.
        names += _HOSTS
    hosts = [host.lower() for host in headers.getlist("host")]
    if len(hosts) != 1 or hosts[0] not in names:
        return f"the Host header must be one of {', '.join(sorted(names))}"
    if any(origin not in allow_origins for origin in headers.getlist("origin")):
        return (
            "web pages may not use this server; to allow one, start it with "
            "--allow-origin and the origin of the page"
        )
    return ""


def _has_token(headers: Headers, token: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    is_token = secrets.compare_digest(given.strip().encode(), token.encode())
    return is_token and scheme.lower() == "bearer"


async def _answer(port: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and answer, until the client has left or the server stops."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await _body(Request(scope, receive))
    except ClientDisconnect:
        return
    except TimeoutError:
        await _refusal(408, "the body did not arrive in time", "timeout")(scope, receive, send)
        return
    if body is None:
        await _refusal(413, TOO_LONG, "body_too_large")(scope, receive, send)
        return
    headers = Headers(scope=scope)
    tag = headers.get(TAG_HEADER, client_name(headers.get("user-agent", "")))
    ask = partial(_ask, port, scope["method"], scope["path"], body, tag)
    answering = asyncio.ensure_future(_reply(ask, scope, receive, send))
    gone = asyncio.ensure_future(until_disconnected(receive))
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.wait((answering,))


def _ask(port: int, method: str, path: str, body: bytes, tag: str) -> HttpReply:
    """Handle one request, in its own thread; refuse it if a route leads to this server."""
    here = [origin(f"http://{host}:{port}") for host in _HOSTS]
    with suppress(LLMProviderError):
        configuration = get_configuration()
        names = {key.provider for key in configuration.keys}
        if any(origin(configuration.providers[name].base_url or "") in here for name in names):
            message = (
                "this server would send the request to itself: OPENAI_BASE_URL, or a base_url in "
                "the settings, is its own address; set that address only for other programs"
            )
            return ApiError(400, message, code="asks_itself").reply()
    return handle(method, path, body, tag=tag)


async def _reply(ask: Callable[[], HttpReply], scope: Scope, receive: Receive, send: Send) -> None:
    """Send the request in a thread, and pass the reply on as fast as the client reads it."""

    async def put(message: Message) -> None:
        async with asyncio.timeout(_UNREAD_SECONDS):
            await send(message)

    thread, is_begun = RequestThread(ask, _MOST_WAITING), False
    try:
        reply = await thread.reply()
        headers = {name.lower(): value for name, value in reply.headers.items()}
        if isinstance(reply.body, bytes):
            headers["content-length"] = str(len(reply.body))
        raw = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()]
        await put({"type": _START, "status": reply.status, "headers": raw})
        is_begun = True
        async for chunk in thread.chunks():
            await put({"type": _BODY, "body": chunk, "more_body": True})
        await put({"type": _BODY, "body": b""})
    except Exception as error:
        if not isinstance(error, TimeoutError):
            logger.exception("a request of the server failed (%s)", type(error).__name__)
        if is_begun:
            # Otherwise, the client would treat half a reply as complete.
            scope["state"]["connection"].abort()
        else:
            await _refusal(500, "the server failed", "internal_error")(scope, receive, send)
    finally:
        await thread.aclose()


async def _body(request: Request) -> bytes | None:
    """Return the body; None if it is too long, which is checked before and while it is read.

    uvicorn discards what arrives after that, so that the client can read the refusal.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def _refusal(status: int, message: str, code: str) -> Response:
    """Return an error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    reply = ApiError(status, message, kind, code=code).reply()
    return Response(cast("bytes", reply.body), reply.status, reply.headers)
