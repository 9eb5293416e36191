"""Known services: their published data, the line that enables them, and the doctor's hint."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import arche_magic
from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    NoRouteAvailable,
    get_llm_provider,
)
from arche_magic.llm_providers.catalog import Provider, known_services, parse_limits
from arche_magic.llm_providers.config import get_configuration, list_services
from arche_magic.llm_providers.doctor import Finding, examine
from arche_magic.llm_providers.network import is_loopback
from arche_magic.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
DATA = tomllib.loads(
    (Path(arche_magic.__file__).parent / "llm_providers" / "services.toml").read_text("utf-8")
)["services"]
REMOTE = [name for name, one in known_services().items() if not is_loopback(one.url)]
USABLE = [name for name in REMOTE if not known_services()[name].retired]
ACCOUNT = "0123456789abcdef0123456789abcdef"
KEY = "a-key-that-is-made-up"


def settle(text: str) -> None:
    """Write the project's settings file."""
    Path("arche_magic.toml").write_text(text)


def configured(name: str) -> Provider:
    """A service as configured by its line in the settings."""
    settle(f"[providers.{name}]\n")
    return get_configuration().providers[name]


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", ACCOUNT)


# --- the data


@pytest.mark.parametrize("name", DATA)
def test_every_entry_has_a_source_and_a_date(name: str) -> None:
    """Remote addresses use https, and dates are not later than the catalog."""
    entry = DATA[name]
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", entry["read_at"])
    assert entry["source"].startswith("https://")
    assert known_services()[name].source.endswith(entry["read_at"])
    assert "free_tier" in entry, "say that nothing is free with an empty text"
    for url in entry["services"]:
        assert urlsplit(url).scheme == "https" or is_loopback(url)
    if name in USABLE:
        assert urlsplit(entry["key_page"]).scheme == "https"
        assert entry["models"], "which models does the line alone use?"


@pytest.mark.parametrize("name", DATA)
def test_every_limit_can_be_parsed_and_has_a_date(name: str) -> None:
    """A limit without a date would never be older than another."""
    for table in DATA[name].get("limits", {}).values():
        assert parse_limits(table)
    for limits in known_services()[name].limits.values():
        assert all(limit.read_at > 0 and limit.source for limit in limits)


def test_no_two_services_read_the_same_variable() -> None:
    """A key would be sent to the wrong service."""
    variables = [variable for name in REMOTE for variable in known_services()[name].key_variables]
    assert len(variables) == len(set(variables))


def test_a_line_alone_uses_only_free_models() -> None:
    """A service with some free models costs nothing with its line alone."""
    for name in USABLE:
        one = known_services()[name]
        assert one.paid == any(map(one.costs_money, one.models)), name
    assert {"cloudflare", "cohere", "nvidia", "openrouter", "zai"} <= {
        name for name in USABLE if not known_services()[name].paid
    }


# --- the line that enables a service


@pytest.mark.parametrize("name", USABLE)
def test_one_line_enables_a_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address, its models, its key, and whether it costs money."""
    known = known_services()[name]
    monkeypatch.setenv(known.key_variables[0], KEY)
    assert name not in get_configuration().providers
    service = configured(name)
    assert service.url == known.url.replace("{CLOUDFLARE_ACCOUNT_ID}", ACCOUNT)
    assert service.models == known.models
    routes = [route for route in get_configuration().routes() if route.provider == name]
    assert [(route.model, route.paid) for route in routes] == [(known.models[0], known.paid)]


def test_published_limits_apply_to_matching_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """They also apply to models that the settings name."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    settle('[providers.openrouter]\nmodels = ["vendor/model:free", "openrouter/free"]\n')
    configuration = get_configuration()
    for route in configuration.routes():
        limits = {limit.name: limit for limit in configuration.default_limits(route)}
        assert limits["requests_per_minute"].amount == 20
        assert (limits["requests_per_day"].amount, limits["requests_per_day"].window) == (
            50,
            "calendar",
        )
        assert not route.paid
    settle('[providers.openrouter]\nmodels = ["vendor/model:free"]\ntier = "paid"\n')
    (route,) = get_configuration().routes()
    assert get_configuration().default_limits(route) == ()


