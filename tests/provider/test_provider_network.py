"""Faulty proxies, certificates and networks are named as the cause in one line.

No provider is blamed for them, and none is closed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from loopback import Handler, Server
from provider_parts import PROVIDERS
from refusing_server import completion, refusing_server

from arche_magic.llm_providers import (
    ConfigurationError,
    LLMProviderError,
    NoRouteAvailable,
    get_llm_provider,
)
from arche_magic.llm_providers.doctor import examine
from arche_magic.llm_providers.network import problem_of, proxy_of, trusted_certificates

WRONG = [
    ({"ALL_PROXY": "socks://127.0.0.1:9"}, "ALL_PROXY names a socks"),
    ({"all_proxy": "socks5://127.0.0.1:9"}, "all_proxy names a socks5:// proxy.*httpx.socks"),
    ({"HTTPS_PROXY": "http://host:port"}, "HTTPS_PROXY is not the address of a proxy"),
    ({"HTTPS_PROXY": "http://me:my-password@host:99999"}, "HTTPS_PROXY is not the address"),
    ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "no connection to the proxy in HTTPS_PROXY"),
    ({"SSL_CERT_FILE": "no-such-file.pem"}, "SSL_CERT_FILE names a file that does not exist"),
    ({"SSL_CERT_FILE": "empty.pem"}, "SSL_CERT_FILE names a file without a certificate"),
    ({"SSL_CERT_DIR": "no-such-folder"}, "SSL_CERT_DIR names a folder that does not exist"),
]
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *map(str.lower, VARIABLES), *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
    Path("empty.pem").touch()


@pytest.mark.parametrize(("variables", "words"), WRONG)
def test_a_variable_with_an_invalid_value_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    """`generate`, `stream`, `agenerate` and the doctor name it once for all affected providers."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for provider in PROVIDERS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", f"a-key-for-{provider}-here")
    provider = get_llm_provider()
    ways: list[Any] = [
        lambda: provider.generate("Hello"),
        lambda: list(provider.stream("Hello")),
        lambda: asyncio.run(provider.agenerate("Hello")),
    ]
    for ask in ways:
        with pytest.raises(ConfigurationError, match=words) as caught:
            ask()
        line = str(caught.value)
        assert "\n" not in line
        assert line.count(next(iter(variables))) == 1
        assert "password" not in line
        assert not [name for name in PROVIDERS if name in line]
    for key in provider.configuration.keys:
        assert provider.quota_tracker.closure(key) is None
    found = [finding.found for finding in examine() if finding.state != "ok"]
    assert any(name in text for text in found for name in variables)
    for name in variables:
        monkeypatch.delenv(name)
    # The variable is read again, so the next request does not fail because of it.
    with pytest.raises(LLMProviderError) as after:
        provider.generate("Hello", patience=0, timeout=20)
    assert not [name for name in variables if name in str(after.value)]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_key_in_a_wrong_variable_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The error and the doctor do not show it."""
    monkeypatch.setenv("GROQ_API_KEY", "a-key-for-groq-here")
    monkeypatch.setenv(variable, "gsk_aKeyInAWrongPlace")
    with pytest.raises(ConfigurationError, match=variable) as caught:
        get_llm_provider().generate("Hello", patience=0, timeout=20)
    assert "WrongPlace" not in f"{caught.value} {examine()}"


def test_a_server_on_this_machine_needs_no_proxy_or_certificate(
    sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is contacted directly, and http needs no certificate."""
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "[::1]")
    monkeypatch.setenv("SSL_CERT_FILE", "no-such-file.pem")
    for name in PROVIDERS:
        assert get_llm_provider(name).generate("Hello").provider == name


@pytest.mark.parametrize(
    "excluded",
    [
        # What Docker Desktop and OrbStack set: github.com/encode/httpx/issues/3574
        "localhost,127.0.0.0/8,::1/128",
        "localhost,127.0.0.1,::1,[::1]",
        "fe80::/10, *.local, <local>, :8080, http://",
        "localhost another.test",
        "eapi.test, api.test.com, api.test:8080, 10.*",
    ],
)
def test_no_entry_of_no_proxy_prevents_requests(
    monkeypatch: pytest.MonkeyPatch, excluded: str
) -> None:
    """Entries that are not hosts are ignored, and requests to other hosts use the proxy."""
    monkeypatch.setenv("GROQ_API_KEY", "a-key-for-groq-here")
    monkeypatch.setenv("GROQ_BASE_URL", "http://api.test")
    monkeypatch.setenv("NO_PROXY", excluded)
    with refusing_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        proxy.answer = lambda request: (200, completion("Hi"))
        assert get_llm_provider("groq").generate("Hello") == "Hi"
        assert not [one for one in examine() if "NO_PROXY" in one.found]


