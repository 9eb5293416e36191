"""Private prompts go only to marked routes, and `same_model` uses only one model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import MODELS, PROVIDERS, Clock, Start, asked

import arche_magic
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import get_configuration, load_configuration
from arche_magic.llm_providers.doctor import examine
from arche_magic.llm_providers.errors import ConfigurationError, NoRouteAvailable

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox

PROMPT = "The patient in room 7 is afraid."


def marked(*routes: str, always: bool = False) -> dict[str, Any]:
    """Settings with these marks."""
    return {"private_routes": frozenset(routes), "always_private": always}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- where private prompts go


@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_marked_routes_are_used(start: Start, provider: str) -> None:
    """The order does not matter."""
    sandbox = start(settings=marked(provider))
    reply = get_llm_provider().generate(PROMPT, private=True)
    assert reply.provider == provider
    assert asked(sandbox) == [provider]
    assert reply.decisions[-1].private


@pytest.mark.parametrize(
    "failure",
    ["server_error", "rate_limit_day", "unauthorized", "empty_reply", "malformed_body", "reset"],
)
def test_a_failure_sends_nothing_to_other_routes(start: Start, failure: str) -> None:
    """If no marked route is left, the request fails, and the error lists the unmarked ones."""
    keys = {"groq": 2, "mistral": 1, "google": 1}
    sandbox = start(keys, settings=marked("groq"), clock=Clock())
    sandbox.fail("groq", failure, times=None)
    with pytest.raises(NoRouteAvailable, match="routes that are not marked private were not asked"):
        get_llm_provider().generate(PROMPT, private=True, patience=0)
    assert set(asked(sandbox)) == {"groq"}


@pytest.mark.parametrize("failure", ["cut_stream", "stream_error", "broken_connection"])
def test_a_broken_stream_starts_again_on_a_marked_route(start: Start, failure: str) -> None:
    """The next key of the same provider answers, not the next provider."""
    sandbox = start({"groq": 2, "mistral": 1}, settings=marked("groq"), clock=Clock())
    sandbox.fail("groq", failure, times=1)
    assert list(get_llm_provider().events(PROMPT, private=True))
    assert len(asked(sandbox)) == 2
    assert set(asked(sandbox)) == {"groq"}


@pytest.mark.parametrize(
    ("mark", "labels"),
    [
        ("groq", {"groq_key_1", "groq_key_2"}),
        (f"groq/{MODELS['groq']}", {"groq_key_1", "groq_key_2"}),
        ("groq/another-model", set()),
        ("groq:{}", {"groq_key_2"}),
    ],
)
def test_a_mark_is_a_provider_a_model_or_a_key(start: Start, mark: str, labels: set[str]) -> None:
    """A key by its fingerprint: its label may belong to another key in the next folder."""
    start({"groq": 2})
    configuration = get_configuration()
    marks = frozenset({mark.format(configuration.keys[1].fingerprint)})
    configuration = replace(configuration, private_routes=marks)
    found = {route.key.label for route in filter(configuration.is_private, configuration.routes())}
    assert found == labels


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.generate(PROMPT, private=True),
        lambda llm: llm.generate(PROMPT, private=True, provider="google"),
        lambda llm: llm.generate(PROMPT, private=True, model="mistral/mistral-small-latest"),
        lambda llm: llm.preview(PROMPT, private=True),
        lambda llm: list(llm.stream(PROMPT, private=True)),
        lambda llm: arche_magic.map([PROMPT], private=True),
        lambda llm: arche_magic.plan([PROMPT], private=True),
    ],
)
def test_without_marks_nothing_is_sent(sandbox: Sandbox, ask: Any) -> None:
    """The error says what to write where, and how to decide it."""
    with pytest.raises(ConfigurationError, match=r"\[private\] routes = \[.*%llm_models"):
        ask(get_llm_provider())
    assert asked(sandbox) == []


def test_a_job_keeps_every_row_private(start: Start) -> None:
    """This holds for all its threads, and in its plan."""
    sandbox = start(settings=marked("mistral"))
    rows = [f"Row {number}" for number in range(40)]
    plan = arche_magic.plan(rows, private=True)
    assert {share.capacity.name.split(" ")[0] for share in plan.shares} == {"mistral"}
    frame = arche_magic.map(rows, private=True)
    assert set(frame.provider) == {"mistral"}
    assert set(asked(sandbox)) == {"mistral"}


def test_always_makes_every_prompt_private(start: Start) -> None:
    """A prompt can override it with `private=False`."""
    sandbox = start(settings=marked("google", always=True))
    llm = get_llm_provider()
    assert llm.generate(PROMPT).provider == "google"
    assert llm.generate(PROMPT, private=False).provider == "groq"
    assert asked(sandbox) == ["google", "groq"]


# --- where marks can be set


def test_marks_come_from_the_users_own_settings(tmp_path: Path, own_settings: Path) -> None:
    """It does not matter whether the project has a settings file."""
    own_settings.write_text('[private]\nroutes = ["mistral", "google:0123456789ab"]\n')
    assert load_configuration().private_routes == {"mistral", "google:0123456789ab"}
    assert not load_configuration().always_private
    write(tmp_path / "arche_magic.toml", "[private]\nalways = true\n")
    configuration = load_configuration()
    assert configuration.always_private
    assert configuration.private_routes == {"mistral", "google:0123456789ab"}


def test_a_project_cannot_set_marks(tmp_path: Path) -> None:
    """A cloned repository must not decide where private prompts go."""
    write(tmp_path / "arche_magic.toml", '[private]\nroutes = ["google"]\n')
    with pytest.raises(ConfigurationError, match="is only allowed in your own settings"):
        load_configuration()


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({".env": "MISTRAL_API_KEY=k\nMISTRAL_BASE_URL=http://127.0.0.1:9/v1\n"}, "mistral"),
        (
            {
                ".env": "MISTRAL_API_KEY=k\n",
                "arche_magic.toml": '[providers.mistral]\nbase_url = "http://127.0.0.1:9"\n',
            },
            "mistral",
        ),
        (
            {
                "arche_magic.toml": (
                    '[providers.lab]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
                )
            },
            "lab",
        ),
        (
            {
                ".env": "MISTRAL_API_KEY=k\n",
                "arche_magic.toml": (
                    '[providers.lab]\nbase_url = "https://api.mistral.ai/v1"\n'
                    'key_variable = "MISTRAL_API_KEY"\nmodels = ["m"]\n'
                ),
            },
            "lab",
        ),
    ],
)
def test_a_mark_does_not_apply_to_an_address_set_by_a_project(
    tmp_path: Path, own_settings: Path, files: dict[str, str], name: str
) -> None:
    """This includes addresses on this machine, because a server there may pass prompts on."""
    own_settings.write_text('[private]\nroutes = ["mistral", "lab"]\n')
    for file, text in files.items():
        write(tmp_path / file, text)
    with pytest.raises(ConfigurationError, match="no suitable route is marked private"):
        get_llm_provider().generate(PROMPT, private=True, provider=name)


def test_a_mark_applies_to_an_address_set_by_the_user(
    own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment, or in the same file as the mark."""
    own_settings.write_text(
        '[private]\nroutes = ["mistral", "lab"]\n'
        '[providers.lab]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
    )
    monkeypatch.setenv("MISTRAL_API_KEY", "k")
    monkeypatch.setenv("MISTRAL_BASE_URL", "http://127.0.0.1:9/v1")
    configuration = load_configuration()
    found = {r.provider for r in configuration.routes() if configuration.is_private(r)}
    assert found == {"mistral", "lab"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[private]\nroute = ["groq"]', "unknown setting 'route'"),
        ('[private]\nroutes = "groq"', "it must be a list"),
        ("[private]\nroutes = [1]", "routes is .1.; it must be a list of providers"),
        (
            '[private]\nroutes = ["Groq!"]',
            "routes is .'Groq!'.; it must be a list of providers",
        ),
        ('[private]\nroutes = ["groq_key_2"]', "labels differ between folders"),
        ('[private]\nalways = "yes"', "it must be true or false"),
        ("private = []", "it must be a table"),
    ],
)
def test_an_invalid_private_table_is_refused(own_settings: Path, table: str, message: str) -> None:
    """The message names the file and the invalid part."""
    own_settings.write_text(table)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_configuration()
    assert str(own_settings) in str(caught.value)


