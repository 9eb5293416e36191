"""A key goes to its provider's address and to no other, and never into a prompt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from echo_server import Echo, echo_server
from leaks import PLANTED, keys_of, leaks_in, leaks_in_folder
from provider_parts import BASE_URLS, PROVIDERS
from secret_parts import all_at, loud_environment

from arche_magic.llm_providers import InvalidRequest, NoRouteAvailable, get_llm_provider
from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.sandbox import Sandbox


@pytest.fixture
def home() -> Iterator[Echo]:
    with echo_server() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Echo]:
    with echo_server() as server:
        yield server


@pytest.fixture
def at_home(home: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Echo:
    """The configured address of all four providers."""
    monkeypatch.chdir(tmp_path)
    use_configuration(load_configuration(all_at(home.url), tmp_path))
    return home


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_redirect_elsewhere_is_not_followed(
    at_home: Echo, elsewhere: Echo, provider: str, streamed: bool, status: int
) -> None:
    """Redirects are never followed, and the error explains the missing reply."""
    at_home.answer = lambda key: (status, {"location": f"{elsewhere.url}/v1?key={key}"}, b"")
    asked = get_llm_provider(provider)
    with pytest.raises(NoRouteAvailable, match="redirected to another address") as caught:
        list(asked.stream("Hi", patience=0)) if streamed else asked.generate("Hi", patience=0)
    assert len(at_home.received) == 1
    assert elsewhere.received == []
    assert not leaks_in(str(caught.value))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_variables_of_the_sdks_are_ignored(
    at_home: Echo, elsewhere: Echo, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that an SDK reads by itself change neither address nor key."""
    at_home.message(lambda key: "no")
    for variable in BASE_URLS.values():
        monkeypatch.setenv(variable, elsewhere.url)
    for name in ("GROQ_API_KEY", "OPENAI_API_KEY", "MISTRAL_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "another-key-of-the-machine")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    with pytest.raises(NoRouteAvailable):
        get_llm_provider(provider).generate("Hi", patience=0)
    assert elsewhere.received == []
    ((_, headers),) = at_home.received
    assert keys_of(provider)[0] in str(headers)
    assert "another-key" not in str(headers)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_without_an_address_the_providers_own_is_used(
    elsewhere: Echo, tmp_path: Path, provider: str
) -> None:
    """Only our variables count, not the environment of the SDK."""
    code = (
        "import sys\n"
        "from arche_magic.llm_providers import get_llm_provider\n"
        "from arche_magic.llm_providers.config import load_configuration, use_configuration\n"
        f"keys = {{'{provider.upper()}_API_KEY': sys.stdin.read()}}\n"
        "use_configuration(load_configuration(keys))\n"
        "try:\n"
        f"    get_llm_provider({provider!r}).generate('Hi', patience=0, timeout=10)\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    # There is no such proxy, so that the request ends before it leaves the machine.
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    variables = dict.fromkeys(BASE_URLS.values(), elsewhere.url)
    done = subprocess.run(
        [sys.executable, "-c", code], input=keys_of(provider)[0], capture_output=True, text=True,
        cwd=tmp_path, env=loud_environment(**proxy, **variables), timeout=120, check=True,
    )  # fmt: skip
    assert "no connection" in done.stdout
    assert elsewhere.received == []
    assert not leaks_in(done.stdout + done.stderr)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "injected",
    [
        "gsk_abcdefgh12345678\r\nHost: evil.example",
        "gsk_abcdefgh\n12345678",
        "gsk_\u201cquoted\u201d",
        "gsk_abc\x00def12345678",
        os.fsdecode(b"gsk_abcdef\xff\xfe12345678"),
        "gsk_tab\there12345678",
        "Bearer gsk_abcdef12345678",
    ],
)
def test_a_key_with_invalid_characters_is_refused(
    home: Echo, tmp_path: Path, provider: str, injected: str
) -> None:
    """Line breaks and other invalid characters are named, and nothing is sent."""
    variables = {
        f"{provider.upper()}_API_KEY": injected,
        BASE_URLS[provider]: home.url,
        "ARCHE_QUOTA_STORE": f"memory://{tmp_path}",
    }
    use_configuration(load_configuration(variables, tmp_path))
    with pytest.raises(
        NoRouteAvailable, match="the key contains a space or another character that no key can have"
    ) as caught:
        get_llm_provider(provider).generate("Hi", patience=0)
    assert home.received == []
    assert "abc" not in str(caught.value)


# --- prompts


def wrapped(key: str) -> str:
    """The text as a terminal or an e-mail wraps it."""
    return "\n  ".join(key[n : n + 20] for n in range(0, len(key), 20))


PROMPTS: dict[str, Any] = {
    "prompt": lambda key: {"prompt": f"What is wrong with GROQ_API_KEY={key}?"},
    "wrapped": lambda key: {"prompt": f"Settings:\n{wrapped(key)}\n"},
    "system": lambda key: {"prompt": "Hello", "system": f"Use {key}."},
    "stop": lambda key: {"prompt": "Hello", "stop": ["END", key]},
    "model": lambda key: {"prompt": "Hello", "model": f"groq/{key}"},
    "long": lambda key: {"prompt": "word " * 100_000 + key + " word" * 100_000},
}


@pytest.mark.parametrize("where", PROMPTS)
@pytest.mark.parametrize("label", [label for label in PLANTED if "_key_" in label])
def test_a_request_with_a_key_is_refused(
    planted: Sandbox, project: Path, where: str, label: str
) -> None:
    """Nothing is sent or kept. The error has the key's label instead of the key."""
    provider = get_llm_provider()
    with pytest.raises(InvalidRequest, match=f"the key {label};") as caught:
        provider.generate(**PROMPTS[where](PLANTED[label]))
    assert not leaks_in(str(caught.value))
    assert caught.value.attempts == ()
    assert planted.requests == ()
    assert provider.get_stats()["total_calls"] == 0
    assert leaks_in_folder(project) == []


def test_a_conversation_with_a_key_is_refused(planted: Sandbox, project: Path) -> None:
    """The key may be in any turn, with or without streaming."""
    key = keys_of("mistral")[0]
    turns = [
        {"role": "user", "content": "What is my key?"},
        {"role": "assistant", "content": f"It is {key}."},
        {"role": "user", "content": "Thank you."},
    ]
    with pytest.raises(InvalidRequest, match="mistral_key_1"):
        get_llm_provider().generate_chat(turns)
    with pytest.raises(InvalidRequest, match="mistral_key_1"):
        list(get_llm_provider().stream(turns))
    assert planted.requests == ()


def test_a_placeholder_key_may_appear_in_a_prompt(tmp_path: Path) -> None:
    """Local services accept any word as a key, and such a word is not secret."""
    with Sandbox(keys={"openai": ["not-needed"]}) as sandbox:
        use_configuration(load_configuration(sandbox.environment(), tmp_path))
        assert get_llm_provider("openai").generate("Why is a key not-needed here?")