@pytest.mark.parametrize(
    ("settings", "model", "paid"),
    [
        ("", "openrouter/openrouter/free", False),
        ("", "openrouter/vendor/large", True),
        ("", "openrouter/vendor/large:free", False),
        ("paid = false", "openrouter/vendor/large", False),
        ("paid = true", "openrouter/vendor/large:free", True),
        ('models = ["a:free", "b"]', "openrouter/a:free", True),
        ('base_url = "https://elsewhere.example/v1"', "openrouter/a:free", True),
    ],
)
def test_a_model_that_costs_money_is_a_paid_route(
    settings: str, model: str, paid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided by the model's name; the settings take precedence."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path.cwd() / "own"))
    folder = Path.cwd() / "own" / "arche_magic"
    folder.mkdir(parents=True)
    (folder / "arche_magic.toml").write_text("trust_base_urls = true\n")
    settle(f"[providers.openrouter]\n{settings}\n")
    configuration = get_configuration()
    routes = configuration.routes(configuration.resolve_model(model))
    assert [route.paid for route in routes] == [paid]


def test_a_service_without_its_line_is_never_used(
    sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keys are set, and even if all other routes fail."""
    for name in USABLE:
        monkeypatch.setenv(known_services()[name].key_variables[0], KEY)
    assert not set(get_configuration().providers) & set(known_services())
    for provider in ("groq", "mistral", "google", "openai"):
        sandbox_env.fail(provider, "server_error", times=None)
    with pytest.raises(NoRouteAvailable) as caught:
        get_llm_provider().generate("Hello", patience=0)
    assert {attempt.provider for attempt in caught.value.attempts} <= {
        "groq", "mistral", "google", "openai",
    }  # fmt: skip


def test_a_paid_service_is_used_after_free_ones(
    sandbox_env: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cerebras is first in the order, but is not used while Groq is open."""
    monkeypatch.setenv("CEREBRAS_API_KEY", KEY)
    settle('order = ["cerebras", "groq"]\n[providers.cerebras]\n')
    assert get_configuration().providers["cerebras"].paid
    reply = IntelligentLLMOrchestrator().generate("Hello")
    assert reply.provider == "groq"


@pytest.mark.parametrize(
    ("settings", "value", "words"),
    [
        (
            "[providers.cloudflare]",
            "",
            "CLOUDFLARE_ACCOUNT_ID is not set; it is part of the address of Cloudflare",
        ),
        ("[providers.cloudflare]", "a/../b", "has a value that cannot be part of an address"),
        ("[providers.github-models]", ACCOUNT, "GitHub Models was retired on 2026-07-30"),
        ("order = ['github-models']", ACCOUNT, "GitHub Models was retired on 2026-07-30"),
        ("order = ['zai']", ACCOUNT, r"the line [providers.zai] in arche_magic.toml turns it on"),
    ],
)
def test_a_missing_setting_is_an_error_in_one_line(
    settings: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the setting or the variable; the value of a variable is not shown."""
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", value)
    settle(settings)
    with pytest.raises(ConfigurationError) as caught:
        get_llm_provider()
    assert words in str(caught.value)
    assert "a/../b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_as_the_account_id_in_an_env_file_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Someone else's `.env` could otherwise put any variable into an address."""
    monkeypatch.delenv("CLOUDFLARE_ACCOUNT_ID")
    monkeypatch.setenv("SOMETHING_SECRET", "not-for-others")
    Path(".env").write_text("CLOUDFLARE_ACCOUNT_ID=${SOMETHING_SECRET}\n")
    Path(".env").chmod(0o600)
    settle("[providers.cloudflare]")
    with pytest.raises(ConfigurationError, match="refers to SOMETHING_SECRET"):
        get_configuration()


def test_the_whole_address_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the service's own address, so it needs no permission."""
    monkeypatch.delenv("CLOUDFLARE_ACCOUNT_ID")
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", KEY)
    url = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/v1"
    settle(f'[providers.cloudflare]\nbase_url = "{url}"\n')
    service = get_configuration().providers["cloudflare"]
    assert (service.url, service.paid, service.is_at_home) == (url, False, True)


# --- the list of services, and the doctor


def test_the_state_of_a_service_depends_on_its_key_and_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In use, off, available, retired; within a state, paid services come last."""
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.setenv("ZAI_API_KEY_2", f"{KEY}-2")
    monkeypatch.setenv("CEREBRAS_API_KEY", f"{KEY}-3")
    monkeypatch.setenv("OLLAMA_API_KEY", f"{KEY}-4")
    settle('[providers.ollama]\nmodels = ["m"]\n')
    services = {service.provider.name: service for service in list_services()}
    assert set(services) == {"groq", "mistral", "google", "openai", *known_services()}
    assert (services["groq"].state, services["groq"].keys) == ("in use", ("groq_key_1",))
    zai = services["zai"]
    assert (zai.state, zai.keys, zai.turn_on) == ("off", ("ZAI_API_KEY_2",), "[providers.zai]")
    assert services["mistral"].state == services["cohere"].state == "available"
    assert services["ollama-cloud"].state == "available", "its key is in use for another"
    assert services["github-models"].state == "retired"
    order = [(service.state, service.provider.paid) for service in services.values()]
    assert order == sorted(
        order,
        key=lambda row: (["in use", "off", "available", "retired"].index(row[0]), row[1]),
    )


def about(findings: list[Finding], name: str) -> list[Finding]:
    """The findings about a service."""
    return [finding for finding in findings if finding.about == name]


def test_the_doctor_reports_an_unused_key_once(
    sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn
) -> None:
    """It shows the line to add. With that line, the key is checked like others."""
    monkeypatch.setenv("ZAI_API_KEY", KEY)
    monkeypatch.setenv("ZAI_API_KEY_1", f"{KEY}-1")
    monkeypatch.setenv("CEREBRAS_API_KEY", f"{KEY}-2")
    get_configuration()
    assert not [warning for warning in recwarn if "ZAI" in str(warning.message)]
    findings = examine()
    (free,) = about(findings, "zai")
    assert (free.state, free.found) == (
        "look",
        "ZAI_API_KEY, ZAI_API_KEY_1 is set, but Z.ai is off",
    )
    assert free.advice == "to use it, add the line [providers.zai] to arche_magic.toml"
    (paid,) = about(findings, "cerebras")
    assert paid.state == "ok"
    assert paid.advice.endswith("it costs money")
    assert KEY not in str(findings)
    settle(f'[providers.zai]\nbase_url = "{sandbox_env.url}/openai/v1"\n')
    monkeypatch.setenv("ZAI_API_KEY", sandbox_env.environment()["OPENAI_API_KEY"])
    after = examine()
    assert not any("is off" in finding.found for finding in about(after, "zai"))
    assert about(after, "zai_key_1")[0].state == "ok"


# --- the page


def table() -> str:
    """The table of the page, generated from the data."""
    from arche_magic.notebook.catalog_tables import free_words

    rows = ["| NAME | service | free | key in | source |", "|---|---|---|---|---|"]
    for service in list_services():
        one = service.provider
        if one.name in known_services():
            cells = (
                f"`{one.name}`", one.title, free_words(service).replace("*", r"\*"),
                ", ".join(f"`{name}`" for name in (*one.key_variables, *one.address_variables))
                if service.turn_on and not service.is_local else "",
                one.source,
            )  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_page_has_the_current_table() -> None:
    """If this fails, replace what is between the two comments with `table()`."""
    page = (ROOT / "docs" / "services.md").read_text("utf-8")
    shown = page.partition("<!-- services -->\n")[2].partition("\n<!-- end of services -->")[0]
    assert shown == table()
