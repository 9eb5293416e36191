"""The line of a magic: options first, then text that is taken as it stands."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest

# A word, with quoted stretches inside it kept together; an unclosed quote ends the match.
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")


class HelpWanted(Exception):
    """`--help` was among the options."""


def parse_line(magic: Any, line: str) -> tuple[argparse.Namespace, str]:
    """The options of a magic's line, and the text after them, verbatim.

    Options end at the first word that is none, or after `--`. Quotes around a value are removed.

    Raises:
        InvalidRequest: an unknown option, a missing or wrong value, an unclosed quote.
        HelpWanted: help was asked for.
    """
    parser: argparse.ArgumentParser = magic.parser
    name = magic.__name__
    options: list[str] = []
    rest = line.strip()
    while rest.startswith("-") and len(rest) > 1:
        word, rest = _word(rest, name)
        if word == "--":
            break
        if word in ("--help", "-h"):
            raise HelpWanted
        options.append(word)
        flag = word.partition("=")[0]
        if "=" not in word and _takes_value(parser, flag, name) and rest:
            value, rest = _word(rest, name)
            options.append(value)
    try:
        return parser.parse_args(options), rest
    except BaseException as error:
        # IPython's parser raises UsageError, argparse SystemExit: neither fails a cell in one line.
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InvalidRequest(f"%{name}: {error}; %{name} --help lists the options") from None


def _word(text: str, name: str) -> tuple[str, str]:
    match = _WORD.match(text)
    end = match.end() if match else 0
    if end < len(text) and text[end] in "\"'":
        raise InvalidRequest(f"%{name}: the quote at {text[end : end + 12]!r} is never closed")
    word = text[:end]
    unquoted = "".join(shlex.split(word)) if word[:1] in "\"'" or "=" in word else word
    return unquoted, text[end:].lstrip()


def _takes_value(parser: argparse.ArgumentParser, flag: str, name: str) -> bool:
    for action in parser._actions:
        if flag in action.option_strings:
            return action.nargs != 0
    known = [flag for action in parser._actions for flag in action.option_strings]
    from arche_magic.llm_providers.config import did_you_mean

    raise InvalidRequest(
        f"%{name}: unknown option {flag}{did_you_mean(flag, known)}; "
        f"%{name} --help lists the options"
    )
