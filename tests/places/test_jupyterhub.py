"""Two users of a JupyterHub share one pool in Redis, and nothing else.

The hub and Redis run with the settings that `docs/jupyterhub.md` shows. `make places` installs
JupyterHub into an environment of its own and runs this.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import redis
from loopback import free_port
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from arche_magic.sandbox import Sandbox

pytest.importorskip("jupyterhub", reason="needs JupyterHub: make places")
pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "jupyterhub.md").read_text("utf-8")
COMMANDS = Path(sys.executable).parent
HUB_TOKEN = uuid.uuid4().hex
# Settings that only the test needs: users without system accounts, free ports, and a token that
# starts servers.
SETTINGS = """
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy}"
c.ConfigurableHTTPProxy.command = "{command}"
c.SimpleLocalProcessSpawner.home_dir_template = "{homes}/{{username}}"
c.Spawner.args = ["--allow-root"]
c.Spawner.environment["PYTHONPATH"] = "{root}"
c.Spawner.start_timeout = 120
c.JupyterHub.services = [dict(name="test", api_token="{token}")]
c.JupyterHub.load_roles = [dict(name="test", services=["test"],
    scopes=["admin:users", "admin:servers", "access:servers", "admin:groups"])]
"""


def shown(language: str, containing: str) -> str:
    """The block of the page in this language with these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    return block


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Redis that is configured as on the page."""
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    configuration = folder / "redis.conf"
    own = f"port {port}\ndir {folder}\nuser looker on >looks ~* +@all\n"
    configuration.write_text(shown("ini", "appendonly") + own)
    server = subprocess.Popen(
        ["redis-server", configuration], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    url = f"redis://arche:PASSWORD@127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url, retry=None)
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.02)
    yield url
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def services() -> Iterator[Sandbox]:
    """The services that both users ask. Each Groq key has one request left today.

    Their clock stands still, so that no request comes back while servers start.
    """
    now = time.time()
    keys, left = {"groq": 4, "mistral": 1}, {"groq": {"requests_per_day": 1}}
    with Sandbox(keys=keys, left=left, clock=lambda: now) as sandbox:
        yield sandbox


@dataclass(frozen=True)
class Hub:
    """A running hub.

    Attributes:
        url: The address of its proxy.
        folder: Its files, and the users' folders in `homes`.
    """

    url: str
    folder: Path

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer to a request with the test's token.

        Raises:
            HTTPError: the hub refused it.
        """
        request = Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"token {HUB_TOKEN}", "content-type": "application/json"},
            method=method,
        )
        with urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, store: str, services: Sandbox) -> Iterator[Hub]:
    """A hub with the Redis and three keys for all users, and a Groq key for a course."""
    folder = tmp_path_factory.mktemp("hub")
    public, own, proxy = (free_port() for _ in range(3))
    configuration = folder / "jupyterhub_config.py"
    configuration.write_text(
        shown("py", "POOL")
        + shown("py", "give_keys")
        + SETTINGS.format(
            public=public, hub=own, proxy=proxy, homes=folder / "homes", root=ROOT,
            token=HUB_TOKEN, command=COMMANDS / "configurable-http-proxy",
        )
    )  # fmt: skip
    pool = services.environment() | {"ARCHE_QUOTA_STORE": store}
    del pool["GROQ_API_KEY_3"]  # a user's own
    pool["COURSE_GROQ_KEY"] = pool.pop("GROQ_API_KEY_4")
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    log = folder / "hub.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", configuration],
            cwd=folder, env={**os.environ, **pool, "PATH": path},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    running = Hub(f"http://127.0.0.1:{public}", folder)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                running.call("GET", "/hub/api/")
                break
            except (HTTPError, URLError):
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                assert server.poll() is None, log.read_text()[-2000:]
                time.sleep(0.1)
        running.call("POST", "/hub/api/users", {"usernames": ["ada", "bob"]})
        yield running
    finally:
        server.terminate()
        server.wait(60)


class User:
    """A user of the hub with a running server and one notebook in its kernel."""

    def __init__(self, hub: Hub, name: str, files: dict[str, str]) -> None:
        self.hub, self.name, self.home = hub, name, hub.folder / "homes" / name
        self.home.mkdir(parents=True)
        for path, text in files.items():
            (self.home / path).write_text(text)
            (self.home / path).chmod(0o600)
        hub.call("POST", f"/hub/api/users/{name}/server", {})
        deadline = time.monotonic() + 120
        while not hub.call("GET", f"/hub/api/users/{name}")["servers"].get("", {}).get("ready"):
            assert time.monotonic() < deadline, (hub.folder / "hub.log").read_text()[-2000:]
            time.sleep(0.2)
        self.kernel = hub.call("POST", f"/user/{name}/api/kernels", {"name": "python3"})["id"]
        self.cells: list[dict[str, Any]] = []

    def run(self, source: str) -> str:
        """Run a cell in the kernel and save the notebook; returns the texts of the outputs."""
        outputs = asyncio.run(self._execute(source))
        self.cells.append(
            {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs,
             "execution_count": len(self.cells) + 1}
        )  # fmt: skip
        content = {"cells": self.cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        self.hub.call(
            "PUT",
            f"/user/{self.name}/api/contents/work.ipynb",
            {"type": "notebook", "content": content},
        )
        texts = [o.get("text") or o.get("evalue") or o["data"]["text/plain"] for o in outputs]
        return "\n".join(texts)

    async def _execute(self, source: str) -> list[dict[str, Any]]:
        address = f"{self.hub.url}/user/{self.name}/api/kernels/{self.kernel}/channels"
        connection = await websocket_connect(
            HTTPRequest(
                address.replace("http", "ws", 1), headers={"authorization": f"token {HUB_TOKEN}"}
            )
        )
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "session": uuid.uuid4().hex,
                  "username": self.name, "version": "5.3"}  # fmt: skip
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        await connection.write_message(
            json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell",
                        "content": content})
        )  # fmt: skip
        displays: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(120):
            while text := await connection.read_message():
                reply = json.loads(text)
                kind, content = reply["msg_type"], reply["content"]
                if reply["parent_header"].get("msg_id") != message:
                    continue
                if kind == "status" and content["execution_state"] == "idle":
                    break
                place = content.pop("transient", {}).get("display_id") or uuid.uuid4().hex
                if kind == "update_display_data":
                    displays[place] |= content
                elif kind in ("stream", "error", "display_data", "execute_result"):
                    displays[place] = {"output_type": kind, **content}
        connection.close()
        return list(displays.values())


