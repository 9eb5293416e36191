"""Show quota, problems and services, and serve other programs, outside notebooks.

python -m arche_magic enable             load the extension in every notebook of yours
python -m arche_magic disable            stop doing that
python -m arche_magic quota              every route, limit by limit
python -m arche_magic quota groq         one provider
python -m arche_magic quota --json       for scripts: the usage summary
python -m arche_magic quota reset KEY    forget a key's counts and why it is closed
python -m arche_magic doctor             examine files, keys, models, clock and ledger
python -m arche_magic doctor --send      also send one short prompt to each model
python -m arche_magic services           what is free where, what is in use, where to get a key
python -m arche_magic serve              OpenAI's interface for programs on this machine
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from . import __version__

_ENDING = """exit status: 0 if it succeeded, 1 if it failed (the reason is on the error stream),
2 if the command was not understood"""
_QUOTA = "python -m arche_magic quota"
_NO_KEY = (
    "no API key is configured: set GROQ_API_KEY, MISTRAL_API_KEY, GOOGLE_API_KEY or "
    "OPENAI_API_KEY in the environment or in a file named .env in this folder or above it"
)
# The name of a limit, its meter, and what is left of it.
_NEEDED_COLUMNS = 3
_SERVICES_WIDTH = 100
# Replacements for consoles that cannot show these characters.
_PLAIN = str.maketrans({"█": "#", "░": ".", "·": "-", "…": ".", "→": ">"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser, quota = _parsers()
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        warnings.showwarning = _warn
        return _doctor(options.send)
    if options.command in ("enable", "disable"):
        return _load_always(options.command == "enable")
    if options.command == "services":
        return _services()
    if options.command == "serve":
        warnings.showwarning = _warn
        return _serve(options.port, options.allow_origin, options.token_file)
    words, reset = options.words, options.words[:1] == ["reset"]
    if reset and len(words) != 2:
        quota.error("reset takes one KEY, such as groq_key_2" + _labels())
    if reset and options.json:
        quota.error("reset cannot be combined with --json")
    if not reset and len(words) > 1:
        quota.error(f"one PROVIDER at most, not {' '.join(words)!r}")
    warnings.showwarning = _warn
    try:
        return _reset(words[1]) if reset else _show(words[0] if words else None, options.json)
    except BrokenPipeError:
        # The reader has closed the pipe; Python would raise again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    shared: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": _ENDING,
    }
    parser = argparse.ArgumentParser(prog="python -m arche_magic", description=__doc__, **shared)
    parser.add_argument("--version", action="version", version=f"arche_magic {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    commands.add_parser(
        "enable",
        help="load the extension in every notebook",
        description="Write a file into your IPython profile that loads the extension in every "
        "notebook and IPython terminal, in environments that have the package.",
        **shared,
    )
    commands.add_parser(
        "disable",
        help="undo enable",
        description="Remove the file that enable has written into your IPython profile.",
        **shared,
    )
    quota = commands.add_parser(
        "quota",
        usage=f"{_QUOTA} [PROVIDER] [--json]\n       {_QUOTA} reset KEY",
        help="show what is left of every limit",
        description="Show what is left of each limit of every key and model, when it can be used "
        "again, and which limits will run out at the current pace.",
        **shared,
    )
    quota.add_argument(
        "words",
        nargs="*",
        metavar="PROVIDER | reset KEY",
        help="show only this provider; or reset a key by its label, such as groq_key_2, after you "
        "added credit, replaced it or regained access",
    )
    quota.add_argument(
        "--json",
        action="store_true",
        help="print the usage summary as JSON: provider, key, limit, and the amount used",
    )
    doctor = commands.add_parser(
        "doctor",
        help="check the configuration, and say how to fix it",
        description="Check packages, files, addresses, keys, models, clock and ledger. Requests "
        "the services' lists of models, which uses no quota.",
        epilog="exit status: 0 if nothing is wrong, 1 otherwise",
    )
    doctor.add_argument("--send", action="store_true", help="send one short prompt to each model")
    commands.add_parser(
        "services",
        help="list services with free tiers, and where to get a key",
        description="List providers and known services: what is free, what is configured, where to "
        "get a key, and the source and date of each figure. Sends nothing.",
        **shared,
    )
    serve = commands.add_parser(
        "serve",
        help="serve the OpenAI API to programs on this machine",
        description="Serve OpenAI's chat completions, models and embeddings on 127.0.0.1 until "
        "Ctrl+C, answered with your keys. It prints the two variables that programs need.",
        epilog="exit status: 0 after Ctrl+C, 1 if it cannot start",
    )
    serve.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="port to listen on (default: 8377, or any free one if that is in use)",
    )
    serve.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="let web pages of this origin use it, such as https://app.example.org",
    )
    serve.add_argument(
        "--token-file",
        metavar="PATH",
        help="store the token in this file, and reuse it at later starts (default: a new token at "
        "every start, in your settings folder)",
    )
    return parser, quota


def _load_always(wanted: bool) -> int:
    from .notebook import startup

    try:
        path, is_new = startup.enable() if wanted else startup.disable()
    except OSError as error:
        return _failed(str(error))
    if wanted:
        print(f"{path} {'now loads' if is_new else 'already loads'} arche_magic in every notebook")
    else:
        print(f"{path} {'was removed' if is_new else 'does not exist; nothing to do'}")
    return 0


def _services() -> int:
    from .llm_providers.config import list_services
    from .llm_providers.errors import LLMProviderError
    from .notebook.service_table import services_text

    try:
        _print(services_text(list_services(), min(_SERVICES_WIDTH, _width())), fit=False)
    except LLMProviderError as error:
        return _failed(str(error))
    return 0


def _doctor(send: bool) -> int:
    from .llm_providers.doctor import examine
    from .notebook.findings import text

    findings = examine(send=send)
    _print(text(findings))
    return int(any(finding.state == "wrong" for finding in findings))


def _serve(port: int | None, allow_origins: list[str], token_file: str | None) -> int:
    from .llm_providers.config import get_configuration
    from .llm_providers.errors import LLMProviderError
    from .openai_api.server import Server

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        if not get_configuration().keys:
            print(f"Warning: {_NO_KEY}", file=sys.stderr)
        server = Server(port=port, allow_origins=allow_origins, token_file=token_file).start()
    except LLMProviderError as error:
        return _failed(str(error))
    with server:
        print("# Serving programs on this machine; Ctrl+C stops it. For their shell:")
        # A file or a pipe is often kept, or read by others.
        print(server.shell_lines(show_token=sys.stdout.isatty()), flush=True)
        # In short steps, because Ctrl+C does not end an unlimited wait on Windows.
        while not stop.wait(0.5):
            pass
    return 0


def _show(provider: str | None, as_json: bool) -> int:
    from .llm_providers.config import get_configuration
    from .llm_providers.errors import LLMProviderError
    from .llm_providers.quota_tracker import get_quota_tracker

    try:
        configuration = get_configuration()
        if provider:
            configuration.provider(provider)
        if not any(provider in (None, key.provider) for key in configuration.keys):
            return _failed(_NO_KEY if not provider else f"no key of {provider} is configured")
        tracker = get_quota_tracker(configuration)
        if as_json:
            print(json.dumps(tracker.get_usage_summary(provider), indent=2, allow_nan=False))
            return 0
        _print(_table(tracker, provider))
    except LLMProviderError as error:
        return _failed(str(error))
    return 0


def _table(tracker: Any, provider: str | None) -> str:
    from .llm_providers.attempt_log import attempt_log
    from .llm_providers.quota.forecast import PACE_SECONDS
    from .notebook.costs import paid_routes
    from .notebook.meters import budget_notes, quota_bundle, shared_notes, without_limits
    from .notebook.outlook import look_ahead

    configuration = tracker.configuration
    now = configuration.clock.time()
    standings = tracker.standings(provider, now)
    paid = {entry.name for entry in configuration.providers.values() if entry.paid}
    earlier = attempt_log(configuration.store).since(now - PACE_SECONDS)
    ahead = look_ahead(standings, earlier, now, paid).notes()
    asked = (route for route in configuration.routes() if provider in (None, route.provider))
    costs = paid_routes(configuration.routes(), {})
    free = without_limits(asked, standings, costs)
    notes = [*(ahead if standings else []), *free]
    notes += budget_notes(use.left for use in tracker.budget())
    notes += shared_notes(tracker.shared_keys(), provider)
    none = "nothing is limited so far"
    return quota_bundle(standings, now, notes, none, costs)["text/plain"]


def _reset(key: str) -> int:
    from .llm_providers.errors import LLMProviderError
    from .llm_providers.quota_tracker import get_quota_tracker

    try:
        get_quota_tracker().reopen(key)
    except LLMProviderError as error:
        return _failed(str(error))
    print(
        f"{key} was reset: its counts start at zero, and it is open; "
        "the next reply shows what is left"
    )
    return 0


def _labels() -> str:
    from .llm_providers.config import get_configuration
    from .llm_providers.errors import LLMProviderError

    try:
        labels = ", ".join(key.label for key in get_configuration().keys)
    except LLMProviderError:
        return ""
    return f"; there are {labels}" if labels else ""


def _print(text: str, *, fit: bool = True) -> None:
    """Print lines; replace characters that the console lacks; `fit` them to its width too."""
    from .llm_providers.text.characters import without_controls

    text = without_controls(text)
    width = _width() if fit else sys.maxsize
    shown = "\n".join(line for long in text.splitlines() for line in _fitted(long, width))
    try:
        shown.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        shown = shown.translate(_PLAIN).encode("ascii", "replace").decode()
    print(shown)


def _width() -> int:
    """Columns of the console; unlimited for a file or a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return max(20, shutil.get_terminal_size().columns)
    return sys.maxsize


def _fitted(line: str, width: int) -> Iterator[str]:
    """A line of a table, without the columns that do not fit; any other line, wrapped."""
    if not line.startswith("  "):
        yield from textwrap.wrap(line, width, subsequent_indent="    ") or [""]
        return
    columns = re.split(r"\s{2,}", line.strip())
    while len(line) > width and len(columns) > _NEEDED_COLUMNS:
        line = line.removesuffix(columns.pop()).rstrip()
    if len(line) > width:
        line = "  " + "  ".join(columns)
    if len(line) > width:
        line = f"  {columns[0]}  {columns[-1]}"
    if len(line) > width:
        yield f"  {columns[0]}"
        line = f"    {columns[-1]}"
    yield line


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, without the line of our source that it came from."""
    print(f"Warning: {message}", file=sys.stderr)


def _failed(message: str) -> int:
    print(f"python -m arche_magic: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
