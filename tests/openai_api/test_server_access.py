"""Who may use the server: programs on this machine that have the token, and nobody else."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_parts import HI, attempts, client, send

from arche_magic.llm_providers.config import (
    Configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.openai_api.server import Server
from arche_magic.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("configured")


def test_health_reveals_nothing(server: Server) -> None:
    """It needs no token, so it only says that the server is running."""
    answer = send(server, "/health", "GET", headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "server" not in answer.headers
    head = send(server, "/health", "HEAD", headers={"Authorization": ""})
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Authorization": ""}, 401, "wrong or missing token"),
        ({"Authorization": "Bearer wrong"}, 401, "wrong or missing token"),
        ({"Authorization": "Bearer wröng".encode()}, 401, "wrong or missing token"),
        ({"Authorization": "Basic {token}"}, 401, "wrong or missing token"),
        ({"Host": "rebound.example.org:{port}"}, 403, "the Host header must be one of"),
        ({"Host": "127.0.0.1"}, 403, "127.0.0.1:{port}"),
        ({"Host": "localhost.example.org:{port}"}, 403, "the Host header must be one of"),
        ({"Origin": "https://page.example.org"}, 403, "web pages may not use this server"),
        ({"Origin": "null"}, 403, "web pages may not use this server"),
        ({"Origin": "http://127.0.0.1:{port}"}, 403, "web pages may not use this server"),
    ],
)
def test_clients_without_access_are_refused_before_anything_is_sent(
    server: Server, upstream: Sandbox, headers: dict[str, str | bytes], status: int, says: str
) -> None:
    """A wrong token, a host name that a web page has rebound to this machine, and web pages."""
    known = {"port": server.port, "token": server.api_key}
    given = {
        name: text.format(**known) if isinstance(text, str) else text
        for name, text in headers.items()
    }
    refused = send(server, headers=given)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert says.format(**known) in error["message"]
    assert error["code"] == {401: "invalid_api_key", 403: "not_this_machine"}[status]
    assert server.api_key not in refused.text
    assert not [name for name in refused.headers if name.startswith("access-control")]
    assert upstream.requests == ()
    if status == 403:
        assert send(server, "/health", "GET", headers=given).status_code == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_names_of_this_machine_are_accepted(server: Server, name: str) -> None:
    """They are sent with the port."""
    assert send(server, headers={"Host": f"{name}:{server.port}"}).status_code == 200


def test_addresses_on_the_standard_port_need_not_name_it(configured: Configuration) -> None:
    """Clients leave it out of the Host header, and users out of OPENAI_BASE_URL."""
    try:
        server = Server(port=80).start()
    except ConfigurationError:
        pytest.skip("the port is reserved or in use")
    with server:
        assert client(server).chat.completions.create(model="groq", messages=HI).choices
        for host in ("127.0.0.1", "[::1]", "localhost:80"):
            assert send(server, headers={"Host": host}).status_code == 200
        assert send(server, headers={"Host": "example.org"}).status_code == 403
        own = {"OPENAI_BASE_URL": "http://localhost/v1", "OPENAI_API_KEY": server.api_key}
        use_configuration(load_configuration({**own, "ARCHE_QUOTA_STORE": configured.store}))
        assert "to itself" in send(server).json()["error"]["message"]


def test_it_listens_on_one_address(server: Server) -> None:
    """Other addresses of the machine, such as 127.0.0.2, do not answer."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", server.port)) != 0


