"""Services added in the settings work like the built-in ones.

The sandbox's OpenAI wire is such a service, at an address on this machine.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from provider_parts import asked

from arche_magic.llm_providers import (
    ConfigurationError,
    IntelligentLLMOrchestrator,
    NoRouteAvailable,
    get_llm_provider,
    get_model_for_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.catalog import known_services
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.config.keys import PLACEHOLDER_KEY
from arche_magic.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
MODEL = "gpt-4.1-mini"
Serve = Callable[..., Sandbox]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that accepts these keys."""
    started: list[Sandbox] = []

    def begin(*keys: str, **options: Any) -> Sandbox:
        sandbox = Sandbox(keys={"openai": list(keys)}, **options).start()
        started.append(sandbox)
        return sandbox

    yield begin
    for sandbox in started:
        sandbox.stop()


def settle(sandbox: Sandbox, more: str = "", name: str = "my-server") -> None:
    """Write a settings file with a table for a server."""
    Path("arche_magic.toml").write_text(
        f'[providers.{name}]\nbase_url = "{sandbox.url}/openai/v1"\nmodels = ["{MODEL}"]\n{more}\n'
    )


def limits(name: str = "my-server") -> dict[str, tuple[float, str]]:
    """Amount and evidence of each limit in the ledger."""
    return {row.limit: (row.amount, row.evidence) for row in get_quota_tracker().standings(name)}


# --- keys


def test_an_added_service_answers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys have numbers and labels like all others; the reply names the service."""
    settle(serve("first-of-two-keys", "second-of-two-keys"))
    monkeypatch.setenv("MY_SERVER_API_KEY", "first-of-two-keys")
    monkeypatch.setenv("MY_SERVER_API_KEY_7", "second-of-two-keys")
    assert [key.label for key in get_configuration().keys] == ["my-server_key_1", "my-server_key_2"]
    provider = get_llm_provider("my-server")
    replies = [provider.generate(f"Prompt {n}") for n in range(2)]
    assert {reply.key for reply in replies} == {"my-server_key_1", "my-server_key_2"}
    assert {(reply.provider, reply.model) for reply in replies} == {("my-server", MODEL)}
    assert get_model_for_provider("my-server") == MODEL
    assert provider.get_stats()["provider_calls"] == {"my-server": 2}
    assert "".join(provider.stream("Once more")) != ""


def test_the_variable_of_a_key_can_be_set(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """`key_variable` names it; numbers are appended to it."""
    settle(serve("a-key-of-the-house"), 'key_variable = "HOUSE_API_KEY"')
    monkeypatch.setenv("HOUSE_API_KEY_2", "a-key-of-the-house")
    reply = get_llm_provider("my-server").generate("Hello")
    assert reply.key == "my-server_key_1"
    assert get_configuration().keys[0].source == "HOUSE_API_KEY_2 in the environment"


def test_a_server_on_this_machine_needs_no_key(serve: Serve) -> None:
    """It needs only its table, is free, and has no limit until one is stated."""
    settle(serve(PLACEHOLDER_KEY))
    (key,) = get_configuration().keys
    assert (key.label, key.source) == ("my-server_key_1", "no key needed")
    assert limits() == {}
    reply = get_llm_provider().generate("Hello")
    assert (reply.provider, reply.cost) == ("my-server", 0.0)


def test_a_server_on_this_machine_may_require_a_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configured key is sent; without it, the server's refusal is reported."""
    settle(serve("the-key-it-asks-for"))
    with pytest.raises(NoRouteAvailable, match=r"key refused \(401"):
        get_llm_provider("my-server").generate("Hello")
    monkeypatch.setenv("MY_SERVER_API_KEY", "the-key-it-asks-for")
    assert get_llm_provider("my-server").generate("Hello").key == "my-server_key_1"


def test_a_remote_service_needs_a_key() -> None:
    """The error names its variable."""
    Path("arche_magic.toml").write_text(
        '[providers.far]\nbase_url = "https://far.example/v1"\nmodels = ["m"]\n'
    )
    with pytest.raises(ConfigurationError, match="Set FAR_API_KEY in the environment"):
        get_llm_provider("far").generate("Hello")


