"""After an interrupt at any line, `%xmode Verbose` and similar tools print no key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType

import pytest
from echo_server import Echo, echo_server
from interrupting import Interrupter, Point, printed
from IPython.core.ultratb import VerboseTB
from leaks import PLANTED, keys_of, leaks_in
from provider_parts import BASE_URLS

from arche_magic.llm_providers import (
    LLMProviderError,
    MultiKeyGroqProvider,
    attempt,
    get_llm_provider,
    get_quota_tracker,
    secrets,
)
from arche_magic.llm_providers.config import (
    add_key,
    get_configuration,
    keys,
    load_configuration,
    remove_key,
)
from arche_magic.llm_providers.doctor import check_keys

# The number of lines that are tried; each of them needs another call.
LINES = 20
# The functions that clear the local variables of others.
CLEARING = ("hiding", "hiding_locals", "_clear")


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    """A server that quotes the key in each refusal; the environment and a `.env` have the keys."""
    monkeypatch.chdir(tmp_path)
    # An interrupt may come after a key was added and before it was removed.
    monkeypatch.setattr(keys, "_added", ())
    monkeypatch.setenv("GROQ_API_KEY", keys_of("groq")[0])
    monkeypatch.setenv("GOOGLE_API_KEY", keys_of("google")[0])
    monkeypatch.setenv("OPENAI_API_KEY", keys_of("openai")[0])
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "memory://")
    lines = [
        f"MISTRAL_API_KEY={keys_of('mistral')[0]}",
        f"export GROQ_API_KEY_2='{keys_of('groq')[1]}'",
        'BROKEN="not closed',
        "OTHER=${GROQ_API_KEY}x",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    (tmp_path / ".env").chmod(0o600)
    (tmp_path / "arche_magic.toml").write_text("patience = 0\n")
    with echo_server() as server:
        for name in BASE_URLS.values():
            monkeypatch.setenv(name, server.url)
        server.message(lambda key: f"no use of {key}", 403)
        yield server


def load() -> None:
    load_configuration()


def type_a_key() -> None:
    key = add_key(get_configuration(), "openai", keys_of("openai")[1])
    remove_key(get_configuration(), key.label)


def give_keys() -> None:
    MultiKeyGroqProvider(api_keys=keys_of("groq"))
    get_llm_provider("google", api_key=keys_of("google")[1])


def check() -> None:
    configuration = get_configuration()
    check_keys(configuration.keys, get_quota_tracker(configuration))


def ask(provider: str, *, streamed: bool = False, fresh: bool = False) -> None:
    if fresh:
        attempt._adapters.clear()
    llm = get_llm_provider(provider)
    for key in llm.configuration.keys:
        llm.quota_tracker.reopen(key.label)
    with suppress(LLMProviderError):
        list(llm.stream("Hi")) if streamed else llm.generate("Hi")


CALLS: dict[str, Callable[[], object]] = {
    "load": load,
    "type a key": type_a_key,
    "give keys": give_keys,
    "check": check,
    "ask groq": lambda: ask("groq", fresh=True),
    "ask openai": lambda: ask("openai", streamed=True),
    "ask mistral": lambda: ask("mistral"),
    "ask google": lambda: ask("google", streamed=True),
}


def leaking(call: Callable[[], object], of_interest: Callable[[CodeType], bool]) -> list[str]:
    """The lines at which an interrupt would print a key."""
    call()
    interrupter, found = Interrupter(call, of_interest), []
    points = interrupter.points()
    chosen: list[Point] = points[:: 1 + len(points) // LINES]
    for number, at in enumerate(chosen):
        error = interrupter.interrupted_at(at)
        if error is None:
            continue
        texts = [printed(error)]
        if number % 20 == 0:
            verbose = VerboseTB(theme_name="nocolor")
            texts.append(verbose.text(type(error), error, error.__traceback__))
        found += [f"{at}: {leak}" for text in texts for leak in leaks_in(text, PLANTED)]
    return found


def clears_frames(code: CodeType) -> bool:
    # A key that a program passes in its own code is in the program's frame, and in that of the
    # called function until it begins.
    return code.co_filename == secrets.__file__ and code.co_name in CLEARING


def ours(code: CodeType) -> bool:
    parts = Path(code.co_filename).parts
    return "arche_magic" in parts and "sandbox" not in parts and not clears_frames(code)


def everybodys(code: CodeType) -> bool:
    file = code.co_filename
    library = not file.startswith("<") and "tests" not in Path(file).parts
    return library and not file.endswith("threading.py") and not clears_frames(code)


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_our_lines_prints_no_key(echo: Echo, name: str) -> None:
    """Keys are read, typed, checked and sent, and refusals that quote them are read."""
    assert leaking(CALLS[name], ours) == []


@pytest.mark.parametrize("name", ["load", "ask groq"])
def test_an_interrupt_in_libraries_below_prints_no_key(echo: Echo, name: str) -> None:
    """The frames are those of the standard library, dotenv, httpx and the SDKs."""
    assert leaking(CALLS[name], everybodys) == []


def test_the_search_finds_planted_keys(echo: Echo) -> None:
    """It finds a frame that contains the environment or a key."""

    def careless() -> None:
        environment = os.environ
        key = environment["GROQ_API_KEY"]
        del key

    assert leaking(careless, lambda code: code.co_filename == __file__)
