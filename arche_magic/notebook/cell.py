"""The prompt of a cell, with its files and pages, and its options with their defaults."""

from __future__ import annotations

import builtins
import keyword
import re
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import Function
from arche_magic.llm_providers.attempt_log import name_notebook
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.text.wording import did_you_mean
from arche_magic.prompts import Prompt, fill, is_reference, look_up, name_in, own_names, references
from arche_magic.prompts.attachments import attach, read_file
from arche_magic.prompts.saved import saved_prompt

from .command import CellInterrupted, Session, Typed
from .display import CellOutput
from .keys import require_keys, without_keys
from .live_line import LiveLine, TerminalLine, timed
from .styles import one_line, quiet_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .magics import Defaults

EMPTY = "the prompt is empty; write it after the options, or in the lines below %%llm"
# Maximum characters of an address that are shown.
_LONGEST = 80
# IPython's results and inputs (`_`, `_3`, `_i`, `_i3`, `_oh`), and names of a Python module.
_RESERVED = re.compile(r"In|Out|get_ipython|exit|quit|_{1,3}|_i{1,3}|_i?\d+|_[iod]h|__\w*__")
_LINE_ENDS = re.compile(r"(\\n)+")
# Options that cannot be combined with the first one.
_EXCLUDED = {
    "over": (
        "chat", "compare", "image", "file", "url", "format", "raw", "budget", "show_prompt",
        "tools", "max_rounds",
    ),
    "prompt": ("raw",),
    "tools": ("schema", "compare"),
    "background": ("tools", "compare", "show_prompt", "plan", "dry_run"),
    "compare": (
        "provider", "model", "same_model", "chat", "format", "schema", "show_prompt", "dry_run",
    ),
}  # fmt: skip


