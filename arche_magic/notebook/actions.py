"""What the magics do that send no prompt: options handed to the engine, what comes back shown."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers import get_quota_tracker
from arche_magic.llm_providers.attempts import attempt_log
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.quota.forecast import PACE_SECONDS
from arche_magic.llm_providers.reply import Reply

from . import sandbox_magic
from .arguments import HelpWanted, help_text, parse_line
from .display import for_frontends
from .first_steps import FIRST_STEPS, require_keys

if TYPE_CHECKING:
    import pandas as pd

    from .magics import ArcheMagics
    from .plots import Picture


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
    from .preview import paid_routes

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
    costs = paid_routes(configuration.routes(), log.spent())
    free = without_limits(asked, standings, costs)
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
        _display(quota_bundle(standings, now, notes, paid=costs, **none))
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
    routes = configuration.routes()
    private = [route for route in routes if configuration.is_private(route)]
    explained = reasons(asked.decisions, asked.attempts, routes, private)
    _display(why_bundle(explained, summary(asked.decisions, asked.attempts)))
    return why_frame(explained)


def stats(options: Namespace, text: str) -> pd.DataFrame:
    """Show this session's attempts per route, with `--plot` as pictures; returns them one by one.

    Raises:
        InvalidRequest: there is a text.
    """
    from .history import session_attempts
    from .tables import stats_bundle

    if text:
        raise InvalidRequest(f"%llm_stats takes no text, not {text!r}")
    if options.by:
        return _sums(options)
    frame = session_attempts()
    if options.plot and _can_draw():
        from .plots import attempt_pictures

        _display_pictures(attempt_pictures(attempt_log(get_configuration().store).session()))
    else:
        _display(stats_bundle(frame))
    return frame


def _sums(options: Namespace) -> pd.DataFrame:
    from datetime import UTC, datetime, timedelta

    from arche_magic.bulk.job_records import jobs_since

    from .frames import jobs_frame
    from .history import load_attempts
    from .sums import DAYS, jobs_bundle, sums_bundle, sums_frame

    if options.plot:
        raise InvalidRequest("%llm_stats: --by goes without --plot")
    now = datetime.fromtimestamp(get_configuration().clock.time(), UTC)
    earliest = now - timedelta(days=DAYS)
    jobs = jobs_frame(jobs_since(get_configuration().store, earliest.timestamp()))
    if options.by == "job":
        _display(jobs_bundle(jobs))
        return jobs
    sums = sums_frame(load_attempts(earliest), options.by, jobs)
    _display(sums_bundle(sums, options.by))
    return sums


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
        print(FIRST_STEPS)
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
