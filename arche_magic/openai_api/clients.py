"""The official OpenAI clients, answered by the pool of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.config import get_configuration

from .requests import check_defaults
from .transport import Transport

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

# Nothing is sent there: the name cannot exist (RFC 2606).
_NOWHERE = "http://arche-magic.invalid/v1"
_NO_KEY = "not-needed"


def openai_client(**defaults: Any) -> OpenAI:
    """Return the official `openai.OpenAI`, whose requests the best open routes answer.

        client = arche_magic.openai_client(patience=60)
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])

    `model` is `auto`, a provider, `provider/model`, a model, or an alias of the settings. No server
    and no key are needed. An interrupt stops a request. The client's `timeout` limits the whole
    request. The client does not retry, because the engine waits and tries the next route.

    Args:
        **defaults: default options of its requests, as for `generate`: `model`, `provider`,
            `patience`, `timeout`, `private`, `same_model`, `keep`, `fresh`, `tag`, `reserve`,
            `fallback_on_filter`, `system`, `temperature`, `top_p`, `max_tokens`, `stop`, `seed`.

    Raises:
        InvalidRequest: an option is unknown or its value is wrong.
        ConfigurationError: the provider or the model is unknown.
    """
    transport, openai = openai_transport(**defaults), library("openai")
    http = openai.DefaultHttpxClient(transport=transport, trust_env=False)
    client: OpenAI = openai.OpenAI(**_settings(), http_client=http)
    return client


def async_openai_client(**defaults: Any) -> AsyncOpenAI:
    """Return the official `openai.AsyncOpenAI`, as `openai_client`.

    At most 64 requests run at the same time; others wait for their turn. Cancelling a call or
    closing its stream stops the request.
    """
    transport, openai = openai_transport(**defaults), library("openai")
    http = openai.DefaultAsyncHttpxClient(transport=transport, trust_env=False)
    client: AsyncOpenAI = openai.AsyncOpenAI(**_settings(), http_client=http)
    return client


def openai_transport(**defaults: Any) -> Any:
    """Return a transport for libraries that take an HTTP client.

        http_client = httpx.Client(transport=arche_magic.openai_transport(), timeout=None)

    It works with `Client` and `AsyncClient` of httpx and httpx2, and answers requests to any host.

    Args:
        **defaults: as for `openai_client`.

    Raises what `openai_client` raises.
    """
    check_defaults(defaults, get_configuration())
    return Transport(defaults)


def _settings() -> dict[str, Any]:
    # Without these the client would read variables of the environment, which are for others.
    return {
        "api_key": _NO_KEY,
        "base_url": _NOWHERE,
        "organization": "",
        "project": "",
        "max_retries": 0,
        "timeout": None,
    }