# --- limits


def test_limits_are_learned_from_headers(serve: Serve) -> None:
    """Limits in a reply are in the ledger, with the evidence `header`."""
    limit = {"openai": {"requests_per_minute": 7, "requests_per_day": None}}
    sandbox = serve(PLACEHOLDER_KEY, limits=limit)
    settle(sandbox)
    provider = get_llm_provider("my-server")
    provider.generate("Hello")
    assert limits()["requests_per_minute"] == (7, "header")
    assert limits()["tokens_per_minute"][1] == "header"


def test_a_service_that_reached_its_limit_is_skipped_or_waited_for(serve: Serve) -> None:
    """A refusal closes its route like any other."""
    settle(
        serve(
            PLACEHOLDER_KEY, limits={"openai": {"requests_per_minute": 1, "requests_per_day": None}}
        )
    )
    provider = get_llm_provider("my-server")
    provider.generate("Hello")
    with pytest.raises(NoRouteAvailable, match=r"my-server · key 1 · gpt-4\.1-mini opens in"):
        provider.generate("Hello", patience=0)


def test_limits_can_be_set(serve: Serve) -> None:
    """They are set in the same table as for other providers."""
    settle(serve(PLACEHOLDER_KEY), "[limits.my-server]\nrequests_per_hour = 2")
    assert limits() == {"requests_per_hour": (2, "configured")}
    provider = get_llm_provider("my-server")
    provider.generate("One")
    provider.generate("Two")
    with pytest.raises(NoRouteAvailable, match="opens in"):
        provider.generate("Three", patience=0)


def test_the_settings_give_the_period_of_headers(serve: Serve) -> None:
    """The setting is `limit_headers`."""
    settle(serve(PLACEHOLDER_KEY), 'limit_headers = { requests = "hour" }')
    get_llm_provider("my-server").generate("Hello")
    assert limits()["requests_per_hour"] == (500, "header")


def test_the_settings_give_the_period_of_groqs_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a plan can count over others than those of the free plan."""
    with Sandbox(keys={"groq": 1}) as sandbox:
        for name, value in sandbox.environment().items():
            monkeypatch.setenv(name, value)
        Path("arche_magic.toml").write_text(
            '[providers.groq]\nlimit_headers = { requests = "hour" }\n'
        )
        get_llm_provider("groq").generate("Hello")
        assert limits("groq")["requests_per_hour"] == (1000, "header")
        assert limits("groq")["tokens_per_minute"][1] == "header"


# --- order, price


def test_a_service_is_used_after_the_built_in_ones_or_in_the_order(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free services come before paid ones, and then the order counts."""
    with Sandbox(keys={"groq": 1, "openai": ["a-paying-key", PLACEHOLDER_KEY]}) as sandbox:
        for name, value in sandbox.environment().items():
            if name != "OPENAI_API_KEY_2":
                monkeypatch.setenv(name, value)
        settle(sandbox)
        assert list(get_configuration().providers)[-1] == "my-server"
        assert get_llm_provider().generate("Hello").provider == "groq"
        sandbox.fail("groq", "server_error", times=None)
        assert get_llm_provider().generate("Hello").provider == "my-server"
        settle(sandbox, "paid = true")
        assert get_llm_provider().generate("Hello", patience=0).provider == "openai"
        toml = Path("arche_magic.toml").read_text()
        Path("arche_magic.toml").write_text(f'order = ["my-server", "groq"]\n{toml}')
        assert get_llm_provider().generate("Hello", patience=0).provider == "my-server"


def test_a_preferred_service_comes_first(serve: Serve) -> None:
    """By name, like every provider."""
    settle(serve(PLACEHOLDER_KEY))
    provider = IntelligentLLMOrchestrator(preferred_provider="my-server")
    assert provider.generate("Hello").provider == "my-server"


def test_a_remote_service_counts_as_paid_unless_the_settings_say_otherwise() -> None:
    """No money is spent by mistake."""
    table = '[providers.far]\nbase_url = "https://far.example/v1"\nmodels = ["m"]\n'
    Path("arche_magic.toml").write_text(table)
    assert get_configuration().providers["far"].paid
    Path("arche_magic.toml").write_text(f"{table}paid = false")
    assert not get_configuration().providers["far"].paid


