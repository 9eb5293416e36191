"""Turns functions into commands of the notebook: `@command` parses their line and shows help.

A file in `commands/` holds a command's options, its help and what it does. All of them are loaded
with the extension, so they import the engine, and modules that need it, inside their functions.
An interrupt ends a command with `CellInterrupted`.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from argparse import Namespace
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from .arguments import help_text, parse_line, usage
from .warning_lines import show_collected

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers.attempt_log import Ended
    from arche_magic.llm_providers.errors import InvalidRequest
    from arche_magic.llm_providers.reply import Reply
    from arche_magic.openai_api.server import Server
    from arche_magic.prompts import Prompt

    from .background import BackgroundJobs
    from .chat import Chats, Turn
    from .display_hook import OutHook
    from .explain import FailureWatch
    from .magics import Defaults

# An empty system prompt is a valid value. `%llm_retry` drops options whose value is empty.
_MAY_BE_EMPTY, _LEAVING_OUT = "system", "llm_retry"
CHAT_NAME = re.compile(r"[\w.-]+")
CHAT_NAME_RULE = "a name can have letters, digits, and . _ -"
_LONGEST_NAME = 100
_IGNORED_SECONDS = 1.0


Shown = tuple[dict[str, str] | str | None, Any]
"""The output of a command (a bundle, a text, or None if it was shown already) and its result."""


class CellInterrupted(KeyboardInterrupt):
    """The user interrupted a cell; the text so far stays visible and is counted."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@dataclass
class SentPrompt:
    """A prompt that was sent, its reply if it has arrived, and its turn of a conversation, if any.

    In `options`, which are those of `%llm`, names of variables are replaced by their values.
    """

    prompt: Prompt
    options: Namespace
    reply: Reply | None = None
    turn: Turn | None = None


@dataclass
class Session:
    """State shared by the commands of one kernel.

    Attributes:
        defaults: the default options of prompts, `%config ArcheMagics`.
        out: remembers which values a command has shown.
        failures: remembers the last cell that failed.
        asked: the last prompt that was sent, for `%llm_retry`.
        reply: the last reply.
        unsent: why no request was made for the last prompt, and the request before it.
        server: the server of `%llm_serve`, while it runs.
    """

    shell: InteractiveShell
    defaults: Defaults
    out: OutHook
    failures: FailureWatch
    asked: SentPrompt | None = None
    reply: Reply | None = None
    unsent: tuple[str, Ended | None] | None = None
    server: Server | None = None
    _without_prompt: Exception | None = None

    @property
    def notebook(self) -> str:
        """The name of the notebook's file, without its folder; "" if it is not known.

        VS Code sets a variable of the notebook, Jupyter's server an environment variable.
        """
        from arche_magic.llm_providers.secrets import without_locals

        told = self.shell.user_ns.get("__vsc_ipynb_file__") or without_locals(os.environ.get)(
            "JPY_SESSION_NAME", ""
        )
        name = re.split(r"[/\\]", str(told))[-1]
        return name[:_LONGEST_NAME] if name.isprintable() else ""

    def last_reply(self, command: str) -> Reply:
        """The last reply of this kernel; raises InvalidRequest in the name of `command`."""
        if self.reply is None:
            from arche_magic.llm_providers.errors import InvalidRequest

            raise InvalidRequest(f"{command}: there is no reply yet; %llm sends a prompt")
        return self.reply

    @contextmanager
    def noting_unsent(self) -> Iterator[None]:
        """Note for `%llm_why` if a prompt is refused before it is sent."""
        from arche_magic.llm_providers.errors import LLMProviderError

        before = _last_request()
        try:
            yield
        except LLMProviderError as error:
            if _last_request() is before and error is not self._without_prompt:
                self.unsent = f"the last prompt was not sent: {error}", before
            raise

    def no_prompt(self, message: str) -> InvalidRequest:
        """The error of a command that has nothing to send; `%llm_why` does not mention it."""
        from arche_magic.llm_providers.errors import InvalidRequest

        self._without_prompt = error = InvalidRequest(message)
        return error

    @cached_property
    def jobs(self) -> BackgroundJobs:
        """The background jobs of this kernel."""
        from .background import BackgroundJobs

        return BackgroundJobs()

    @cached_property
    def chats(self) -> Chats:
        """The conversations of this kernel."""
        from .chat import Chats

        return Chats()


@dataclass(frozen=True)
class Typed:
    """A command as the user typed it.

    Attributes:
        line: the whole first line.
        options: the values of the options, by name.
        text: what follows the options on the line, verbatim.
        cell: the lines below a cell magic; None for a line magic.
        names: the local variables of the caller, then the variables of the notebook.
    """

    line: str
    options: Namespace
    text: str
    cell: str | None
    names: Mapping[str, Any]


