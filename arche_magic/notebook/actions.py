"""What the magics do: their options, handed to the engine, and what comes back, shown."""

from __future__ import annotations

import keyword
import math
from argparse import Namespace
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_quota_tracker
from arche_magic.llm_providers.attempts import Ended, attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import (
    InvalidRequest,
    LLMProviderError,
    NoKeys,
    SchemaMismatch,
)
from arche_magic.llm_providers.quota.forecast import PACE_SECONDS
from arche_magic.llm_providers.reply import Discarded, Reply, Waiting
from arche_magic.llm_providers.types import Message
from arche_magic.prompts import Prompt, fill, image_of

from . import sandbox_magic
from .arguments import HelpWanted, help_text, parse_line
from .display import ReplyDisplay, for_frontends, receipt_line
from .formats import ASKS
from .interrupts import one_interrupt
from .over_options import given_without_over
from .preview import prompt_text, route_text
from .structured import schema_named

if TYPE_CHECKING:
    import pandas as pd

    from .magics import ArcheMagics
    from .plots import Picture

_FIRST_STEPS = """no API key is configured.
  Set one or more of GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY
  in the environment or in a file named .env beside the notebook, for example
      GROQ_API_KEY=...        (free keys: https://console.groq.com/keys)
  Several keys of one provider are numbered: GROQ_API_KEY_1, GROQ_API_KEY_2, ...
  For this session only, typed unseen:  %llm_keys add groq
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


def unknown_provider(name: str) -> str | None:
    """What is wrong with the name of a provider, if anything."""
    try:
        get_configuration().provider(name)
    except LLMProviderError as error:
        return str(error)
    return None


def ask(
    magics: ArcheMagics,
    options: Namespace,
    text: str,
    cell: str | None,
    names: Mapping[str, Any] | None,
) -> Reply | pd.DataFrame | None:
    """Send the prompt and show the reply as it comes; with `--compare`, several beside each other.

    `names` are the variables that the prompt may speak of, the notebook's own aside.

    Raises:
        LLMProviderError: the request is wrong, or nobody answered it.
        CellInterrupted: the user stopped it.
    """
    if cell is not None and text:
        raise InvalidRequest(
            f"%%llm: {text.split()[0]!r} is no option; the prompt goes in the lines below"
        )
    if flag := given_without_over(options):
        raise InvalidRequest(f"%llm: {flag} goes with --over FRAME")
    names = ChainMap(dict(names or {}), magics.shell.user_ns)
    body = cell if cell is not None else text
    budget = _first(options.budget, magics.budget)
    if budget < 1:
        raise InvalidRequest(f"%llm: --budget is {budget}; it must be 1 or more")
    prompt = Prompt(body) if options.raw else fill(body, names, budget)
    images = [image_of(source, names) for source in options.image or ()]
    if options.schema is not None:
        options.schema = schema_named(options.schema, names)
    return send(magics, options, replace(prompt, images=(*prompt.images, *images)))


@one_interrupt()
def send(magics: ArcheMagics, options: Namespace, prompt: Prompt) -> Reply | pd.DataFrame | None:
    """Send a prompt that is ready, as the options of `%llm` say; see `ask`."""
    name = options.output
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise InvalidRequest(f"%llm: -o {name!r} is no name a variable can have")
    keep = _first(options.keep, magics.keep)
    require_keys(replay=bool(keep))
    if not prompt.text.strip():
        raise InvalidRequest("the prompt is empty")
    if options.compare:
        from .compare import compare

        frame = compare(magics, options, prompt)
        if name is not None:
            magics.shell.user_ns[name] = frame
        return frame
    if options.schema is not None and options.format:
        raise InvalidRequest("%llm: --schema goes without --format: it is JSON, and shown as read")
    form = "markdown" if options.schema is not None else _first(options.format, magics.format)
    chat = magics.chats.named(options.chat) if options.chat else None
    system = _first(options.system, chat and chat.system, magics.system)
    request: dict[str, Any] = {
        "provider": _first(options.provider, magics.provider) or None,
        "model": _first(options.model, magics.model) or None,
        "system": "\n\n".join(filter(None, (system, ASKS[form]))) or None,
        "temperature": _first(options.temperature, magics.temperature),
        "max_tokens": _first(options.max_tokens, magics.max_tokens),
        "patience": _first(options.patience, magics.patience),
        "fallback_on_filter": options.fallback_on_filter,
        "schema": options.schema,
        "keep": keep,
        "fresh": options.fresh,
    }
    llm = IntelligentLLMOrchestrator()
    question = Message("user", prompt.text, prompt.images)
    messages: tuple[Message, ...] = (question,)
    notes = prompt.notes
    if chat:
        room = llm.preview(messages, **request).room if get_configuration().keys else math.inf
        messages, left_out = chat.messages(question, room)
        notes = (*notes, left_out) if left_out else notes
    if options.show_prompt or options.dry_run:
        _rehearse(options, llm, messages, request, notes)
        return None
    show = ReplyDisplay(magics.shell, options.quiet, form, structured=options.schema is not None)
    log = attempt_log(llm.configuration.store)
    before = log.last

    def ended() -> Ended | None:
        return log.last if log.last is not before else None

    events = llm.events(messages, **request)
    for note in notes:
        show.note(note)
    try:
        while True:
            event = next(events)
            if isinstance(event, Waiting):
                show.waiting(event)
            elif isinstance(event, Discarded):
                show.start_over(event)
            else:
                show.add(event.text)
    except StopIteration as end:
        reply: Reply = end.value
        if chat:
            chat.add(question, reply, options.system)
            magics.chats[chat.name] = chat
        show.finish(reply, *([f"chat {chat.name}, turn {len(chat.turns)}"] if chat else ()))
    except KeyboardInterrupt:
        events.close()
        raise show.interrupted(ended()) from None
    except SchemaMismatch as error:
        show.mismatched(error.text, ended())
        raise
    except LLMProviderError:
        show.failed(ended())
        raise
    if name is not None:
        magics.shell.user_ns[name] = reply
    return reply


def explain(magics: ArcheMagics, options: Namespace, text: str) -> Reply | None:
    """Ask about the last failure of a cell; see `send`.

    Raises:
        InvalidRequest: no cell has failed.
    """
    from .explain import FIX, QUESTION, SYSTEM, describe

    failure = magics.failures.last()
    if failure is None:
        raise InvalidRequest("%llm_explain: no cell has failed yet")
    options = Namespace(**{**vars(magics.llm.parser.parse_args([])), **vars(options)})
    options.system = SYSTEM
    question = text.strip() or (FIX if options.format == "code" else QUESTION)
    told = describe(failure, magics.shell, options.locals)
    reply = send(magics, options, Prompt(f"{told}\n\n{question}"))
    return reply if isinstance(reply, Reply) else None


def chats(magics: ArcheMagics, text: str) -> pd.DataFrame:
    """List, show, export, load, fork or clear conversations, as `text` says.

    Raises:
        InvalidRequest: it makes no sense, or a file cannot be used.
    """
    done = magics.chats.run(text)
    if isinstance(done, str):
        print(done)
    else:
        _display(done)
    return magics.chats.frame()


def quota(options: Namespace, text: str) -> pd.DataFrame:
    """Show what every route has left, or those of the provider that `text` names.

    With `--plot`, show what was used since midnight instead, as pictures.

    Raises:
        ConfigurationError: there is no such provider, or no key at all.
    """
    from .frames import quota_frame
    from .meters import (
        budget_notes,
        quota_bundle,
        shared_notes,
        switched_off,
        without_limits,
    )
    from .outlook import look_ahead

    configuration = get_configuration()
    provider = text.strip() or None
    if provider:
        configuration.provider(provider)
    require_keys()
    now = configuration.clock.time()
    tracker, log = get_quota_tracker(configuration), attempt_log(configuration.store)
    standings = tracker.standings(provider, now)
    paid = {entry.name for entry in configuration.providers.values() if entry.paid}
    asked = (route for route in configuration.routes() if provider in (None, route.provider))
    free = without_limits(asked, standings)
    outlook = look_ahead(standings, log.since(now - PACE_SECONDS) or log.session(), now, paid)
    if standings and options.plot and _can_draw():
        from .plots import last_midnight, usage_pictures

        since = last_midnight(now)
        used = [a for a in log.since(since) if provider in (None, a.provider)]
        _display_pictures(usage_pictures(used, standings, since, now))
    elif standings or configuration.off or free:
        notes = [*(outlook.notes() if standings else []), *free, *budget_notes(tracker.budget())]
        notes += shared_notes(tracker.shared_keys(), provider)
        notes += switched_off(configuration.off)
        none = {"none": "nothing is limited so far"} if free else {}
        _display(quota_bundle(standings, now, notes, **none))
    else:
        _display({"text/plain": f"no key {f'of {provider} ' if provider else ''}is configured"})
    frame = quota_frame(standings, log.spent(), now)
    frame.attrs["outlook"] = outlook.to_dict()
    return frame


def why(magics: ArcheMagics, text: str) -> pd.DataFrame:
    """Explain the reply that `text` names, or the last request, whatever came of it.

    Returns a row per route.

    Raises:
        InvalidRequest: there is no such reply, or no route was chosen for it.
    """
    from .why import reasons, summary, why_bundle, why_frame

    name, configuration = text.strip(), get_configuration()
    asked = magics.shell.user_ns.get(name) if name else attempt_log(configuration.store).last
    if name and not isinstance(asked, Reply):
        raise InvalidRequest(
            f"%llm_why: {name!r} is no reply; keep one with %%llm -o NAME. Without a name it "
            "explains the last request"
        )
    if asked is None:
        raise InvalidRequest("%llm_why: no request was made yet")
    if not asked.decisions:
        _display({"text/plain": "the reply came from memory; no route was asked"})
        return why_frame([])
    explained = reasons(asked.decisions, asked.attempts, configuration.routes())
    _display(why_bundle(explained, summary(asked.decisions, asked.attempts)))
    return why_frame(explained)


def stats(options: Namespace, text: str) -> pd.DataFrame:
    """Show this session's attempts per route, with `--plot` as pictures; returns them one by one.

    Raises:
        InvalidRequest: there is a text.
    """
    from .frames import attempts_frame
    from .tables import stats_bundle

    if text:
        raise InvalidRequest(f"%llm_stats takes no text, not {text!r}")
    attempts = attempt_log(get_configuration().store).session()
    frame = attempts_frame(attempts)
    if options.plot and _can_draw():
        from .plots import attempt_pictures

        _display_pictures(attempt_pictures(attempts))
    else:
        _display(stats_bundle(frame))
    return frame


def models(text: str) -> pd.DataFrame:
    """Show the catalog's models that match the text; returns them as a DataFrame."""
    from .models import models as find

    bundle, frame = find(text)
    _display(bundle)
    return frame


