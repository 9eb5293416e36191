"""Keys added for one session: their labels, who uses them, and what a check changes."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import pytest

import arche_magic
from arche_magic.llm_providers import (
    IntelligentLLMOrchestrator,
    MultiKeyGroqProvider,
    get_llm_provider,
    get_model_for_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.config import (
    add_key,
    get_configuration,
    remove_key,
    use_configuration,
)
from arche_magic.llm_providers.doctor import check_keys
from arche_magic.llm_providers.embeddings import choose_model
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.types import Key
from arche_magic.sandbox import Sandbox


@pytest.fixture(autouse=True)
def _session() -> Iterator[None]:
    yield
    use_configuration(None)
    for key in keys_of_session():
        remove_key(get_configuration(), key.label)


def keys_of_session() -> list[Key]:
    return [key for key in get_configuration().keys if key.source == "this session"]


@pytest.fixture
def third(sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Groq key that is missing in the `.env`, which has two others."""
    text = sandbox_env.environment()["GROQ_API_KEY_3"]
    monkeypatch.setenv("GROQ_API_KEY_3", "")
    return text


def labels(provider: str = "groq") -> dict[str, str]:
    return {k.label: k.source for k in get_configuration().keys if k.provider == provider}


def test_an_added_key_is_used_by_providers_created_later(sandbox_env: Sandbox, third: str) -> None:
    """`get_llm_provider`, the multi-key provider and the ledger use it; existing objects do not."""
    before = get_llm_provider("groq")
    key = add_key(get_configuration(), "groq", f" {third}\n")
    assert (key.label, key.source) == ("groq_key_3", "this session")
    sandbox_env.fail("groq_key_1", "unauthorized", times=None)
    sandbox_env.fail("groq_key_2", "unauthorized", times=None)
    assert get_llm_provider("groq").generate("hi").key == "groq_key_3"
    assert MultiKeyGroqProvider().generate("hi").key == "groq_key_3"
    assert "groq_key_3" in get_quota_tracker().get_usage_summary("groq")["groq"]
    with pytest.raises(Exception, match="groq · key 2"):
        before.generate("hi")
    assert third not in repr(get_configuration())


