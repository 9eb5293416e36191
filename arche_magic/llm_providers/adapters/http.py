"""The HTTP client of one adapter, and the status, headers and timeouts of each call on it.

All four SDKs accept an `httpx.Client`, so these are handled here for all of them (mistralai and
google-genai do not wrap transport errors, and return no headers with a reply).

The HTTP libraries and SDKs log status lines and headers as they arrive, and a server may put the
key there. So keys are removed from what they log about our calls; log records of other calls, in a
program that uses the same libraries, are not changed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import httpcore
import httpx

from .. import network
from ..provider_failure import AttemptFailed, Remedy
from ..secrets import quotes, redacted
from ..stopping import KeptInterrupts, is_main_thread, stop_of_this_thread
from .bodies import (
    ACCEPTED_ENCODINGS,
    MOST_OF_A_REPLY,
    MOST_OF_A_STREAM,
    MOST_OF_AN_ERROR,
    beginning,
    bounded,
    decompressed,
    events,
    parse_body,
    rewritten,
)
from .connections import IDLE_SECONDS, Allowance, Send, keep_time
from .failures import duration_in_words, unsent
from .formats import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..types import Key, Timeouts

T = TypeVar("T")
_LIBRARIES = (
    "httpx", "httpx2", "httpcore", "httpcore2", "openai", "groq", "mistralai", "google_genai",
)  # fmt: skip
_END = object()
# A new connection to a provider takes longer.
_END_SECONDS = 0.05

STAND_IN = "in-place-of-the-key"
"""The key that SDKs are given.

The real key replaces it in the headers when a request is sent. So no object, log line or error of
an SDK contains the key, and an SDK that asks another address cannot send it there.
"""

_STAND_IN = STAND_IN.encode()
# `keys` are those of this thread's calls in progress.
_calls = threading.local()


def _clean(record: logging.LogRecord) -> bool:
    """Clean a log record that quotes a key. Returns True, because no record is dropped."""
    for key in getattr(_calls, "keys", ()):
        if record.exc_info and record.exc_info[0]:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            if quotes(text, key.secret()):
                record.msg = f"{record.getMessage()} ({record.exc_info[0].__name__})"
                record.args, record.exc_info, record.exc_text = (), None, None
        if quotes(text := record.getMessage(), key.secret()):
            record.msg, record.args = redacted(text, key.secret()), ()
    return True


def clean_logs() -> None:
    """Clean the logs of all libraries imported so far; call it again after importing an SDK."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_clean)


class Call:
    """One call in progress: what has arrived, and how long the next step may take.

    The key of `client` is kept out of the logs of this thread until the end of the `with`.

    Attributes:
        client: the HTTP client that makes the call.
        timeouts: `total` is what the call as a whole may take.
        stream: whether the answer is to come in events.
        status: HTTP status, or None before there is an answer.
        headers: response headers, names in lower case.
        body: of an answer other than 2xx: parsed JSON, else text, else None.
        asked: the model, how the request asks for JSON, and whether it has a system prompt.
        interrupts: the context in which SDK code runs, so that no interrupt is lost.
    """

    def __init__(self, client: HttpClient, timeouts: Timeouts, stream: bool) -> None:
        self.client, self.timeouts, self.stream = client, timeouts, stream
        # Streams of one thread may end in any order, even in another thread.
        self._keys_in_use: list[Key] = _calls.__dict__.setdefault("keys", [])
        self.sent = self._speaking = False
        self._ends = self._connect_by = self._next_by = math.inf
        # How the message about a timeout of the next step begins, and the seconds it had.
        self._late, self._allowed = "no answer within", timeouts.total
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body: Any = None
        self.asked = Asked()
        self._response: httpcore.Response | None = None
        self._stop = stop_of_this_thread()
        self.interrupts = KeptInterrupts()

    def __enter__(self) -> Self:
        self._keys_in_use.append(self.client.key)
        return self

    def __exit__(self, *_: object) -> None:
        self._keys_in_use.remove(self.client.key)
        # If the answer was not read to its end, this drops the connection.
        if self._response is not None:
            self._response.close()
            self._response = None

    @property
    def stopped(self) -> bool:
        """Whether an interrupt came, or another thread has stopped it."""
        return self.interrupts.noted or (self._stop is not None and self._stop.is_set())

    def steps(self, parts: Iterable[T]) -> Iterator[T]:
        """Yield the parts that an SDK reads from the answer; an answer in one piece is one part.

        An interrupt ends each step immediately.
        """
        step = iter(parts)
        while True:
            with self.interrupts:
                part = next(step, _END)
            if part is not _END:
                yield cast("T", part)
            if part is _END or not self.stream:
                return

    @property
    def refused(self) -> bool:
        """Whether the answer has a status other than 2xx; some gateways send replies with 201."""
        return self.status is not None and not 200 <= self.status < 300

    @property
    def is_html(self) -> bool:
        """Whether its headers say that it is a web page."""
        return self.headers.get("content-type", "").startswith("text/html")

    def send(self) -> Mapping[str, Allowance]:
        """Start the timeouts, and return them by their names in httpcore."""
        self.sent = True
        now, timeouts = time.monotonic(), self.timeouts
        self._ends = now + timeouts.total
        self._connect_by = min(self._ends, now + timeouts.connect)
        self._expect(timeouts.first_token if self.stream else timeouts.answer, "no answer within")
        watched = self._stop is not None or is_main_thread()
        left = Allowance(lambda: self._left(self._next_by), watched=watched)
        connect = Allowance(lambda: self._left(self._connect_by), watched=watched)
        return {"connect": connect, "read": left, "write": left}

    def take(self, response: httpcore.Response) -> httpcore.Response:
        """Note the response; returns the part of it that the SDK gets.

        That is the status, 200 for all of 2xx, and then the body up to a maximum size. The rest may
        quote the key or the prompt, and SDKs log and quote it. The charset is removed too: JSON and
        events are UTF-8, and some codecs take minutes.
        """
        self._response = response
        self.status = response.status
        self.headers = dict(httpx.Headers(response.headers).items())
        encoding = self.headers.get("content-encoding", "")
        most = MOST_OF_A_STREAM if self.stream else MOST_OF_A_REPLY
        if self.refused:
            most = MOST_OF_AN_ERROR
        body = bounded(cast("Iterable[bytes]", response.stream), most)
        if encoding:
            body = bounded(decompressed(body, encoding, self.expect_end), most)
        if self.refused:
            try:
                text = beginning(body, most).decode("utf-8", "replace")
            finally:
                response.close()
            self.body = parse_body(text)
            return httpcore.Response(self.status)
        if self.stream:
            body = events(body, self.hear, self.expect_end)
        body = rewritten(body, self.client.keep, events=self.stream)
        kind = b"text/event-stream" if self.stream else b"application/json"
        return httpcore.Response(200, headers=[(b"content-type", kind)], content=body)

    def hear(self, *, text: bool = False) -> None:
        """Note that data arrived; before the first text, an event never shortens the time."""
        silence = self.timeouts.silence
        self._speaking = self._speaking or text
        if self._speaking or time.monotonic() + silence > self._next_by:
            self._expect(silence, "no data in the stream for")

    def expect_end(self) -> None:
        """Allow only a moment from now on, for the end of a message whose content has arrived."""
        self._next_by = min(self._next_by, time.monotonic() + _END_SECONDS)

    def add_time(self, seconds: float) -> None:
        """Move every deadline by the time that the reader of the stream spent."""
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
            return f"no answer within {duration_in_words(self.timeouts.total)}"
        return f"{self._late} {duration_in_words(self._allowed)}"


