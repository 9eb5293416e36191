"""The magics: declared options, handed on. No decisions are made here."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Bool, Enum, Float, Integer, Unicode

from .explain import FailureWatch
from .formats import FORMATS
from .out import OutHook

# The engine, and all that needs it, is imported when a magic first runs: loading stays instant.
if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers import Reply

    from .chat import Chats


@magics_class
class ArcheMagics(Magics):
    """Prompt language models within their limits. Defaults: `%config ArcheMagics`."""

    provider = Unicode("", help="Ask only this provider; empty: all, in order.").tag(config=True)
    model = Unicode("", help="Model; empty: each provider's default.").tag(config=True)
    system = Unicode("", help="System prompt of every cell.").tag(config=True)
    temperature = Float(None, allow_none=True, help="0 to 2; None: the provider's.").tag(
        config=True
    )
    max_tokens = Integer(None, allow_none=True, help="Longest reply, in tokens.").tag(config=True)
    patience = Float(
        None, allow_none=True, help="Seconds to wait for a route rather than fail or pay."
    ).tag(config=True)
    keep = Bool(
        None, allow_none=True, help="Answer what was asked before from memory; keep each reply."
    ).tag(config=True)
    format = Enum(FORMATS, "markdown", help="How replies are shown.").tag(config=True)
    budget = Integer(2000, help="Most tokens that one table or list takes in a prompt.").tag(
        config=True
    )

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell, parent=shell)
        self.replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self.last_reply: Reply | None = None
        self.out = OutHook(shell)
        self.failures = FailureWatch(shell)
        self._chats: Chats | None = None

    @property
    def chats(self) -> Chats:
        """The conversations of this kernel."""
        if self._chats is None:
            from .chat import Chats

            self._chats = Chats()
        return self._chats

    @no_var_expand
    @magic_arguments("llm")
    @argument(
        "-p",
        "--provider",
        metavar="NAME",
        help="Ask only this provider: groq, mistral, google or openai.",
    )
    @argument("-m", "--model", metavar="NAME", help="Model, bare or as provider/model.")
    @argument("-s", "--system", metavar="TEXT", help="System prompt; quote it if it has spaces.")
    @argument("-t", "--temperature", type=float, metavar="NUMBER", help="0 (steady) to 2 (varied).")
    @argument("--max-tokens", type=int, metavar="TOKENS", help="Longest reply.")
    @argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="Wait that long for a route rather than fail or pay (30 if not set; 0: never wait).",
    )
    @argument(
        "--schema",
        metavar="NAME",
        help="What the reply must look like: a variable that holds a class or a JSON Schema, or a "
        "line such as 'mood calm|loud, score float'.",
    )
    @argument(
        "--keep",
        action=BooleanOptionalAction,
        default=None,
        help="Answer what was asked before from memory, and keep each new reply on disk.",
    )
    @argument("--fresh", action="store_true", help="Ask again all the same; replace what is kept.")
    @argument("-o", "--output", metavar="NAME", help="Keep the reply in this variable too.")
    @argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o.")
    @argument("-f", "--format", choices=FORMATS, help="How to ask for and show the reply.")
    @argument(
        "--image",
        action="append",
        metavar="FILE|NAME",
        help="Send this image too: a file, or a variable such as a figure. May be repeated.",
    )
    @argument("--chat", metavar="CHAT", help="Continue the conversation of this name.")
    @argument(
        "--compare",
        metavar="A,B,…",
        help="Ask several providers, or models as provider/model, and show them side by side.",
    )
    @argument(
        "--budget",
        type=int,
        metavar="TOKENS",
        help="Most that one table or list takes in the prompt (2000 if not set).",
    )
    @argument("--raw", action="store_true", help="Send {{…}} as it stands too.")
    @argument("--show-prompt", action="store_true", help="Print what would be sent; send nothing.")
    @argument(
        "--dry-run", action="store_true", help="Print who would answer, when, for how many tokens."
    )
    @needs_local_scope
    @line_cell_magic
    def llm(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Reply | pd.DataFrame | None:
        r"""Send a prompt: `%llm [OPTIONS] TEXT`, or `%%llm [OPTIONS]` with the prompt below.

        {{name}}, {{name.attribute}}, {{name[0]}} and {{name["key"]}} stand for values of the
        notebook; {{df}} for a table, {{figure}} for an image. All else is sent as it stands:
        single braces, quotes, dollar signs, and \{{name}}. A text that starts with a dash goes
        after `--`.
        """
        from . import actions

        if (parsed := actions.parse(self.llm, line)) is None:
            return None
        return self.out.shown(actions.ask(self, *parsed, cell, local_ns))

    @no_var_expand
    @magic_arguments("llm_explain")
    @argument("-p", "--provider", metavar="NAME", help="Ask only this provider.")
    @argument("-m", "--model", metavar="NAME", help="Model, bare or as provider/model.")
    @argument("--max-tokens", type=int, metavar="TOKENS", help="Longest reply.")
    @argument("--patience", type=float, metavar="SECONDS", help="Wait that long for a route.")
    @argument("-o", "--output", metavar="NAME", help="Keep the reply in this variable too.")
    @argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o.")
    @argument("-f", "--format", choices=FORMATS, help="`code` offers the fix as the next cell.")
    @argument("--chat", metavar="CHAT", help="In the conversation of this name.")
    @argument("--locals", action="store_true", help="Send the values of the variables used too.")
    @argument("--show-prompt", action="store_true", help="Print what would be sent; send nothing.")
    @argument(
        "--dry-run", action="store_true", help="Print who would answer, when, for how many tokens."
    )
    @line_magic
    def llm_explain(self, line: str) -> Reply | None:
        """Explain the last error and how to fix it: `%llm_explain [OPTIONS] [QUESTION]`.

        Sends the cell that failed, the notebook's own frames and the error's message; values of
        variables only with --locals.
        """
        from . import actions

        if (parsed := actions.parse(self.llm_explain, line)) is None:
            return None
        return self.out.shown(actions.explain(self, *parsed))

    @no_var_expand
    @magic_arguments("llm_chat")
    @line_magic
    def llm_chat(self, line: str) -> pd.DataFrame | None:
        """Look after conversations: `%llm_chat [list | show NAME | export NAME FILE | …]`.

        `list` (if nothing is said) and `show NAME` show them, `export NAME FILE` writes one as
        Markdown (.md) or JSON (.json), `load FILE [NAME]` reads a .json back, `fork NAME NEW` lets
        one go on twice, `undo NAME` forgets its last turn, `clear NAME` all of it. Returns a row
        per conversation as a DataFrame.
        """
        from . import actions

        if (parsed := actions.parse(self.llm_chat, line)) is None:
            return None
        return self.out.shown(actions.chats(self, parsed[1]))

    @no_var_expand
    @magic_arguments("llm_quota")
    @argument("--plot", action="store_true", help="Pictures of what was used since midnight.")
    @line_magic
    def llm_quota(self, line: str) -> pd.DataFrame | None:
        """Show what every route has left, `%llm_quota [--plot] [PROVIDER]`; returns a DataFrame."""
        from . import actions

        if (parsed := actions.parse(self.llm_quota, line)) is None:
            return None
        return self.out.shown(actions.quota(*parsed))

    @no_var_expand
    @magic_arguments("llm_why")
    @line_magic
    def llm_why(self, line: str) -> pd.DataFrame | None:
        """Show why a reply came from its route, `%llm_why [NAME]`; the last reply if none is named.

        A row per route: what it had left, why it was passed over, what would have changed the
        choice. Returns it as a DataFrame.
        """
        from . import actions

        if (parsed := actions.parse(self.llm_why, line)) is None:
            return None
        return self.out.shown(actions.why(self, parsed[1]))

    @no_var_expand
    @magic_arguments("llm_stats")
    @argument("--plot", action="store_true", help="Pictures: tokens, seconds, fallbacks.")
    @line_magic
    def llm_stats(self, line: str) -> pd.DataFrame | None:
        """Show this session's attempts per route; returns them one by one as a DataFrame."""
        from . import actions

        if (parsed := actions.parse(self.llm_stats, line)) is None:
            return None
        return self.out.shown(actions.stats(*parsed))

    @no_var_expand
    @magic_arguments("llm_panel")
    @line_magic
    def llm_panel(self, line: str) -> None:
        """Show what every route has left, live, with switches, an order, and a prompt box.

        What is chosen in it holds for every cell of this kernel, until it ends. A table for the
        record stays in the saved notebook.
        """
        from . import actions

        if (parsed := actions.parse(self.llm_panel, line)) is not None:
            actions.panel(self, parsed[1])

    @no_var_expand
    @magic_arguments("llm_sandbox")
    @argument("--keys", action="append", metavar="PROVIDER=N", help="How many keys it gives out.")
    @argument(
        "--limit",
        action="append",
        metavar="SCOPE.LIMIT=N",
        help="Another limit for a provider, provider/model or key label.",
    )
    @argument(
        "--left",
        action="append",
        metavar="SCOPE.LIMIT=N",
        help="How much of a limit is left at the start, for a provider or key label: "
        "groq_key_1.requests_per_day=2.",
    )
    @argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="Wait before each answer."
    )
    @argument("--seed", type=int, default=0, metavar="N", help="Decides replies and failures.")
    @line_magic
    def llm_sandbox(self, line: str) -> None:
        """Rehearse without keys: `%llm_sandbox [OPTIONS] [start | auto | stop | status]`.

        `start` (if nothing is said) runs the four simulated providers in this kernel, `auto` does
        so only if no key is configured, `stop` goes back to the real keys. The ledger of the real
        keys is not touched.
        """
        from . import actions

        if (parsed := actions.parse(self.llm_sandbox, line)) is not None:
            print(actions.sandbox(*parsed))

    def unload(self) -> None:
        """Close the panels, stop the sandbox, and give `Out` back to IPython."""
        from . import panel, sandbox_magic

        panel.close_all()
        sandbox_magic.stop()
        self.failures.remove()
        self.out.remove()
