"""Ctrl-C at any moment: at once, with the connection dropped, the tokens booked, nothing torn."""

from __future__ import annotations

from pathlib import Path

import pytest
from provider_parts import Start, run_script

# Sends SIGINT once, while a certain module is being looked for.
INTERRUPTED_IMPORT = """
import os, signal, sys
from arche_magic.llm_providers import get_llm_provider

class Interrupting:
    done = False

    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and not self.done:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupting())
provider = get_llm_provider({provider!r})
try:
    provider.generate("one")
except KeyboardInterrupt:
    print("interrupted")
print(provider.generate("two").provider)
"""


@pytest.mark.parametrize(
    ("provider", "module"),
    [
        ("groq", "asyncio.tasks"),
        ("mistral", "httpx2._urls"),
        ("google", "asyncio.locks"),
        ("openai", "asyncio.queues"),
    ],
)
def test_an_interrupt_never_leaves_half_an_sdk_behind(
    start: Start, tmp_path: Path, provider: str, module: str
) -> None:
    """The first call imports the SDK; interrupted there, the next one finds it whole."""
    code = INTERRUPTED_IMPORT.format(provider=provider, module=module)
    out, _ = run_script(code, tmp_path, start().environment())
    assert out.splitlines() == ["interrupted", provider]
