"""Kept replies: a prompt that was asked before is answered from memory, and nothing is sent."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from env_file import write_env_file
from provider_parts import NOON, PROVIDERS, Clock, Start, asked, run_script

from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    NotKept,
    get_llm_provider,
)
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.storage import LedgerWarning

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox


def only_kept() -> None:
    """From now on, this process has no keys and may use only kept replies."""
    configuration = get_configuration()
    use_configuration(replace(configuration, keys=(), replay="only"))


def test_a_repeated_prompt_sends_nothing(start: Start, clock: Clock) -> None:
    """The reply has the same text, route, usage and time."""
    sandbox = start(clock=clock)
    first = get_llm_provider().generate("Hello", keep=True)
    assert first.from_memory is None
    clock.now += 86_400
    again = get_llm_provider().generate("Hello", keep=True)
    assert len(sandbox.requests) == 1
    assert again == first
    assert again.from_memory == datetime.fromtimestamp(NOON, UTC)
    for name in ("provider", "key", "model", "usage", "finish_reason", "cost"):
        assert getattr(again, name) == getattr(first, name)


def test_a_kept_reply_uses_no_quota(start: Start, clock: Clock) -> None:
    """No attempt and no count in the ledger; `get_stats` counts it separately from calls."""
    start(clock=clock)
    provider = get_llm_provider("groq")
    provider.generate("Hello", keep=True)
    before = provider.get_stats()
    again = provider.generate("Hello", keep=True)
    after = provider.get_stats()
    assert again.attempts == ()
    assert (before.pop("from_memory"), after.pop("from_memory")) == (0, 1)
    assert after == before


def test_nothing_is_kept_by_default(sandbox: Sandbox, tmp_path: Path) -> None:
    """Every call asks the provider, and there is no file."""
    provider = get_llm_provider()
    for _ in range(2):
        assert provider.generate("Hello").from_memory is None
    assert len(sandbox.requests) == 2
    assert not list(tmp_path.rglob("*.sqlite"))


def test_fresh_asks_again_and_replaces_the_kept_reply(start: Start) -> None:
    """Later calls get the newer reply."""
    texts = iter(["old", "new"])
    sandbox = start(reply=lambda *_: next(texts))
    provider = get_llm_provider()
    assert provider.generate("Hello", keep=True) == "old"
    assert provider.generate("Hello", keep=True, fresh=True) == "new"
    assert provider.generate("Hello", keep=True) == "new"
    assert len(sandbox.requests) == 2


def test_a_kept_reply_survives_a_failed_fresh_call(sandbox: Sandbox) -> None:
    """It stays until there is a newer one."""
    provider = get_llm_provider()
    kept = provider.generate("Hello", keep=True)
    sandbox.fail("*", "server_error", times=None)
    with pytest.raises(LLMProviderError):
        provider.generate("Hello", keep=True, fresh=True, patience=0)
    assert provider.generate("Hello", keep=True) == kept


def ask_plain(**options: Any) -> Any:
    return get_llm_provider().generate("Hello", **options)


def ask_chat(**options: Any) -> Any:
    return get_llm_provider().generate_chat([{"role": "user", "content": "Hello"}], **options)


def ask_stream(**options: Any) -> Any:
    stream = get_llm_provider().stream("Hello", **options)
    pieces = list(stream)
    assert stream.reply is not None
    assert "".join(pieces) == stream.reply
    return stream.reply


def ask_async(**options: Any) -> Any:
    return asyncio.run(get_llm_provider().agenerate("Hello", **options))


WAYS = [ask_plain, ask_chat, ask_stream, ask_async]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("then", WAYS)
def test_all_ways_of_asking_are_the_same_question(sandbox: Sandbox, first, then) -> None:
    """A prompt can be plain, a chat, streamed or awaited."""
    reply = first(keep=True)
    assert then(keep=True) == reply
    assert len(sandbox.requests) == 1


def test_replies_of_a_selected_provider_are_kept_separately(sandbox: Sandbox) -> None:
    """`provider=`, `get_llm_provider(name)` and MultiKeyGroqProvider are the same restriction."""
    anyone = get_llm_provider().generate("Hello", keep=True)
    assert anyone.provider == "groq"
    for name in PROVIDERS:
        assert get_llm_provider().generate("Hello", provider=name, keep=True).provider == name
        assert get_llm_provider(name).generate("Hello", keep=True).provider == name
    assert MultiKeyGroqProvider().generate("Hello", keep=True).from_memory
    assert asked(sandbox) == ["groq", *PROVIDERS]
    two = IntelligentLLMOrchestrator(providers=["mistral", "openai"])
    assert two.generate("Hello", keep=True).from_memory is None
    same = IntelligentLLMOrchestrator(providers=["openai", "mistral"])
    assert same.generate("Hello", keep=True).provider == "mistral"
    assert len(sandbox.requests) == 6


def test_system_is_the_same_as_a_system_message(sandbox: Sandbox) -> None:
    """Both are the same question."""
    provider = get_llm_provider()
    provider.generate("Hello", system="Be brief.", keep=True)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert provider.generate_chat(turns, keep=True).from_memory
    assert len(sandbox.requests) == 1


def test_an_interrupted_stream_is_not_kept(sandbox: Sandbox) -> None:
    """Only complete replies are kept."""
    stream = get_llm_provider().stream("Hello", keep=True)
    next(stream)
    stream.close()
    assert get_llm_provider().generate("Hello", keep=True).from_memory is None


@pytest.mark.parametrize("kind", ["content_filter", "cut_stream", "empty_reply"])
def test_a_failed_request_is_not_kept(start: Start, kind: str) -> None:
    """The next call asks again."""
    sandbox = start(keys={"groq": 1})
    sandbox.fail("groq", kind)
    with pytest.raises(LLMProviderError):
        list(get_llm_provider().stream("Hello", keep=True, patience=0))
    use_configuration(replace(get_configuration(), store="memory://anew"))
    assert get_llm_provider().generate("Hello", keep=True).from_memory is None


def test_a_kept_reply_can_be_looked_up(sandbox: Sandbox) -> None:
    """The arguments are those of the call that it would answer. Nothing is sent."""
    provider = get_llm_provider()
    assert provider.kept("Hello", keep=True) is None
    reply = provider.generate("Hello", keep=True, temperature=0)
    kept = provider.kept("Hello", keep=True, temperature=0)
    assert kept == reply
    assert kept.from_memory
    assert provider.kept("Hello", temperature=0) is None
    assert provider.kept("Hello", keep=True, temperature=0, fresh=True) is None
    assert provider.kept("Hello", keep=True) is None
    assert len(sandbox.requests) == 1


# --- without keys


def test_kept_replies_need_no_keys(sandbox: Sandbox) -> None:
    """A colleague or CI gets the same replies without a key or a request, even with `fresh`."""
    kept = get_llm_provider().generate("Hello", model="gpt-oss-120b", keep=True)
    only_kept()
    for options in ({}, {"keep": False}, {"fresh": True}):
        reply = get_llm_provider().generate("Hello", model="gpt-oss-120b", **options)
        assert reply == kept
        assert reply.from_memory
    assert len(sandbox.requests) == 1
    assert get_llm_provider().get_stats()["available_providers"] == []
    with pytest.raises(NotKept):
        MultiKeyGroqProvider().generate("Hello")


def test_a_prompt_without_a_kept_reply_is_an_error(sandbox: Sandbox) -> None:
    """It names the prompt, the file and what to do; nothing is sent, with or without keys."""
    get_llm_provider().generate("Hello", keep=True)
    use_configuration(replace(get_configuration(), replay="only"))
    with pytest.raises(NotKept) as caught:
        get_llm_provider().generate("Goodbye")
    message = str(caught.value)
    assert "'Goodbye'" in message
    assert str(get_configuration().replies) in message
    assert "replay set to keep" in message
    assert "\n" not in message
    assert len(sandbox.requests) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error also names the variable that sets its path."""
    use_configuration(load_configuration({"ARCHE_REPLAY": "only"}, tmp_path))
    with pytest.raises(
        NotKept,
        match=r"the file .*llm_replies.sqlite does not exist \(ARCHE_REPLIES sets another path\)",
    ):
        get_llm_provider().generate("Hello")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """The error has the reason."""
    path = tmp_path / "replies.sqlite"
    path.write_text("no database" * 100)
    use_configuration(
        load_configuration({"ARCHE_REPLAY": "only", "ARCHE_REPLIES": str(path)}, tmp_path)
    )
    with (
        pytest.warns(LedgerWarning),
        pytest.raises(NotKept, match=r"cannot be read .file is not a database; move it"),
    ):
        get_llm_provider().generate("Hello")


