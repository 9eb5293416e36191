"""Which routes a private prompt may take: those that the user has marked, and no others.

Whether prompts are trained on depends on the plan and the settings of an account, which no reply
tells. So the user's word counts alone, and it counts where it stands in the user's own settings:
what lies in a folder may be somebody else's work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .types import Route

_MARK = re.compile(r"[a-z][a-z0-9_-]{0,31}(?:/[!-~]+|:[0-9a-f]{12})?")
_LABEL = re.compile(r"[a-z][a-z0-9_-]*_key_\d+(?:/.*)?")


@dataclass(frozen=True)
class Private:
    """What the user has said about private prompts.

    Attributes:
        routes: what does not train on prompts: a provider (`mistral`), a model of it
            (`google/gemini-3.5-flash`), or one key of it (`google:4f0c2a91b7de`, its fingerprint).
        always: every prompt is private that does not say otherwise.
    """

    routes: frozenset[str] = frozenset()
    always: bool = False

    def marks(self, route: Route) -> bool:
        """Whether a private prompt may take this route."""
        names = (
            route.provider,
            f"{route.provider}/{route.model}",
            f"{route.provider}:{route.key.fingerprint}",
        )
        return not self.routes.isdisjoint(names)


def read_private(table: Mapping[str, Any]) -> Private:
    """What a `[private]` table says.

    Raises:
        ValueError: a mark in it is not the name of a route.
    """
    routes = table.get("routes", [])
    for mark in routes:
        if isinstance(mark, str) and _LABEL.fullmatch(mark):
            raise ValueError(
                f"[private]: {mark!r} may be another key in another folder; write its provider "
                "and fingerprint, such as 'google:4f0c2a91b7de' (%llm_keys shows it)"
            )
        if not isinstance(mark, str) or not _MARK.fullmatch(mark):
            raise ValueError(
                f"[private]: {mark!r} is not a provider, provider/model or provider:fingerprint"
            )
    return Private(frozenset(routes), table.get("always", False))


def both(own: Private, project: Mapping[str, Any], file: Path, own_file: Path) -> Private:
    """The user's own word, and what a project's file adds: it may only ask for more privacy.

    Raises:
        ValueError: a part of the file is unknown or impossible.
        ConfigurationError: it marks routes.
    """
    theirs = read_private(project)
    if theirs.routes:
        raise ConfigurationError(
            f"{file}: [private] routes counts only in your own settings, {own_file}: a mark is "
            "about your accounts, and holds in every folder"
        )
    return replace(own, always=own.always or theirs.always)


def none_marked(routes: Iterable[Route], own_file: Path) -> ConfigurationError:
    """The error of a private prompt that has no route."""
    names = list(dict.fromkeys(route.provider for route in routes))
    return ConfigurationError(
        f"a private prompt, and none of its routes is marked private ({', '.join(names)}); nothing "
        f"was sent. If you know that they do not train on prompts, write [private] routes = "
        f'["{names[0]}"] into {own_file}; %llm_models {names[0]} tells what its terms say'
    )