def test_the_cost_of_a_reply_uses_the_prices_of_the_settings(serve: Serve) -> None:
    """Prices are USD per million tokens of input and output.

    Without a price, the cost is unknown.
    """
    settle(
        serve(PLACEHOLDER_KEY),
        f'[providers.my-server.prices]\n"{MODEL}" = {{ input = 2, output = 8.5 }}',
    )
    provider = get_llm_provider("my-server")
    reply = provider.generate("Hello")
    usage = reply.usage
    expected = (2 * usage.input_tokens + 8.5 * usage.output_tokens) / 1_000_000
    assert reply.cost == pytest.approx(expected)
    assert reply.attempts[-1].cost_usd == pytest.approx(expected)
    assert provider.preview("Hello").cost > 0
    assert provider.generate("Hello", model="my-server/gpt-4o-mini").cost is None


# --- failures


def test_a_server_that_is_not_running_is_skipped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt has the reason; if there is no other route, it is the error."""
    gone = Sandbox(keys={"openai": [PLACEHOLDER_KEY]}).start()
    settle(gone)
    gone.stop()
    with pytest.raises(NoRouteAvailable, match="no connection"):
        get_llm_provider("my-server").generate("Hello", patience=0)
    there = serve("another-key")
    for name, value in there.environment().items():
        monkeypatch.setenv(name, value)
    assert get_llm_provider().generate("Hello", patience=0).provider == "openai"
    assert asked(there) == ["openai"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[providers.olama]\nmodels = ['m']", "set its base_url; did you mean 'ollama'?"),
        (
            "[providers.mine]\nmodels = ['m']",
            "unknown provider; to add another service, set its base_ur",
        ),
        ("[providers.mine]\nbase_url = 'http://localhost:1/v1'", "models is missing; write models"),
        ("[providers.ollama]\nmodels = []", "models is missing"),
        ("[providers.groq]\nmodels = []", "models is missing"),
        ("[providers.ollama]\nmodel = ['m']", "unknown setting 'model'; did you mean 'models'?"),
        ("[providers.ollama]\nmodels = 'm'", "models is text; it must be a list of model names"),
        ("[providers.ollama]\nmodels = ['']", "models is a list with a wrong entry; it must be a"),
        ("[providers.ollama]\nsecret_key = 'x'", "'secret_key'; keys go into the environment"),
        ("[providers.mine]\nbase_url = 'localhost:1'", "base_url must be an address such as http"),
        ("[providers.mine]\nbase_url = 'http://u:p@localhost'", "without a user name or password"),
        ("[providers.mine]\nbase_url = 7", "base_url is a number; it must be an address"),
        (
            "[providers.mine]\nbase_url = 'http://localhost:1/v1/chat/completions'",
            "base_url must not end with /chat/completions",
        ),
        (
            "[providers.Mine]\nbase_url = 'http://localhost:1'",
            "can have lowercase letters, digits, - and _",
        ),
        ("[providers.intelligent]\nbase_url = 'http://localhost:1'", "be auto, intelligent or"),
        ("[providers.auto]\nbase_url = 'http://localhost:1'", "be auto, intelligent or"),
        ("[providers.my_key_1]\nbase_url = 'http://localhost:1'", "cannot contain _key_ or be"),
        ("[providers.a_key_b]\nbase_url = 'http://localhost:1'", "a provider's name can have"),
        ("[providers.ollama]\nmodels = ['m']\nkey_variable = 'MY KEY'", "the name of a variable"),
        (
            "[providers.ollama]\nmodels = ['m']\nkey_variable = 'u_pkey7'",
            "of a variable, in capitals",
        ),
        ("[providers.groq]\nkey_variable = 'MY_KEY'", "it uses GROQ_API_KEY"),
        ("[providers.ollama]\nmodels = ['m']\npaid = 'no'", "paid is 'no'; it must be true or fa"),
        ("[providers.ollama]\nmodels = ['m']\ntier = 'pro'", "tier is 'pro'; it can be free or pa"),
        ("[providers.ollama]\nmodels = ['m']\nprices = 3", "prices is 3; it must be a table"),
        ("[providers.ollama]\nmodels = ['m']\nprices.m = 3", "must be { input = …, output = … }"),
        (
            "[providers.ollama]\nmodels = ['m']\nprices.m = { input = -1, output = 2 }",
            "[providers.ollama.prices]: m is {'input': -1, 'output': 2}; it must be { input = …",
        ),
        (
            "[providers.ollama]\nmodels = ['m']\nlimit_headers = { requests = 'days' }",
            "hour, day or month; did you mean 'day'?",
        ),
        (
            "[providers.ollama]\nmodels = ['m']\nlimit_headers = { words = 'day' }",
            "unknown setting 'words'; known settings: requests, tokens",
        ),
        ("order = ['ollama']", "a table [providers.ollama] with its models in arche_magic.toml"),
    ],
)
def test_an_invalid_table_is_refused_in_one_line(toml: str, words: str) -> None:
    """The error names the file, the table, what is wrong, and a likely correction."""
    Path("arche_magic.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        get_llm_provider()
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(Path.cwd() / "arche_magic.toml"))
    assert "\n" not in message
    assert "u:p" not in message
    assert "u_pkey" not in message


def test_an_unconfigured_service_is_an_error_with_its_line() -> None:
    """A program that selects it by name gets the line that adds it."""
    for ask in (get_llm_provider, get_model_for_provider):
        with pytest.raises(ConfigurationError, match=r"a table \[providers.ollama\] with its mode"):
            ask("ollama")


# --- names of models


def test_a_model_goes_to_the_provider_before_the_slash(serve: Serve) -> None:
    """A broker's models can have names like `provider/model` of others, which stay valid."""
    Path("arche_magic.toml").write_text(
        f'[providers.openrouter]\nmodels = ["openai/{MODEL}", "vendor/model:free"]\n'
    )
    resolve = get_configuration().resolve_model
    assert resolve(f"openai/{MODEL}") == {"openai": [MODEL]}
    assert resolve(f"openrouter/openai/{MODEL}") == {"openrouter": [f"openai/{MODEL}"]}
    assert resolve(f"openai/{MODEL}", "openrouter") == {"openrouter": [f"openai/{MODEL}"]}
    assert resolve("vendor/model:free") == {"openrouter": ["vendor/model:free"]}