class HttpClient:
    """One pool of connections, shared by the threads that use the adapter.

    It adds the key only to requests to the scheme, host and port of the base URL.

    Attributes:
        key: the key that the service expects.
        keep: reduces a reply's JSON to the part that the SDK gets; None for all of it.
        host: the host that requests go to.
        proxy: the variable or setting that names the proxy; "" without one.
    """

    def __init__(self, base_url: str, key: Key, keep: Callable[[Any], Any] | None = None) -> None:
        self.key, self.keep, self._base_url = key, keep, base_url
        self._current = threading.local()
        self._client: httpx.Client | None = None
        self._origin: httpcore.Origin | None = None
        self.host = urlsplit(base_url).netloc
        self.proxy = ""

    def open(self) -> httpx.Client:
        """Return the client that an SDK uses.

        Raises:
            AttemptFailed: a variable of this machine names a proxy or certificates that do not
                work.
        """
        if problem := network.problem_of(self._base_url):
            raise AttemptFailed(unsent(problem, Remedy.CHECK_SETUP))
        url = httpx.URL(self._base_url)
        self._origin = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"/"
        ).origin
        is_secure = self._base_url.lower().startswith("https:")
        proxy = network.proxy_of(self._base_url)
        client = self._client = httpx.Client(
            # A redirect could carry the key to another host.
            follow_redirects=False,
            trust_env=False,
            proxy=proxy or None,
            verify=network.trusted_certificates() if is_secure else False,
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
            headers={"accept-encoding": ACCEPTED_ENCODINGS},
        )
        keep_time(client, self.send)
        client._cookies = _NoCookies()
        if proxy:
            self.proxy = network.proxy_variable(self._base_url) or "this machine's settings"
        return client

    def call(self, timeouts: Timeouts, stream: bool) -> Call:
        """A call whose HTTP request is the next one this thread sends; to be used with `with`."""
        # It stays the current call after it has ended: garbage collection can end an abandoned
        # stream at any moment, and must not affect a call that has begun since.
        call = self._current.call = Call(self, timeouts, stream)
        return call

    def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            self._client.close()

    def send(self, request: httpcore.Request, send: Send) -> httpcore.Response:
        """Send the request of this thread's call with the key; returns what the SDK gets.

        Called below httpx and the SDK, so that they see no key and can log nothing of an answer.
        """
        call: Call = self._current.call
        # Retries and follow-ups are off in every SDK. A second request would spend quota that the
        # ledger does not count.
        if call.sent:
            raise RuntimeError("the SDK sent a second request in one call")
        if request.url.origin != self._origin:
            raise RuntimeError(
                "the SDK sent the request to another address than the configured one"
            )
        # The time starts here, because the first call of an adapter also imports an SDK. Mistral's
        # SDK takes whole milliseconds and Google's a single figure, so all timeouts are set here.
        request.extensions = {**request.extensions, "timeout": call.send()}
        stand_in, secret = request.headers, self.key.secret().encode()
        request.headers = [(name, value.replace(_STAND_IN, secret)) for name, value in stand_in]
        try:
            return call.take(send(request))
        finally:
            request.headers = stand_in


class _NoCookies(httpx.Cookies):
    """Stays empty: no API needs cookies, and looking for them takes a tenth of a call."""

    def __bool__(self) -> bool:
        return False

    def extract_cookies(self, response: httpx.Response) -> None:
        pass
