"""Run by the tests as a process: fail in every way, and print everything that can be seen.

    python everything_shown.py KINDS_AS_JSON PROVIDER

The working directory has a `.env` with the keys and addresses of a sandbox. All output goes to
standard output and to files below the working directory: messages, tracebacks with local variables,
whole object graphs.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import logging
import os
import pickle
import pprint
import signal
import sys
import threading
import traceback
import types
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

if sys.version_info < (3, 13):  # later versions no longer have it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cgitb

from IPython.core.ultratb import VerboseTB

from arche_magic.llm_providers import LLMProviderError, get_llm_provider, get_quota_tracker
from arche_magic.llm_providers import attempt as engine_attempt

_DEEPEST = 12
_shown: set[str] = set()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all its causes and contexts, even suppressed ones."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and not any(link is one for one in seen):
            seen.append(link)
            yield link
            waiting += [link.__cause__, link.__context__]


def show_error(error: BaseException) -> None:
    """Print everything that a tool shows of an error, including local variables."""
    for link in chain(error):
        print(repr(link), link, link.args, link.__dict__)
        kind, trace = type(link), link.__traceback__
        print(*traceback.format_exception(link))
        print(*traceback.TracebackException.from_exception(link, capture_locals=True).format())
        print(VerboseTB(theme_name="nocolor").text(kind, link, trace))
        if sys.version_info < (3, 13):
            # It cannot print frames whose variables were cleared, and then prints nothing for them.
            with suppress(KeyError):
                print(cgitb.text((kind, link, trace)))
        while trace is not None:
            for name, value in trace.tb_frame.f_locals.items():
                # The script's own frames contain the keys that it uses.
                if trace.tb_frame.f_code.co_filename != __file__:
                    show_parts({name: value})
            trace = trace.tb_next
    if isinstance(error, LLMProviderError):
        print(error._render_traceback_(), error.attempts, error.next_available_at)
        print(pickle.dumps(error.attempts), json.dumps([a.to_dict() for a in error.attempts]))


def show_parts(value: Any) -> None:
    """Print the repr of a value and of its parts, as a debugger does."""
    seen: set[int] = set()
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if id(part) in seen or depth > _DEEPEST or isinstance(part, types.ModuleType | type):
            continue
        seen.add(id(part))
        if part is os.environ:
            continue
        try:
            shown = repr(part)[:20_000]
        except Exception as error:  # noqa: BLE001
            shown = repr(error)
        if shown not in _shown:
            _shown.add(shown)
            print(shown)
        if isinstance(part, dict):
            parts = [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            parts = list(part)
        else:
            parts = list(getattr(part, "__dict__", {}).values())
            slots = [s for kind in type(part).__mro__ for s in getattr(kind, "__slots__", ())]
            parts += [getattr(part, slot, None) for slot in slots if isinstance(slot, str)]
        waiting += [(inner, depth + 1) for inner in parts]


def copies_of(value: Any) -> Iterator[Any]:
    """The copies of a value, by copying and pickling, if possible."""
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        try:
            yield make(value)
        except Exception as error:  # noqa: BLE001
            yield repr(error)


def ask(provider: Any, streamed: bool, **options: Any) -> Any:
    """A reply, with or without streaming."""
    if not streamed:
        return provider.generate("Hello", **options)
    stream = provider.stream("Hello", **options)
    return [*stream, stream.reply]


def tell_sandbox(provider: Any, command: str, **body: Any) -> None:
    """Send a command to the sandbox, at whose address the providers are."""
    base = provider.configuration.providers["groq"].base_url.removesuffix("/groq")
    data = json.dumps(body).encode()
    urllib.request.urlopen(f"{base}/_sandbox/{command}", data).close()


def fail(name: str, kind: str, streamed: bool) -> None:
    """Make one request that meets a failure."""
    provider = get_llm_provider(name)
    tell_sandbox(provider, "reset")
    tell_sandbox(provider, "fail", target=name, kind=kind, times=None)
    for key in provider.configuration.keys:
        if key.provider == name:
            provider.quota_tracker.reopen(key.label)
    seconds = 0.4 if "stall" in kind else 20
    try:
        print(ask(provider, streamed, patience=0, timeout=seconds))
    except LLMProviderError as error:
        show_error(error)
    if kind == "stall":
        interrupt(provider, streamed)


def interrupt(provider: Any, streamed: bool) -> None:
    """Make one request that waits, and interrupt it."""
    provider.quota_tracker.reopen(f"{provider.providers[0]}_key_1")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        ask(provider, streamed, patience=0, timeout=20)
    except KeyboardInterrupt as error:
        print("interrupted")
        show_error(error)
    finally:
        timer.cancel()


def main() -> None:
    """Fail in each way with each provider, then print every object."""
    logging.basicConfig(level=logging.DEBUG, filename="debug.log", force=True)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
    kinds, name = json.loads(sys.argv[1]), sys.argv[2]
    for kind in kinds:
        for streamed in (False, True):
            fail(name, kind, streamed)
    provider, tracker = get_llm_provider(name), get_quota_tracker()
    adapters = list(engine_attempt._adapters.values())
    for value in (provider, tracker, provider.configuration, adapters, provider.get_stats()):
        show_parts(value)
        pprint.pprint(vars(value) if hasattr(value, "__dict__") else value)
        for made in copies_of(value):
            show_parts(made)
    for key in provider.configuration.keys:
        show_parts(key)
        for made in copies_of(key):
            show_parts(made)
    with Path("threads.txt").open("w") as file:
        faulthandler.dump_traceback(file)
    print("shown everything")


if __name__ == "__main__":
    main()
