"""The official OpenAI clients, answered by `handle` in this process instead of the network.

A call of `client.chat.completions.create` goes from the official client through httpx to
`Transport`, which passes method, path, headers and body to `handle`, and gives back its reply.

The official client comes with httpx2 today, and came with httpx before openai 3. Their interfaces
are the same, so one transport serves both: it answers in the classes of the library that asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.config import get_configuration

from .chat import check_defaults
from .handler import TAG_HEADER, handle
from .replies import TIMED_OUT, HttpReply
from .request_thread import RequestThread

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

# Without these, the client would read environment variables that are meant for OpenAI's service.
_SETTINGS: dict[str, Any] = {
    "api_key": "not-needed",
    # Nothing is sent to this name, which cannot exist (RFC 2606).
    "base_url": "http://arche-magic.invalid/v1",
    "organization": "",
    "project": "",
    "max_retries": 0,
    "timeout": None,
}
# The official client's default timeout (openai 2.0 to 3.57, `_constants.py`). Users who keep it
# have not asked for a limit.
_DEFAULT_SECONDS = 600.0


def openai_client(**defaults: Any) -> OpenAI:
    """Return the official `openai.OpenAI`; the best open routes answer its requests.

        client = arche_magic.openai_client(patience=60)
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])

    `model` is `auto`, a provider, `provider/model`, a model, or an alias of the settings. No server
    and no key are needed. An interrupt stops a request. The client's `timeout` limits the whole
    request. The client does not retry, because the engine waits and tries the next route.

    Args:
        **defaults: default options of its requests, as for `generate`: `model`, `provider`,
            `patience`, `timeout`, `private`, `same_model`, `keep`, `fresh`, `tag`, `reserve`,
            `fallback_on_filter`, `system`, `temperature`, `top_p`, `max_tokens`, `stop`, `seed`.

    Raises:
        InvalidRequest: an option is unknown or its value is wrong.
        ConfigurationError: the provider or the model is unknown.
    """
    transport, openai = openai_transport(**defaults), library("openai")
    http = openai.DefaultHttpxClient(transport=transport, trust_env=False)
    client: OpenAI = openai.OpenAI(**_SETTINGS, http_client=http)
    return client


def async_openai_client(**defaults: Any) -> AsyncOpenAI:
    """Return the official `openai.AsyncOpenAI`; otherwise like `openai_client`.

    At most 64 requests run at the same time; others wait for their turn. Cancelling a call or
    closing its stream stops the request.
    """
    transport, openai = openai_transport(**defaults), library("openai")
    http = openai.DefaultAsyncHttpxClient(transport=transport, trust_env=False)
    client: AsyncOpenAI = openai.AsyncOpenAI(**_SETTINGS, http_client=http)
    return client


def openai_transport(**defaults: Any) -> Any:
    """Return a transport for libraries that take an HTTP client.

        http_client = httpx.Client(transport=arche_magic.openai_transport(), timeout=None)

    It works with `Client` and `AsyncClient` of httpx and httpx2, and answers requests to any host.
    Its options and errors are those of `openai_client`.
    """
    check_defaults(defaults, get_configuration())
    return Transport(defaults)


class Transport:
    """Answers the requests of an `httpx.Client` or `httpx.AsyncClient`, or of httpx2's.

    It sends nothing itself, whatever the client's base URL is; only the engine sends requests. The
    client's read timeout limits the whole request. `defaults` apply unless a request sets them.
    """

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self._defaults = dict(defaults)

    def handle_request(self, request: Any) -> Any:
        """Answer one request in the calling thread; an interrupt stops it.

        Raises (in the client's library): ReadTimeout.
        """
        timeout = _seconds(request)
        reply = self._handle(request, request.read(), timeout)
        return _response(request, reply, timeout)

    async def handle_async_request(self, request: Any) -> Any:
        """Answer one request in its own thread; cancelling stops it.

        A slow reader of a stream delays no other request. Cancelling, or closing the stream, waits
        until the usage is counted, but at most two seconds.

        Raises (in the client's library): ReadTimeout.
        """
        timeout = _seconds(request)
        body = await request.aread()
        thread = RequestThread(lambda: self._handle(request, body, timeout))
        try:
            reply = await thread.reply()
        except BaseException:
            await thread.aclose()
            raise
        return _response(request, reply, timeout, thread)

    def _handle(self, request: Any, body: bytes, timeout: float | None) -> HttpReply:
        defaults = self._defaults if timeout is None else {**self._defaults, "timeout": timeout}
        # Libraries may put a service's path before ours (`/openai/v1/`).
        path = re.sub(r"^.*?/v1/", "/v1/", request.url.path)
        tag = request.headers.get(TAG_HEADER, "")
        return handle(request.method, path, body, tag=tag, defaults=defaults)

    def close(self) -> None:
        """Do nothing: the transport has no connections."""

    async def aclose(self) -> None:
        """Do nothing: the transport has no connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _seconds(request: Any) -> Any:
    """Return the client's timeout for the request in seconds; None if the user has set none.

    The client does not check it; the engine does.
    """
    seconds = request.extensions.get("timeout", {}).get("read")
    return None if seconds in (None, _DEFAULT_SECONDS) else seconds


def _response(
    request: Any,
    reply: HttpReply,
    timeout: float | None,
    thread: RequestThread | None = None,
) -> Any:
    """Return a reply in the classes of the library that defines the class of the request."""
    library = sys.modules[type(request).__module__.partition(".")[0]]
    if isinstance(reply.body, bytes):
        response = library.Response(reply.status, headers=reply.headers, content=reply.body)
        if reply.status == TIMED_OUT and timeout is not None:
            raise library.ReadTimeout(response.json()["error"]["message"], request=request)
        return response
    body = _body_class(library)(thread or reply.body)
    return library.Response(reply.status, headers=reply.headers, stream=body)


@lru_cache
def _body_class(library: Any) -> Any:
    """Return this library's class of a streamed body; closing the response closes the request."""

    class Body(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, source: Any) -> None:
            # A generator, or the RequestThread that reads it.
            self._source = source

        def __iter__(self) -> Iterator[bytes]:
            chunks: Iterator[bytes] = self._source
            return chunks

        def close(self) -> None:
            self._source.close()

        def __aiter__(self) -> AsyncIterator[bytes]:
            chunks: AsyncIterator[bytes] = self._source.chunks()
            return chunks

        async def aclose(self) -> None:
            await self._source.aclose()

    return Body