def keys(text: str) -> pd.DataFrame | None:
    """Show the keys, add or remove one of the session, or check some.

    Raises:
        InvalidRequest: the words make no sense, or nobody can be asked for a key.
        ConfigurationError: there is no such provider or key.
    """
    from .keys import run

    if text.strip() in ("", "check") and not get_configuration().keys:
        print(_FIRST_STEPS)
        return None
    shown, frame = run(text)
    if isinstance(shown, str):
        print(shown)
    else:
        _display(shown)
    return frame


def doctor(options: Namespace, text: str) -> pd.DataFrame:
    """Examine the configuration and show what was found; returns it as a DataFrame.

    Raises:
        InvalidRequest: there is a text.
    """
    from .doctor import doctor as examine

    if text.strip():
        raise InvalidRequest(f"%llm_doctor takes no text, not {text!r}")
    bundle, frame = examine(options.send)
    _display(bundle)
    return frame


def panel(magics: ArcheMagics, text: str) -> None:
    """Show a panel, live.

    Raises:
        InvalidRequest: there is a text.
        ConfigurationError: there is no key at all.
    """
    if text:
        raise InvalidRequest(f"%llm_panel takes no text, not {text!r}")
    require_keys()
    from .panel import show

    show(magics)


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


def _rehearse(
    options: Namespace,
    llm: IntelligentLLMOrchestrator,
    messages: Sequence[Message],
    request: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    shown = [*notes]
    kept = llm.kept(messages, **request) if options.dry_run else None
    if options.show_prompt:
        shown.append(prompt_text(llm.preview(messages, **request).request))
    if kept is not None:
        shown.append(f"{receipt_line(kept)}\nNothing was sent, nor would be.")
    elif options.dry_run:
        shown.append(route_text(llm.preview(messages, **request)))
    print("\n\n".join(shown))


def require_keys(replay: bool = False) -> None:
    """Refuse to go on without any key, unless kept replies can do without."""
    configuration = get_configuration()
    if not configuration.keys and not replay and configuration.replay == "off":
        raise NoKeys(_FIRST_STEPS)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _can_draw() -> bool:
    """Whether pictures can be drawn; says how, if they cannot."""
    from .plots import HOW_TO_INSTALL, can_draw

    if not (drawing := can_draw()):
        print(HOW_TO_INSTALL)
    return drawing


def _display_pictures(pictures: Sequence[Picture]) -> None:
    from .plots import pictures_bundle

    _display(pictures_bundle(pictures))


def _display(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(for_frontends(bundle), raw=True)