def typed_prompt(typed: Typed) -> str:
    """The text of a line or a cell, inserted into the saved prompt of `--prompt` if there is one.

    The newline that IPython adds to every cell is removed. The system prompt of the saved prompt
    is used unless the options have one.
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
    saved = saved_prompt(options.prompt)
    if options.system is None:
        options.system = saved.system or None
    return saved.with_text(text)


def with_attachments(
    shell: InteractiveShell, options: Namespace, prompt: Prompt, names: Mapping[str, Any]
) -> Prompt:
    """The prompt below the files and web pages of the cell; a line shows what is being read."""
    if not options.file and not options.url:
        return prompt
    place = CellOutput(shell)

    def draw(line: str) -> None:
        place.draw(quiet_line(line) if line else {"text/plain": ""})

    line = LiveLine(draw if hasattr(shell, "kernel") else TerminalLine().write)
    try:
        attachments = [read_file(source, names) for source in options.file or ()]
        for url in options.url or ():
            from arche_magic.prompts.pages import read_page

            if not options.quiet:
                line.say(timed(f"reading {one_line(without_keys(url), _LONGEST)}"))
            attachments.append(read_page(url))
    except KeyboardInterrupt:
        raise CellInterrupted("the files and pages were not read; nothing was sent") from None
    finally:
        line.end()
    return attach(prompt, attachments, options.budget)


def first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def is_given(value: Any) -> bool:
    """Whether an option has a value; 0 and "" are values."""
    return value is not None and value is not False


def typed_or_default(options: Namespace, defaults: Defaults, *names: str) -> dict[str, Any]:
    """Options of the cell, or their defaults; an empty text counts as not given."""
    given = {
        name: first_given(getattr(options, name, None), getattr(defaults, name)) for name in names
    }
    return {name: None if value == "" else value for name, value in given.items()}


def request_options(options: Namespace, defaults: Defaults, *names: str) -> dict[str, Any]:
    """The arguments for the request of a cell: those of every prompt, and those in `names`."""
    names = ("system", "temperature", "max_tokens", "private", *names)
    stop = [
        text.replace(r"\n", "\n") if _LINE_ENDS.fullmatch(text) else text
        for text in options.stop or ()
    ]
    return typed_or_default(options, defaults, *names) | {
        "top_p": options.top_p,
        "seed": options.seed,
        "stop": stop or None,
        "extra": {"reasoning_effort": options.effort} if options.effort else None,
        "fresh": options.fresh,
        "tag": options.tag,
        "fallback_on_filter": options.fallback_on_filter,
    }


def check_together(options: Namespace, defaults: Defaults) -> None:
    """Raise InvalidRequest for options that exclude each other."""
    given = {name for name, value in vars(options).items() if is_given(value)}
    for name, others in _EXCLUDED.items():
        for other in others:
            if {name, other} <= given:
                flag = other.replace("_", "-")
                raise InvalidRequest(f"%llm: --{name} cannot be combined with --{flag}")
    if options.max_rounds is not None and options.tools is None:
        raise InvalidRequest("%llm: --max-rounds needs --tools f,g")
    if options.background and options.over is None and first_given(options.chat, defaults.chat):
        hint = "" if options.chat else "; add --chat '' to leave this cell out of the conversation"
        raise InvalidRequest(
            "%llm: --background cannot be combined with --chat, because the next turn would not "
            f"know this reply{hint}"
        )


def check_prompt(session: Session, options: Namespace, prompt: Prompt) -> None:
    """Raise InvalidRequest or NoKeys if a finished prompt cannot be sent with these options."""
    check_together(options, session.defaults)
    name_notebook(session.notebook)
    if options.output is not None:
        check_variable("-o", options.output)
    require_keys(replay=bool(first_given(options.keep, session.defaults.keep)))
    if not prompt.text.strip():
        raise InvalidRequest(EMPTY)


def bind(session: Session, options: Namespace, value: Any) -> None:
    """Set the variable of `-o`, if the cell names one."""
    if options.output is not None:
        session.shell.user_ns[options.output] = value


def check_variable(option: str, name: str) -> None:
    """Raise InvalidRequest unless a variable that an option binds can have this name."""
    problem = ""
    if not name.isidentifier() or keyword.iskeyword(name):
        problem = "is not a valid variable name"
    elif _RESERVED.fullmatch(name):
        problem = "is a name that IPython or Python uses; choose another"
    elif hasattr(builtins, name):
        problem = f"would hide the builtin {name}; choose another name"
    if problem:
        raise InvalidRequest(f"{option} {name!r} {problem}")


def with_values(
    options: Namespace, names: Mapping[str, Any], budget: int, columns: Collection[str] = ()
) -> tuple[str, ...]:
    """Replace the variables in a cell's options by their values; returns notes about them.

    A table or collection in the system prompt has at most `budget` tokens. `columns` are names
    whose values differ from row to row, so they cannot be in it.
    """
    notes: tuple[str, ...] = ()
    if system := _system_prompt(options, names, budget, columns):
        options.system, notes = system.text, system.notes
    if options.schema is not None:
        options.schema = _schema_named(options.schema, names)
    if options.tools is not None:
        options.tools = _functions_named(options.tools, names)
    return notes


def _system_prompt(
    options: Namespace, names: Mapping[str, Any], budget: int, columns: Collection[str]
) -> Prompt | None:
    """The system prompt of the options: a text with `{{variables}}`, or the name of a text."""
    text: str | None = options.system
    # `%llm_retry` has no option `--raw`.
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
        raise InvalidRequest(
            "%llm: a system prompt cannot contain images; put the image into the prompt"
        )
    return prompt


def _schema_named(text: str, names: Mapping[str, Any]) -> Any:
    """The schema that `--schema TEXT` means: a variable's value, or TEXT if it is not a name."""
    if "[" in text and is_reference(text, names):
        return look_up(text, names)
    if not all(part.isidentifier() for part in text.split(".")):
        return text
    rule = "; a short line has a type after each name, such as 'score float'"
    return _value("--schema", text, names, lambda value: isinstance(value, type | dict), rule)


def _functions_named(text: str, names: Mapping[str, Any]) -> list[Function]:
    """The functions that `--tools TEXT` names, such as `lookup,db.query`.

    A model calls each by its last name: `lookup` and `query`.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InvalidRequest("%llm: --tools takes names of functions, such as f,g")
    found = []
    for word in words:
        value = _value("--tools", word, names, callable)
        if not callable(value):
            kind = type(value).__name__
            raise InvalidRequest(f"%llm: --tools {word!r} is of type {kind}; it must be a function")
        found.append(Function.of(value, word.rpartition(".")[2]))
    return found


def _value(
    option: str, text: str, names: Mapping[str, Any], fits: Callable[[Any], bool], rule: str = ""
) -> Any:
    """The value of the `name` or `name.attribute` that an option names."""
    first, _, attributes = text.partition(".")
    if first not in names:
        near = did_you_mean(first, [name for name in own_names(names) if fits(names[name])])
        raise InvalidRequest(f"%llm: {option} {text!r} is not a variable{rule}{near}")
    try:
        return attrgetter(attributes)(names[first]) if attributes else names[first]
    except AttributeError as error:
        raise InvalidRequest(f"%llm: {option} {text!r}: {error}") from None
