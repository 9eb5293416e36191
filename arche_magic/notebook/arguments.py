"""Parses the line of a magic: options first, then text that is used verbatim."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError

# The text between quotes. Quotes in brackets are part of it: `"Hello {{row["key"]}}"`.
_DOUBLE = r"""(?:\\.|\["[^"]*"\]|[^"\\])*"""
_SINGLE = r"""(?:\['[^']*'\]|[^'])*"""
# A word, including quoted parts. The match ends at an unclosed quote.
_WORD = re.compile(rf"""(?:[^\s"']|"{_DOUBLE}"|'{_SINGLE}')+""", re.DOTALL)
# Quotes after a bracket are part of the value: `row["key"]`.
_QUOTED = re.compile(rf"""(?<!\[)(?:"({_DOUBLE})"|'({_SINGLE})')""", re.DOTALL)
# A dash at the beginning of a word.
_DASH = re.compile(r"(?<=\s)-")
# A line below `Usage:` in a docstring; its meaning follows after two spaces or more.
_USAGE = re.compile(r"^ +%%?\w+ ?(.*?)(?:  .*)?$", re.MULTILINE)

# What argparse says about a value that is not a number.
_BAD_NUMBER = re.compile(r"invalid (int|float) value: (.+)", re.DOTALL)


class _HelpFormatter(argparse.HelpFormatter):
    """Writes `-p, --provider PROVIDER`, the style of Python 3.13, in all versions of Python."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        value = self._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
        return f"{', '.join(action.option_strings)} {value}".rstrip()


@dataclass(frozen=True)
class Unfinished:
    """The word before the cursor, in a magic's line that is still being typed.

    Attributes:
        word: the characters typed so far, with the opening quote if there is one.
        option: the option whose value the word is, if any.
        may_be_option: whether the word is an option or may become one.
        text: the words of the text before it; None if the text has not begun and cannot begin here.
        given: values of the options before it, by their names in the parser (`provider`).
    """

    word: str
    option: argparse.Action | None = None
    may_be_option: bool = False
    text: tuple[str, ...] | None = None
    given: Mapping[str, str] = field(default_factory=dict)


def parse_line(magic: Any, line: str) -> tuple[argparse.Namespace, str] | None:
    """The options of a magic's line, and the text after them, verbatim; None if `--help` is given.

    Options end at the first word that is not an option, or after `--`. Quotes around a value are
    removed; within double quotes a backslash escapes a quote or a backslash.

    Raises:
        InvalidRequest: an unknown option, a missing or wrong value, an unclosed quote.
    """
    from arche_magic.llm_providers.errors import InvalidRequest

    parser: argparse.ArgumentParser = magic.parser
    name = f"%{magic.__name__}"
    given: list[tuple[argparse.Action, str, str]] = []
    rest = line.strip()
    while _is_option(rest):
        word, rest = _word(rest, name)
        if word == "--":
            break
        if word in ("--help", "-h"):
            return None
        flag, equals, value = _split(word)
        action = _option(parser, flag)
        if action is None:
            raise _unknown_option(magic, flag, name)
        if action.nargs == 0:
            given.append((action, flag, word))
            continue
        if not equals:
            value, rest = _word(rest or "--", name)
        if value == "--":
            kind = action.metavar or "|".join(action.choices or ())
            raise InvalidRequest(f"{name}: {flag} needs a value: {flag} {kind}")
        given.append((action, flag, unquoted(value)))
    options = parser.parse_args([])
    try:
        for action, flag, value in given:
            if action.nargs == 0:
                parser.parse_args([value], options)
                continue
            # Some versions of Python drop the value of `--flag=--` in `parse_args`.
            converted = parser._get_value(action, value)
            parser._check_value(action, converted)
            action(parser, options, converted, flag)
        return options, rest
    except (argparse.ArgumentError, UsageError, SystemExit) as error:
        # IPython's parser raises UsageError, argparse SystemExit; neither prints one line.
        reason = _BAD_NUMBER.sub(_in_words, str(error).removeprefix("argument "))
        raise InvalidRequest(f"{name}: {reason}; {name} --help lists the options") from None


def words_of(magic: Any, text: str) -> list[str]:
    """The words of a magic's text, without quotes; outside quotes, a backslash is a plain sign."""
    words, rest = [], text.strip()
    while rest:
        word, rest = _word(rest, f"%{magic.__name__}")
        words.append(unquoted(word))
    return words


def options_in_text(magic: Any, text: str) -> str:
    """The options at the end of a magic's text, where they are part of it; "" if there are none."""
    from arche_magic.llm_providers.errors import InvalidRequest

    for dash in _DASH.finditer(text):
        end = text[dash.start() :]
        try:
            parsed = parse_line(magic, end)
        except InvalidRequest:
            continue
        if parsed is not None and not parsed[1] and parsed != parse_line(magic, ""):
            return end.rstrip()
    return ""


def read_unfinished(magic: Any, line: str) -> Unfinished | None:
    """The unfinished word or value at the end of a magic's line; None after an unknown option."""
    given: dict[str, str] = {}
    rest = line.lstrip()
    while _is_option(rest):
        word, after = _typed(rest)
        flag, equals, value = _split(word)
        action = _option(magic.parser, flag)
        if after is None:
            if not equals:
                return Unfinished(word, may_be_option=True, given=given)
            return Unfinished(value, action, given=given) if action else None
        if word == "--":
            return _in_text(after, given)
        if action is None:
            return None
        if not equals and action.nargs != 0:
            value, after = _typed(after)
            if after is None:
                return Unfinished(value, action, given=given)
        given[action.dest] = unquoted(value)
        rest = after
    if rest in ("", "-"):
        return Unfinished(rest, may_be_option=True, text=None if rest else (), given=given)
    return _in_text(rest, given)


def usage(magic: Any) -> list[list[str]]:
    """The words that may follow a magic's options, a list per line of its `Usage:`.

    `stop` stands for itself, `PROVIDER` for any value of that kind; `a|b` are alternatives.
    Brackets, which mark a word as optional, are removed.
    """
    _, _, below = inspect.cleandoc(magic.parser.description or "").partition("Usage:\n")
    block = below.partition("\n\n")[0]
    forms = (re.sub(r"[\[\]]| *(\|) *", r"\1", form).split() for form in _USAGE.findall(block))
    return [[word for word in form if word != "OPTIONS"] for form in forms]


def help_text(magic: Any) -> str:
    """The text of `--help` and `?`: summary, usage, examples, and options."""
    parser: argparse.ArgumentParser = magic.parser
    formatter = _HelpFormatter(f"%{magic.__name__}", max_help_position=28, width=88)
    formatter.start_section("Options")
    formatter.add_arguments(parser._actions)
    formatter.end_section()
    about = inspect.cleandoc(parser.description or "")
    options = formatter.format_help().rstrip() if parser._actions else ""
    return f"{about}\n\n{options}".rstrip()


def overview(magics: Iterable[Any]) -> str:
    """A line per magic, by name, with the first sentence of its help."""
    known = {f"%{magic.__name__}": first_sentence(magic) for magic in magics}
    width = max(map(len, known))
    lines = [f"  {name.ljust(width)}  {known[name]}" for name in sorted(known)]
    end = "For more, put --help after a name; %%llm takes its prompt from the lines below."
    return "\n".join([*lines, "", end])


def first_sentence(magic: Any) -> str:
    """The first sentence of a magic's help."""
    return str(magic.__doc__).partition("\n")[0]


def unquoted(value: str) -> str:
    """A value without the quotes around it or around parts of it."""

    def content(quoted: re.Match[str]) -> str:
        if quoted[1] is None:
            return quoted[2]
        return re.sub(r"\\([\"\\])", r"\1", quoted[1])

    return _QUOTED.sub(content, value)


def _is_option(rest: str) -> bool:
    return rest.startswith("-") and not rest.startswith("- ") and rest != "-"


def _split(word: str) -> tuple[str, str, str]:
    """`--name=value` and `-nvalue` as flag, `=` if there is a value, and the value."""
    flag, equals, value = word.partition("=")
    if not word.startswith("--") and len(flag) > 2:
        return word[:2], "=", word[2:]
    return flag, equals, value


def _option(parser: argparse.ArgumentParser, flag: str) -> argparse.Action | None:
    return next((a for a in parser._actions if flag in a.option_strings), None)


def _in_text(text: str, given: Mapping[str, str]) -> Unfinished:
    words = text.split()
    word = words.pop() if words and not text[-1].isspace() else ""
    return Unfinished(word, text=tuple(words), given=given)


def _typed(text: str) -> tuple[str, str | None]:
    """The first word and what follows it; None if the text ends with the word, or within it."""
    match = _WORD.match(text)
    end = match.end() if match else 0
    if end == len(text) or text[end] in "\"'":
        return text, None
    return text[:end], text[end:].lstrip()


def _word(text: str, name: str) -> tuple[str, str]:
    from arche_magic.llm_providers.errors import InvalidRequest

    from .keys import without_keys

    match = _WORD.match(text)
    end = match.end() if match else 0
    if end < len(text) and text[end] in "\"'":
        # Before it is shortened, because the beginning of a key does not look like one.
        rest = without_keys(text[end:])
        raise InvalidRequest(f"{name}: the quote at {rest[:12]!r} is never closed; close it")
    return text[:end], text[end:].lstrip()


def _in_words(bad: re.Match[str]) -> str:
    return f"{bad[2]} is not a {'whole ' if bad[1] == 'int' else ''}number"


def _unknown_option(magic: Any, flag: str, name: str) -> Exception:
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.text.wording import did_you_mean, shortened

    known = [name for action in magic.parser._actions for name in action.option_strings]
    long = [name for name in known if name.startswith("--")]
    begun = [name for name in long if name.startswith(flag)]
    if hint := did_you_mean(begun[0] if begun else flag, long) if flag.startswith("--") else "":
        return InvalidRequest(f"{name}: unknown option {flag}{hint}")
    flag = shortened(flag, 100)
    if any("TEXT" in words for words in usage(magic)):
        hint = "; put -- before a text that starts with a dash"
    return InvalidRequest(f"{name}: unknown option {flag}{hint}; {name} --help lists the options")
