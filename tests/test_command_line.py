"""`python -m arche_magic`, for people outside notebooks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from arche_magic.__main__ import main
from arche_magic.llm_providers import get_llm_provider
from arche_magic.sandbox import Sandbox


def test_quota_prints_a_line_per_limit(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the kernels of this folder spent is in the table."""
    get_llm_provider("groq").generate("Say hello.")
    assert main(["quota", "groq"]) == 0
    table = capsys.readouterr().out
    assert "groq · key 1 · gpt-oss-120b" in table
    assert "requests/day" in table
    assert "mistral" not in table


def test_quota_as_json_is_the_usage_summary(sandbox_env: Sandbox) -> None:
    """A script reads the figures from standard output, times as ISO text."""
    get_llm_provider("groq").generate("Say hello.")
    done = subprocess.run(
        [sys.executable, "-m", "arche_magic", "quota", "--json"],
        capture_output=True, text=True, check=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert set(summary) == {"groq", "mistral", "google", "openai"}
    assert summary["groq"]["groq_key_1"]["requests_per_day"]["used"] == pytest.approx(1, abs=0.1)
    assert summary["groq"]["groq_key_1"]["requests_per_day"]["reset_time"].endswith("+00:00")


def test_reset_reopens_a_key_that_was_refused(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that works again is asked again after `quota reset`."""
    sandbox_env.fail("openai", "unauthorized", times=1)
    provider = get_llm_provider("openai")
    with pytest.raises(Exception, match="key refused"):
        provider.generate("Say hello.")
    with pytest.raises(Exception, match="key refused"):
        provider.generate("Say hello.")
    assert main(["quota", "reset", "openai_key_1"]) == 0
    assert provider.generate("Say hello.").provider == "openai"
    assert main(["quota", "reset"]) == 2
    assert main(["quota", "reset", "openai_key_9"]) == 1
    assert "openai_key_1" in capsys.readouterr().err


def test_an_unknown_provider_is_one_line(
    sandbox_env: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error gets a hint and no traceback."""
    assert main(["quota", "grok"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
