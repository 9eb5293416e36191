"""Saved prompts: named texts with `{{fields}}`, in the settings or in a folder `prompts`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import working_directory
from arche_magic.llm_providers.text.wording import suggestion

from . import references

FOLDER = "prompts"
# The parts of a saved prompt, `prompt` and `system`: their texts, or the files with the texts.
Parts = Mapping[str, str | Path]
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
        """Insert the text of a cell in place of `{{text}}`, or below the prompt if it has no
        `{{text}}`.

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
    return [_read(name, parts) for name, parts in sorted(_found().items())]


def saved_prompt(name: str) -> SavedPrompt:
    """Return the saved prompt of that name.

    Raises:
        InvalidRequest: there is none, or its file cannot be read.
    """
    found = _found()
    if name not in found:
        hint = suggestion(name, sorted(found)) or "; %llm_prompts says where to put one"
        raise InvalidRequest(f"there is no saved prompt {name!r}{hint}")
    return _read(name, found[name])


def saved_names() -> list[str]:
    """Return the names of all saved prompts. No file of a prompt is read."""
    return sorted(_found())


def _found() -> dict[str, Parts]:
    """Return the parts of all saved prompts. The folder beside the notebook comes first."""
    configuration = get_configuration()
    found: dict[str, Parts] = dict(configuration.prompts)
    for folder in dict.fromkeys((configuration.settings_folder, working_directory())):
        if folder:
            found |= _in(folder / FOLDER)
    return found


def _in(folder: Path) -> dict[str, Parts]:
    """Return the prompts in a folder by their names, each with its files."""
    try:
        paths = sorted(folder.glob("*.md"))
    except OSError:
        return {}
    found: dict[str, dict[str, str | Path]] = {}
    for path in paths:
        name, part = path.name.removesuffix(".md"), "prompt"
        if name.endswith(".system"):
            name, part = name.removesuffix(".system"), "system"
        if name and path.is_file():
            found.setdefault(name, {})[part] = path
    return {**found}


def _read(name: str, parts: Parts) -> SavedPrompt:
    texts, sources = {"prompt": "", "system": ""}, []
    for part, value in parts.items():
        try:
            texts[part] = value if isinstance(value, str) else value.read_text("utf-8-sig")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise InvalidRequest(f"{value} cannot be read: {reason}") from None
        if isinstance(value, Path):
            texts[part] = texts[part].strip("\n")
            sources.append(_shown(value))
    return SavedPrompt(name, **texts, source=", ".join(sources) or "[prompts]")


def _shown(path: Path) -> str:
    """Return the path relative to the working directory if possible: notebooks are shared."""
    home = working_directory()
    return str(path.relative_to(home) if home and path.is_relative_to(home) else path)
