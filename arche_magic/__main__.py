"""Show quota, problems and services, or serve other programs, without a notebook.

python -m arche_magic enable             load the extension in all your notebooks
python -m arche_magic disable            undo enable
python -m arche_magic quota              show what is left of every limit
python -m arche_magic quota groq         show one provider
python -m arche_magic quota --json       print the usage summary, for scripts
python -m arche_magic quota reset KEY    set a key's counts to zero and open it
python -m arche_magic doctor             check files, keys, models, clock and ledger
python -m arche_magic doctor --send      also send one short prompt to each model
python -m arche_magic services           list services with free tiers, and where to get a key
python -m arche_magic serve              serve the OpenAI API to programs on this machine
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
from collections.abc import Callable, Iterator, Sequence
from inspect import getdoc
from typing import Any

from . import __version__

_AS_IS = argparse.RawDescriptionHelpFormatter
_ENDING = """exit status: 0 for success, 1 for an error (the reason is on stderr), 2 for wrong
arguments"""
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
    from .llm_providers.errors import LLMProviderError

    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status: int = options.run(options)
            # What is still buffered can fail too.
            sys.stdout.flush()
    except LLMProviderError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted")
    except BrokenPipeError:
        # The reader has closed the pipe; Python would raise again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arche_magic", description=__doc__, epilog=_ENDING, formatter_class=_AS_IS
    )
    parser.add_argument("--version", action="version", version=f"arche_magic {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)

    def add(name: str, run: Callable[..., int], summary: str, **texts: Any) -> Callable[..., Any]:
        """Add a command, which is described by the docstring of its function."""
        texts = {"epilog": _ENDING, "formatter_class": _AS_IS, **texts}
        command = commands.add_parser(name, help=summary, description=getdoc(run), **texts)
        command.set_defaults(run=run, error=command.error)
        return command.add_argument

    add("enable", _enable, "load the extension in every notebook")
    add("disable", _disable, "undo enable")
    option = add(
        "quota",
        _quota,
        "show what is left of every limit",
        usage=f"{_QUOTA} [PROVIDER] [--json]\n       {_QUOTA} reset KEY",
    )
    option(
        "words",
        nargs="*",
        metavar="PROVIDER | reset KEY",
        help="show only this provider; or reset a key by its label, such as groq_key_2, after you "
        "added credit, replaced it or regained access",
    )
    option(
        "--json",
        action="store_true",
        help="print the usage summary as JSON: provider, key, limit, and the amount used",
    )
    nothing_wrong = "exit status: 0 if nothing is wrong, 1 otherwise"
    summary = "check the configuration, and say how to fix it"
    option = add("doctor", _doctor, summary, epilog=nothing_wrong)
    option("--send", action="store_true", help="send one short prompt to each model")
    add("services", _services, "list services with free tiers, and where to get a key")
    stopped = "exit status: 0 after Ctrl+C, 1 if it cannot start"
    summary = "serve the OpenAI API to programs on this machine"
    option = add("serve", _serve, summary, epilog=stopped)
    option(
        "--port",
        type=int,
        metavar="N",
        help="port to listen on (default: 8377, or any free one if that is in use)",
    )
    option(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="let web pages of this origin use it, such as https://app.example.org",
    )
    option(
        "--token-file",
        metavar="PATH",
        help="store the token in this file, and reuse it at later starts (default: a new token at "
        "every start, in your settings folder)",
    )
    return parser


def _enable(_: argparse.Namespace) -> int:
    """Load the extension in every notebook and IPython terminal.

    A file in your IPython profile does this, in environments that have the package.
    """
    from .notebook import startup

    try:
        path, is_new = startup.enable()
    except FileExistsError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename} cannot be written: {error.strerror}")
    print(f"{path} {'now loads' if is_new else 'already loads'} arche_magic in every notebook")
    return 0


def _disable(_: argparse.Namespace) -> int:
    """Remove the file that enable wrote into your IPython profile."""
    from .notebook import startup

    try:
        path, is_removed = startup.disable()
    except FileExistsError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename} cannot be removed: {error.strerror}")
    print(f"{path} {'was removed' if is_removed else 'does not exist; nothing to do'}")
    return 0


def _quota(options: argparse.Namespace) -> int:
    """Show what is left of each limit of every key and model, when it can be used again, and which
    limits will run out at the current pace.
    """
    from .llm_providers.config import get_configuration
    from .llm_providers.quota_tracker import get_quota_tracker

    words: list[str] = options.words
    if words[:1] == ["reset"]:
        return _reset(options, words[1:])
    if len(words) > 1:
        options.error(f"one PROVIDER at most, not {' '.join(words)!r}")
    provider, configuration = next(iter(words), None), get_configuration()
    if provider is not None:
        variable = configuration.provider(provider).key_variables[0]
        if not any(key.provider == provider for key in configuration.keys):
            return _failed(
                f"no key of {provider} is configured: set {variable} in the environment or in .env"
            )
    if not configuration.keys:
        return _failed(_NO_KEY)
    if options.json:
        usage = get_quota_tracker(configuration).get_usage_summary(provider)
        print(json.dumps(usage, indent=2, allow_nan=False))
        return 0
    from .notebook import quota

    view = quota.current_quota(provider)
    _print(quota.view_bundle(view, *quota.forecast_of(view).notes())["text/plain"])
    return 0


def _reset(options: argparse.Namespace, labels: Sequence[str]) -> int:
    from .llm_providers.config import get_configuration
    from .llm_providers.quota_tracker import get_quota_tracker
    from .llm_providers.text.wording import suggestion

    configuration = get_configuration()
    if not configuration.keys:
        return _failed(_NO_KEY)
    if len(labels) != 1:
        known = suggestion("", [key.label for key in configuration.keys])
        options.error(f"reset takes one KEY{known}")
    if options.json:
        options.error("reset cannot be combined with --json")
    tracker, label = get_quota_tracker(configuration), labels[0]
    tracker.reopen(label)
    if tracker.storage.trouble:
        return _failed(f"{label} was not reset, because the ledger cannot be changed")
    print(
        f"{label} was reset: its counts start at zero, and it is open; the next reply shows what "
        "is left"
    )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    """Check packages, files, addresses, keys, models, clock and ledger.

    It requests the services' lists of models, which uses no quota.
    """
    from .llm_providers.doctor import examine
    from .notebook.findings import findings_text

    findings = examine(send=options.send)
    _print(findings_text(findings))
    return int(any(finding.state == "wrong" for finding in findings))


def _services(options: argparse.Namespace) -> int:
    """List providers and known services: what is free, what is configured, where to get a key, and
    the source and date of each figure. It sends nothing.
    """
    from .llm_providers.config import list_services
    from .notebook.catalog_tables import services_text

    _print(services_text(list_services(), min(_SERVICES_WIDTH, _width())), fit=False)
    return 0


def _serve(options: argparse.Namespace) -> int:
    """Serve OpenAI's chat completions, models and embeddings on 127.0.0.1 with your keys, until
    Ctrl+C. It prints the two variables that programs need.
    """
    from .llm_providers.config import get_configuration
    from .openai_api.server import Server

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not get_configuration().keys:
        print(f"Warning: {_NO_KEY}", file=sys.stderr)
    server = Server(
        port=options.port, allow_origins=options.allow_origin, token_file=options.token_file
    )
    with server.start():
        print("# Serving programs on this machine; Ctrl+C stops it. For their shell:")
        # The token is shown only in a terminal, because files and pipes are often stored or read by
        # others.
        print(server.shell_lines(show_token=sys.stdout.isatty()), flush=True)
        # In short steps, because Ctrl+C does not end an unlimited wait on Windows.
        while not stop.wait(0.5):
            pass
    return 0


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


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the line of our source that it came from."""
    print(f"Warning: {message}", file=sys.stderr)


def _failed(message: str) -> int:
    print(f"python -m arche_magic: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
