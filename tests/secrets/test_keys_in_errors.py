"""If a server quotes a key in an error, it is not shown, logged or stored."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from echo_server import Echo, echo_server
from leaks import keys_of, leaks_in, leaks_in_folder
from secret_parts import PROVIDERS, all_at

from arche_magic.llm_providers import LLMProviderError, get_llm_provider
from arche_magic.llm_providers.config import load_configuration, use_configuration

Disguise = Callable[[str], str]


def spaced(sign: str) -> Disguise:
    return lambda key: sign.join(key[n : n + 4] for n in range(0, len(key), 4))


def escaped(form: str) -> Disguise:
    return lambda key: "".join(form.format(ord(character)) for character in key)


PROSE: dict[str, Disguise] = {
    "whole": lambda key: key,
    "in a sentence": lambda key: f'Incorrect API key provided: "{key}". See https://e.org/keys.',
    "part": lambda key: f"key ending in {key[-9:]} is refused",
    "shortened": lambda key: f"refused: {key[:7]}…{key[-4:]}",
    "shortened by dots": lambda key: f"refused: {key[:12]}...{key[-8:]}",
    "starred": lambda key: f"refused: {key[:6]}******{key[-4:]}",
    "URL": lambda key: f"https://api.example.org/v1?key={quote(key, safe='')}&alt=sse",
    "JSON in JSON": lambda key: json.dumps({"error": json.dumps({"key": key})}),
}
WITHOUT_PROSE: dict[str, Disguise] = {
    "upper case": str.upper,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "basic": lambda key: "Basic " + base64.b64encode(b"user:" + key.encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(b"x" + key.encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "URL escapes": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "URL escapes twice": lambda key: "".join(f"%25{ord(c):02X}" for c in key),
    "JSON escapes": escaped(r"\u{:04x}"),
    "hex escapes": escaped(r"\x{:02x}"),
    "entities": escaped("&#{};"),
    "hex entities": escaped("&#x{:x};"),
    "spaces": spaced(" "),
    "dashes": spaced("-"),
    "lines": spaced("\n"),
    "quotes": spaced('" + "'),
    "zero width": spaced("\u200b"),
}
DISGUISES = {**PROSE, **WITHOUT_PROSE}


@pytest.fixture(scope="module")
def echoing() -> Iterator[Echo]:
    with echo_server() as echo:
        yield echo


@pytest.fixture
def echo(echoing: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Echo:
    """A server for all four providers, with the first planted key of each."""
    monkeypatch.chdir(tmp_path)
    echoing.received.clear()
    use_configuration(load_configuration(all_at(echoing.url), tmp_path))
    return echoing


def shown_of(provider: str, streamed: bool = False) -> str:
    """Everything that a user sees of a failing request."""
    asked = get_llm_provider(provider)
    asked.quota_tracker.reopen(f"{provider}_key_1")
    with pytest.raises(LLMProviderError) as caught:
        list(asked.stream("Hi", patience=0)) if streamed else asked.generate("Hi", patience=0)
    assert caught.value.attempts
    return "\n".join([str(caught.value), *map(repr, caught.value.attempts)])


def pieces(text: str, size: int = 12) -> set[str]:
    return {text[n : n + size] for n in range(len(text) - size + 1)}


STATUSES = (400, 401, 403, 404, 422, 429, 500)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_quoted_key_is_removed(
    echo: Echo, provider: str, status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be complete, shortened, encoded or split.

    The message explains the failure without it.
    """
    key = keys_of(provider)[0]
    # Each disguise comes with two or three statuses of each provider.
    chosen = list(DISGUISES.items())[STATUSES.index(status) % 3 :: 3]
    with caplog.at_level(logging.DEBUG, logger="arche_magic"):
        for name, disguise in chosen:
            echo.message(disguise, status)
            shown = shown_of(provider)
            assert not leaks_in(shown), (name, shown)
            if name in WITHOUT_PROSE:
                hidden = " ".join(disguise(key).split())
                assert not [p for p in pieces(hidden) if p in shown], (name, shown)
    assert not leaks_in(caplog.text)
    assert leaks_in_folder(tmp_path) == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_rest_of_the_message_is_kept(echo: Echo, provider: str) -> None:
    """Only the word with part of the key is removed."""
    echo.message(lambda key: f"The account of {key} is closed since Monday", 403)
    assert "The account of [key] is closed since Monday" in shown_of(provider)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_in_a_stream_quotes_no_key(echo: Echo, provider: str) -> None:
    """An error with status 200 does not quote it either."""

    def answer(key: str) -> tuple[int, dict[str, str], bytes]:
        error = {"error": {"message": f"broken for {key}", "code": key, "type": key}}
        events = f"event: error\ndata: {json.dumps(error)}\n\n".encode()
        return 200, {"content-type": "text/event-stream"}, events

    echo.answer = answer
    assert not leaks_in(shown_of(provider, streamed=True))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_key_is_sent_only_in_a_header(echo: Echo, provider: str) -> None:
    """The key is not in the URL, which logs and proxies store."""
    echo.message(lambda key: "no")
    shown_of(provider)
    ((path, headers),) = echo.received
    assert not leaks_in(path)
    (key,) = keys_of(provider)[:1]
    assert [name.lower() for name, value in headers.items() if key in value] == (
        ["x-goog-api-key"] if provider == "google" else ["authorization"]
    )