@pytest.mark.parametrize(
    ("excluded", "url"),
    [
        ("*", "http://api.test"),
        ("localhost,*", "http://api.test"),
        ("localhost api.test", "http://api.test"),
        ("API.test", "http://api.test:8080/v1"),
        ("test", "http://api.test"),
        (".test", "http://api.test"),
        ("*.test", "http://api.test"),
        ("http://api.test", "http://api.test"),
        ("api.test:8080", "http://api.test:8080"),
        # curl ignores the final dot of an entry too.
        (".api.test.", "http://api.test"),
        ("http://api.test:80/v1", "http://api.test"),
        ("[fe80::1]:11434", "http://[fe80::1]:11434/v1"),
        # A server in the local network, such as Ollama's.
        ("10.0.0.0/8", "http://10.1.2.3:11434/v1"),
        ("[fe80::]/10", "http://[fe80::1]:11434/v1"),
    ],
)
def test_hosts_that_no_proxy_names_are_contacted_directly(
    monkeypatch: pytest.MonkeyPatch, excluded: str, url: str
) -> None:
    """A name covers the names below it, and addresses can be given as networks."""
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    assert proxy_of(url) == "http://127.0.0.1:9"
    monkeypatch.setenv("NO_PROXY", excluded)
    assert proxy_of(url) == ""


