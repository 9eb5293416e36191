"""The HTTP client of one adapter, and the status, headers and timeouts of each call on it.

All four SDKs accept an `httpx.Client`, so these are handled here for all of them (mistralai and
google-genai do not wrap transport errors, and return no headers with a reply).
"""

from __future__ import annotations

import math
import os
import re
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx

from .. import network_variables
from ..provider_failure import AttemptFailed, ProviderFailure, Remedy
from ..stopping import KeptInterrupts, is_main_thread, stop_of_this_thread
from ..urls import is_loopback, origin
from .bodies import (
    ACCEPTED_ENCODINGS,
    MOST_OF_A_REPLY,
    MOST_OF_A_STREAM,
    MOST_OF_AN_ERROR,
    Body,
    Unreadable,
    beginning,
    bounded,
    decompressed,
    events,
    read_json,
    rewritten,
)
from .connections import IDLE_SECONDS, Allowance, keep_time, uses_proxy
from .formats import Asked
from .logs import calling_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..types import Key, Timeouts

T = TypeVar("T")
_END = object()

STAND_IN = "in-place-of-the-key"
"""The key that SDKs are given.

The real key replaces it in the headers when a request is sent. So no object, log line or error of
an SDK contains the key, and an SDK that asks another address cannot send it there.
"""