def test_a_web_page_is_allowed_by_its_origin() -> None:
    """Only this origin gets CORS headers, and the page still needs the token."""
    page = {"Origin": "https://app.example.org"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a,x-b"}
    with Server(port=0, allow_origins=["https://app.example.org/"]) as server:
        preflight = send(server, method="OPTIONS", headers=page | asks | {"Authorization": ""})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == page["Origin"]
        assert preflight.headers["access-control-allow-headers"] == "x-a,x-b"
        answer = send(server, headers=page)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == page["Origin"]
        assert "x-arche-route" in answer.headers["access-control-expose-headers"]
        assert send(server, headers=page | {"Authorization": ""}).status_code == 401
        other = send(server, headers={"Origin": "https://other.example.org"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_user_can_read_the_token(tmp_path: Path, own_settings: Path) -> None:
    """It changes at every start, and is deleted when the server stops."""
    with Server(port=0) as server:
        path, first, port = server.token_file, server.api_key, server.port
        assert path.parent == own_settings.parent
        assert path.read_text().strip() == first
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(first) > 40
    assert not path.exists()
    # A file left by a killed kernel is replaced, and a link there is not followed.
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    with Server(port=port) as server:
        assert server.token_file == path
        assert server.api_key != first
        assert victim.read_text() == "mine"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        refused = send(server, headers={"Authorization": f"Bearer {first}"})
        assert refused.status_code == 401


def test_a_named_token_file_is_reused(tmp_path: Path) -> None:
    """Some programs cannot change their settings at every start."""
    path = tmp_path / "deep" / "token"
    tokens = []
    for _ in range(2):
        with Server(port=0, token_file=path) as server:
            tokens.append(server.api_key)
            assert send(server).status_code == 200
    assert tokens[0] == tokens[1] == path.read_text().strip()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("a-token-of-the-user-that-is-long", 0o644, "chmod 600"),
        ("short", 0o600, "20 characters or more"),
        ("two words that are long enough", 0o600, "one word"),
        (None, 0o600, "one word"),
    ],
)
def test_an_unsafe_token_file_is_refused(
    tmp_path: Path, content: str | None, mode: int, says: str
) -> None:
    """Others can read it, the token can be guessed, or it is an endless pipe."""
    path = tmp_path / "token"
    if content is None:
        os.mkfifo(path, 0o600)
    else:
        path.write_text(content)
        path.chmod(mode)
    server = Server(port=0, token_file=path)
    with pytest.raises(ConfigurationError, match=says):
        server.start()
    assert not server.running


def test_a_token_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    """An empty file would prevent the next start."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    server = Server(port=0, token_file=tmp_path / "token")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match="cannot be written"):
            server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with server:
        assert server.token_file.read_text().strip() == server.api_key


def test_shell_lines_contain_the_token_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved notebook contains the path of the token's file, without the user's name."""
    monkeypatch.setenv("HOME", str(tmp_path / "own-settings"))
    with Server(port=0) as server:
        lines = server.shell_lines()
        assert lines.splitlines() == [
            f"export OPENAI_BASE_URL={server.base_url}",
            f'export OPENAI_API_KEY="$(cat ~/arche_magic/server-{server.port}.token)"',
        ]
        assert server.shell_lines(show_token=True).endswith(server.api_key)


def test_stopping_ends_streams_and_frees_the_port(upstream: Sandbox) -> None:
    """At once, and their usage is counted."""
    upstream.seconds_per_chunk = 0.05
    server = Server(port=0).start()
    port = server.port
    stream = client(server).chat.completions.create(
        model="groq", messages=[{"role": "user", "content": "[tokens=4000]"}], stream=True
    )
    next(iter(stream))
    began = time.perf_counter()
    server.stop()
    assert time.perf_counter() - began < 2
    assert [attempt.outcome for attempt in attempts()] == ["interrupted"]
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        list(stream)
    with Server(port=port) as again:
        assert again.port == port
        assert send(again).status_code == 200
    server.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_stop_the_server(server: Server) -> None:
    """The child has the object and the socket, but the server belongs to its parent."""
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(int(server.running))
    assert os.waitpid(child, 0)[1] == 0
    assert server.token_file.exists()
    assert send(server).status_code == 200


def test_starting_twice_changes_nothing(server: Server) -> None:
    """A server that is not running says so."""
    port, token = server.port, server.api_key
    assert server.start() is server
    assert (server.port, server.api_key) == (port, token)
    assert repr(server) == f"<Server {server.base_url}>"
    assert token not in repr(server)
    stopped = Server()
    with pytest.raises(RuntimeError, match="not running"):
        stopped.environment()
    assert repr(stopped) == "<Server, not running>"


def test_a_port_in_use_is_an_error_only_if_it_was_named(server: Server) -> None:
    """By default, another port is used if the usual one is in use."""
    with pytest.raises(ConfigurationError, match=f"port {server.port} cannot be used: .*in use"):
        Server(port=server.port).start()
    with Server() as one, Server() as two:
        assert one.port != two.port
        assert send(two).status_code == 200


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"port": 70_000}, "port 70000 is not between"),
        ({"port": -1}, "port -1 is not between"),
        ({"port": "8377"}, "port '8377' is not between"),
        ({"allow_origins": "https://a.org"}, r"must be a list, such as \['https://a.org'\]"),
        ({"allow_origins": [5]}, "5 is not the origin of a web page"),
        ({"allow_origins": ["*"]}, "'\\*' is not the origin of a web page"),
        ({"allow_origins": ["null"]}, "'null' is not the origin"),
        ({"allow_origins": ["https://app.example.org/page"]}, "is not the origin"),
        ({"token_file": ""}, "the path of the token file is empty"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    """No port is opened."""
    with pytest.raises(InvalidRequest, match=says):
        Server(**settings)
