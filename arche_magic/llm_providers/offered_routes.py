"""Find the routes that a request may take, and say why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .config import Configuration
from .config.sources import own_settings_file
from .errors import ConfigurationError, InvalidRequest, NoKeys, NoRouteAvailable
from .request import Request
from .routing import Routes, of_one_model
from .types import Route, name_in_words
from .wire_fields import may_be_unsuitable, unsuitable, unsupported_fields

_MOST_KEPT = 64


class OfferedRoutes:
    """Finds the routes that a request may take, and remembers them for requests of the same kind.

    Args:
        configuration: providers, models and keys.
        providers: only these are asked.
    """

    def __init__(self, configuration: Configuration, providers: Sequence[str]) -> None:
        self.configuration, self.providers = configuration, providers
        self._kept: dict[tuple[Any, ...], Routes] = {}

    def to(self, request: Request, preferred: str | None, *, all_groq_keys: bool = True) -> Routes:
        """Return the routes a request may take, in the configured order.

        Raises:
            ConfigurationError: unknown provider or model, no key, or, for a private request, no
                marked route.
            InvalidRequest: the request has something that none of them takes, such as images.
        """
        kind = (
            request.provider, request.model, request.private, request.same_model,
            bool(request.inputs), preferred, all_groq_keys,
        )  # fmt: skip
        routes = self._kept.get(kind)
        if routes is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            routes = self._kept[kind] = self._find(request, preferred, all_groq_keys)
        if may_be_unsuitable(request):
            self._check_suitable(request, routes)
        return routes

    def providers_with_routes(self) -> list[str]:
        """Return the providers that have a route at all."""
        return list(dict.fromkeys(route.provider for route in self._all()))

    def _all(self) -> list[Route]:
        return [r for r in self.configuration.routes() if r.provider in self.providers]

    def _find(self, request: Request, preferred: str | None, all_groq_keys: bool) -> Routes:
        if request.provider and request.provider not in self.providers:
            self.configuration.provider(request.provider)
            raise ConfigurationError(
                f"{request.provider} is not among the providers of this object "
                f"({', '.join(self.providers)})"
            )
        only = self.providers[0] if len(self.providers) == 1 else None
        if request.inputs and request.provider and request.model:
            models = {request.provider: [request.model]}
        else:
            models = self.configuration.resolve_model(request.model, request.provider or only)
        routes = [r for r in self.configuration.routes(models) if r.provider in self.providers]
        if not all_groq_keys:
            routes = [r for r in routes if r.provider != "groq" or r.key.label == "groq_key_1"]
        if not routes:
            asked = [name for name in models if name in self.providers]
            if not asked:
                raise ConfigurationError(
                    f"{request.model!r} is a model of {', '.join(models)}; the providers of this "
                    f"object are {', '.join(self.providers)}"
                )
            if not any(models[name] for name in asked):
                names = ", ".join(asked)
                raise ConfigurationError(f"{names} has only embedding models")
            asked = [name for name in asked if models[name]]
            if any(key.provider in asked for key in self.configuration.keys):
                off = ", ".join(map(name_in_words, self._switched_off(models)))
                raise NoRouteAvailable(f"No available LLM providers: these are switched off: {off}")
            raise NoKeys(no_keys(self.configuration, asked))
        if request.private:
            marked = [route for route in routes if self.configuration.is_private(route)]
            if not marked:
                raise _none_marked(routes)
            routes = marked
        if request.same_model:
            routes = of_one_model(routes, preferred)
        return Routes(routes)

    def _switched_off(self, models: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the keys and the models that are off, and could answer with one of `models`."""
        names = {
            name
            for key in self.configuration.keys
            for model in models.get(key.provider, ())
            for name in (key.label, f"{key.provider}/{model}")
        }
        return sorted(names & self.configuration.off)

    def _check_suitable(self, request: Request, routes: Sequence[Route]) -> None:
        """Check that one of the routes supports everything in the request."""
        if request.images and not any(self.configuration.takes_images(r) for r in routes):
            raise InvalidRequest(self._no_images(routes), option="messages")
        reasons = {r.provider: self._unsuitable(r.provider, request) for r in routes}
        if not all(reasons.values()):
            return
        able = [name for name in self.providers_with_routes() if name not in reasons]
        able = [f"{name} does" for name in able if not self._unsuitable(name, request)]
        able = able or ["OpenAI-compatible services do"]
        refused = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        wires = [self.configuration.providers[name].wire for name in reasons]
        fields = [field for wire in wires for field in unsupported_fields(wire, request)]
        # Other providers get the value unchanged, and may refuse it too.
        hint = "" if any(field.takes_others for field in fields) else f"; {able[0]}"
        raise InvalidRequest(f"{refused}{hint}", option=fields[0].field)

    def _unsuitable(self, provider: str, request: Request) -> str:
        return unsuitable(self.configuration.providers[provider].wire, request)

    def _no_images(self, routes: Sequence[Route]) -> str:
        """Return why none of the routes can answer, and which model of a configured key could."""
        providers = {
            route.provider: self.configuration.providers[route.provider]
            for route in (*routes, *self._all())
        }
        able = [
            f"{name}/{model}"
            for name, entry in providers.items()
            for model in (*entry.models, *entry.limits)
            if model not in entry.text_only and "*" not in model
        ]
        names = ", ".join(dict.fromkeys(route.model for route in routes))
        return f"{names} takes no images" + (f"; {able[0]} does" if able else "")


def no_keys(configuration: Configuration, providers: Iterable[str]) -> str:
    """Return the message for the case that none of these providers has a key."""
    entries = [configuration.providers[name] for name in providers]
    variables = ", ".join(entry.key_variables[0] for entry in entries)
    names = " or ".join(entry.name for entry in entries)
    key = f"no API key for {names}" if configuration.keys else "no API key"
    return (
        f"No available LLM providers: {key} is configured. Set {variables} in the environment or "
        "in a .env file"
    )


def _none_marked(routes: Iterable[Route]) -> ConfigurationError:
    """Return the error for a private prompt that has no route."""
    names = list(dict.fromkeys(route.provider for route in routes))
    return ConfigurationError(
        f"the prompt is private, and no suitable route is marked private ({', '.join(names)}); "
        f"nothing was sent. If you know that they do not train on prompts, write [private] "
        f'routes = ["{names[0]}"] into {own_settings_file()}; %llm_models {names[0]} shows what '
        "its terms say"
    )