class Call:
    """One call in progress: what has arrived, and how long the next step may take.

    Attributes:
        timeouts: `total` is what the call as a whole may take.
        stream: whether the answer is to come in events.
        status: HTTP status, or None before there is an answer.
        headers: response headers, names in lower case.
        body: of an answer other than 200: parsed JSON, else text, else None.
        asked: how the request asks for JSON, and whether it has a system prompt.
        client: the HTTP client that makes the call.
        interrupts: the block in which an SDK works, so that it drops no interrupt.
    """

    def __init__(
        self, timeouts: Timeouts, stream: bool, keep: Callable[[Any], Any] | None = None
    ) -> None:
        self.timeouts = timeouts
        self.stream = stream
        self._keep = keep
        self.sent = self._speaking = False
        self._ends = self._connect_by = self._next_by = math.inf
        # How the message about a timeout of the next step begins, and the seconds it had.
        self._late, self._allowed = "no answer within", timeouts.total
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body: Any = None
        self.asked = Asked()
        self.client: HttpClient | None = None
        self.request: httpx.Request | None = None
        self._response: httpx.Response | None = None
        self._stop = stop_of_this_thread()
        self.interrupts = KeptInterrupts()

    @property
    def stopped(self) -> bool:
        """Whether an interrupt came, or another thread has stopped it."""
        return self.interrupts.noted or (self._stop is not None and self._stop.is_set())

    def steps(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts as an SDK reads them from the answer; an interrupt ends a step at once."""
        step = iter(parts)
        while True:
            with self.interrupts:
                part = next(step, _END)
            if part is _END:
                return
            yield cast("T", part)

    @property
    def refused(self) -> bool:
        """Whether the answer has a status other than 200."""
        return self.status is not None and self.status != 200

    def send(self) -> Mapping[str, float]:
        """Start the timeouts; returns them in the form that httpx expects."""
        self.sent = True
        now, timeouts = time.monotonic(), self.timeouts
        self._ends = now + timeouts.total
        self._connect_by = min(self._ends, now + timeouts.connect)
        self._expect(timeouts.first_token if self.stream else timeouts.answer, "no answer within")
        watched = self._stop is not None or is_main_thread()
        left = Allowance(lambda: self._left(self._next_by), watched=watched)
        connect = Allowance(lambda: self._left(self._connect_by), watched=watched)
        return {"connect": connect, "read": left, "write": left, "pool": timeouts.total}

    def take(self, response: httpx.Response) -> httpx.Response:
        """Note the response; returns the part of it that the SDK gets.

        That is the status, and the body of a 200 up to a maximum size. The reason phrase, the
        headers and the body of a refusal may quote the key or the prompt, and SDKs log and quote
        them. The charset is removed too: JSON and events are UTF-8, and some codecs take minutes.
        """
        self._response = response
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        encoding = self.headers.get("content-encoding", "")
        most = MOST_OF_A_STREAM if self.stream else MOST_OF_A_REPLY
        if self.refused:
            most = MOST_OF_AN_ERROR
        raw = cast("httpx.SyncByteStream", response.stream)
        body = decompressed(bounded(raw, most), encoding)
        if self.refused:
            try:
                text = beginning(body, most).decode("utf-8", "replace")
            finally:
                response.close()
            self.body = parse_body(text)
            return httpx.Response(self.status)
        body = bounded(body, most)
        if self.stream:
            body = events(body, self.hear)
        body = rewritten(body, self._keep, events=self.stream)
        kind = "text/event-stream" if self.stream else "application/json"
        return httpx.Response(
            self.status, headers={"content-type": kind}, stream=Body(body, response.close)
        )

    def hear(self, *, text: bool = False) -> None:
        """Note that data arrived; before the first text, an event never shortens the time."""
        silence = self.timeouts.silence
        self._speaking = self._speaking or text
        if self._speaking or time.monotonic() + silence > self._next_by:
            self._expect(silence, "no data in the stream for")

    def add_time(self, seconds: float) -> None:
        """Move every deadline by the time that the reader of the stream took."""
        self._ends += seconds
        self._next_by += seconds

    def _left(self, until: float) -> float:
        return 0.0 if self.stopped else until - time.monotonic()

    def _expect(self, seconds: float, otherwise: str) -> None:
        """Set the time of the next step; `otherwise` is how the message about a timeout begins."""
        self._next_by = min(self._ends, time.monotonic() + seconds)
        self._late, self._allowed = otherwise, seconds

    def lateness(self) -> str:
        """Which part did not arrive in time, in words."""
        if time.monotonic() >= self._ends:
            return f"no answer within {_in_words(self.timeouts.total)}"
        return f"{self._late} {_in_words(self._allowed)}"

    def close(self) -> None:
        """Drop the connection if the answer was not read to its end.

        The headers of the request are removed, and the response, which refers to them.
        """
        if self._response is not None:
            self._response.close()
            self._response = None
        if self.request is not None:
            # Replaced, because clearing them takes a tenth of a millisecond.
            self.request.headers = httpx.Headers()


class HttpClient:
    """One pool of connections, shared by the threads that use the adapter.

    It adds the key only to requests to the scheme, host and port of the base URL.

    Args:
        base_url: the address of the service.
        key: the key that it expects.
        keep: reduces a reply's JSON to the part that the SDK gets; None for all of it.
    """

    def __init__(self, base_url: str, key: Key, keep: Callable[[Any], Any] | None = None) -> None:
        self._key, self._base_url, self._origin = key, base_url, origin(base_url)
        self._keep = keep
        self._current = threading.local()
        self._client: httpx.Client | None = None
        self._proxy = ""

    @property
    def client(self) -> httpx.Client:
        """The client, built when first asked for; one thread at a time may ask.

        Raises:
            AttemptFailed: a variable of this machine names a proxy or certificates that do not
                work.
        """
        if self._client is None:
            self._client = self._built()
        return self._client

    def _built(self) -> httpx.Client:
        # A proxy cannot reach the loopback addresses of this machine.
        is_remote = not is_loopback(self._base_url)
        is_secure = self._base_url.lower().startswith("https:")
        problem = next(network_variables.proxy_problems(), "") if is_remote else ""
        if problem := problem or (network_variables.certificate_problem() if is_secure else ""):
            raise AttemptFailed(_setup(problem))
        try:
            client = _Client(
                # A redirect could carry the key to another host.
                follow_redirects=False,
                trust_env=is_remote,
                verify=network_variables.trusted_certificates() if is_secure else False,
                limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
                headers={"accept-encoding": ACCEPTED_ENCODINGS},
                event_hooks={"request": [self._before]},
            )
        # Proxy settings of the operating system, if no variable names a proxy.
        except (ValueError, ImportError, httpx.InvalidURL, OSError) as error:
            problem = f"this machine's proxy settings cannot be used: {error}"
            raise AttemptFailed(_setup(problem)) from None
        keep_time(client)
        client.give_answers_to(self._current)
        if uses_proxy(client, self._base_url):
            self._proxy = (
                network_variables.proxy_variable(self._base_url) or "this machine's settings"
            )
        return client

    @contextmanager
    def call(self, timeouts: Timeouts, stream: bool) -> Iterator[Call]:
        """A call whose HTTP request is the next one this thread sends; closed at the end."""
        call = Call(timeouts, stream, self._keep)
        call.client = self
        self._current.call = call
        try:
            with calling_with(self._key):
                yield call
        finally:
            self._current.call = None
            call.close()

    def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            self._client.close()

    @property
    def host(self) -> str:
        """The host that requests go to."""
        return urlsplit(self._base_url).netloc

    @property
    def proxy(self) -> str:
        """The variable or setting that names the proxy; "" without one."""
        return self._proxy

    def _before(self, request: httpx.Request) -> None:
        call: Call = self._current.call
        # Retries and follow-ups are off in every SDK. A second request would spend quota that the
        # ledger does not count.
        if call.sent:
            raise RuntimeError("the SDK sent a second request in one call")
        if not self._origin or origin(str(request.url)) != self._origin:
            raise RuntimeError(
                "the SDK sent the request to another address than the configured one"
            )
        call.request = request
        for name, value in request.headers.multi_items():
            if STAND_IN in value:
                request.headers[name] = value.replace(STAND_IN, self._key.secret())
        # The time starts here, because the first call of an adapter also imports an SDK. Mistral's
        # SDK takes whole milliseconds and Google's a single figure, so all timeouts are set here.
        request.extensions = {**request.extensions, "timeout": call.send()}


class _NoCookies(httpx.Cookies):
    """An empty jar."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Store none: no API needs cookies, and looking for them takes a tenth of a call."""


class _CallTransport(httpx.BaseTransport):
    """Gives each answer to its call before httpx and the SDK can see or log any of it."""

    def __init__(self, transport: httpx.BaseTransport, current: threading.local) -> None:
        self._transport, self._current = transport, current

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call: Call = self._current.call
        return call.take(self._transport.handle_request(request))

    def close(self) -> None:
        self._transport.close()


class _Client(httpx.Client):
    """A client that keeps no cookies."""

    _jar = _NoCookies()

    def give_answers_to(self, current: threading.local) -> None:
        """Give every answer to the call of its thread first, also with a proxy."""
        # If a transport is passed to httpx, it ignores the proxies of the environment.
        self._transport = _CallTransport(self._transport, current)
        for pattern, transport in self._mounts.items():
            if transport is not None:
                self._mounts[pattern] = _CallTransport(transport, current)

    @property
    def cookies(self) -> httpx.Cookies:
        """An empty jar."""
        return self._jar

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise AttributeError("this client keeps no cookies")


def parse_body(text: str) -> Any:
    """JSON if it is JSON, else the text."""
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return text


def transport_failure(error: BaseException, call: Call) -> ProviderFailure | None:
    """The failure if the error comes from the network, else None."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    host, proxy = (call.client.host, call.client.proxy) if call.client else ("", "")
    for link in links:
        if isinstance(link, ssl.SSLError):
            return _tls_failure(link, host)
    for link in links:
        if isinstance(link, httpx.ConnectTimeout):
            return _unsent(f"no connection within {_in_words(call.timeouts.connect)}")
        if isinstance(link, httpx.TimeoutException):
            return ProviderFailure(call.lateness(), Remedy.RETRY_LATER)
        if isinstance(link, httpx.ProxyError):
            if re.match("5[0-9][0-9]", str(link)):
                return _unsent(f"the proxy of {proxy} cannot connect to {host} ({link})")
            return _setup(f"the proxy of {proxy} refused the connection ({link})")
        if isinstance(link, httpx.ConnectError):
            if proxy:
                return _setup(f"no connection to the proxy of {proxy}")
            return _unsent("no connection")
        if isinstance(link, Unreadable):
            return ProviderFailure(str(link), Remedy.RETRY_LATER)
        if isinstance(link, httpx.TransportError | httpx.StreamError):
            return ProviderFailure("connection lost", Remedy.RETRY_LATER)
    return None


# OpenSSL's codes for a certificate without a trusted issuer.
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


def _tls_failure(error: ssl.SSLError, host: str) -> ProviderFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code not in _UNKNOWN_ISSUER:
            return _setup(f"the certificate of {host} is not valid ({error.verify_message})")
        variable = network_variables.certificate_variable()
        trusted = f", which is {os.environ[variable]}" if variable == "SSL_CERT_FILE" else ""
        return _setup(
            f"the certificate of {host} is not trusted ({error.verify_message}); name the file of "
            f"its CA's certificate in SSL_CERT_FILE{trusted}"
        )
    reason = (error.reason or "").replace("_", " ").lower() or "no reason given"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return ProviderFailure(
            f"{host} does not speak TLS; is its address http://?", Remedy.CHECK_ADDRESS, sent=False
        )
    return _unsent(f"the TLS connection to {host} failed ({reason})")


def _setup(problem: str) -> ProviderFailure:
    return ProviderFailure(problem, Remedy.CHECK_SETUP, sent=False)


def _in_words(seconds: float) -> str:
    return f"{round(seconds, 1) or seconds:g} s"


def _unsent(message: str) -> ProviderFailure:
    return ProviderFailure(message, Remedy.RETRY_LATER, sent=False)
