"""What is logged, and which modules are loaded for one provider."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from provider_parts import PROVIDERS, Clock, Start, run_script

from arche_magic.llm_providers import NoRouteAvailable, get_llm_provider

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox


def test_each_attempt_is_logged_with_its_route_and_outcome(
    start: Start, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged at INFO under `arche_magic`, without the prompt, the reply or a key."""
    sandbox = start(clock=clock)
    sandbox.fail("groq", "echo_key")
    provider = get_llm_provider()
    with caplog.at_level(logging.DEBUG, logger="arche_magic"):
        provider.generate("A secret question", patience=0)
        list(provider.stream("A secret question", patience=0))
    ours = [record for record in caplog.records if record.name.startswith("arche_magic")]
    assert {record.levelno for record in ours} == {logging.INFO}
    lines = [record.getMessage() for record in ours]
    assert lines[0].startswith("groq · key 1 · gpt-oss-120b failed: ")
    assert lines[1] == "mistral · key 1 · mistral-small-latest answered"
    assert lines[2].startswith("groq · key 1 · gpt-oss-120b skipped: ")
    assert lines[3] == "mistral · key 1 · mistral-small-latest answered"
    assert len(lines) == 4
    for key in provider.configuration.keys:
        assert key.secret() not in caplog.text
    assert "secret" not in "".join(lines)
    assert "Simulated" not in "".join(lines)


def test_nothing_is_printed_by_default(sandbox: Sandbox, tmp_path: Path) -> None:
    """A script without logging configured sees only its own output, even after failures."""
    sandbox.fail("groq", "server_error")
    out, err = run_script(
        "from arche_magic.llm_providers import get_llm_provider\n"
        "print(get_llm_provider().generate('Hello').provider)",
        tmp_path,
        sandbox.environment(),
    )
    assert (out.strip(), err) == ("mistral", "")


def test_a_process_prints_nothing_at_its_end(sandbox: Sandbox, tmp_path: Path) -> None:
    """Even if something keeps the script's variables until Python has emptied its modules.

    The same applies to a function of the script that replaces one of the standard library. Then
    other clients print `Exception ignored in: __del__`.
    """
    out, err = run_script(
        "import time\n"
        "real_time = time.time\n"
        "time.time = lambda: real_time()\n"
        "from arche_magic.llm_providers import get_llm_provider\n"
        "provider = get_llm_provider('groq')\n"
        "print(provider.generate('Hello').provider)",
        tmp_path,
        sandbox.environment(),
    )
    assert (out.strip(), err) == ("groq", "")


def test_every_attempt_of_a_failed_request_is_logged(
    start: Start, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempts are those of the error, without the servers' own words."""
    sandbox = start(clock=clock)
    sandbox.fail("*", "no_credit", times=None)
    with (
        caplog.at_level(logging.INFO, logger="arche_magic"),
        pytest.raises(NoRouteAvailable) as caught,
    ):
        get_llm_provider().generate("Hello", patience=0)
    attempts = caught.value.attempts
    assert [str(attempt.without_said()) for attempt in attempts] == caplog.messages
    assert [attempt.provider for attempt in caught.value.attempts] == list(PROVIDERS)


SDKS = {"groq": "groq", "openai": "openai", "mistral": "mistralai", "google": "google.genai"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_reply_loads_only_one_sdk(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    """Programs do not wait for the import of the other three, nor for IPython or pandas."""
    large = [*SDKS.values(), "IPython", "ipywidgets", "pandas"]
    out, _ = run_script(
        "import sys\n"
        "from arche_magic.llm_providers import get_llm_provider\n"
        f"get_llm_provider({name!r}).generate('Hello')\n"
        f"print(*[m for m in {large!r} if m in sys.modules])",
        tmp_path,
        sandbox.environment(),
    )
    assert out.split() == [SDKS[name]]
