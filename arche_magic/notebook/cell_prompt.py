"""The prompt of a cell: its text, a saved prompt, the system prompt, images, files and pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.prompts import Prompt, fill, is_reference, look_up, name_in, references
from arche_magic.prompts.attachments import attach, read_file
from arche_magic.prompts.saved import saved_prompt

from .display import Place
from .interrupts import CellInterrupted
from .live_line import LiveLine, TerminalLine, timed
from .styles import one_line, quiet_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .command import Typed

EMPTY = "the prompt is empty; write it after the options, or in the lines below %%llm"
# Characters of an address.
_LONGEST = 80


def text_of(typed: Typed) -> str:
    """The text of a line or a cell, inserted into the saved prompt of `--prompt` if there is one.

    The newline that IPython adds to every cell is removed. The system prompt of the saved prompt
    is used unless the options have one.

    Raises:
        InvalidRequest: a cell magic has text on its first line, too; there is no such prompt.
    """
    options, text = typed.options, typed.text
    if typed.cell is not None:
        if text:
            raise InvalidRequest(
                f"%%llm: {text.split(maxsplit=1)[0]!r} is not an option; the prompt goes in the "
                "lines below, and a value with spaces needs quotes"
            )
        text = typed.cell.removesuffix("\n")
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
    """The system prompt of the options: a text with `{{variables}}`, or a variable's text.

    A word means the variable of that name, if it holds a text.

    Args:
        options: the options of the cell.
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


def with_attachments(
    shell: InteractiveShell, options: Namespace, prompt: Prompt, names: Mapping[str, Any]
) -> Prompt:
    """The prompt below the files and web pages that the cell names.

    While a page is fetched, a line says so.

    Raises:
        InvalidRequest: one cannot be read.
        CellInterrupted: the user stopped it.
    """
    if not options.file and not options.url:
        return prompt
    place = Place(shell)

    def draw(line: str) -> None:
        place.draw(quiet_line(line) if line else {"text/plain": ""})

    line = LiveLine(draw if hasattr(shell, "kernel") else TerminalLine().write)
    try:
        attachments = [read_file(source, names) for source in options.file or ()]
        for url in options.url or ():
            from arche_magic.prompts.pages import read_page

            if not options.quiet:
                line.say(timed(f"reading {one_line(url, _LONGEST)}"))
            attachments.append(read_page(url))
    except KeyboardInterrupt:
        raise CellInterrupted("the files and pages were not read; nothing was sent") from None
    finally:
        line.end()
    return attach(prompt, attachments, options.budget)
