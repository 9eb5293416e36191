"""The line of a magic: options first, then text that is taken as it stands."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

from IPython.core.error import UsageError

from arche_magic.llm_providers.config import did_you_mean
from arche_magic.llm_providers.errors import InvalidRequest

# A word, with quoted stretches kept together; a quote that is never closed ends the match.
_WORD = re.compile(r"""(?:[^\s"']|"(?:\\.|[^"\\])*"|'[^']*')+""", re.DOTALL)
_QUOTED = re.compile(r"""\"((?:\\.|[^"\\])*)"|'([^']*)'""", re.DOTALL)


class HelpWanted(Exception):
    """`--help` was among the options."""


def parse_line(magic: Any, line: str) -> tuple[argparse.Namespace, str]:
    """The options of a magic's line, and the text after them, verbatim.

    Options end at the first word that is none, or after `--`. Quotes around a value are removed;
    within double quotes a backslash keeps a quote or a backslash as it is.

    Raises:
        InvalidRequest: an unknown option, a missing or wrong value, an unclosed quote.
        HelpWanted: help was asked for.
    """
    parser: argparse.ArgumentParser = magic.parser
    name = f"%{magic.__name__}"
    options: list[str] = []
    rest = line.strip()
    while rest.startswith("-") and not rest.startswith("- ") and rest != "-":
        word, rest = _word(rest, name)
        if word == "--":
            break
        if word in ("--help", "-h"):
            raise HelpWanted
        flag, equals, value = word.partition("=")
        if not word.startswith("--") and len(flag) > 2:
            flag, equals, value = word[:2], "=", word[2:]
        if not _takes_value(parser, flag, name):
            options.append(word)
            continue
        if not equals and not rest:
            raise InvalidRequest(f"{name}: {flag} needs a value")
        if not equals:
            value, rest = _word(rest, name)
        # In one piece, so that a value may start with a dash.
        options.append(f"{flag}={_unquoted(value)}")
    try:
        return parser.parse_args(options), rest
    except (UsageError, SystemExit) as error:
        # IPython's parser raises the one, argparse's own the other; neither fails in one line.
        reason = str(error).removeprefix("argument ")
        raise InvalidRequest(f"{name}: {reason}; {name} --help lists the options") from None


def help_text(magic: Any) -> str:
    """What `--help` prints: what the magic does, then its options."""
    parser: argparse.ArgumentParser = magic.parser
    formatter = argparse.HelpFormatter(prog=f"%{magic.__name__}", max_help_position=28, width=88)
    formatter.start_section("Options")
    formatter.add_arguments(parser._actions)
    formatter.end_section()
    about = inspect.cleandoc(parser.description or "")
    options = formatter.format_help().rstrip() if parser._actions else ""
    return f"{about}\n\n{options}".rstrip()


def _word(text: str, name: str) -> tuple[str, str]:
    match = _WORD.match(text)
    end = match.end() if match else 0
    if end < len(text) and text[end] in "\"'":
        raise InvalidRequest(f"{name}: the quote at {text[end : end + 12]!r} is never closed")
    return text[:end], text[end:].lstrip()


def _unquoted(value: str) -> str:
    def content(quoted: re.Match[str]) -> str:
        if quoted[1] is None:
            return quoted[2]
        return re.sub(r"\\([\"\\])", r"\1", quoted[1])

    return _QUOTED.sub(content, value)


def _takes_value(parser: argparse.ArgumentParser, flag: str, name: str) -> bool:
    for action in parser._actions:
        if flag in action.option_strings:
            return action.nargs != 0
    known = [flag for action in parser._actions for flag in action.option_strings]
    hint = did_you_mean(flag, known) if flag.startswith("--") else ""
    raise InvalidRequest(
        f"{name}: unknown option {flag}{hint or '; put -- before a text that starts with a dash'}; "
        f"{name} --help lists the options"
    )