def test_the_doctor_checks_the_marks(start: Start) -> None:
    """It reports one that matches nothing, and one that contradicts the provider's terms."""
    start(settings=marked("google", "mistrall", "google:0123456789ab", "openai"))
    found = {f.found: f for f in examine() if f.about == "[private]"}
    assert any("did you mean 'mistral'" in text for text in found)
    terms = next(f for text, f in found.items() if text.startswith("google is marked"))
    assert terms.state == "look"
    assert "trains on prompts: yes for free accounts" in terms.found
    assert "opted out" in terms.advice
    assert found["openai is marked"].state == "ok"
    assert found["google:0123456789ab: no key here"].state == "ok"


# --- one model


def test_same_model_uses_only_one_model(start: Start) -> None:
    """All keys with that model are used. No other model is asked, and the error says so."""
    sandbox = start({"groq": 2, "mistral": 1}, clock=Clock())
    sandbox.fail("groq", "server_error", times=1)
    llm = get_llm_provider()
    assert llm.generate(PROMPT, same_model=True).model == MODELS["groq"]
    assert len({request.key for request in sandbox.requests}) == 2
    sandbox.fail("groq", "server_error", times=None)
    with pytest.raises(NoRouteAvailable, match="other models were not asked"):
        llm.generate(PROMPT, same_model=True, patience=0)
    assert set(asked(sandbox)) == {"groq"}


def test_the_first_route_of_a_request_decides_the_model(start: Start) -> None:
    """It is the preferred provider's, or the first marked one; all rows of a job have the same."""
    sandbox = start(settings={"preferred_provider": "google"} | marked("mistral", "openai"))
    llm = get_llm_provider()
    assert llm.generate(PROMPT, same_model=True).model == MODELS["google"]
    private = llm.generate(PROMPT, same_model=True, private=True)
    assert private.model == MODELS["mistral"]
    sandbox.fail("google", "server_error")
    frame = arche_magic.map([f"Row {number}" for number in range(8)], same_model=True)
    assert set(frame.model.dropna()) == {MODELS["google"]}


def test_several_models_of_a_provider_are_separate_routes(
    tmp_path: Path, sandbox_env: Sandbox
) -> None:
    """In the order of the settings, each with its own limits; the reply names the model."""
    write(
        tmp_path / "arche_magic.toml",
        "[providers.groq]\n"
        'models = ["openai/gpt-oss-20b", "openai/gpt-oss-120b"]\n'
        "[providers.cerebras]\n"
        'models = ["gpt-oss-120b"]\n',
    )
    llm = get_llm_provider()
    first = llm.generate(PROMPT)
    assert first.model == "openai/gpt-oss-20b"
    sandbox_env.fail("groq", "rate_limit_day", times=1)
    second = llm.generate(PROMPT)
    assert second.model != first.model or second.key != first.key
    summary = llm.quota_tracker.standings("groq")
    assert {row.model for row in summary} >= {"openai/gpt-oss-20b", "openai/gpt-oss-120b"}
    only = llm.generate(PROMPT, same_model=True)
    assert only.model == "openai/gpt-oss-20b"
