"""The valid names for `model=`, as OpenAI lists models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arche_magic.llm_providers import Tool
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.request import Image, Message, Request

from .replies import HttpReply, json_reply
from .requests import AUTO, who_answers

_EXAMPLES = {
    "images": Request((Message("user", "", (Image("image/png", b""),)),)),
    "tools": Request((Message("user", ""),), tools=(Tool("any"),)),
}


def model_list(configuration: Configuration) -> HttpReply:
    """Answer `GET /v1/models`: auto, aliases, providers with a key, and their models."""
    return json_reply({"object": "list", "data": list(_listed(configuration))})


def one_model(name: str, configuration: Configuration) -> HttpReply:
    """Answer `GET /v1/models/NAME`; also takes a bare model, and names that are not listed.

    Raises:
        Problem: it names nothing that is known.
    """
    for entry in _listed(configuration):
        if entry["id"] == name:
            return json_reply(entry)
    who_answers(name, {}, configuration)
    return json_reply(_named(name, configuration))


def _listed(configuration: Configuration) -> Iterator[dict[str, Any]]:
    yield {**_entry(AUTO, "arche_magic"), "context_window": None, "takes": None}
    for alias in configuration.aliases:
        yield _named(alias, configuration)
    with_key = {key.provider for key in configuration.keys}
    for provider in configuration.providers.values():
        if provider.name in with_key and provider.models:
            yield _model(provider.name, provider.name, provider.models[0], configuration)
            names = dict.fromkeys([*provider.models, *sorted(provider.known_models)])
            for name in names:
                yield _model(f"{provider.name}/{name}", provider.name, name, configuration)
        for name, about in provider.embedding_models.items() if provider.name in with_key else ():
            yield {
                **_entry(f"{provider.name}/{name}", provider.name),
                "context_window": about.tokens_per_text or None,
                "takes": {"images": False, "embeddings": True},
            }


def _named(name: str, configuration: Configuration) -> dict[str, Any]:
    owner, models = next(iter(configuration.resolve_model(name).items()))
    return _model(name, owner, models[0], configuration)


def _model(id_: str, owner: str, model: str, configuration: Configuration) -> dict[str, Any]:
    return {
        **_entry(id_, owner),
        "context_window": configuration.providers[owner].context_windows.get(model),
        "takes": _takes(owner, model, configuration),
    }


def _takes(owner: str, model: str, configuration: Configuration) -> dict[str, bool] | None:
    """Return what a model takes: all, unless the catalog or a refusal says no; None without key."""
    key = next((key for key in configuration.keys if key.provider == owner), None)
    if key is None:
        return None
    tracker, now = get_quota_tracker(configuration), configuration.clock.time()
    route = configuration.route(key, model)
    states = {name: tracker.state(route, request, now) for name, request in _EXAMPLES.items()}
    return {name: not state.is_unsuitable for name, state in states.items()}


def _entry(id_: str, owner: str) -> dict[str, Any]:
    return {"id": id_, "object": "model", "created": 0, "owned_by": owner}