def option(form: str, about: str, **more: Any) -> argument:
    """An option of a command, such as `option("-m --model MODEL", "Model.")`.

    Args:
        form: its names and, if it takes a value, what the value is; otherwise it is a switch.
        about: its line in the help; `%%` is a percent sign.
        more: further arguments of argparse, such as `type` and `choices`.
    """
    names = [word for word in form.split() if word.startswith("-")]
    if value := form.split()[len(names) :]:
        more["metavar"] = value[0]
    elif not more:
        more["action"] = "store_true"
    return argument(*names, help=about, **more)


def command(
    *options: argument, needs: str = "display"
) -> Callable[[Callable[[Session, Typed], Any]], Any]:
    """Turn a function of the session and the typed command into a magic with these options.

    If the function returns a `Shown`, IPython does not repeat the value as `Out`. `--help` prints
    its docstring and the options. IPython shows errors in one line.

    Args:
        options: see `option`.
        needs: the module of the notebook layer that is imported first, with its part of the engine.
    """

    def declare(body: Callable[[Session, Typed], Any]) -> Any:
        @wraps(body)
        def magic(
            magics: Any,
            line: str,
            cell: str | None = None,
            local_ns: Mapping[str, Any] | None = None,
        ) -> Any:
            session: Session = magics.session
            try:
                import_in_thread(needs)
                show_collected()
                with session.noting_unsent() if needs == "ask" else nullcontext():
                    return run(session, line, cell, local_ns)
            except CellInterrupted:
                raise
            except KeyboardInterrupt:
                raise CellInterrupted(f"%{magic.__name__} was stopped") from None

        def run(
            session: Session, line: str, cell: str | None, local_ns: Mapping[str, Any] | None
        ) -> Any:
            from arche_magic.llm_providers.errors import LLMProviderError

            try:
                parsed = _parsed(magic, line, session.defaults)
                if parsed is None:
                    print(magic.__doc__)
                    return None
                names = ChainMap(dict(local_ns or {}), session.shell.user_ns)
                result = body(session, Typed(line, *parsed, cell, names))
                if not isinstance(result, tuple):
                    return result
                from .display import show

                shown, value = result
                if shown is not None:
                    show(shown)
                return session.out.shown(value)
            except LLMProviderError as error:
                from .keys import without_keys

                error.args = (without_keys(str(error)),)
                raise

        # IPython lists the option of the last decorator first.
        for declared in reversed(options):
            declared(magic)
        magic_arguments(body.__name__)(magic)
        magic.__doc__ = help_text(magic)
        return needs_local_scope(no_var_expand(magic))

    return declare


def _parsed(magic: Any, line: str, defaults: Defaults) -> tuple[Namespace, str] | None:
    """The options and the text of a line; None if it asks for help."""
    from arche_magic.llm_providers.errors import InvalidRequest

    parsed = parse_line(magic, line)
    if parsed is None:
        return None
    options, text = parsed
    name = f"%{magic.__name__}"
    if text.strip() and not any(usage(magic)):
        raise InvalidRequest(
            f"{name} takes no text, but got {text!r}; {name} --help shows its usage"
        )
    for word, value in vars(options).items():
        # An empty text can switch off a default.
        may_be_empty = word == _MAY_BE_EMPTY or bool(getattr(defaults, word, ""))
        is_empty = "" in (value if isinstance(value, list) else [value])
        if is_empty and not may_be_empty and magic.__name__ != _LEAVING_OUT:
            flag = word.replace("_", "-")
            raise InvalidRequest(f"{name}: --{flag} is empty; give it a value, or leave it out")
    return parsed


def _last_request() -> Ended | None:
    """The last request of this process; None if there is none, or if the settings are wrong."""
    from arche_magic.llm_providers.attempt_log import attempt_log
    from arche_magic.llm_providers.config import get_configuration
    from arche_magic.llm_providers.errors import ConfigurationError

    with suppress(ConfigurationError):
        return attempt_log(get_configuration().store).last
    return None


def import_in_thread(name: str) -> None:
    """Import a module of the notebook layer, and what it needs of the engine.

    In the main thread, an interrupt during an import would become another error or be lost.
    """
    from arche_magic.llm_providers.bounded import library

    library(f"{__package__}.{name}")


@contextmanager
def one_interrupt() -> Iterator[None]:
    """In this context, an interrupt always ends the current request.

    Python drops a KeyboardInterrupt in a finalizer or a weak reference's callback, and an SDK may
    turn it into its own error. So the interrupt is also noted, and the request ends a moment later.

    For one second, further interrupts are ignored, because they would disturb closing the
    connection and counting the usage. After that, an interrupt stops whatever is running.
    """
    from arche_magic.llm_providers.stopping import stopped_by

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    last = -_IGNORED_SECONDS
    pressed = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _IGNORED_SECONDS:
            last = now
            pressed.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        with stopped_by(pressed):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