@pytest.fixture(scope="module")
def ada(hub: Hub, services: Sandbox) -> User:
    """A user with a key of her own."""
    key = services.environment()["GROQ_API_KEY_3"]
    user = User(hub, "ada", {".env": f"GROQ_API_KEY_9={key}\n"})
    assert user.run("%load_ext arche_magic") == ""
    return user


@pytest.fixture(scope="module")
def bob(hub: Hub) -> User:
    """A user in a course that has its own key."""
    hub.call("POST", "/hub/api/groups/course", {"users": ["bob"]})
    user = User(hub, "bob", {})
    assert user.run("%load_ext arche_magic") == ""
    return user


SECRET = "bluebird marmalade"
ASK = "%%llm -o answer\nI am {name}. What of the {secret} of {name}?"
ROUTE = "print([f'{a.key} {a.outcome}' for a in answer.attempts])"
USED = """quota = %llm_quota
rows = quota[quota.limit.eq("requests_per_day") & quota.provider.eq("groq")]
print(dict(zip(rows.key, rows.used)))"""


def test_what_one_user_uses_is_missing_for_the_other(ada: User, bob: User) -> None:
    """Each Groq key has one request left. A key that one user has spent is skipped for the other.

    Their third keys differ: Ada has her own, and Bob has his course's.
    """
    came = []
    for user in (ada, bob) * 3:
        user.run(ASK.format(name=user.name, secret=SECRET))
        came.append((user.name, user.run(ROUTE).strip()))
    skipped = [f"'groq_key_{number} skipped'" for number in (1, 2, 3)]
    assert came == [
        ("ada", "['groq_key_1 served']"),
        ("bob", "['groq_key_1 skipped', 'groq_key_2 served']"),
        ("ada", "['groq_key_1 skipped', 'groq_key_2 skipped', 'groq_key_3 served']"),
        ("bob", "['groq_key_1 skipped', 'groq_key_2 skipped', 'groq_key_3 served']"),
        *(
            (name, f"[{', '.join(skipped)}, 'mistral_key_1 served']") for name in ("ada", "bob")
        ),
    ]  # fmt: skip
    for user in (ada, bob):
        used = user.run(USED).splitlines()[-1]
        assert used == "{'groq_key_1': 1000, 'groq_key_2': 1000, 'groq_key_3': 1000}"
    assert re.search(r"groq_key_3 .*GROQ_API_KEY_9 in .*\.env", ada.run("%llm_keys"))
    assert re.search(r"groq_key_3 .*GROQ_API_KEY_3 in the environment", bob.run("%llm_keys"))


def test_nobody_sees_prompts_or_replies_of_others(
    hub: Hub, store: str, services: Sandbox, ada: User, bob: User
) -> None:
    """They are stored in the user's own folder, but not in Redis or in the hub's files."""
    for user in (ada, bob):
        user.run(f"%%llm --keep -o kept\nSay {SECRET} to {user.name}.")
        user.run(f"%%llm --chat talk\nA secret of {user.name}: {SECRET}.")
        user.run("attempts = %llm_stats")
    assert bob.run("%%llm --keep -o kept\nSay bluebird marmalade to ada.")
    assert bob.run("print(kept.from_memory)") == "None\n"
    assert "answered" in bob.run("%llm_stats")

    def files_with(text: str) -> set[str]:
        found = (path for path in hub.folder.rglob("*") if path.is_file())
        return {
            path.relative_to(hub.folder).as_posix()
            for path in found
            if text.encode() in path.read_bytes()
        }

    assert "homes/ada/work.ipynb" in files_with(f"{SECRET} of ada")
    assert "homes/ada/outputs/llm_replies.sqlite" in files_with(f"{SECRET} to ada")
    for words in ("I am ada", f"{SECRET} of ada", "A secret of ada"):
        assert {path.split("/")[1] for path in files_with(words)} == {"ada"}
    for words in (f"{SECRET} of bob", "A secret of bob"):
        assert {path.split("/")[1] for path in files_with(words)} == {"bob"}

    looker = redis.Redis.from_url(store.replace("arche:PASSWORD", "looker:looks"))
    everything = b"".join(name + looker.get(name) for name in looker.scan_iter("*"))
    assert b"groq" in everything
    for words in (SECRET, "Simulated reply", "ada", "bob", *keys_of(services)):
        assert words.encode() not in everything, words


def keys_of(services: Sandbox) -> list[str]:
    """The keys themselves."""
    return [value for name, value in services.environment().items() if "_KEY" in name]
