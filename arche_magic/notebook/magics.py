"""The magics: declared options, handed to the engine. No decisions are made here."""

from __future__ import annotations

import keyword
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Float, Integer, Unicode

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_quota_tracker
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, NoKeys
from arche_magic.llm_providers.types import Discarded, Waiting

from . import sandbox_magic
from .arguments import HelpWanted, parse_line
from .display import ReplyDisplay, ShownReply

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


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

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell, parent=shell)
        self.replaced: dict[tuple[str, str], Callable[..., Any]] = {}

    @no_var_expand
    @magic_arguments("llm")
    @argument("-p", "--provider", help="Ask only this provider: groq, mistral, google, openai.")
    @argument("-m", "--model", help="Model, bare or as provider/model.")
    @argument("-s", "--system", help="System prompt; quote it if it has spaces.")
    @argument("-t", "--temperature", type=float, help="0 to 2.")
    @argument("--max-tokens", type=int, help="Longest reply, in tokens.")
    @argument("--patience", type=float, help="Seconds to wait for a route rather than fail or pay.")
    @argument("-o", "--output", metavar="NAME", help="Keep the reply in this variable too.")
    @argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o.")
    @line_cell_magic
    def llm(self, line: str, cell: str | None = None) -> ShownReply | None:
        """Send a prompt: `%llm TEXT`, or `%%llm` with the prompt in the cell."""
        parsed = self._parse(self.llm, line)
        if parsed is None:
            return None
        options, text = parsed
        if cell is not None and text:
            raise InvalidRequest(
                f"%%llm: {text.split()[0]!r} is no option; the prompt goes in the lines below"
            )
        if options.output and (
            not options.output.isidentifier() or keyword.iskeyword(options.output)
        ):
            raise InvalidRequest(f"-o {options.output!r} is no name a variable can have")
        reply = self._ask(cell if cell is not None else text, options)
        if options.output:
            self.shell.user_ns[options.output] = reply
        return reply

    @no_var_expand
    @magic_arguments("llm_quota")
    @line_magic
    def llm_quota(self, line: str) -> Any:
        """Show what every route has left, `%llm_quota [PROVIDER]`; returns it as a DataFrame."""
        parsed = self._parse(self.llm_quota, line)
        if parsed is None:
            return None
        from .frames import ShownFrame, quota_frame
        from .tables import quota_bundle

        configuration = get_configuration()
        provider = parsed[1].strip() or None
        if provider:
            configuration.provider(provider)
        self._require_keys()
        now = configuration.clock.time()
        standings = get_quota_tracker(configuration).standings(provider, now)
        frame = quota_frame(standings, attempt_log(configuration.store).recent, now)
        bundle = quota_bundle(standings, now)
        _display(bundle)
        return ShownFrame.of(frame, bundle, self.shell)

    @no_var_expand
    @magic_arguments("llm_stats")
    @line_magic
    def llm_stats(self, line: str) -> Any:
        """Show this session's attempts per route; returns them all as a DataFrame."""
        parsed = self._parse(self.llm_stats, line)
        if parsed is None:
            return None
        from .frames import ShownFrame, attempts_frame
        from .tables import stats_bundle

        frame = attempts_frame(attempt_log(get_configuration().store).recent)
        bundle = stats_bundle(frame)
        _display(bundle)
        return ShownFrame.of(frame, bundle, self.shell)

    @no_var_expand
    @magic_arguments("llm_sandbox")
    @argument("--keys", action="append", metavar="groq=3", help="How many keys of a provider.")
    @argument(
        "--limit",
        action="append",
        metavar="SCOPE.LIMIT=N",
        help="Another limit for a provider, provider/model or key label.",
    )
    @argument(
        "--left",
        action="append",
        metavar="KEY.LIMIT=N",
        help="An account that was used before: how much of a limit is left.",
    )
    @argument("--latency", type=float, default=0.0, help="Seconds before each answer.")
    @argument("--seed", type=int, default=0, help="Seed of replies and failures.")
    @line_magic
    def llm_sandbox(self, line: str) -> None:
        """Rehearse without keys: `%llm_sandbox [OPTIONS] [start | auto | stop | status]`.

        `start` runs the four simulated providers in this kernel, `auto` does so only if no key is
        configured, `stop` goes back to the real keys.
        """
        parsed = self._parse(self.llm_sandbox, line)
        if parsed is None:
            return
        options, verb = parsed
        verb = verb.strip() or "start"
        if verb == "stop":
            print(sandbox_magic.stop())
        elif verb == "status" or (verb == "auto" and not sandbox_magic.wanted()):
            print(sandbox_magic.status())
        elif verb in ("start", "auto"):
            settings: dict[str, Any] = {
                "limits": sandbox_magic.parse_amounts(options.limit, "--limit"),
                "left": sandbox_magic.parse_amounts(options.left, "--left"),
                "latency": options.latency,
                "seed": options.seed,
            }
            keys = sandbox_magic.parse_keys(options.keys)
            print(sandbox_magic.start(**settings, **({"keys": keys} if keys else {})))
        else:
            raise InvalidRequest(f"%llm_sandbox: {verb!r} is not start, auto, stop or status")

    def stop_sandbox(self) -> None:
        """Stop the sandbox if this kernel runs one."""
        sandbox_magic.stop()

    def _parse(self, magic: Any, line: str) -> tuple[Namespace, str] | None:
        try:
            return parse_line(magic, line)
        except HelpWanted:
            print(magic.parser.format_help())
            return None

    def _require_keys(self) -> None:
        if not get_configuration().keys:
            raise NoKeys(_FIRST_STEPS)

    def _ask(self, prompt: str, options: Namespace) -> ShownReply:
        self._require_keys()
        orchestrator = IntelligentLLMOrchestrator()
        show = ReplyDisplay(self.shell, options.quiet)
        events = orchestrator.events(
            prompt,
            provider=options.provider or self.provider or None,
            model=options.model or self.model or None,
            system=options.system or self.system or None,
            temperature=_first(options.temperature, self.temperature),
            max_tokens=_first(options.max_tokens, self.max_tokens),
            patience=_first(options.patience, self.patience),
        )
        try:
            while True:
                event = next(events)
                if isinstance(event, Waiting):
                    show.waiting(event)
                elif isinstance(event, Discarded):
                    show.start_over(event.attempt)
                else:
                    show.add(event.text)
        except StopIteration as end:
            return show.finish(end.value)
        except KeyboardInterrupt:
            events.close()
            raise show.interrupted() from None
        except LLMProviderError:
            show.failed()
            raise


_FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  To try it now without a key, run:  %llm_sandbox"""


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _display(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(bundle, raw=True)
