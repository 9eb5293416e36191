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
from traitlets import Bool, Enum, Float, Integer, TraitError, Unicode, validate

from .arguments import documented, overview
from .explain import FailureWatch
from .formats import FORMATS
from .interrupts import import_apart
from .llm_options import llm_options
from .out import OutHook

# The engine, and all that needs it, is imported when a magic first runs: loading stays instant.
if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from arche_magic.llm_providers import Reply

    from .chat import Chats


@documented
@magics_class
class ArcheMagics(Magics):
    """Prompt language models within their limits. Defaults: `%config ArcheMagics`."""

    provider = Unicode("", help="Ask only this provider; empty: all, in order.").tag(config=True)
    model = Unicode("", help="Model; empty: each provider's default.").tag(config=True)
    system = Unicode("", help="System prompt of every cell.").tag(config=True)
    temperature = Float(
        None, allow_none=True, min=0, max=2, help="0 to 2; None: the provider's."
    ).tag(config=True)
    max_tokens = Integer(None, allow_none=True, min=1, help="Longest reply, in tokens.").tag(
        config=True
    )
    patience = Float(
        None, allow_none=True, min=0, help="Seconds to wait for a route rather than fail or pay."
    ).tag(config=True)
    keep = Bool(
        None, allow_none=True, help="Answer what was asked before from memory; keep each reply."
    ).tag(config=True)
    private = Bool(
        None, allow_none=True, help="Ask only routes that [private] marks as not training."
    ).tag(config=True)
    format = Enum(FORMATS, "markdown", help="How replies are shown.").tag(config=True)
    budget = Integer(2000, min=1, help="Most tokens that one table or list takes in a prompt.").tag(
        config=True
    )

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell, parent=shell)
        self.replaced: dict[tuple[str, str], Callable[..., Any]] = {}
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

    @validate("provider")
    def _known_provider(self, proposal: dict[str, Any]) -> str:
        name: str = proposal["value"]
        # While the extension loads, a name from a file is left to the first request.
        if name and hasattr(self, "out"):
            from . import actions

            if reason := actions.unknown_provider(name):
                raise TraitError(reason)
        return name

    @no_var_expand
    @magic_arguments("llm")
    @llm_options
    @needs_local_scope
    @line_cell_magic
    def llm(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Reply | pd.DataFrame | None:
        r"""Send a prompt and show the reply as it comes; returns the reply.

        {{name}}, {{name.attribute}}, {{name[0]}} and {{name["key"]}} stand for values of the
        notebook: text, data cut to a budget, figures as images. All else is sent as it stands:
        single braces, quotes, dollar signs, and \{{name}}. A text that starts with a dash goes
        after `--`.

        Usage:
          %llm [OPTIONS] TEXT
          %%llm [OPTIONS]      with the prompt in the lines below
          %llm                 lists all magics

        Examples:
          %llm -p groq What is a token bucket?
          %%llm -m mistral-small-latest -s "Answer in one sentence." -t 0 -o answer
          %%llm --chat tutor --image plot.png
          %%llm --compare groq,mistral,google
          %%llm --over reviews --schema "mood good|bad" --into moods
        """
        import_apart("prompting")
        from . import actions

        if cell is None and not line.strip():
            print(overview(self.magics))
            return None
        if (parsed := actions.parse(self.llm, line)) is None:
            return None
        if parsed[0].over is not None:
            import_apart("over")
            from .over import over

            frame = over(self, *parsed, cell, local_ns)
            return self.out.shown(frame) if parsed[0].quiet else frame
        from .prompting import ask

        reply = ask(self, *parsed, cell, local_ns)
        has_shown_it = not (parsed[0].quiet or parsed[0].compare)
        return self.out.shown(reply, itself=has_shown_it)

    @no_var_expand
    @magic_arguments("llm_explain")
    @argument("-p", "--provider", metavar="PROVIDER", help="Ask only this provider.")
    @argument("-m", "--model", metavar="MODEL", help="Model, bare or as provider/model.")
    @argument("--max-tokens", type=int, metavar="TOKENS", help="Longest reply.")
    @argument("--patience", type=float, metavar="SECONDS", help="Wait that long for a route.")
    @argument("-o", "--output", metavar="NAME", help="Keep the reply in this variable too.")
    @argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o.")
    @argument("-f", "--format", choices=FORMATS, help="`code` offers the fix as the next cell.")
    @argument("--chat", metavar="CHAT", help="In the conversation of this name.")
    @argument(
        "--private",
        action=BooleanOptionalAction,
        default=None,
        help="Ask only routes that you marked as not training on prompts.",
    )
    @argument("--locals", action="store_true", help="Send the values of the variables used too.")
    @argument("--show-prompt", action="store_true", help="Print what would be sent; send nothing.")
    @argument(
        "--dry-run", action="store_true", help="Print who would answer, when, for how many tokens."
    )
    @line_magic
    def llm_explain(self, line: str) -> Reply | None:
        """Explain the last error and how to fix it; returns the reply.

        Sends the cell that failed, the notebook's own frames and the error's message; values of
        variables only with --locals.

        Usage:
          %llm_explain [OPTIONS] [TEXT]    the text is a question about the error

        Examples:
          %llm_explain
          %llm_explain -f code --locals
        """
        import_apart("prompting")
        from . import actions

        if (parsed := actions.parse(self.llm_explain, line)) is None:
            return None
        from .prompting import explain

        return self.out.shown(explain(self, *parsed), itself=not parsed[0].quiet)

    @no_var_expand
    @magic_arguments("llm_chat")
    @line_magic
    def llm_chat(self, line: str) -> pd.DataFrame | None:
        """Look after conversations; returns a row for each as a DataFrame.

        Usage:
          %llm_chat [list]
          %llm_chat show CHAT
          %llm_chat export CHAT FILE     as Markdown (.md) or JSON (.json)
          %llm_chat load FILE [NAME]     a .json that was exported
          %llm_chat fork CHAT NAME       let it go on twice
          %llm_chat undo CHAT            forget its last turn
          %llm_chat clear CHAT           forget all of it

        Examples:
          %llm_chat
          %llm_chat show tutor
          %llm_chat export tutor tutor.md
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_chat, line)) is None:
            return None
        return self.out.shown(actions.chats(self, parsed[1]))

    @no_var_expand
    @magic_arguments("llm_quota")
    @argument("--plot", action="store_true", help="Pictures of what was used since midnight.")
    @line_magic
    def llm_quota(self, line: str) -> pd.DataFrame | None:
        """Show what every route has left; returns it as a DataFrame.

        Usage:
          %llm_quota [OPTIONS] [PROVIDER]

        Examples:
          %llm_quota
          %llm_quota --plot groq
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_quota, line)) is None:
            return None
        return self.out.shown(actions.quota(*parsed))

    @no_var_expand
    @magic_arguments("llm_why")
    @line_magic
    def llm_why(self, line: str) -> pd.DataFrame | None:
        """Show why a reply came from its route; returns it as a DataFrame.

        A row per route: what it had left, why it was passed over, what would have changed the
        choice. Without a name, of the last request, also of one that failed or was interrupted.

        Usage:
          %llm_why [REPLY]     the name of a variable that holds a reply

        Examples:
          %llm_why
          %llm_why answer
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_why, line)) is None:
            return None
        return self.out.shown(actions.why(self, parsed[1]))

    @no_var_expand
    @magic_arguments("llm_stats")
    @argument("--plot", action="store_true", help="Pictures: tokens, seconds, fallbacks.")
    @argument(
        "--by",
        choices=("provider", "model", "day", "notebook", "tag", "job"),
        help="Sums of all sessions of the last 31 days instead; job: those of --over, one by one.",
    )
    @line_magic
    def llm_stats(self, line: str) -> pd.DataFrame | None:
        """Show this session's attempts per route; returns them one by one as a DataFrame.

        With --by it shows and returns sums: requests, tokens, cost; per tag and job also how packed
        replies agreed.

        Usage:
          %llm_stats [OPTIONS]

        Examples:
          attempts = %llm_stats
          %llm_stats --by notebook
          %llm_stats --by tag
          %llm_stats --plot
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_stats, line)) is None:
            return None
        return self.out.shown(actions.stats(*parsed))

    @no_var_expand
    @magic_arguments("llm_keys")
    @line_magic
    def llm_keys(self, line: str) -> pd.DataFrame | None:
        """Show the keys: where each came from, and whether it is open.

        Keys are shown by label and fingerprint, never by their text. Returns a DataFrame.

        Usage:
          %llm_keys
          %llm_keys add PROVIDER    add one for this session, typed at a prompt that hides it
          %llm_keys remove KEY      use one of this session no longer
          %llm_keys check [KEY]     ask whether it works; takes nothing from the quota

        Examples:
          %llm_keys
          %llm_keys add groq
          %llm_keys check groq_key_1
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_keys, line)) is None:
            return None
        return self.out.shown(actions.keys(parsed[1]))

    @no_var_expand
    @magic_arguments("llm_models")
    @line_magic
    def llm_models(self, line: str) -> pd.DataFrame | None:
        """Show the models of the catalog with their published limits and prices.

        Other models may be asked for all the same, as provider/model; what a reply says of limits
        replaces these figures. Returns a DataFrame.

        Usage:
          %llm_models
          %llm_models PROVIDER|MODEL [MODEL]    only these; a part of a model's name will do

        Examples:
          %llm_models groq
          %llm_models mistral large
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_models, line)) is None:
            return None
        return self.out.shown(actions.models(parsed[1]))

    @no_var_expand
    @magic_arguments("llm_doctor")
    @argument("--send", action="store_true", help="Send one short prompt to each model too.")
    @line_magic
    def llm_doctor(self, line: str) -> pd.DataFrame | None:
        """Examine files, addresses, keys, models, clock and ledger, with advice.

        Services are asked for their lists of models, which takes nothing from any quota; with
        --send a short prompt goes to each model. Returns a DataFrame.

        Usage:
          %llm_doctor [OPTIONS]

        Examples:
          %llm_doctor
          %llm_doctor --send
        """
        import_apart("actions")
        from . import actions

        if (parsed := actions.parse(self.llm_doctor, line)) is None:
            return None
        return self.out.shown(actions.doctor(*parsed))

    @no_var_expand
    @magic_arguments("llm_panel")
    @line_magic
    def llm_panel(self, line: str) -> None:
        """Show what every route has left, live, with switches, an order, and a prompt box.

        What is chosen in it holds for every cell of this kernel, until it ends. A table for the
        record stays in the saved notebook.

        Usage:
          %llm_panel

        Examples:
          %llm_panel
        """
        import_apart("actions")
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
        """Rehearse without keys, on four simulated providers in this kernel.

        The ledger of the real keys is not touched.

        Usage:
          %llm_sandbox [OPTIONS] [start]
          %llm_sandbox [OPTIONS] auto      start only if no key is configured
          %llm_sandbox status
          %llm_sandbox stop                go back to the real keys

        Examples:
          %llm_sandbox
          %llm_sandbox --keys groq=2 --left groq_key_1.requests_per_day=2 start
        """
        import_apart("actions")
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
