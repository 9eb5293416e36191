"""The routes that a private prompt may use: only those that the user has marked.

Whether a provider trains on prompts depends on the plan and the settings of an account, and no
reply says so. So only the user can mark routes, and only in their own settings file, because files
in a project may be somebody else's work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..types import Route

_MARK = re.compile(r"[a-z][a-z0-9_-]{0,31}(?:/[!-~]+|:[0-9a-f]{12})?")
_LABEL = re.compile(r"[a-z][a-z0-9_-]*_key_\d+(?:/.*)?")


@dataclass(frozen=True)
class Private:
    """The user's settings for private prompts.

    Attributes:
        routes: the providers (`mistral`), models (`google/gemini-3.5-flash`) and keys
            (`google:4f0c2a91b7de`, by fingerprint) that do not train on prompts.
        always: every prompt is private unless its cell or call says otherwise.
    """

    routes: frozenset[str] = frozenset()
    always: bool = False

    def marks(self, route: Route) -> bool:
        """Return whether a private prompt may take this route."""
        names = (
            route.provider,
            f"{route.provider}/{route.model}",
            f"{route.provider}:{route.key.fingerprint}",
        )
        return not self.routes.isdisjoint(names)


def read_private(table: Mapping[str, Any]) -> Private:
    """Return what a `[private]` table says.

    Raises:
        ValueError: a mark in it is not the name of a route.
    """
    routes = table.get("routes", [])
    for mark in routes:
        if isinstance(mark, str) and _LABEL.fullmatch(mark):
            raise ValueError(
                f"[private]: {mark!r} can be another key in another folder; write its provider "
                "and fingerprint, such as 'google:4f0c2a91b7de' (%llm_keys shows it)"
            )
        if not isinstance(mark, str) or not _MARK.fullmatch(mark):
            raise ValueError(
                f"[private]: {mark!r} is not a provider, provider/model or provider:fingerprint"
            )
    return Private(frozenset(routes), table.get("always", False))


def combined(own: Private, project: Private, file: Path, own_file: Path) -> Private:
    """Combine the user's decisions with a project's file, which can only ask for more privacy.

    Raises:
        ConfigurationError: the file marks routes.
    """
    if project.routes:
        raise ConfigurationError(
            f"{file}: [private] routes is only allowed in your own settings, {own_file}, because "
            "it describes your accounts, not this project"
        )
    return replace(own, always=own.always or project.always)


def none_marked(routes: Iterable[Route], own_file: Path) -> ConfigurationError:
    """Return the error for a private prompt that has no route."""
    names = list(dict.fromkeys(route.provider for route in routes))
    return ConfigurationError(
        f"the prompt is private, and no suitable route is marked private ({', '.join(names)}); "
        f"nothing was sent. If you know that they do not train on prompts, write [private] "
        f'routes = ["{names[0]}"] into {own_file}; %llm_models {names[0]} shows what its terms say'
    )
