"""`--file` and `--url`: the attachments of a prompt."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from arche_magic.prompts import Prompt
from arche_magic.prompts.attachments import attach, read_file

from .display import CellInterrupted, Place
from .live_line import LiveLine, TerminalLine, timed
from .styles import one_line, quiet_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_LONGEST = 80


def with_attachments(
    shell: InteractiveShell, options: Namespace, prompt: Prompt, names: Mapping[str, Any]
) -> Prompt:
    """The prompt below the files and web pages that the cell names.

    While a page is fetched, a line says so.

    Raises:
        InvalidRequest: one cannot be read.
        CellInterrupted: the user stopped it.
    """
    place, terminal = Place(shell), TerminalLine()

    def draw(line: str) -> None:
        if not hasattr(shell, "kernel"):
            terminal.write(line)
        else:
            place.draw(quiet_line(line) if line else {"text/plain": ""})

    line = LiveLine(draw)
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
