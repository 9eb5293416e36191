"""The list of models, which shows at no cost whether a key is valid."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from adapter_calls import MODELS, SECRET, WIRES, sandbox_adapter
from loopback import Handler, full_queue, serving

from arche_magic.llm_providers.adapters import build_adapter
from arche_magic.llm_providers.provider_failure import AttemptFailed, Remedy
from arche_magic.llm_providers.types import Key

if TYPE_CHECKING:
    from arche_magic.llm_providers.adapters import Adapter
    from arche_magic.sandbox import Sandbox


@pytest.mark.parametrize("wire", WIRES)
def test_a_key_lists_its_models(adapters: dict[str, Adapter], sandbox: Sandbox, wire: str) -> None:
    """The names work in requests, and listing them is not counted."""
    assert MODELS[wire] in adapters[wire].models(10)
    assert sandbox.usage() == {}
    assert sandbox.requests == ()


@pytest.mark.parametrize("wire", WIRES)
def test_an_unknown_key_is_refused(sandbox: Sandbox, wire: str) -> None:
    """The error says to replace the key, and does not repeat it."""
    known = sandbox_adapter(sandbox, wire)
    base_url = known._base_url  # type: ignore[attr-defined]
    adapter = build_adapter(wire, Key.of(wire, f"{wire}_key_9", SECRET), base_url)
    with pytest.raises(AttemptFailed, match="key refused") as failure:
        adapter.models(10)
    adapter.close()
    known.close()
    assert failure.value.failure.remedy is Remedy.REPLACE_KEY
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["overloaded", "plain_text_error", "reset", "malformed_body"])
def test_failures_unrelated_to_the_key_are_retried_later(
    adapters: dict[str, Adapter], sandbox: Sandbox, wire: str, kind: str
) -> None:
    """Outages, proxy pages and malformed answers do not close the key."""
    sandbox.fail(wire, kind)
    with pytest.raises(AttemptFailed) as failure:
        adapters[wire].models(10)
    assert failure.value.failure.remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("wire", WIRES)
def test_a_missing_list_times_out(
    adapters: dict[str, Adapter], sandbox: Sandbox, wire: str
) -> None:
    """The call ends after the given time."""
    sandbox.fail(wire, "stall")
    with pytest.raises(AttemptFailed, match=r"no answer within 0\.3 s"):
        adapters[wire].models(0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse what they cannot queue")
def test_the_time_for_a_connection_is_at_most_that_of_the_call() -> None:
    """The error names the time that the call really had."""
    with full_queue() as url:
        adapter = build_adapter("groq", Key.of("groq", "groq_key_1", SECRET), url)
        with pytest.raises(AttemptFailed, match=r"no connection within 0\.3 s"):
            adapter.models(0.3)
        adapter.close()


class _SparseLists(Handler):
    def do_GET(self) -> None:
        cards = [{"id": "m-1", "name": "models/m-1"}, {}, {"id": None, "name": None}]
        cards += [{"id": "m-2", "name": "models/m-2", "type": "new", "capabilities": 7}]
        name = "models" if "v1beta" in self.path else "data"
        self.answer(200, json.dumps({name: cards}).encode())


@pytest.mark.parametrize("wire", ["mistral", "google"])
def test_entries_that_the_sdk_does_not_know_are_listed(wire: str) -> None:
    """Only the names are read, and entries without a name are left out."""
    with serving(_SparseLists) as url:
        adapter = build_adapter(wire, Key.of(wire, f"{wire}_key_1", SECRET), url)
        assert adapter.models(10) == ("m-1", "m-2")
        adapter.close()
