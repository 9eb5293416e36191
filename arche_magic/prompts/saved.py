"""Saved prompts: named texts with `{{fields}}`, in the settings or in a folder `prompts`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import working_directory
from arche_magic.llm_providers.text.hints import did_you_mean

from . import references

FOLDER, _PROMPT, _SYSTEM = "prompts", ".md", ".system.md"
# Where the text of the cell goes.
_TEXT = re.compile(r"(?<!\\)\{\{[ \t]*text[ \t]*\}\}")


@dataclass(frozen=True)
class SavedPrompt:
    """A named prompt.

    Attributes:
        prompt: the text of the prompt; "" if it has only a system prompt.
        system: the system prompt; "" if it has none.
        source: the file or files that it comes from.
    """

    name: str
    prompt: str
    system: str
    source: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in its `{{…}}`, each once."""
        return tuple(dict.fromkeys([*references(self.prompt), *references(self.system)]))

    def with_text(self, text: str) -> str:
        """Put the text of a cell in the place of `{{text}}`, or below the prompt if it has none.

        Without a text, `{{text}}` is a field like any other.
        """
        if not text.strip() or not self.prompt:
            return self.prompt or text
        if _TEXT.search(self.prompt):
            return _TEXT.sub(lambda match: text, self.prompt)
        return f"{self.prompt}\n\n{text}"


def saved_prompts() -> list[SavedPrompt]:
    """Return all saved prompts, by name.

    Raises:
        InvalidRequest: the file of one cannot be read.
    """
    return [read() for _, read in sorted(_found().items())]


def saved_prompt(name: str) -> SavedPrompt:
    """Return the saved prompt of that name.

    Raises:
        InvalidRequest: there is none, or its file cannot be read.
    """
    found = _found()
    if name not in found:
        hint = did_you_mean(name, found) or (
            f"; there are {', '.join(sorted(found))}" if found else ""
        )
        raise InvalidRequest(f"there is no saved prompt {name!r}{hint}")
    return found[name]()


def saved_names() -> list[str]:
    """Return the names of all saved prompts. No file of a prompt is read."""
    return sorted(_found())


def _found() -> dict[str, Callable[[], SavedPrompt]]:
    """Return what reads each saved prompt. The folder beside the notebook comes first."""
    configuration = get_configuration()
    found: dict[str, Callable[[], SavedPrompt]] = {}
    for name, texts in configuration.prompts.items():
        prompt, system = texts.get("prompt", ""), texts.get("system", "")
        found[name] = partial(SavedPrompt, name, prompt, system, "[prompts]")
    for folder in dict.fromkeys((configuration.settings_folder, working_directory())):
        for name, paths in _in(folder / FOLDER if folder else None):
            found[name] = partial(_read, name, paths)
    return found


def _in(folder: Path | None) -> Iterator[tuple[str, dict[str, Path]]]:
    """Yield the names of a folder's prompts, each with its files by their endings."""
    try:
        paths = sorted(folder.glob(f"*{_PROMPT}")) if folder else []
    except OSError:
        return
    found: dict[str, dict[str, Path]] = {}
    for path in paths:
        ending = _SYSTEM if path.name.endswith(_SYSTEM) else _PROMPT
        if path.is_file() and (name := path.name.removesuffix(ending)):
            found.setdefault(name, {})[ending] = path
    yield from found.items()


def _read(name: str, paths: dict[str, Path]) -> SavedPrompt:
    texts = {}
    for ending, path in paths.items():
        try:
            texts[ending] = path.read_text("utf-8-sig").strip("\n")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise InvalidRequest(f"{path} cannot be read: {reason}") from None
    source = ", ".join(_shown(path) for path in paths.values())
    return SavedPrompt(name, texts.get(_PROMPT, ""), texts.get(_SYSTEM, ""), source)


def _shown(path: Path) -> str:
    """Return the path from the working directory if it is inside, since notebooks are passed on."""
    home = working_directory()
    return str(path.relative_to(home) if home and path.is_relative_to(home) else path)
