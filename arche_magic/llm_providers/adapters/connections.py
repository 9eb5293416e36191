"""Open connections that calls share: a call takes one that is idle, or opens one.

httpcore's pool looks at all of its connections, and for each idle one at all others, whenever a
request begins or ends (`_assign_requests_to_connections`, httpcore 1.0.9). With 128 threads that is
three quarters of a call's time. Each pool here has one origin, so any idle connection will do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Self, cast

import httpcore

# As many as a job has threads.
_MOST_IDLE = 256


class Connections:
    """The connections of one HTTP transport; stands in for its pool.

    Args:
        pool: opens connections, through a proxy if it is for one.
    """

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool
        # Used last on the right. Both ends of a deque are safe to use from several threads.
        self._idle: deque[httpcore.ConnectionInterface] = deque()

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; the connection is idle again once the response is closed."""
        connection = self._take(request.url.origin)
        try:
            response = connection.handle_request(request)
        except BaseException:  # an interrupt must not leave a connection open either
            connection.close()
            raise
        body = _Body(cast("Iterable[bytes]", response.stream), lambda: self._give_back(connection))
        return httpcore.Response(
            response.status, headers=response.headers, content=body, extensions=response.extensions
        )

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
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give_back(self, connection: httpcore.ConnectionInterface) -> None:
        if not connection.is_idle() or _has_more_data(connection):
            connection.close()
            return
        self._idle.append(connection)
        if len(self._idle) > 1:
            try:
                # The one that is idle for longest.
                oldest = self._idle.popleft()
            except IndexError:  # other threads took them all meanwhile
                return
            if len(self._idle) >= _MOST_IDLE or oldest.has_expired():
                oldest.close()
            else:
                self._idle.appendleft(oldest)


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
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if close := getattr(self._stream, "close", None):
                close()
            self._done()