@pytest.mark.parametrize(
    ("excluded", "url"),
    [
        ("api.test:8080", "http://api.test"),
        ("[fe80::1]:80", "http://[fe80::1]:11434/v1"),
        # Only a name covers what is below it.
        ("1", "http://10.0.0.1"),
        ("2.3", "http://10.1.2.3"),
    ],
)
def test_hosts_that_no_proxy_does_not_name_use_the_proxy(
    monkeypatch: pytest.MonkeyPatch, excluded: str, url: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", excluded)
    assert proxy_of(url) == "http://127.0.0.1:9"


def test_an_empty_variable_in_small_letters_turns_the_proxy_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong value of the other variable is not used, so it is not an error."""
    monkeypatch.setenv("HTTP_PROXY", "garbage://127.0.0.1")
    assert problem_of("http://api.test").startswith("HTTP_PROXY names a garbage:// proxy")
    monkeypatch.setenv("http_proxy", "")
    assert proxy_of("http://api.test") == ""
    assert problem_of("http://api.test") == ""


@pytest.mark.parametrize(
    ("variable", "value", "affected", "other"),
    [
        ("SSL_CERT_FILE", "no-such-file.pem", "https://api.test", "http://api.test"),
        ("SSL_CERT_FILE", "empty.pem", "https://localhost", "http://localhost"),
        ("HTTPS_PROXY", "garbage://host", "https://api.test", "http://api.test"),
        ("ALL_PROXY", "garbage://host", "http://api.test", "http://localhost"),
    ],
)
def test_an_invalid_variable_stops_only_the_connections_that_use_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, affected: str, other: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert problem_of(affected).startswith(variable)
    assert problem_of(other) == ""


def test_an_invalid_variable_is_named_beside_other_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, and not as a failure of the providers that cannot be reached because of it."""
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    monkeypatch.setenv("GROQ_API_KEY", "a-key-for-groq-here")
    monkeypatch.setenv("MISTRAL_API_KEY", "a-key-for-mistral-here")
    settle("http://127.0.0.1:9")
    with pytest.raises(NoRouteAvailable, match=r"my-server · key 1 · m.*no connection") as caught:
        get_llm_provider().generate("Hello", patience=0)
    assert str(caught.value).count("ALL_PROXY") == 1
    assert "groq" not in str(caught.value)


class _Completions(Handler):
    def do_POST(self) -> None:
        self.body()
        message = b'{"choices": [{"message": {"content": "Safe."}, "finish_reason": "stop"}]}'
        self.answer(200, message)


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[str]:
    """A server on https://localhost with a self-signed certificate in `own.pem`."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out own.pem -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    server = Server(("127.0.0.1", 0), _Completions)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def settle(url: str) -> None:
    Path("arche_magic.toml").write_text(
        f'[providers.my-server]\nbase_url = "{url}/v1"\nmodels = ["m"]\n'
    )


def test_an_untrusted_certificate_is_named_as_the_cause(
    https_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When SSL_CERT_FILE names it, the same process reaches https://localhost."""
    settle(https_server)
    with pytest.raises(ConfigurationError, match=r"certificate of localhost.*SSL_CERT_FILE"):
        get_llm_provider("my-server").generate("Hello")
    monkeypatch.setenv("SSL_CERT_FILE", "own.pem")
    assert get_llm_provider("my-server").generate("Hello") == "Safe."
    settle(https_server.replace("localhost", "127.0.0.1"))
    with pytest.raises(ConfigurationError, match=r"certificate of 127.* is not valid .*mismatch"):
        get_llm_provider("my-server").generate("Hello")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_DIR", f"no-such-folder{os.pathsep}trusted"),
        # github.com/openai/openai-python/issues/73
        ("REQUESTS_CA_BUNDLE", "own.pem"),
        ("CURL_CA_BUNDLE", "own.pem"),
        ("REQUESTS_CA_BUNDLE", "trusted"),
    ],
)
def test_certificates_of_a_company_are_trusted(
    https_server: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A list of folders, and the variables of other programs, which add to the usual ones."""
    Path("trusted").mkdir()
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", "own.pem"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    Path("trusted", f"{name}.0").write_bytes(Path("own.pem").read_bytes())
    monkeypatch.setenv(variable, value)
    settle(https_server)
    assert get_llm_provider("my-server").generate("Hello") == "Safe."
    usual = ssl.create_default_context(cafile=certifi.where()).get_ca_certs()
    if variable != "SSL_CERT_DIR":
        assert len(trusted_certificates().get_ca_certs()) >= len(usual)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_changed_file_of_certificates_is_read_again(
    https_server: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The error says to which file the certificate must be added, and names its variable."""
    Path("company.pem").write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv(variable, "company.pem")
    settle(https_server)
    words = rf"is not trusted .*add its CA's certificate to company\.pem \({variable}\)"
    with pytest.raises(ConfigurationError, match=words):
        get_llm_provider("my-server").generate("Hello")
    with Path("company.pem").open("ab") as file:
        file.write(Path("own.pem").read_bytes())
    assert get_llm_provider("my-server").generate("Hello") == "Safe."


def test_an_invalid_certificate_of_the_system_stops_no_request(
    https_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python up to 3.12 then fails to read the certificates of Windows."""

    def fail(*_: object) -> None:
        raise ssl.SSLError("[ASN1: NOT_ENOUGH_DATA] not enough data")

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", fail)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "own.pem")
    settle(https_server)
    assert get_llm_provider("my-server").generate("Hello") == "Safe."


def test_a_bundle_that_only_other_programs_need_may_be_missing(
    https_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out, so requests do not fail if its path no longer exists."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "no-such-file.pem")
    settle(https_server)
    with pytest.raises(ConfigurationError, match=r"certificate of localhost.* is not trusted"):
        get_llm_provider("my-server").generate("Hello")
    assert not [one for one in examine() if "CA_BUNDLE" in one.found]


def test_a_wrong_scheme_is_named_as_the_cause(https_server: str) -> None:
    """The server speaks http and the address is https://, or the reverse."""
    with refusing_server() as server:
        settle(server.url.replace("http:", "https:"))
        with pytest.raises(NoRouteAvailable, match="does not speak TLS"):
            get_llm_provider("my-server").generate("Hello", patience=0)
    settle(https_server.replace("https:", "http:"))
    with pytest.raises(NoRouteAvailable):
        get_llm_provider("my-server").generate("Hello", patience=0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_missing_network_is_not_reported_as_a_limit(
    monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    """Groq's keys have not hit a limit if Groq cannot be reached."""
    monkeypatch.setenv("GROQ_API_KEY", "a-key-for-groq-here")
    monkeypatch.setenv("GROQ_BASE_URL", "http://127.0.0.1:9")
    provider = get_llm_provider("groq")
    with pytest.raises(LLMProviderError, match="no connection") as caught:
        list(provider.stream("Hi", patience=0)) if streamed else provider.generate("Hi", patience=0)
    assert "rate limit" not in str(caught.value)