def test_keep_without_keys_answers_only_kept_prompts(sandbox: Sandbox) -> None:
    """For other prompts, the error says what to set."""
    get_llm_provider().generate("Hello", keep=True)
    use_configuration(replace(get_configuration(), keys=()))
    assert get_llm_provider().generate("Hello", keep=True).from_memory
    with pytest.raises(ConfigurationError, match="GROQ_API_KEY"):
        get_llm_provider().generate("Goodbye", keep=True)


# --- settings and the file

ASK = """
from arche_magic.llm_providers import get_llm_provider
print(get_llm_provider().generate("Hello").from_memory)
"""


def test_the_file_is_stored_beside_the_ledger(sandbox: Sandbox, tmp_path: Path) -> None:
    """It is found from a folder below, by another process, and by variable or settings file."""
    project = tmp_path / "project"
    write_env_file(project, sandbox)
    below = project / "notebooks"
    below.mkdir()
    out, err = run_script(ASK, below, {"ARCHE_REPLAY": "keep"})
    assert (out.strip(), err) == ("None", "")
    assert (project / "outputs" / "llm_replies.sqlite").is_file()
    (project / "arche_magic.toml").write_text('[replay]\nmode = "keep"\n')
    again, _ = run_script(ASK, below)
    assert again.startswith("20")
    off, _ = run_script(ASK, below, {"ARCHE_REPLAY": "off"})
    assert off.strip() == "None"
    # A colleague's copy has no `.env`.
    (project / ".env").unlink()
    handed, _ = run_script(ASK, below, {"ARCHE_REPLAY": "only"})
    assert handed == again
    elsewhere = (project / "outputs" / "llm_replies.sqlite").rename(tmp_path / "elsewhere.sqlite")
    moved, _ = run_script(ASK, below, {"ARCHE_REPLAY": "only", "ARCHE_REPLIES": str(elsewhere)})
    assert moved == again
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[replay]\nmode = "always"', "mode is 'always'; it can be off, keep or only"),
        ('[replay]\nfile = "x"', "unknown setting 'file'"),
        ('replay = "keep"', "replay is 'keep'; it must be a table"),
    ],
)
def test_an_invalid_setting_is_an_error(tmp_path: Path, settings: str, said: str) -> None:
    """It names the file."""
    (tmp_path / "arche_magic.toml").write_text(settings)
    with pytest.raises(ConfigurationError, match=said) as caught:
        load_configuration(directory=tmp_path)
    assert "arche_magic.toml" in str(caught.value)


def test_a_locked_file_does_not_delay_a_request(sandbox: Sandbox, tmp_path: Path) -> None:
    """Lookups and writes give up in time, with one warning; later calls use the file again."""
    provider = get_llm_provider()
    kept = provider.generate("Hello", keep=True)
    place = get_configuration().replies
    with closing(sqlite3.connect(place, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.warns(LedgerWarning, match="it does not answer"):
            reply = provider.generate("Hello", keep=True, timeout=1)
        assert reply.from_memory is None
        assert time.monotonic() - began < 8
        somebody.execute("ROLLBACK")
    assert provider.generate("Hello", keep=True) == kept
    assert len(sandbox.requests) == 2


def test_calls_are_answered_if_nothing_can_be_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    """There is one warning."""
    (tmp_path / "blocked").write_text("a file where the folder should be")
    place = tmp_path / "blocked" / "replies.sqlite"
    use_configuration(replace(get_configuration(), replies=place))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(3):
            assert get_llm_provider().generate(f"Hello {number}", keep=True)
    assert [entry.category for entry in caught] == [LedgerWarning]
    assert len(sandbox.requests) == 3
