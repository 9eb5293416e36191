"""The HTTP client of one adapter, and what was seen of each call on it.

All four SDKs take an injected `httpx.Client`, so status, headers, timeouts and closing are handled
here once, whatever an SDK does or does not hand on (mistralai and google-genai leave transport
errors unwrapped, and give no headers with a reply).
"""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from ..addresses import is_loopback, origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..types import Key

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection; a host that is there answers well within."""

STAND_IN = "in-place-of-the-key"
"""What SDKs are given for a key.

The key itself takes its place in the headers as the request leaves, so that no object, log line or
error of an SDK has it, and none that asks another address could send it there.
"""


class Call:
    """One call in progress: what came back so far.

    Attributes:
        timeout: seconds given to the call as a whole.
        status: HTTP status, or None while there was no answer.
        headers: response headers, names in lower case.
        body: of an answer that is no success: parsed JSON, else text, else None.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.deadline = math.inf
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body: Any = None
        self.request: httpx.Request | None = None
        self._response: httpx.Response | None = None

    @property
    def refused(self) -> bool:
        """There was an answer, and it was no success."""
        return self.status is not None and self.status != 200

    def take(self, response: httpx.Response) -> None:
        """Note what came back, and read the body of a refusal."""
        self._response = response
        response.stream = _Limited(response.stream, self.deadline)
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        if self.refused:
            self.body = parse_body(response.read().decode("utf-8", "replace"))

    def close(self) -> None:
        """Drop the connection if the answer was not read to its end.

        What was sent is forgotten: the headers, and the response, which keeps them too.
        """
        if self._response is not None:
            self._response.close()
            self._response = None
        if self.request is not None:
            self.request.headers.clear()


class HttpClient:
    """One pool of connections, shared by the threads that use the adapter.

    It signs requests with the key, and only those to the base URL's own scheme, host and port.
    """

    def __init__(self, base_url: str, key: Key) -> None:
        self._key, self._origin = key, origin(base_url)
        self._current = threading.local()
        self.client = httpx.Client(
            # A redirect could carry the key to another host.
            follow_redirects=False,
            # A proxy cannot reach this machine's own loopback addresses.
            trust_env=not is_loopback(base_url),
            # As many calls at once as there are threads, the connections of a hundred kept open.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            event_hooks={"request": [self._before], "response": [self._after]},
        )

    @contextmanager
    def call(self, timeout: float) -> Iterator[Call]:
        """A call whose HTTP request is the next one this thread sends; closed at the end."""
        call = Call(timeout)
        self._current.call = call
        try:
            yield call
        finally:
            self._current.call = None
            call.close()

    def close(self) -> None:
        """Close every connection."""
        self.client.close()

    def _before(self, request: httpx.Request) -> None:
        call: Call = self._current.call
        # Retries and follow-ups are off in every SDK; one that sent more all the same would spend
        # quota that nobody counts.
        if call.deadline < math.inf:
            raise RuntimeError("the SDK sent a second request in one call")
        if not self._origin or origin(str(request.url)) != self._origin:
            raise RuntimeError("the SDK asked another address than the configured one")
        call.request = request
        for name, value in request.headers.multi_items():
            if STAND_IN in value:
                request.headers[name] = value.replace(STAND_IN, self._key.secret())
        # From here, as the first call of an adapter also imports an SDK.
        call.deadline = time.monotonic() + call.timeout
        # Mistral's SDK takes whole milliseconds and Google's one figure for all: set here for all.
        limits = httpx.Timeout(call.timeout, connect=min(CONNECT_TIMEOUT, call.timeout))
        request.extensions = {**request.extensions, "timeout": limits.as_dict()}

    def _after(self, response: httpx.Response) -> None:
        self._current.call.take(response)


class _Limited(httpx.SyncByteStream):
    """A body that stops at the deadline.

    A read timeout alone is never met by a server that keeps a call waiting with a comment now and
    then, as the event stream format has them for that purpose.
    """

    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the call took longer than its timeout")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def parse_body(text: str) -> Any:
    """JSON if it is JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def transport_failure(error: BaseException, timeout: float) -> str | None:
    """What happened on the network, in words, if that is what the error is about."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, httpx.ConnectTimeout):
            return f"no connection within {min(CONNECT_TIMEOUT, timeout):g} s"
        if isinstance(link, httpx.TimeoutException):
            return f"no answer within {timeout:g} s"
        if isinstance(link, httpx.ProxyError):
            return "the proxy of this network refused the connection"
        if isinstance(link, httpx.ConnectError):
            return "no connection"
        if isinstance(link, httpx.TransportError | httpx.StreamError):
            return "connection lost"
        link = link.__cause__ or link.__context__
    return None
