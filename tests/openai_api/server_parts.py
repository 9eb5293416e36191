"""A running server, a sandbox behind it, and clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import httpx
import openai
import pytest

from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import (
    Configuration,
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.reply import Attempt
from arche_magic.openai_api.server import Server
from arche_magic.sandbox import Sandbox

CHAT = "/v1/chat/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
BODY = {"model": "groq", "messages": HI}
FREE = dict.fromkeys(f"{m}_per_{p}" for m in ("requests", "tokens") for p in ("minute", "day"))
_stores = count()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Sandbox]:
    """Groq without limits, and the other providers."""
    with Sandbox(keys={"groq": 1, "mistral": 1}, limits={"groq": FREE}) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for most tests; each request uses the configuration at its time."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("own-settings"))
        patch.setenv("XDG_CONFIG_HOME", folder)
        patch.setenv("APPDATA", folder)
        with Server(port=0) as server:
            yield server


@pytest.fixture
def configured(own_folder: None, upstream: Sandbox) -> Configuration:
    """This process uses the sandbox, with an empty ledger."""
    upstream.reset()
    upstream.latency = upstream.seconds_per_chunk = 0.0
    return use(upstream)


def use(sandbox: Sandbox) -> Configuration:
    """Use a sandbox whose Groq has no limits, with an empty ledger."""
    configuration = load_configuration(sandbox.environment())
    groq = replace(configuration.providers["groq"], limits={})
    configuration = replace(
        configuration,
        providers={**configuration.providers, "groq": groq},
        store=f"memory://served-{next(_stores)}",
    )
    use_configuration(configuration)
    return configuration


def client(server: Server, **settings: Any) -> openai.OpenAI:
    settings = {"api_key": server.api_key, "max_retries": 0} | settings
    return openai.OpenAI(base_url=server.base_url, **settings)


def send(server: Server, path: str = CHAT, method: str = "POST", **settings: Any) -> httpx.Response:
    """Send a request with the token, like a program without the SDK."""
    headers = {"Authorization": f"Bearer {server.api_key}"} | settings.pop("headers", {})
    url = f"http://127.0.0.1:{server.port}{path}"
    given = {"json": BODY} if method == "POST" and "content" not in settings else {}
    return httpx.request(
        method, url, headers=headers, trust_env=False, timeout=30, **(given | settings)
    )


def attempts() -> list[Attempt]:
    return list(attempt_log(get_configuration().store).session())


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