def test_a_key_keeps_its_label(third: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys added to the environment later get other numbers; the same key changes nothing."""
    add_key(get_configuration(), "groq", third)
    add_key(get_configuration(), "groq", "gsk_another_one_made_up")
    monkeypatch.setenv("GROQ_API_KEY_4", "gsk_made_up_for_this_test")
    monkeypatch.setenv("GROQ_API_KEY_5", third)
    found = labels()
    assert list(found) == [f"groq_key_{number}" for number in range(1, 6)]
    assert found["groq_key_3"] == found["groq_key_4"] == "this session"
    assert found["groq_key_5"] == "GROQ_API_KEY_4 in the environment"
    remove_key(get_configuration(), "groq_key_4")
    assert labels()["groq_key_3"] == "this session"


def test_an_added_key_can_belong_to_a_configured_account(third: str, tmp_path) -> None:
    """The settings name accounts by label, including labels of added keys."""
    (tmp_path / "arche_magic.toml").write_text(
        '[accounts]\ngroq_key_1 = "team"\ngroq_key_3 = "team"\n'
    )
    add_key(get_configuration(), "groq", third)
    assert get_quota_tracker().shared_keys() == {"groq_key_3": "groq_key_1"}


@pytest.mark.parametrize("text", ["", "  ", '""', "two words", "ключ", "a\x00b"])
def test_an_invalid_key_is_refused_without_repeating_it(sandbox_env, text: str) -> None:
    """Nothing is added, and the message does not quote it."""
    with pytest.raises(InvalidRequest, match=r"that is not a key|no key was given") as error:
        add_key(get_configuration(), "groq", text)
    assert not text.strip(' "') or text not in str(error.value)
    assert keys_of_session() == []


def test_no_frame_of_the_traceback_holds_a_refused_key(sandbox_env: Sandbox) -> None:
    """A traceback with local variables does not show what was typed."""
    text = "gsk_typed with a space"
    with pytest.raises(InvalidRequest) as error:
        add_key(get_configuration(), "groq", text)
    frames = traceback.walk_tb(error.value.__traceback__)
    ours = [frame for frame, _ in frames if frame.f_globals["__name__"].startswith("arche_magic")]
    assert ours
    assert not any("gsk_typed" in repr(frame.f_locals) for frame in ours)


def test_only_added_keys_can_be_removed(sandbox_env: Sandbox, third: str) -> None:
    """The message says where a configured key is defined."""
    with pytest.raises(ConfigurationError, match=r"was not added for this session; .*\.env"):
        remove_key(get_configuration(), "groq_key_1")
    with pytest.raises(ConfigurationError, match="no key is called 'groq_key_7'; there are groq_k"):
        remove_key(get_configuration(), "groq_key_7")
    with pytest.raises(ConfigurationError, match="unknown provider 'grok'"):
        add_key(get_configuration(), "grok", third)
    with pytest.raises(InvalidRequest, match="already in use: groq_key_1"):
        add_key(get_configuration(), "groq", sandbox_env.environment()["GROQ_API_KEY_1"])


def test_a_check_finds_rejected_keys(sandbox_env: Sandbox) -> None:
    """A check uses no quota.

    A rejected key is skipped without a call until it is accepted again.
    """
    sandbox_env.fail("groq_key_1", "unauthorized", times=1)
    sandbox_env.fail("mistral", "overloaded", times=1)
    tracker = get_quota_tracker()
    checks = {check.key.label: check for check in check_keys(get_configuration().keys, tracker)}
    assert [check.works for check in checks.values()] == [False, True, True, None, True, True]
    assert "openai/gpt-oss-120b" in checks["groq_key_2"].models
    assert "key refused (401" in checks["groq_key_1"].reason
    assert sandbox_env.requests == ()

    first = checks["groq_key_1"].key
    closure = tracker.closure(first)
    assert closure is not None
    assert closure.until is None
    assert get_llm_provider("groq").generate("hi").key != "groq_key_1"
    assert len(sandbox_env.requests) == 1

    (again,) = check_keys([first], get_quota_tracker())
    assert again.works
    assert tracker.closure(first) is None


def test_an_account_without_credit_is_closed_for_a_while(sandbox_env: Sandbox) -> None:
    """A key whose account has no credit is not rejected: it is tried again later."""
    sandbox_env.fail("openai", "no_credit")
    with pytest.raises(Exception, match="no credit"):
        get_llm_provider("openai").generate("hi", patience=0)
    (key,) = [key for key in get_configuration().keys if key.provider == "openai"]
    closure = get_quota_tracker().closure(key)
    assert closure is not None
    assert closure.until is not None
    assert closure.since < closure.until


@pytest.mark.parametrize(
    "use",
    [
        get_llm_provider,
        get_model_for_provider,
        lambda key: IntelligentLLMOrchestrator(providers=[key]),
        lambda key: IntelligentLLMOrchestrator(preferred_provider=key),
        lambda key: get_llm_provider().generate("Hello", model=key),
        lambda key: get_quota_tracker().get_usage_summary(key),
        lambda key: get_quota_tracker().reopen(key),
        lambda key: get_quota_tracker().set_limits(key, requests_per_day=1),
        lambda key: choose_model(get_configuration(), key),
        lambda key: add_key(get_configuration(), key, "groq"),
    ],
)
@pytest.mark.parametrize("key", ["gsk_hunter2hunter2hunter2", "sk-proj-hunter2hunter2hunter2"])
def test_a_key_in_place_of_a_name_is_not_shown(
    sandbox_env: Sandbox, use: Callable[[str], object], key: str
) -> None:
    """The output of a cell is saved with the notebook."""
    with pytest.raises(ConfigurationError) as caught:
        use(key)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda key: get_quota_tracker().reopen(key),
        get_llm_provider,
        lambda key: IntelligentLLMOrchestrator(providers=[key]),
        lambda key: choose_model(get_configuration(), key),
        lambda key: arche_magic.openai_client(model=key),
    ],
)
def test_a_key_in_place_of_a_name_is_named_by_its_label(
    sandbox_env: Sandbox, use: Callable[[str], object]
) -> None:
    """This works even if the provider's keys have no typical prefix."""
    for key in get_configuration().keys:
        with pytest.raises(ConfigurationError, match=f"^that is a key itself; .* {key.label}"):
            # As a user types it; the text of a Key hides its repr.
            use("".join(key.secret()))
