"""`%llm` and `%%llm`: send a prompt, one for each row of a table, or one to several models."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from typing import TYPE_CHECKING, Any

from ..arguments import overview
from ..command import Session, Typed, argument, command, import_in_thread
from ..defaults import FORMATS

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending, Reply

OPTIONS = (
    argument(
        "-p",
        "--provider",
        metavar="PROVIDER",
        help="Use only this provider: groq, mistral, google, openai, or one from your settings.",
    ),
    argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="Model, with or without its provider: MODEL or PROVIDER/MODEL.",
    ),
    argument(
        "-s",
        "--system",
        metavar="TEXT",
        help="System prompt, with {{variables}}, or the name of a variable; quote it if it has "
        "spaces.",
    ),
    argument(
        "--prompt",
        metavar="NAME",
        help="Use this saved prompt (%%llm_prompts lists them); the cell's text replaces {{text}}.",
    ),
    argument(
        "-t",
        "--temperature",
        type=float,
        metavar="NUMBER",
        help="Temperature: 0 (deterministic) to 2 (random).",
    ),
    argument("--max-tokens", type=int, metavar="TOKENS", help="Maximum length of the reply."),
    argument(
        "--top-p",
        type=float,
        metavar="SHARE",
        help="Sample only from the most likely tokens, whose probabilities add up to this: 0 to 1.",
    ),
    argument(
        "--seed",
        type=int,
        metavar="N",
        help="Seed for sampling: the same seed repeats a reply, as far as possible.",
    ),
    argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"End the reply before this text; '\n' is a line break. May be repeated.",
    ),
    argument("--effort", choices=("low", "medium", "high"), help="How much the model may think."),
    argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="Seconds to wait for a route instead of failing or paying (default: 30; 0: never "
        "wait).",
    ),
    argument(
        "--schema",
        metavar="NAME",
        help="Schema of the reply: a variable with a class or a JSON Schema, or a short line such "
        "as 'mood calm|loud, score float'.",
    ),
    argument(
        "--keep",
        action=BooleanOptionalAction,
        default=None,
        help="Answer repeated prompts with the kept reply, and keep new replies on disk.",
    ),
    argument(
        "--private",
        action=BooleanOptionalAction,
        default=None,
        help="Use only routes that are marked under [private]: those that do not train on prompts.",
    ),
    argument(
        "--same-model",
        action="store_true",
        help="Use only the first model in the order, with all keys and providers that have it.",
    ),
    argument(
        "--tag",
        metavar="NAME",
        help="Label of the request; %%llm_stats --by tag has a row per label.",
    ),
    argument(
        "--fallback-on-filter",
        action="store_true",
        help="If a model refuses to answer, try another one.",
    ),
    argument(
        "--fresh",
        action="store_true",
        help="Send the prompt even if there is a kept reply, and replace that reply.",
    ),
    argument("-o", "--output", metavar="NAME", help="Also assign the reply to this variable."),
    argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o."),
    argument(
        "-b",
        "--background",
        action="store_true",
        help="Run in the background: the cell ends at once, and its output appears while other "
        "cells run. The variable of -o waits for the reply when it is used; with --over, its "
        "wait() returns the frame.",
    ),
    argument("-f", "--format", choices=tuple(FORMATS), help="Format of the reply."),
    argument(
        "--file",
        action="append",
        metavar="FILE",
        help="Also send the content of this text, CSV or PDF file: a path, or a variable with a "
        "path. May be repeated.",
    ),
    argument(
        "--url",
        action="append",
        metavar="URL",
        help="Also send the text of this web page. May be repeated.",
    ),
    argument(
        "--image",
        action="append",
        metavar="IMAGE",
        help="Also send this image: a file, or a variable such as a figure. May be repeated.",
    ),
    argument(
        "--tools",
        metavar="FUNCTION,…",
        help="Functions of the notebook that the model may call; they run in this kernel.",
    ),
    argument(
        "--max-rounds",
        type=int,
        metavar="N",
        help="With --tools: maximum number of requests (default: 8).",
    ),
    argument("--chat", metavar="NAME", help="Continue this conversation, or start it."),
    argument(
        "--compare",
        metavar="PROVIDER|MODEL,…",
        help="Ask several providers or models, and show their replies side by side.",
    ),
    argument(
        "--budget",
        type=int,
        metavar="TOKENS",
        help="Maximum tokens of each table or list in the prompt (default: 2000), and of each file "
        "or page (default: no maximum).",
    ),
    argument("--raw", action="store_true", help="Send {{…}} unchanged."),
    argument("--show-prompt", action="store_true", help="Print the whole prompt; send nothing."),
    argument(
        "--dry-run",
        action="store_true",
        help="Print which route would answer, when, and for how many tokens; send nothing.",
    ),
)
_OVER_OPTIONS = (
    argument(
        "--over",
        metavar="FRAME",
        help="Send the prompt once per row of this DataFrame, Series or list, or of a file "
        "(.parquet, .csv, .tsv, .jsonl, .xlsx) or a folder/ of Parquet files; "
        "{{column}} is replaced by the row's value.",
    ),
    argument(
        "--encoding",
        metavar="NAME",
        help="With --over FILE: the encoding of a CSV, TSV or JSON lines file, such as cp1252 "
        "(default: UTF-8).",
    ),
    argument(
        "--sep",
        metavar="CHAR",
        help="With --over FILE.csv: the separator between fields, such as ';' (default: a comma).",
    ),
    argument(
        "--sheet",
        metavar="NAME",
        help="With --over FILE.xlsx: the sheet to read (default: the first one).",
    ),
    argument(
        "--into",
        metavar="NAME",
        help="With --over: the variable for the rows and their replies (default: replies); with "
        "--over FILE, the file to write.",
    ),
    argument(
        "--prefix",
        metavar="TEXT",
        help="With --over: prefix for the names of added columns, such as v2_.",
    ),
    argument(
        "--plan",
        action="store_true",
        help="With --over: estimate the time, requests and tokens; send nothing.",
    ),
    argument(
        "--by",
        metavar="TIME",
        help="With --plan: show whether the job finishes by this time, such as 08:00, and what "
        "would help.",
    ),
    argument(
        "--pack",
        metavar="ROWS",
        help="With --over: maximum rows per request; 1 asks each row alone (default: depends on "
        "the limits).",
    ),
    argument(
        "--reserve",
        metavar="SHARE",
        help="With --over: leave this share of every limit to other cells (default: 10%%).",
    ),
    argument(
        "--details",
        action="store_true",
        help="With --over: also add the columns key, seconds, cost_usd and request.",
    ),
    argument(
        "--twice",
        metavar="SHARE",
        help="With --over: ask a second model for this share of the rows, such as 5%%, and "
        "report how often both agree.",
    ),
    argument(
        "--gold",
        metavar="COLUMN",
        help="With --over: compare with the known labels in this column (FIELD=COLUMN,… if the "
        "schema has several fields).",
    ),
    argument("--allow-paid", action="store_true", help="With --over: use paid routes too."),
    argument(
        "--max-cost",
        type=float,
        metavar="USD",
        help="With --over: stop before the job costs more than this.",
    ),
    argument(
        "--max-tokens-total",
        type=int,
        metavar="TOKENS",
        help="With --over: stop before the job uses more tokens than this.",
    ),
    argument(
        "--stop-after", type=int, metavar="N", help="With --over: stop after this many failed rows."
    ),
    argument(
        "--retry-errors",
        action="store_true",
        help="With --over: also ask the rows that failed permanently last time.",
    ),
)


@command(*OPTIONS, *_OVER_OPTIONS, needs="ask", shows_result=False)
def llm(session: Session, typed: Typed) -> Reply | Pending[Any] | pd.DataFrame | None:
    r"""Send a prompt and show the reply as it arrives; returns the reply.

    {{name}}, {{name.attribute}}, {{name[0]}} and {{name["key"]}} insert values of the
    notebook: text, data shortened to a budget, figures as images. Everything else is sent
    unchanged, such as single braces, quotes and dollar signs; \{{name}} sends {{name}}. Put
    `--` before a text that starts with a dash.

    Usage:
      %llm [OPTIONS] TEXT
      %%llm [OPTIONS]      with the prompt in the lines below
      %llm                 lists all magics

    Examples:
      %llm -p groq What is a token bucket?
      %%llm -m mistral-small-latest -s "Answer in one sentence." -t 0 -o answer
      %%llm --chat tutor --image plot.png
      %%llm --prompt review
      %%llm --file notes.md --file report.pdf
      %%llm --compare groq,mistral,google
      %%llm --tools weather,convert
      %%llm --background -o answer
      %%llm --over reviews --schema "mood good|bad" --into moods
      %%llm --background --over reviews --into moods
    """
    from arche_magic.llm_providers.errors import InvalidRequest

    from ..ask import ask

    if typed.cell is None and not typed.line.strip():
        from ..magics import COMMANDS

        print(overview(COMMANDS))
        return None
    options = typed.options
    if options.over is not None:
        import_in_thread("over")
        from ..over import over

        rows = over(session, typed)
        return session.out.shown(rows) if options.quiet or options.background else rows
    if flag := _given_without_over(options):
        raise InvalidRequest(f"%llm: {flag} needs --over FRAME")
    reply = ask(session, typed)
    is_shown = not (options.quiet or options.compare)
    return session.out.shown(reply, itself=is_shown)


def _given_without_over(options: Any) -> str | None:
    """An option that has no effect without `--over`."""
    from ..cell_options import is_given

    for option in _OVER_OPTIONS:
        flag: str = option.args[0]
        if is_given(getattr(options, flag.removeprefix("--").replace("-", "_"))):
            return flag
    return None
