"""No key is in the published files: the repository, and the built site."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from leaks import PLANTED

ROOT = Path(__file__).parents[2]
# The formats of the services. Keys made up for a test say so, or are shorter.
KEYS = {
    "Groq": r"\bgsk_[A-Za-z0-9]{40,}",
    "Google": r"\bAIza[A-Za-z0-9_-]{35}",
    "Google, since 2026": r"\bAQ\.[A-Za-z0-9_-]{40,}",
    "OpenAI, Anthropic, OpenRouter, DeepSeek": r"\bsk-[A-Za-z0-9_-]{32,}",
    "Cerebras": r"\bcsk-[a-z0-9]{40,}",
    "Together": r"\btgp_v1_[A-Za-z0-9_-]{40,}",
    "Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})",
    "AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Slack": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "PyPI": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{15,}",
    "a password in an address": r"\b[a-z]+://[^\s/:@\"'{}<>]*:[^\s/:@\"'{}<>]{6,}@[\w.-]+\.[a-z]{2,}",
}
MADE_UP = re.compile(
    r"made.?up|example|sandbox|invented|placeholder|0123456789|x{6}", re.IGNORECASE
)


def found_in(text: str) -> list[str]:
    """All texts that look like a key, by the service they would belong to."""
    return [
        f"{whose}: {match[0][:12]}…"
        for whose, pattern in KEYS.items()
        for match in re.finditer(pattern, text)
        if not MADE_UP.search(match[0])
    ]


def scanned(files: list[Path]) -> list[str]:
    found = []
    for file in files:
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file}: {what}" for what in found_in(text)]
    return found


def test_no_file_of_the_repository_holds_a_key() -> None:
    """This includes notebooks and pictures."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    names = [name for name in listed.split("\0") if name]
    if not names:
        pytest.skip("no repository of git is here")
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert len(files) > 300
    assert scanned(files) == []


def test_no_page_of_the_site_holds_a_key(built_site: Path) -> None:
    """This includes what the generator adds."""
    files = [file for file in built_site.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert scanned(files) == []


@pytest.mark.parametrize("label", ["groq_key_1", "google_key_1", "google_key_2", "openai_key_1"])
def test_the_search_finds_planted_keys(label: str) -> None:
    """A search proves nothing unless it finds planted keys."""
    assert found_in(f"key = {PLANTED[label]!r}")
