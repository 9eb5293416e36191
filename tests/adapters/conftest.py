"""A sandbox with one key per provider, and a server with scripted answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Imported here, because on a busy machine an import can exceed the ten seconds of a call.
import google.genai  # noqa: F401
import groq  # noqa: F401
import mistralai.client  # noqa: F401
import openai  # noqa: F401
import pytest
from adapter_calls import SECRET, WIRES, Build, Script, ScriptedHandler, sandbox_adapter
from loopback import serving

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.adapters.adapter import Adapter
from arche_magic.llm_providers.types import Key
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    unlimited = {wire: {"requests_per_minute": None, "requests_per_day": None} for wire in WIRES}
    with Sandbox(keys=dict.fromkeys(WIRES, 1), limits=unlimited) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    running_sandbox.reset()
    return running_sandbox


@pytest.fixture(scope="session")
def adapters(running_sandbox: Sandbox) -> Iterator[dict[str, Adapter]]:
    """One adapter per wire, connected to the sandbox."""
    built = {wire: sandbox_adapter(running_sandbox, wire) for wire in WIRES}
    yield built
    for adapter in built.values():
        adapter.close()


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[Script]:
    script = Script()
    handler = type("Handler", (ScriptedHandler,), {"script": script})
    with serving(handler) as script.url:
        yield script
        script.left.set()


@pytest.fixture
def script(scripted_server: Script) -> Script:
    """A server with scripted answers, for cases that the sandbox does not simulate."""
    scripted_server.received.clear()
    scripted_server.connections.clear()
    scripted_server.left.clear()
    return scripted_server


@pytest.fixture(scope="session")
def build(scripted_server: Script) -> Iterator[Build]:
    """Adapters for the scripted server, one per wire."""
    built: dict[str, Adapter] = {}

    def get(wire: str) -> Adapter:
        if wire not in built:
            key = Key.of(wire, f"{wire}_key_1", SECRET)
            built[wire] = build_adapter(wire, key, scripted_server.url)
        return built[wire]

    yield get
    for adapter in built.values():
        adapter.close()
