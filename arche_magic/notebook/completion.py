"""Tab: options of our magics, their values, subcommands, and variables within `{{`.

Everything comes from what the magics declare: an option's `choices`; the kind of value that its
metavar names, as in `-p PROVIDER`; and the words below `Usage:` in a magic's docstring. A new
option completes without more code; a new kind of value is one more line in `KINDS`.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from . import warning_lines
from .arguments import Unfinished, read_unfinished, usage

# The engine is imported on the first Tab, not when the extension is loaded.
if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.config import Configuration

Given = Mapping[str, str]
_IDENTIFIER = "arche_magic"
_MISSING = object()
_MOST_FILES = 10_000
# `%llm …`, also after `name =`.
_CALL = re.compile(r"\s*(?:[^%#=]*=\s*)?(%%?)(\w+)\s(.*)", re.DOTALL)
# `{{name`, `{{name.attribute` or `{{name["key`, typed so far.
_BRACES = re.compile(
    r"""\{\{[ \t]*(?:(?P<owner>(?!\d)\w+)(?P<step>[.\[]))?(?P<word>\w*|["'][^"'{}]*)$"""
)
# A kind of value, or several, and what separates it from the next, as in PROVIDER=N.
_KIND = re.compile(r"([A-Z_|]+)([^A-Z_|]*)")


def register(shell: InteractiveShell) -> None:
    """Complete our magics in this shell."""

    @context_matcher(identifier=_IDENTIFIER)
    def match(context: CompletionContext) -> SimpleMatcherResult:
        return complete(shell, context)

    unregister(shell)
    shell.Completer.custom_matchers.append(match)


def unregister(shell: InteractiveShell) -> None:
    """Undo `register`; without effect if it was not called."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", "") != _IDENTIFIER]


def complete(shell: InteractiveShell, context: CompletionContext) -> SimpleMatcherResult:
    """Completions at the cursor; none outside our magics."""
    word: str = ""
    found: list[SimpleCompletion] = []
    if call := _call(shell, context):
        magic, typed, in_body = call
        if braces := _BRACES.search(context.text_until_cursor):
            word, found = _in_braces(shell, braces, typed.given if typed else {})
        elif typed is not None and not in_body:
            word, found = _on_the_line(shell, magic, typed)
    return {
        "completions": found,
        "matched_fragment": word,
        "suppress": bool(found),
        "ordered": True,
    }


def _call(
    shell: InteractiveShell, context: CompletionContext
) -> tuple[Any, Unfinished | None, bool] | None:
    """The magic at the cursor, its line so far, and whether the cursor is in the cell below it."""
    lines = context.full_text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    head = _CALL.match(f"{lines[first]} ")
    if head and head[1] == "%%" and context.cursor_line > first:
        magic = _ours(shell, "cell", head[2])
        return (magic, read_unfinished(magic, head[3]), True) if magic else None
    call = _CALL.match(context.text_until_cursor)
    magic = call and _ours(shell, "cell" if call[1] == "%%" else "line", call[2])
    return (magic, read_unfinished(magic, call[3]), False) if call and magic else None


def _ours(shell: InteractiveShell, kind: str, name: str) -> Any:
    magic = shell.magics_manager.magics[kind].get(name)
    ours = getattr(magic, "__module__", "").startswith("arche_magic.") and hasattr(magic, "parser")
    return magic if ours else None


def _on_the_line(
    shell: InteractiveShell, magic: Any, typed: Unfinished
) -> tuple[str, list[SimpleCompletion]]:
    """The word at the end of a magic's line, and its completions."""
    if typed.option is not None and typed.option.choices is not None:
        choices = [str(choice) for choice in typed.option.choices]
        return typed.word, list(_matching(choices, typed.word, typed.option.dest))
    if typed.option is not None:
        metavar = str(typed.option.metavar)
        # `--chat NAME` takes a CHAT.
        kind = typed.option.dest.upper() if metavar == "NAME" else metavar
        return _of_kind(shell, kind, typed.word, typed.given)
    found: list[SimpleCompletion] = []
    for form in usage(magic) if typed.text is not None else ():
        for words in _next_words(form, typed.text or ()):
            if words.isupper():
                found += _of_kind(shell, words, typed.word, typed.given)[1]
            else:
                found += _matching([words], typed.word, "command")
    if typed.may_be_option:
        found += _matching(_options(magic, typed), typed.word, "option")
    return typed.word, list({item.text: item for item in found}.values())


def _next_words(form: list[str], before: tuple[str, ...]) -> list[str]:
    """The next words of a usage, if the words before the cursor match it."""
    fits = len(before) < len(form) and all(
        word in expected.split("|") or expected.isupper()
        for word, expected in zip(before, form, strict=False)
    )
    return form[len(before)].split("|") if fits else []


def _options(magic: Any, typed: Unfinished) -> Iterator[str]:
    """The long forms of every option that is not given yet."""
    for action in magic.parser._actions:
        repeats = type(action).__name__ == "_AppendAction"
        if repeats or action.dest not in typed.given:
            yield from (name for name in action.option_strings if name.startswith("--"))
    yield "--help"


def _of_kind(
    shell: InteractiveShell, metavar: str, word: str, given: Given
) -> tuple[str, list[SimpleCompletion]]:
    """Values of the kind that a metavar names; for PROVIDER=N first the provider, then the number.

    `PROVIDER|MODEL,…` is a list of either kind.
    """
    for kinds, follows in _KIND.findall(metavar):
        is_list = follows.startswith(",")
        word, divider = (word.rpartition(",")[2], "") if is_list else (word, follows)
        _, divided, rest = word.partition(divider) if divider else (word, "", "")
        if not divided:
            found: list[SimpleCompletion] = []
            for kind in kinds.split("|"):
                values = [f"{value}{divider}" for value in _values(shell, kind, given)]
                values += _paths(word, FILES[kind]) if kind in FILES else ()
                found += _matching(values, word, kind.lower())
            return word, found
        word = rest
    return word, []


def _matching(values: Iterable[str], word: str, kind: str) -> Iterator[SimpleCompletion]:
    """Values that start with the word; `openai/gpt-oss-120b` also by its bare name."""
    values = list(values)
    bare = word.lstrip("\"'")
    quote = word[0] if bare != word else ""
    matching = [value for value in values if value.startswith(bare)]
    if not matching:
        names = (value.rpartition("/")[2] for value in values)
        matching = [name for name in names if name.startswith(bare)]
    for value in matching:
        mark = quote or ('"' if re.search(r"\s", value) else "")
        yield SimpleCompletion(f"{mark}{value}{mark}", type=kind)


def _values(shell: InteractiveShell, kind: str, given: Given) -> list[str]:
    from arche_magic.llm_providers.errors import LLMProviderError

    # Problems of a settings file are reported when a magic runs, not on Tab.
    with warning_lines.collect():
        try:
            return list(KINDS[kind](shell, given)) if kind in KINDS else []
        except LLMProviderError:
            return []


def _paths(word: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """The files, if wanted by their names, and the folders that a path typed so far may become."""
    folder, slash, start = word.lstrip("\"'").rpartition("/")
    try:
        with os.scandir(os.path.expanduser(folder + slash) or ".") as entries:  # noqa: PTH111
            found = [(entry.name, entry.is_dir()) for entry in islice(entries, _MOST_FILES)]
    except (OSError, ValueError):
        return []
    return sorted(
        f"{folder}{slash}{name}{'/' if is_folder else ''}"
        for name, is_folder in found
        if (is_folder or is_wanted(name)) and (not name.startswith(".") or start.startswith("."))
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif"))


def _in_braces(
    shell: InteractiveShell, braces: re.Match[str], given: Given
) -> tuple[str, list[SimpleCompletion]]:
    """The word after `{{`, and the variables it can become, or attributes or keys of one."""
    word, value = braces["word"], shell.user_ns.get(braces["owner"])
    if braces["owner"] is None:
        names = [*_columns(shell, given), *_named(shell, _is_insertable)]
    elif braces["step"] == "[":
        quote = word[:1] if word[:1] in ("'", '"') else '"'
        is_pandas = type(value).__module__.startswith("pandas")
        keys = getattr(value, "columns", ()) if is_pandas else ()
        keys = value if isinstance(value, Mapping) else keys
        names = [f"{quote}{key}{quote}" for key in keys if isinstance(key, str)]
    else:
        # Attributes are not evaluated: a property may take long, or fail.
        names = [
            name
            for name in dir(value)
            if not name.startswith("_") and not callable(inspect.getattr_static(value, name, None))
        ]
    found = dict.fromkeys(name for name in names if name.startswith(word))
    return word, [SimpleCompletion(name, type="variable") for name in found]


def _configuration() -> Configuration:
    from arche_magic.llm_providers.config import get_configuration

    return get_configuration()


def _session(shell: InteractiveShell) -> Any:
    return shell.magics_manager.registry["ArcheMagics"].session


def _models(shell: InteractiveShell, given: Given) -> Iterable[str]:
    """Models of the provider that the line names, or aliases and all models; defaults first."""
    configuration = _configuration()
    providers = configuration.providers
    asked = given.get("provider", "")
    entries = [providers[asked]] if asked in providers else list(providers.values())
    first = [] if asked in providers else list(configuration.aliases)
    first += [model for entry in entries for model in entry.models]
    return dict.fromkeys([*first, *sorted(m for entry in entries for m in entry.known_models)])


def _limits(shell: InteractiveShell, given: Given) -> Iterable[str]:
    from .sandbox_switch import LIMITS

    return LIMITS


def _columns(shell: InteractiveShell, given: Given) -> Iterable[str]:
    """The columns of the frame that `--over` names; `prompt` for a list."""
    rows = shell.user_ns.get(given.get("over", ""), _MISSING)
    if isinstance(rows, list):
        return ["prompt"]
    columns = getattr(rows, "columns", [getattr(rows, "name", None)])
    return [name for name in columns if isinstance(name, str)]


def _prompts(shell: InteractiveShell, given: Given) -> Iterable[str]:
    from arche_magic.prompts.saved import saved_names

    return saved_names()


def _functions(shell: InteractiveShell, given: Given) -> Iterable[str]:
    """Names of functions, those of the notebook first."""
    found = [
        (getattr(value, "__module__", "") != "__main__", name)
        for name, value in _variables(shell)
        if callable(value) and not isinstance(value, type)
    ]
    return [name for _, name in sorted(found)]


def _named(shell: InteractiveShell, fits: Callable[[Any], bool]) -> list[str]:
    """Names of the user's variables with such values."""
    return sorted(name for name, value in _variables(shell) if fits(value))


def _is_reply(value: Any) -> bool:
    from arche_magic.llm_providers.reply import Reply

    return isinstance(value, Reply)


def _has_rows(value: Any) -> bool:
    # No library is loaded to recognise a frame.
    return isinstance(value, list) or (hasattr(value, "iloc") and not callable(value))


def _is_picture(value: Any) -> bool:
    # Figures are not drawn for that.
    is_of_library = type(value).__module__.partition(".")[0] in ("matplotlib", "seaborn", "PIL")
    return is_of_library and any(hasattr(value, name) for name in ("savefig", "figure", "save"))


def _is_insertable(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return False
    return not callable(value) or getattr(value, "__module__", "") == "__main__"


def _variables(shell: InteractiveShell) -> Iterable[tuple[str, Any]]:
    """Names and values of the user's variables."""
    hidden = shell.user_ns_hidden
    for name, value in list(shell.user_ns.items()):
        if not name.startswith("_") and hidden.get(name, _MISSING) is not value:
            yield name, value


KINDS: dict[str, Callable[[InteractiveShell, Given], Iterable[str]]] = {
    "PROVIDER": lambda shell, given: _configuration().providers,
    "MODEL": _models,
    "KEY": lambda shell, given: [key.label for key in _configuration().keys],
    "SCOPE": lambda shell, given: [*KINDS["PROVIDER"](shell, given), *KINDS["KEY"](shell, given)],
    "CHAT": lambda shell, given: _session(shell).chats,
    "JOB": lambda shell, given: [str(job.number) for job in _session(shell).jobs],
    "LIMIT": _limits,
    "REPLY": lambda shell, given: _named(shell, _is_reply),
    "FRAME": lambda shell, given: _named(shell, _has_rows),
    "COLUMN": _columns,
    "IMAGE": lambda shell, given: _named(shell, _is_picture),
    "PROMPT": _prompts,
    "FUNCTION": _functions,
}
"""The values for each word of a metavar or a usage, by name."""

FILES: dict[str, Callable[[str], bool]] = {
    "FILE": lambda name: not _is_image(name),
    "IMAGE": _is_image,
}
"""Kinds of which files are offered too: whether one is, by its name."""