# --- known services, and the page about them


@pytest.mark.parametrize("name", [n for n, one in known_services().items() if not one.retired])
def test_a_known_service_needs_only_its_models(
    name: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address and variable are those it documents; another address works too."""
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "made-up")
    Path("arche_magic.toml").write_text(f'[providers.{name}]\nmodels = ["{MODEL}"]\n')
    service = get_configuration().providers[name]
    address = known_services()[name].services[0]
    assert service.url == address.replace("{CLOUDFLARE_ACCOUNT_ID}", "made-up")
    assert re.search(r"\b20\d\d\b", service.source), "read when?"
    sandbox = serve("a-key-of-the-service")
    settle(sandbox, name=name)
    monkeypatch.setenv(service.key_variables[0], "a-key-of-the-service")
    reply = get_llm_provider(name).generate("Hello", patience=0)
    assert (reply.provider, reply.model) == (name, MODEL)


def examples() -> list[str]:
    """The settings on the page."""
    page = (ROOT / "docs" / "services.md").read_text("utf-8")
    return re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", examples())
def test_each_example_on_the_page_works(
    example: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted unchanged; at the server's address, each of its models is called."""
    settings = tomllib.loads(example)
    Path("arche_magic.toml").write_text(example)
    known = get_configuration().providers
    sandbox = serve("a-key-of-the-service")
    for name in settings.get("providers", {}):
        variable = known[name].key_variables[0]
        monkeypatch.setenv(variable, "a-key-of-the-service")
        moved = re.sub(r"(?m)^base_url = .*$", "", example).replace(
            f"[providers.{name}]\n", f'[providers.{name}]\nbase_url = "{sandbox.url}/openai/v1"\n'
        )
        Path("arche_magic.toml").write_text(moved)
        reply = get_llm_provider(name).generate("Hello", model=f"{name}/{MODEL}")
        assert reply.provider == name
        monkeypatch.delenv(variable)
