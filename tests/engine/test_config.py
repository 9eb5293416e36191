"""Models, limits, accounts and the ledger's place, from variables and `arche_magic.toml`."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import (
    load_configuration,
)
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.types import Key, Location, Timeouts

if TYPE_CHECKING:
    from config_parts import Load


# --- location of the ledger


def test_the_ledger_is_stored_beside_the_env_file_with_the_keys(project: Path) -> None:
    """All notebooks of a project share one ledger, whatever their folder."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text("GROQ_API_KEY=one\n")
    expected = project.resolve() / "outputs" / "llm_quota_tracker.json"
    assert Path(load_configuration(directory=inner).store) == expected


def test_an_env_file_without_keys_does_not_move_the_ledger(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the keys come from the shell, the ledger stays in the working directory."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text("DATABASE=x\nGROQ_API_KEY=\n")
    monkeypatch.setenv("GROQ_API_KEY", "one")
    expected = inner / "outputs" / "llm_quota_tracker.json"
    assert Path(load_configuration(directory=inner).store) == expected


@pytest.mark.parametrize("store", ["memory://shared", "/somewhere/ledger.json"])
def test_the_store_variable_takes_precedence(
    load: Load, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """A path or a URL in the environment is used unchanged."""
    monkeypatch.setenv("ARCHE_QUOTA_STORE", store)
    assert load("GROQ_API_KEY=one\n").store == store


def test_the_store_may_be_in_the_home_folder(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is expanded as in a shell."""
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "~/ledger.json")
    assert load().store == str(Path.home() / "ledger.json")


@pytest.mark.parametrize("path", ["$HOME/a.json", "${HOME}/a.json", r"%USERPROFILE%\a.json"])
@pytest.mark.parametrize("variable", ["ARCHE_QUOTA_STORE", "ARCHE_REPLIES"])
def test_a_path_with_a_variable_creates_no_folder_of_its_name(
    load: Load, monkeypatch: pytest.MonkeyPatch, variable: str, path: str
) -> None:
    """A kernel's settings and Docker files set variables as they are written, without a shell."""
    monkeypatch.setenv(variable, path)
    with pytest.raises(
        ConfigurationError, match=f"^{variable} in the environment: .*a shell would"
    ):
        load()


@pytest.mark.parametrize("store", ["ledger.json", "./data/../ledger.json", "{project}/ledger.json"])
def test_a_path_in_an_env_file_is_relative_to_that_file(project: Path, store: str) -> None:
    """All notebooks of a project share the ledger, whatever their folder."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text(f"ARCHE_QUOTA_STORE={store.format(project=project)}\n")
    found = load_configuration(directory=inner).store
    assert os.path.normpath(found) == str(project / "ledger.json")


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ARCHE_QUOTA_STORE", "ftp://:hunter2@host/x", ": ftp:// is not supported; use a path"),
        ("ARCHE_QUOTA_STORE", "memory:", ": a ledger in memory is memory:// or memory://NAME"),
        ("ARCHE_QUOTA_STORE", "redis:host", ": a Redis URL begins with redis:// and a host"),
        ("ARCHE_QUOTA_STORE", "redis://:hunter2@host/0?x=y", ": the Redis URL has an invalid host"),
        ("ARCHE_QUOTA_STORE", ".", ": . is a folder; name a file"),
        ("ARCHE_REPLIES", "/", ": / is a folder; name a file"),
        ("ARCHE_LLM_PROVIDER", "opnai", ": unknown provider 'opnai'; did you mean 'openai'?"),
        ("ARCHE_LLM_PROVIDER", "gsk_hunter2hunter2hunter2hunter2", ": unknown provider '[key]'"),
        ("ARCHE_REPLAY", "yes", " is 'yes'; it can be off, keep or only"),
        ("ARCHE_REPLAY", "gsk_hunter2hunter2hunter2hunter2", " is '[key]'; it can be"),
        ("ARCHE_REPLIES", "redis://:hunter2@host", " is a URL; it must be the path of a file"),
        ("GROQ_BASE_URL", "//:hunter2@host", " must be an address such as https://host/path"),
        ("GROQ_BASE_URL", "http://localhost/chat/completions", " must not end with /chat/comp"),
    ],
)
def test_an_invalid_variable_is_named_with_its_source(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str, variable: str, value: str, says: str
) -> None:
    """The message says where the variable is set and what is allowed, and repeats no secret."""
    lines, source = "GROQ_API_KEY=gsk_made_up\n", "the environment"
    if place == ".env":
        lines, source = f"{lines}{variable}={value}\n", str(project / ".env")
    else:
        monkeypatch.setenv(variable, value)
    (project / ".env").write_text(lines)
    monkeypatch.chdir(project)
    use = get_llm_provider if variable == "ARCHE_LLM_PROVIDER" else get_quota_tracker
    with pytest.raises(ConfigurationError) as caught:
        use()
    assert str(caught.value).startswith(f"{variable} in {source}{says}")
    assert "hunter2" not in str(caught.value)


def test_a_variable_that_is_not_set_is_not_blamed(load: Load) -> None:
    """A program can set the ledger's place too."""
    with pytest.raises(ConfigurationError, match=r"^store: a Redis URL begins with"):
        get_quota_tracker(replace(load(), store=Location("redis:host")))


# --- arche_magic.toml


def test_the_settings_file_sets_order_patience_models_and_default(load: Load) -> None:
    """Providers missing from the order follow in the default order."""
    configuration = load(
        toml="""
        default_provider = "mistral"
        order = ["google", "groq"]
        patience = 5
        [providers.groq]
        models = ["openai/gpt-oss-20b", "brand-new-model"]
        paid = true
        """
    )
    assert list(configuration.providers) == ["google", "groq", "mistral", "openai"]
    assert configuration.default_provider == "mistral"
    assert configuration.patience == 5
    assert configuration.providers["groq"].models == ("openai/gpt-oss-20b", "brand-new-model")
    assert configuration.providers["groq"].paid
    assert configuration.resolve_model("brand-new-model") == {"groq": ["brand-new-model"]}


def test_an_alias_is_replaced_by_its_model(load: Load) -> None:
    """It may have the name of another model, and is replaced before the request is hashed."""
    configuration = load(
        toml="""
        [aliases]
        fast = "groq/openai/gpt-oss-20b"
        "gpt-4o" = "gemini-3.5-flash-lite"
        """
    )
    assert configuration.resolve_model("fast") == {"groq": ["openai/gpt-oss-20b"]}
    assert configuration.resolve_model("gpt-4o") == {"google": ["gemini-3.5-flash-lite"]}
    assert build_request("Hi", configuration, model="fast").model == "groq/openai/gpt-oss-20b"
    with pytest.raises(ConfigurationError, match="is a model of groq, not of mistral"):
        configuration.resolve_model("fast", "mistral")
    with pytest.raises(ConfigurationError, match="did you mean 'fast'"):
        configuration.resolve_model("fastt")


@pytest.mark.parametrize(
    ("alias", "says"),
    [
        ('fast = "gorq/llama"', "[aliases]: fast: unknown model 'gorq/llama'"),
        ('fast = "gpt-oss-20c"', "did you mean 'openai/gpt-oss-20b'?"),
        ('fast = ""', "[aliases]: fast"),
        ("fast = 5", "[aliases]: fast is 5; it must be the name of a model"),
        ('groq = "gpt-oss-20b"', "[aliases]: 'groq' is taken; choose another name"),
        ('auto = "gpt-oss-20b"', "[aliases]: 'auto' is taken; choose another name"),
        ('a = "gpt-oss-20b"\nb = "a"', "[aliases]: b is 'a', an alias; write the model's name"),
    ],
)
def test_an_invalid_alias_is_refused(load: Load, alias: str, says: str) -> None:
    """The message names the file, the alias and the valid values."""
    with pytest.raises(ConfigurationError) as caught:
        load(toml=f"[aliases]\n{alias}")
    assert "arche_magic.toml: " in str(caught.value)
    assert says in str(caught.value)


def test_the_settings_file_sets_timeouts(load: Load) -> None:
    """Timeouts that are not set keep their defaults."""
    assert load().timeouts == Timeouts()
    timeouts = load(toml="[timeouts]\nfirst_token = 5\ntotal = 90.5").timeouts
    assert timeouts == Timeouts(first_token=5.0, total=90.5)


def test_limits_can_be_set_per_provider_model_and_key(load: Load) -> None:
    """A narrower scope overrides a wider one, limit by limit, with the evidence `configured`."""
    configuration = load(
        "GROQ_API_KEY=one\nGROQ_API_KEY_2=two\n",
        """
        [limits.groq]
        requests_per_minute = 20
        requests_per_day = 500
        [limits."groq/openai/gpt-oss-120b"]
        requests_per_minute = 10
        [limits.groq_key_2]
        requests_per_minute = 5
        tokens_per_hour = 99
        """,
    )

    def limits(label: str) -> dict[str, float]:
        route = next(r for r in configuration.routes() if r.key.label == label)
        return {limit.name: limit.amount for limit in configuration.default_limits(route)}

    assert limits("groq_key_1") == {
        "requests_per_minute": 10,
        "requests_per_day": 500,
        "tokens_per_minute": 8000,
        "tokens_per_day": 200_000,
    }
    assert limits("groq_key_2")["requests_per_minute"] == 5
    assert limits("groq_key_2")["tokens_per_hour"] == 99
    route = configuration.routes()[0]
    evidence = {limit.name: limit.evidence for limit in configuration.default_limits(route)}
    assert evidence["requests_per_day"] == "configured"
    assert evidence["tokens_per_day"] == "published"


def test_keys_can_be_assigned_to_one_account(load: Load) -> None:
    """Keys with the same name share an account; all other keys have their own."""
    configuration = load(
        "GROQ_API_KEY=one\nGROQ_API_KEY_2=two\nGROQ_API_KEY_3=three\n",
        '[accounts]\ngroq_key_1 = "team"\ngroq_key_2 = "team"\n',
    )
    one, two, three = (key.account for key in configuration.keys)
    assert one == two == "team"
    assert three not in (one, two)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("ordre = []", "did you mean 'order'"),
        ('order = ["grok"]', "did you mean 'groq'"),
        ('order = "groq"', "list of provider names"),
        ("patience = -1", "patience"),
        ("patience = true", "patience"),
        (f"patience = {10**400}", "patience is 1000"),
        (f"[timeouts]\nconnect = {10**400}", "connect is 1000"),
        (f"[budget]\nper_day = {10**400}", "per_day is 1000"),
        ("patience = " + 2000 * "[" + 2000 * "]", "its values are nested too deeply"),
        ("default_provider = 3", "default_provider"),
        ("default_provider = ''", "default_provider: unknown provider ''; known are intelligent"),
        ("default_provider = 'grok'", "default_provider: unknown provider 'grok'; did you mean"),
        ("[timeouts]\ntotall = 3", "did you mean 'total'"),
        ("[timeouts]\nsilence = 0", "silence is 0; it must be a number of seconds greater than 0"),
        ("[timeouts]\nanswer = 1e10", "answer is 10000000000.0; it must be a number of seconds"),
        ("[timeouts]\nsilence = inf", "silence is inf"),
        ("[timeouts]\nconnect = true", "connect is true"),
        ("timeouts = 3", "must be a table"),
        ("patience = 2026-01-02", "patience is 2026-01-02; it must be a number"),
        ("trust_base_urls = 1979-05-27", "trust_base_urls is a date or time; it must be true"),
        ('[limits."a\\nb"]\nrequests_per_day = 1', '[limits."a\\nb"]: the name must be a provider'),
        ("[providers.grok]\nmodels = ['x']", "did you mean 'groq'"),
        ("[providers]\ngroq = 3", "must be a table"),
        ("[providers.groq]\nmodel = 'x'", "unknown setting 'model'"),
        ("[providers.groq]\nmodels = 'x'", "list of model names"),
        ("[providers.groq]\nmodels = ['']", "list of model names"),
        ("[providers.groq]\nmodels = ['m', '  ']", "list of model names"),
        ("[providers.openai]\nbase_url = ''", "[providers.openai]: base_url must be an address"),
        ("[providers.openai]\nbase_url = 'http://h/chat/completions'", "which is added automati"),
        ("[prompts]\n' ' = 'Hi'", "[prompts]: a name is blank"),
        ("[providers.groq]\nmodels = ['m', 'gsk_aKeyInAWrongPlace']", "list of model names"),
        ("limits = 3", "must be a table"),
        ("[limits]\ngroq = 3", "must be a table"),
        ("[limits.grok]\nrequests_per_minute = 1", "a key's label"),
        ("[limits.groq]\nrequests_per_fortnight = 1", "is not a limit"),
        ("[limits.groq]\nrequests_per_minute = 'many'", "must be a number"),
        ("[limits.groq]\nrequests_per_minute = -1", "must be a number"),
        ("[limits.groq]\nwindow = 'open'", "bucket, calendar or rolling"),
        ("[limits.groq]\ntime_zone = 'Mars/Olympus'\nrequests_per_day = 1", "time_zone"),
        ("[limits.groq_key_x]\nrequests_per_minute = 1", "a key's label"),
        ("[accounts]\ngrok_key_1 = 'team'", "key label"),
        ("[accounts]\ngroq_key_0 = 'team'", "key label"),
        ("[accounts]\ngroq_key_1 = ['team']", "groq_key_1 is ['team']; it must be a name"),
        ("[accounts]\ngroq_key_1 = ' '", "it must be a name"),
        ("trust_key_variables = [' ']", "is a list with a wrong entry; it must be a list of var"),
        ("order = [", "cannot be read"),
    ],
)
def test_an_invalid_setting_is_an_error_that_names_the_file(
    load: Load, project: Path, toml: str, words: str
) -> None:
    """The message names the file, the setting and its valid values."""
    with pytest.raises(ConfigurationError) as caught:
        load(toml=toml)
    assert words in str(caught.value)
    assert str(project / "arche_magic.toml") in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_users_own_settings_apply_if_a_project_has_none(
    project: Path, own_settings: Path
) -> None:
    """The nearest file is used."""
    own_settings.write_text("patience = 7\n")
    assert load_configuration(directory=project).patience == 7
    (project / "arche_magic.toml").write_text("patience = 8\n")
    assert load_configuration(directory=project).patience == 8


# --- choosing a provider


def test_the_provider_variable_sets_the_default(load: Load) -> None:
    """`ARCHE_LLM_PROVIDER` takes precedence over the settings file."""
    configuration = load("ARCHE_LLM_PROVIDER=groq\n", 'default_provider = "mistral"\n')
    assert configuration.default_provider == "groq"


# --- choosing a model


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        ("gpt-4.1-mini", None, {"openai": ["gpt-4.1-mini"]}),
        ("mistral/mistral-large-latest", None, {"mistral": ["mistral-large-latest"]}),
        ("mistral/not-in-the-catalog", None, {"mistral": ["not-in-the-catalog"]}),
        ("groq/openai/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-oss-120b", "groq", {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-4.1", None, {"openai": ["gpt-4.1"]}),
        ("openai/gpt-4.1", "openai", {"openai": ["gpt-4.1"]}),
        ("gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("gpt-oss-120b", "groq", {"groq": ["openai/gpt-oss-120b"]}),
        ("groq/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("brand-new", "groq", {"groq": ["brand-new"]}),
        ("vendor/brand-new", "groq", {"groq": ["vendor/brand-new"]}),
        (None, "groq", {"groq": ["openai/gpt-oss-120b"]}),
    ],
)
def test_a_model_finds_its_provider(
    model: str | None, provider: str | None, expected: dict[str, list[str]]
) -> None:
    """A bare name, a short name or `provider/model` finds the provider that has the model."""
    assert load_configuration({}).resolve_model(model, provider) == expected


@pytest.mark.parametrize(
    ("model", "provider", "words"),
    [
        ("gpt-4.1-mini", "groq", "is a model of openai, not of groq"),
        ("openai/gpt-oss-120b", "openai", "is a model of groq, not of openai"),
        ("mistral/mistral-small-latest", "groq", "is a model of mistral, not of groq"),
        ("gpt-oss-120b", "mistral", "is a model of groq, not of mistral"),
        ("gpt-4.1-mni", None, "did you mean 'gpt-4.1-mini'? If not, write provider/model"),
        ("nobody-knows-it", None, "'nobody-knows-it'; write provider/model"),
        ("gpt-4.1-mini", "opnai", "did you mean 'openai'"),
    ],
)
def test_a_model_that_no_provider_has_is_refused(
    model: str, provider: str | None, words: str
) -> None:
    """No name is sent to a provider that is known not to have it."""
    with pytest.raises(ConfigurationError) as caught:
        load_configuration({}).resolve_model(model, provider)
    assert words in str(caught.value)


# --- secrets


def test_nothing_printed_or_pickled_shows_a_key() -> None:
    """`repr`, `str`, `format` and tracebacks show the label; pickling and copying are refused."""
    key = Key.of("groq", "groq_key_1", "gsk_very_secret")
    configuration = load_configuration({"GROQ_API_KEY": "gsk_very_secret"})
    for shown in (key, configuration, configuration.routes(), vars(key)):
        assert "gsk_very" not in f"{shown!r} {shown!s}"
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(key)
    assert "gsk_very" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(TypeError):
        copy.deepcopy(key)
    assert key.secret() == "gsk_very_secret"
