"""Ways in which an asyncio program stops a request that has been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  # the sandbox runs in its own threads
        await asyncio.sleep(0.01)


async def cancelled(request: Awaitable[Any], sent: Callable[[], bool]) -> None:
    """Cancel the request."""
    task = asyncio.ensure_future(request)
    await until(sent)
    task.cancel()
    await task


async def timed_out(request: Awaitable[Any], sent: Callable[[], bool]) -> None:
    """Let the timeout of a block expire."""
    async with asyncio.timeout(None) as limit:
        waiting = asyncio.ensure_future(request)
        await until(sent)
        limit.reschedule(asyncio.get_running_loop().time())
        await waiting
