"""Loads the extension: registers the commands of `commands/` as magics, with their defaults."""

from __future__ import annotations

import re
import sys
import tokenize
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import HelpEnd
from IPython.core.magic import Magics
from traitlets import Bool, Enum, Float, Integer, TraitError, Unicode, validate
from traitlets.config import Configurable

from . import completion, status_bar, warning_lines
from .command import CHAT_NAME, CHAT_NAME_RULE, Session
from .commands.llm import FORMATS, llm
from .commands.llm_chat import llm_chat
from .commands.llm_doctor import llm_doctor
from .commands.llm_explain import llm_explain
from .commands.llm_history import llm_history
from .commands.llm_insert import llm_insert
from .commands.llm_jobs import llm_jobs
from .commands.llm_keys import llm_keys
from .commands.llm_last import llm_last
from .commands.llm_models import llm_models
from .commands.llm_panel import llm_panel
from .commands.llm_prompts import llm_prompts
from .commands.llm_quota import llm_quota
from .commands.llm_retry import llm_retry
from .commands.llm_sandbox import llm_sandbox
from .commands.llm_serve import llm_serve
from .commands.llm_services import llm_services
from .commands.llm_stats import llm_stats
from .commands.llm_why import llm_why
from .display_hook import OutHook
from .explain import FailureWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

COMMANDS = (
    llm, llm_chat, llm_doctor, llm_explain, llm_history, llm_insert, llm_jobs, llm_keys, llm_last,
    llm_models, llm_panel, llm_prompts, llm_quota, llm_retry, llm_sandbox, llm_serve, llm_services,
    llm_stats, llm_why,
)  # fmt: skip

# Commands whose text may end in a question mark.
_ASKING = ("llm", "llm_explain")
_LAYOUT = (tokenize.INDENT, tokenize.DEDENT)


class Defaults(Configurable):
    """The values for options that a cell does not set."""

    provider = Unicode("", help="Use only this provider; empty: all, in order.").tag(config=True)
    model = Unicode("", help="Model; empty: each provider's default.").tag(config=True)
    system = Unicode("", help="System prompt of every cell.").tag(config=True)
    temperature = Float(
        None, allow_none=True, min=0, max=2, help="0 to 2; None: the provider's default."
    ).tag(config=True)
    max_tokens = Integer(
        None, allow_none=True, min=1, help="Maximum length of a reply, in tokens."
    ).tag(config=True)
    patience = Float(
        None,
        allow_none=True,
        min=0,
        help="Seconds to wait for a route instead of failing or paying; None: as in the settings.",
    ).tag(config=True)
    keep = Bool(
        None, allow_none=True, help="Answer repeated prompts with the kept reply; keep new replies."
    ).tag(config=True)
    chat = Unicode("", help="Make every cell a turn of this conversation.").tag(config=True)
    private = Bool(
        None, allow_none=True, help="Use only routes that are marked under [private]."
    ).tag(config=True)
    format = Enum(tuple(FORMATS), "markdown", help="How replies are shown.").tag(config=True)
    budget = Integer(2000, min=1, help="Maximum tokens of each table or list in a prompt.").tag(
        config=True
    )

    @validate("chat")
    def _name_of_chat(self, proposal: dict[str, Any]) -> str:
        name: str = proposal["value"]
        if name and not CHAT_NAME.fullmatch(name):
            raise TraitError(f"chat {name!r}: {CHAT_NAME_RULE}")
        return name

    # While the extension loads, the engine is not imported: the first request checks the name.
    _checks_provider = False

    @validate("provider")
    def _known_provider(self, proposal: dict[str, Any]) -> str:
        name: str = proposal["value"]
        if name and self._checks_provider:
            from arche_magic.llm_providers.config import get_configuration
            from arche_magic.llm_providers.errors import LLMProviderError

            try:
                get_configuration().provider(name)
            except LLMProviderError as error:
                raise TraitError(str(error)) from None
        return name


class ArcheMagics(Defaults, Magics):
    """Prompt language models within their limits. Defaults: `%config ArcheMagics`."""

    registered = True
    magics = {  # noqa: RUF012  # as IPython's own decorator sets it
        "line": {command.__name__: command.__name__ for command in COMMANDS},
        "cell": {llm.__name__: llm.__name__},
    }

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell, parent=shell)
        self.replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self.session = Session(shell, self, OutHook(shell), FailureWatch(shell))
        self.status_bar: status_bar.StatusBar | None = None
        # Standard output, if it was strict about characters before.
        self.strict_stdout: Any = None
        self._checks_provider = True

    def update_config(self, config: Config) -> None:
        """Apply the values that `%config` sets; an error about a value does not show a key.

        IPython then passes the same object to the shell, which must not keep a refused value,
        because the next `%load_ext` would fail.
        """
        try:
            super().update_config(config)
        except TraitError as error:
            from .keys import without_keys

            config.pop(type(self).__name__)
            raise TraitError(without_keys(str(error))) from None


