"""What the magics do: their options, handed to the engine, and what comes back, shown."""

from __future__ import annotations

import keyword
import math
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_quota_tracker
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, NoKeys
from arche_magic.llm_providers.quota.forecast import PACE_SECONDS
from arche_magic.llm_providers.reply import Discarded, Reply, Waiting

from . import sandbox_magic
from .arguments import HelpWanted, help_text, parse_line
from .display import ReplyDisplay
from .interrupts import one_interrupt

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers.quota_tracker import QuotaTracker

    from .magics import ArcheMagics

_FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  To try it now without a key, run:  %llm_sandbox"""


def parse(magic: Any, line: str) -> tuple[Namespace, str] | None:
    """Options and text of a magic's line; None if help was asked for and is shown.

    Raises:
        InvalidRequest: an option is unknown or has no sensible value.
    """
    try:
        return parse_line(magic, line)
    except HelpWanted:
        print(help_text(magic))
        return None


@one_interrupt()
def ask(magics: ArcheMagics, options: Namespace, text: str, cell: str | None) -> Reply:
    """Send the prompt and show the reply as it comes.

    Raises:
        LLMProviderError: the request is wrong, or nobody answered it.
        CellInterrupted: the user stopped it.
    """
    if cell is not None and text:
        raise InvalidRequest(
            f"%%llm: {text.split()[0]!r} is no option; the prompt goes in the lines below"
        )
    name = options.output
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise InvalidRequest(f"%llm: -o {name!r} is no name a variable can have")
    _require_keys()
    show = ReplyDisplay(magics.shell, options.quiet)
    events = IntelligentLLMOrchestrator().events(
        cell if cell is not None else text,
        provider=_first(options.provider, magics.provider) or None,
        model=_first(options.model, magics.model) or None,
        system=_first(options.system, magics.system) or None,
        temperature=_first(options.temperature, magics.temperature),
        max_tokens=_first(options.max_tokens, magics.max_tokens),
        patience=_first(options.patience, magics.patience),
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
        reply: Reply = end.value
        show.finish(reply)
    except KeyboardInterrupt:
        events.close()
        raise show.interrupted() from None
    except LLMProviderError:
        show.failed()
        raise
    magics.last_reply = reply
    if name is not None:
        magics.shell.user_ns[name] = reply
    return reply


def quota(text: str) -> pd.DataFrame:
    """Show what every route has left, or those of the provider that `text` names.

    Raises:
        ConfigurationError: there is no such provider, or no key at all.
    """
    from .frames import quota_frame
    from .outlook import look_ahead
    from .tables import quota_bundle

    configuration = get_configuration()
    provider = text.strip() or None
    if provider:
        configuration.provider(provider)
    _require_keys()
    now = configuration.clock.time()
    tracker, log = get_quota_tracker(configuration), attempt_log(configuration.store)
    standings = tracker.standings(provider, now)
    paid = {entry.name for entry in configuration.providers.values() if entry.paid}
    outlook = look_ahead(standings, log.since(now - PACE_SECONDS), now, paid)
    if standings:
        _display(quota_bundle(standings, now, [*outlook.notes(), *_shared(tracker, provider)]))
    else:
        _display({"text/plain": f"no key of {provider} is configured"})
    frame = quota_frame(standings, log.recent, now)
    frame.attrs["outlook"] = outlook.to_dict()
    return frame


def why(magics: ArcheMagics, text: str) -> pd.DataFrame:
    """Explain the reply that `text` names, or the last one; returns a row per route.

    Raises:
        InvalidRequest: there is no such reply.
    """
    from .why import reasons, why_bundle, why_frame

    name = text.strip()
    reply = magics.shell.user_ns.get(name) if name else magics.last_reply
    if not isinstance(reply, Reply):
        asked = f"{name!r} is no reply" if name else "there is no reply yet"
        raise InvalidRequest(f"%llm_why: {asked}; keep one with %%llm -o NAME")
    explained = reasons(reply, get_configuration().routes())
    _display(why_bundle(explained))
    return why_frame(explained)


def stats(text: str) -> pd.DataFrame:
    """Show this session's attempts per route; returns them one by one.

    Raises:
        InvalidRequest: there is a text.
    """
    from .frames import attempts_frame
    from .tables import stats_bundle

    if text:
        raise InvalidRequest(f"%llm_stats takes no text, not {text!r}")
    frame = attempts_frame(attempt_log(get_configuration().store).recent)
    _display(stats_bundle(frame))
    return frame


def sandbox(options: Namespace, text: str) -> str:
    """Start or stop the sandbox; returns what to say.

    Raises:
        InvalidRequest: an option or the verb makes no sense.
    """
    verb = text.strip() or "start"
    if verb not in ("start", "auto", "stop", "status"):
        raise InvalidRequest(f"%llm_sandbox: {verb!r} is not start, auto, stop or status")
    if not 0 <= options.latency < math.inf:
        raise InvalidRequest(f"%llm_sandbox: --latency {options.latency:g} is no time in seconds")
    settings: dict[str, Any] = {
        "keys": sandbox_magic.parse_keys(options.keys),
        "limits": sandbox_magic.parse_amounts(options.limit, "--limit"),
        "left": sandbox_magic.parse_amounts(options.left, "--left"),
        "latency": options.latency,
        "seed": options.seed,
    }
    if verb == "stop":
        return sandbox_magic.stop()
    if verb == "status" or (verb == "auto" and not sandbox_magic.wanted()):
        return sandbox_magic.status()
    return sandbox_magic.start(**settings)


def _shared(tracker: QuotaTracker, provider: str | None) -> list[str]:
    return [
        f"{label} shares its account with {first}: adds no quota"
        for label, first in tracker.shared_keys().items()
        if provider is None or label.startswith(f"{provider}_key_")
    ]


def _require_keys() -> None:
    if not get_configuration().keys:
        raise NoKeys(_FIRST_STEPS)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _display(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(bundle, raw=True)
