"""What the tests of jobs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox


def prompts(sandbox: Sandbox) -> list[str]:
    """The last message of each request that reached a provider, sorted."""
    found = []
    for request in sandbox.requests:
        if "contents" in request.body:
            found.append(request.body["contents"][-1]["parts"][0]["text"])
        elif "messages" in request.body:  # it is cut where a client was killed while it sent
            found.append(request.body["messages"][-1]["content"])
    return sorted(found)
