"""The connections of an adapter: calls share them, and each call keeps to its own timeout.

httpx understands a timeout as seconds of silence. A server that sends a byte now and then, a host
with many addresses or a name lookup without an answer can extend it without limit. This module
checks the remaining time of the call before each step.

httpcore's pool looks at all of its connections, and for each idle one at all others, whenever a
request begins or ends (`_assign_requests_to_connections`, httpcore 1.0.9). With 128 threads that is
three quarters of a call's time. Each pool here has one origin, so any idle connection will do.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import httpcore

from ..bounded import TookTooLong, within
from ..processes import new_lock
from ..stopping import is_main_thread

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")
Send = Callable[[httpcore.Request], httpcore.Response]
Exchange = Callable[[httpcore.Request, Send], httpcore.Response]

IDLE_SECONDS = 5.0
"""How long an idle connection stays open."""

# The time is checked after this many bytes are sent.
_BYTES_PER_WRITE = 65_536
# How often a reader checks whether another thread has stopped its call.
_WATCH_SECONDS = 0.1
_CLOSE = methodcaller("close")


def _most_idle() -> int:
    """As many as a job has threads, but at most a quarter of the process's limit of open files."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return 256
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 256 if allowed == resource.RLIM_INFINITY else max(1, min(256, allowed // 4))


# Maximum idle connections of all adapters together. Each key has its own adapter.
_MOST_IDLE = _most_idle()
# Every idle connection, with the idle connections of its adapter and the time since when it is
# idle. The one that has been idle for longest is first.
_idle: dict[httpcore.ConnectionInterface, tuple[dict[Any, None], float]] = {}
_idle_lock = new_lock()


@dataclass(frozen=True)
class Allowance:
    """Stands in for a timeout in seconds: httpcore only passes it on to the steps of a call.

    Attributes:
        left: returns the seconds that are left.
        watched: whether the call may be stopped at any moment, so that `left` is also checked while
            a step waits.
    """

    left: Callable[[], float]
    watched: bool


Timeout = float | Allowance | None


def keep_time(client: httpx.Client, exchange: Exchange) -> None:
    """Make every connection of a client keep to the allowances of its calls.

    `exchange` is called with each request and a function that sends it, and returns what httpx
    gets.
    """
    backend = _Network()
    transports: list[Any] = [client._transport, *client._mounts.values()]
    for transport in transports:
        # httpcore's pools accept a backend, but httpx has no parameter for it.
        if pool := getattr(transport, "_pool", None):
            pool._network_backend = backend
            transport._pool = Connections(pool, exchange)


class _Network(httpcore.SyncBackend):
    """Opens connections; the name lookup and all addresses of a host share the time."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Timeout = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that answers."""
        failure: Exception = httpcore.ConnectError("the host has no address")
        addresses = _addresses(host, port, timeout)
        for tried, address in enumerate(addresses):
            share = _seconds(timeout, httpcore.ConnectTimeout)
            if share is not None:
                share /= len(addresses) - tried
            connect = partial(
                super().connect_tcp, address, port, share, local_address, socket_options
            )
            try:
                connection = _watched(connect, timeout, httpcore.ConnectTimeout, _CLOSE)
                return _Stream(connection)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore.NetworkStream):
    """A connection whose steps keep to the remaining time.

    It sends the head and the body of a request together, which httpcore writes one after the other.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._unsent = bytearray()

    def read(self, max_bytes: int, timeout: Timeout = None) -> bytes:
        # A server may refuse a request before it has read all of it: what it says comes next.
        with suppress(httpcore.WriteError):
            self._send(timeout)
        watched = _is_watched(timeout)
        while (seconds := _seconds(timeout, httpcore.ReadTimeout)) is not None and watched:
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, min(seconds, _WATCH_SECONDS))
        return self._stream.read(max_bytes, seconds)

    def write(self, buffer: bytes, timeout: Timeout = None) -> None:
        self._unsent += buffer
        if len(self._unsent) > _BYTES_PER_WRITE:
            self._send(timeout)

    def _send(self, timeout: Timeout) -> None:
        unsent, self._unsent = bytes(self._unsent), bytearray()
        for start in range(0, len(unsent), _BYTES_PER_WRITE):
            part = unsent[start : start + _BYTES_PER_WRITE]
            seconds = _seconds(timeout, httpcore.WriteTimeout)
            _watched(partial(self._stream.write, part, seconds), timeout, httpcore.WriteTimeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: Timeout = None,
    ) -> httpcore.NetworkStream:
        seconds = _seconds(timeout, httpcore.ConnectTimeout)
        start = partial(self._stream.start_tls, ssl_context, server_hostname, seconds)
        return _Stream(_watched(start, timeout, httpcore.ConnectTimeout, _CLOSE))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _watched(
    step: Callable[[], T],
    timeout: Timeout,
    late: type[Exception],
    unclaimed: Callable[[T], object] | None = None,
) -> T:
    """Run a step that has its own timeout, and abandon it if another thread stops the call."""
    # In the main thread, an interrupt ends the step itself and leaves no connection behind.
    if not _is_watched(timeout) or is_main_thread():
        return step()
    try:
        return within(math.inf, step, unclaimed, stopped=lambda: _is_over(timeout))
    except TookTooLong:
        raise late("the time is up") from None


def _is_watched(timeout: Timeout) -> bool:
    return isinstance(timeout, Allowance) and timeout.watched


def _is_over(timeout: Timeout) -> bool:
    return isinstance(timeout, Allowance) and timeout.left() <= 0


def _seconds(timeout: Timeout, late: type[Exception]) -> float | None:
    """The seconds that are left of a timeout; raises `late` if there are none."""
    if not isinstance(timeout, Allowance):
        return timeout
    left = timeout.left()
    if left <= 0:
        raise late("the time is up")
    return left


def _addresses(host: str, port: int, timeout: Timeout) -> list[str]:
    """The addresses of a host. A lookup takes no timeout, and may hang for minutes."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    seconds = _seconds(timeout, httpcore.ConnectTimeout)
    lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    longest = math.inf if seconds is None else seconds
    try:
        found = within(longest, lookup, stopped=lambda: _is_over(timeout))
    except TookTooLong:
        raise httpcore.ConnectTimeout("no answer to the name lookup") from None
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Connections:
    """The connections of one HTTP transport; stands in for its `pool`, which opens them.

    `exchange` is as in `keep_time`.
    """

    def __init__(self, pool: httpcore.ConnectionPool, exchange: Exchange) -> None:
        self._pool, self._exchange = pool, exchange
        # This adapter's connections in `_idle`; `popitem` returns the one that was added last.
        self._own: dict[httpcore.ConnectionInterface, None] = {}

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Return what httpx gets as the response to a request."""
        return self._exchange(request, self._send)

    def _send(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; the connection is idle again once the response is closed."""
        connection = self._take(request.url.origin)
        try:
            response = connection.handle_request(request)
        except BaseException:  # an interrupt must not leave a connection open either
            connection.close()
            raise
        stream = cast("Iterable[bytes]", response.stream)
        response.stream = _Body(stream, lambda: self._give_back(connection))
        return response

    def close(self) -> None:
        """Close the idle connections."""
        while (connection := self._pop()) is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        while (connection := self._pop()) is not None:
            if connection.can_handle_request(origin) and not connection.has_expired():
                return connection
            connection.close()
        return self._pool.create_connection(origin)

    def _pop(self) -> httpcore.ConnectionInterface | None:
        with _idle_lock:
            if not self._own:
                return None
            connection, _ = self._own.popitem()
            # After an interrupt, it may be in only one of the two.
            _idle.pop(connection, None)
            return connection

    def _give_back(self, connection: httpcore.ConnectionInterface) -> None:
        if not connection.is_idle() or _has_more_data(connection):
            connection.close()
            return
        now, unused = time.monotonic(), []
        with _idle_lock:
            self._own[connection] = None
            _idle[connection] = self._own, now
            while True:
                oldest, (own, since) = next(iter(_idle.items()))
                if len(_idle) <= _MOST_IDLE and now - since < IDLE_SECONDS:
                    break
                del _idle[oldest]
                own.pop(oldest, None)
                unused.append(oldest)
        for oldest in unused:
            oldest.close()


def _has_more_data(connection: object) -> bool:
    """Whether data came after the response, which would be read as the next response.

    httpcore looks only for data that has not been read from the socket.
    """
    # Connections through a proxy have one or two others inside.
    while (inner := getattr(connection, "_connection", None)) is not None:
        connection = inner
    state = getattr(connection, "_h11_state", None)
    return state is not None and bool(state.trailing_data[0])


class _Body:
    """The body of a response; `done` is called once, when it is closed."""

    def __init__(self, stream: Iterable[bytes], done: Callable[[], None]) -> None:
        self._stream, self._done = stream, done
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except BaseException:  # an interrupt must not leave a connection open either
            self.close()
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if close := getattr(self._stream, "close", None):
                close()
            self._done()
