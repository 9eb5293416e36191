"""`--prompt` and `--system`: saved prompts, and texts that variables hold."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.prompts import Prompt, fill, is_reference, look_up, name_in, references
from arche_magic.prompts.saved import SavedPrompt, saved_prompt

from .tables import Cell, table_bundle

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 60


def with_saved_prompt(options: Namespace, text: str) -> str:
    """The text of a cell in the saved prompt that `--prompt` names, if it names one.

    Its system prompt becomes that of the options, unless they have one.

    Raises:
        InvalidRequest: there is no such prompt.
    """
    if options.prompt is None:
        return text
    if options.raw:
        raise InvalidRequest("%llm: --prompt cannot be combined with --raw")
    saved = saved_prompt(options.prompt)
    if options.system is None:
        options.system = saved.system or None
    return saved.with_text(text)


def system_prompt(
    options: Namespace, names: Mapping[str, Any], budget: int, columns: Collection[str] = ()
) -> Prompt | None:
    """The system prompt of the options: a variable's text, or a text with `{{variables}}`.

    A word is the name of a variable if there is one of that name that holds a text.

    Args:
        options: those of the cell.
        names: the variables.
        budget: most tokens for one table or collection.
        columns: names whose values differ from row to row.

    Raises:
        InvalidRequest: a variable does not exist, is an image, or is a column.
    """
    text: str | None = options.system
    # `%llm_retry` has no `--raw`.
    if text is None or getattr(options, "raw", False):
        return None if text is None else Prompt(text)
    if is_reference(text, names) and isinstance(value := look_up(text, names), str):
        return Prompt(str(value))
    for reference in references(text):
        if name_in(reference) in columns or reference in columns:
            raise InvalidRequest(
                f"%llm: the system prompt is the same for all rows; {{{{{reference}}}}} is a column"
            )
    prompt = fill(text, names, budget)
    if prompt.images:
        raise InvalidRequest("%llm: a system prompt takes no images; put it into the prompt")
    return prompt


def prompts_bundle(saved: Iterable[SavedPrompt]) -> dict[str, str]:
    """A row per saved prompt: its name, its fields, how it begins."""
    rows = [
        (
            Cell(one.name),
            Cell(", ".join(one.fields)),
            Cell("yes" if one.system else ""),
            Cell(_beginning(one.prompt or one.system), long=True),
            Cell(one.source, long=True),
        )
        for one in saved
    ]
    if not rows:
        line = (
            "no saved prompts: write one as prompts/NAME.md beside the notebook, or as "
            "[prompts] in arche_magic.toml"
        )
        return {"text/plain": line}
    return table_bundle(("prompt", "fields", "system prompt", "begins", "from"), rows)


def prompts_frame(saved: Iterable[SavedPrompt]) -> pd.DataFrame:
    """One row per saved prompt. Columns: `name, fields, prompt, system, source`."""
    from .frames import typed_frame

    types = {**dict.fromkeys(("name", "fields", "prompt", "system", "source"), "str")}
    return typed_frame(
        types,
        [(one.name, ", ".join(one.fields), one.prompt, one.system, one.source) for one in saved],
    )


def _beginning(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…"
