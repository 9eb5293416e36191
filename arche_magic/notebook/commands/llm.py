"""`%llm` and `%%llm`: send a prompt, one for each row of a table, or one to several models."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from typing import TYPE_CHECKING, Any

from ..arguments import overview
from ..command import Session, Typed, argument, command, import_in_thread
from ..reply_formats import FORMATS

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending, Reply

# `%llm_explain` has these options too.
PRIVATE = argument(
    "--private",
    action=BooleanOptionalAction,
    default=None,
    help="Ask only routes that you marked as not training on prompts.",
)
WITHOUT_SENDING = (
    argument("--show-prompt", action="store_true", help="Print what would be sent; send nothing."),
    argument(
        "--dry-run",
        action="store_true",
        help="Print which route would answer, when, and for how many tokens.",
    ),
)
OPTIONS = (
    argument(
        "-p",
        "--provider",
        metavar="PROVIDER",
        help="Ask only this provider: groq, mistral, google, openai, or one of your settings.",
    ),
    argument("-m", "--model", metavar="MODEL", help="Model, bare or as provider/model."),
    argument(
        "-s",
        "--system",
        metavar="TEXT",
        help="System prompt, with {{variables}}, or a variable that holds it; quote it if it has "
        "spaces.",
    ),
    argument(
        "--prompt",
        metavar="PROMPT",
        help="Use this saved prompt (%%llm_prompts lists them); the cell's text is its {{text}}.",
    ),
    argument("-t", "--temperature", type=float, metavar="NUMBER", help="0 (steady) to 2 (varied)."),
    argument("--max-tokens", type=int, metavar="TOKENS", help="Maximum length of the reply."),
    argument("--top-p", type=float, metavar="SHARE", help="Use the likeliest words only: 0 to 1."),
    argument("--seed", type=int, metavar="N", help="Repeat the same choices, as far as possible."),
    argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"End the reply before this text; '\n' is the end of a line. May be repeated.",
    ),
    argument("--effort", choices=("low", "medium", "high"), help="How long the model may reason."),
    argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="Wait this long for a route rather than fail or pay (30 if not set; 0: never wait).",
    ),
    argument(
        "--schema",
        metavar="NAME",
        help="Schema of the reply: a variable that holds a class or a JSON Schema, or a short line "
        "such as 'mood calm|loud, score float'.",
    ),
    argument(
        "--keep",
        action=BooleanOptionalAction,
        default=None,
        help="Answer repeated prompts from memory, and keep new replies on disk.",
    ),
    PRIVATE,
    argument(
        "--same-model",
        action="store_true",
        help="Use only the first model in the order, with every key and provider that has it.",
    ),
    argument("--tag", metavar="NAME", help="Count the cost under this name: %%llm_stats --by tag."),
    argument(
        "--fallback-on-filter",
        action="store_true",
        help="If a model refuses to answer, try another one.",
    ),
    argument(
        "--fresh",
        action="store_true",
        help="Send the prompt even if its reply is kept, and replace that reply.",
    ),
    argument("-o", "--output", metavar="NAME", help="Also keep the reply in this variable."),
    argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o."),
    argument(
        "-b",
        "--background",
        action="store_true",
        help="End the cell at once; its output fills in while other cells run. The variable of -o "
        "waits for the reply when it is used; with --over, its wait() returns the frame.",
    ),
    argument("-f", "--format", choices=FORMATS, help="Format of the reply."),
    argument(
        "--file",
        action="append",
        metavar="FILE",
        help="Also send this text, CSV or PDF file as text: a path, or a variable that holds one. "
        "May be repeated.",
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
        help="With --tools: maximum number of requests (8 if not set).",
    ),
    argument("--chat", metavar="CHAT", help="Continue the conversation of this name."),
    argument(
        "--compare",
        metavar="PROVIDER|MODEL,…",
        help="Ask several providers, or models as provider/model, and show them side by side.",
    ),
    argument(
        "--budget",
        type=int,
        metavar="TOKENS",
        help="Maximum tokens of one table or list in the prompt (2000 if not set), and of each "
        "file or page (all of it if not set).",
    ),
    argument("--raw", action="store_true", help="Send {{…}} unchanged."),
    *WITHOUT_SENDING,
)
_OVER_OPTIONS = (
    argument(
        "--over",
        metavar="FRAME",
        help="Ask once per row of this DataFrame, Series or list, or of a file (.parquet, "
        ".csv, .tsv, .jsonl, .xlsx) or a folder/ of Parquet files: "
        "{{column}} stands for the row's value.",
    ),
    argument(
        "--encoding",
        metavar="NAME",
        help="With --over FILE: the encoding of a CSV, TSV or JSON lines file, such as cp1252 "
        "(UTF-8 if not set).",
    ),
    argument(
        "--sep",
        metavar="CHAR",
        help="With --over FILE.csv: the separator of its fields, such as ';' (a comma if not set).",
    ),
    argument(
        "--sheet",
        metavar="NAME",
        help="With --over FILE.xlsx: the sheet to read (the first one if not set).",
    ),
    argument(
        "--into",
        metavar="NAME",
        help="With --over: the variable for the rows and their replies (replies if not set); for a "
        "file, the file to write.",
    ),
    argument(
        "--prefix",
        metavar="TEXT",
        help="With --over: put this before the names of added columns, such as v2_, so that "
        "they do not repeat names of the data.",
    ),
    argument(
        "--plan",
        action="store_true",
        help="With --over: show the time, requests and tokens it would take; send nothing.",
    ),
    argument(
        "--by",
        metavar="TIME",
        help="With --plan: whether it ends by this time, such as 08:00, and what would help.",
    ),
    argument(
        "--pack",
        metavar="ROWS",
        help="With --over: maximum rows per request; 1: each row alone (as the limits require, "
        "if not set).",
    ),
    argument(
        "--reserve",
        metavar="SHARE",
        help="With --over: leave this share of every limit to other cells (10%% if not set).",
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
        "--max-cost", type=float, metavar="USD", help="With --over: stop before it costs more."
    ),
    argument(
        "--max-tokens-total",
        type=int,
        metavar="TOKENS",
        help="With --over: stop before it uses more tokens in total.",
    ),
    argument(
        "--stop-after", type=int, metavar="N", help="With --over: stop after this many failed rows."
    ),
    argument(
        "--retry-errors",
        action="store_true",
        help="With --over: ask again for rows that failed permanently the last time.",
    ),
)


@command(*OPTIONS, *_OVER_OPTIONS, needs="ask")
def llm(session: Session, typed: Typed) -> Reply | Pending[Any] | pd.DataFrame | None:
    r"""Send a prompt and show the reply as it comes; returns the reply.

    {{name}}, {{name.attribute}}, {{name[0]}} and {{name["key"]}} stand for values of the
    notebook: text, data cut to a budget, figures as images. Everything else is sent as typed:
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
    flags = [option.args[0] for option in _OVER_OPTIONS]
    names = {flag: flag.removeprefix("--").replace("-", "_") for flag in flags}
    return next((flag for flag, name in names.items() if getattr(options, name, None)), None)