for _command in COMMANDS:
    setattr(ArcheMagics, _command.__name__, _command)


class HelpExceptOnQuestions(HelpEnd):
    """IPython's `name?`, except that prompts that end in a question mark are sent.

    `%llm What is a token bucket?` and `answer = %llm Why?` are sent. So is `llm Why?`, because
    magics need no `%`. `%llm?` and `llm?` show the help.
    """

    @classmethod
    def find(cls, tokens_by_line: list[list[Any]]) -> HelpEnd | None:
        """The first line of a cell that asks for help."""
        found: HelpEnd | None = super().find(
            [line for line in tokens_by_line if not _is_question(line)]
        )
        return found


def _is_question(line: list[Any]) -> bool:
    """Whether a line only sends a prompt, with or without `%`, or assigns its reply."""
    words = [token.string for token in line if token.type not in _LAYOUT]
    if words[:1] != ["%"]:
        if len(words) > 1 and re.match(r"[\w'\"-]", words[1]):
            words = ["%", *words]
        elif "=" in words:
            words = words[words.index("=") + 1 :]
    return (
        len(words) > 2 and words[0] == "%" and words[1] in _ASKING and not words[2].startswith("?")
    )


def load(shell: InteractiveShell) -> None:
    """Register the magics in a shell; loading twice changes nothing.

    Raises:
        ConfigurationError: a default in `ipython_config.py` has an impossible value.
    """
    if _loaded(shell):
        return
    try:
        magics = ArcheMagics(shell=shell)
    except TraitError as error:
        from arche_magic.llm_providers.errors import ConfigurationError

        configurables: list[Any] = shell.configurables
        configurables[:] = [one for one in configurables if not isinstance(one, ArcheMagics)]
        raise ConfigurationError(f"c.ArcheMagics in ipython_config.py: {error}") from None
    table = shell.magics_manager.magics
    magics.replaced = {
        (kind, name): table[kind][name]
        for kind, names in ArcheMagics.magics.items()
        for name in names
        if name in table[kind]
    }
    if magics.replaced:
        names = ", ".join(sorted({name for _, name in magics.replaced}))
        print(f"arche_magic takes over from another extension until %unload_ext: {names}")
    shell.register_magics(magics)
    _replace_help(shell, HelpEnd, HelpExceptOnQuestions)
    completion.register(shell)
    warning_lines.register()
    magics.status_bar = status_bar.start(shell, magics)
    magics.strict_stdout = _replace_characters_of_stdout()


def unload(shell: InteractiveShell) -> None:
    """Undo `load`: close panels, stop jobs, sandbox and server, restore replaced magics."""
    magics = _loaded(shell)
    if magics is None:
        return
    from . import panel, receipt, sandbox_switch

    _replace_help(shell, HelpExceptOnQuestions, HelpEnd)
    completion.unregister(shell)
    warning_lines.unregister()
    panel.close_all()
    if magics.status_bar:
        magics.status_bar.close()
    session = magics.session
    if server := session.server:
        print(f"The server at {server.base_url} has stopped.")
        server.stop()
    if "jobs" in vars(session) and (stopped := session.jobs.close()):
        print(f"Background jobs stopped: {stopped}.")
    if sandbox_switch.is_running():
        # From now on, prompts use real quota.
        print(sandbox_switch.stop())
    receipt.forget_hint()
    session.failures.remove()
    session.out.remove()
    if magics.strict_stdout and not magics.strict_stdout.closed:
        magics.strict_stdout.reconfigure(errors="strict")
    table = shell.magics_manager.magics
    for kind, names in magics.magics.items():
        for name in names:
            table[kind].pop(name, None)
    for (kind, name), function in magics.replaced.items():
        table[kind][name] = function
    shell.magics_manager.registry.pop(ArcheMagics.__name__)
    configurables: list[Any] = shell.configurables
    configurables.remove(magics)


def _loaded(shell: InteractiveShell) -> ArcheMagics | None:
    magics: ArcheMagics | None = shell.magics_manager.registry.get(ArcheMagics.__name__)
    return magics


def _replace_help(shell: InteractiveShell, old: type, new: type) -> None:
    """Replace the class with which a shell recognises `name?`."""
    known = shell.input_transformer_manager.token_transformers
    known[:] = [new if one is old else one for one in known]


def _replace_characters_of_stdout() -> Any:
    """Print `?` for characters that the encoding of a terminal or a file lacks; return its stream.

    Otherwise, the first emoji in a reply would end the cell after the request was paid for, for
    example on Windows when the output goes to a file. The streams of kernels accept every
    character, and so does UTF-8.
    """
    stream = sys.stdout
    if getattr(stream, "errors", "") != "strict" or not hasattr(stream, "reconfigure"):
        return None
    if stream.encoding.lower() in ("utf-8", "utf8"):
        return None
    stream.reconfigure(errors="replace")
    return stream
