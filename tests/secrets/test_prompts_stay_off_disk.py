"""If a server quotes the prompt in a refusal, it may be shown, but is not stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from echo_server import Echo, echo_server
from secret_parts import PROVIDERS, all_at

import arche_magic
from arche_magic.llm_providers import LLMProviderError, get_llm_provider
from arche_magic.llm_providers.config import get_configuration

PROMPT = "my grandmother's diary"


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    """A server for all four providers; the working directory belongs to the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arche_magic.toml").write_text("patience = 0\n")
    with echo_server() as server:
        for name, value in all_at(server.url).items():
            monkeypatch.setenv(name, value)
        yield server


def written(folder: Path) -> list[str]:
    """The files below a folder that contain the prompt."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in found if PROMPT.encode() in path.read_bytes()]


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refusal_that_quotes_the_prompt_is_not_stored(
    echo: Echo, tmp_path: Path, provider: str, status: int
) -> None:
    """The prompt is not in the ledger, the record of attempts, or the failures of a job."""
    echo.message(lambda key: f"no use of {PROMPT}", status)
    with pytest.raises(LLMProviderError) as raised:
        get_llm_provider(provider).generate(PROMPT)
    if status in (400, 422):
        assert PROMPT in str(raised.value)
    arche_magic.map([PROMPT, "another"], provider=provider, patience=0, allow_paid=True)
    assert (get_configuration().replies.parent / "llm_calls.jsonl").exists()
    assert not written(tmp_path)


def test_refusals_of_several_routes_are_not_stored(
    echo: Echo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One message has them all, without their full stops; some begin alike. Nor are they logged."""
    caplog.set_level(logging.DEBUG, "arche_magic")
    texts = iter(range(100))
    echo.message(lambda key: f"no use{f' of {PROMPT}.' if next(texts) % 2 else ''}", 400)
    frame = arche_magic.map([PROMPT, "another"], patience=0, allow_paid=True)
    assert frame["error"].str.contains(PROMPT).all()
    assert not written(tmp_path)
    assert "request refused" in caplog.text
    assert PROMPT not in caplog.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_names_that_quote_the_prompt_are_not_stored(
    echo: Echo, tmp_path: Path, provider: str
) -> None:
    """Names of accounts, reasons and limits, as each provider states them."""
    kind = "type.googleapis.com/google.rpc"
    details = [
        {"@type": f"{kind}.ErrorInfo", "reason": f"API_KEY_{PROMPT}",
         "metadata": {"consumer": f"projects/{PROMPT}"}},
        {"@type": f"{kind}.QuotaFailure",
         "violations": [{"quotaId": f"{PROMPT}PerDay", "quotaValue": "5", "quotaMetric": PROMPT}]},
    ]  # fmt: skip
    names = ("openai-organization", "openai-project", "x-request-id", "retry-after", "date")
    headers = {"content-type": "application/json", **dict.fromkeys(names, PROMPT)}
    message = f"Rate limit reached in organization `org_{PROMPT}` on tokens per {PROMPT} (TPM)"
    for status in (400, 429, 500):
        error = {"message": message, "details": details, "code": PROMPT}
        body = json.dumps({"error": error}).encode()
        echo.answer = lambda key, status=status, body=body: (status, headers, body)  # type: ignore[misc]
        with pytest.raises(LLMProviderError):
            get_llm_provider(provider).generate(PROMPT)
        get_llm_provider(provider).quota_tracker.reopen(f"{provider}_key_1")
    assert not written(tmp_path)
