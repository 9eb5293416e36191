"""`%llm_prompts`: the saved prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..command import Session, Shown, Typed, command

if TYPE_CHECKING:
    from arche_magic.prompts.saved import SavedPrompt

# Characters of the line with which a prompt begins.
_LONGEST = 60


@command()
def llm_prompts(session: Session, typed: Typed) -> Shown:
    """Show the saved prompts with their fields; return them as a DataFrame.

    They come from [prompts] in arche_magic.toml and from files prompts/NAME.md beside that file or
    beside the notebook. `%%llm --prompt NAME` sends one.

    Usage:
      %llm_prompts

    Examples:
      %llm_prompts
    """
    from arche_magic.prompts.saved import saved_prompts

    from ..frames import typed_frame
    from ..styles import one_line, table_bundle

    def first_line(one: SavedPrompt) -> str:
        return (one.prompt or one.system).strip().partition("\n")[0]

    saved = saved_prompts()
    rows = [
        (
            one.name,
            ", ".join(one.fields),
            "yes" if one.system else "",
            one_line(first_line(one), _LONGEST),
            one.source,
        )
        for one in saved
    ]
    heads = ("prompt", "fields", "system prompt", "begins", "from")
    none = {
        "text/plain": "no saved prompts: write one as prompts/NAME.md beside the notebook, or as "
        "[prompts] in arche_magic.toml"
    }
    shown = table_bundle(heads, rows, long=("begins", "from")) if rows else none
    columns = ("name", "fields", "prompt", "system", "source")
    values = [
        (one.name, ", ".join(one.fields), one.prompt, one.system, one.source) for one in saved
    ]
    return shown, typed_frame(dict.fromkeys(columns, "str"), values)
