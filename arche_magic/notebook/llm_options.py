"""The options of `%llm` and `%%llm`, which are many: of every prompt, and of one for each row."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Callable
from typing import Any

from IPython.core.magic_arguments import argument

from .formats import FORMATS

_OPTIONS = (
    argument(
        "-p",
        "--provider",
        metavar="PROVIDER",
        help="Ask only this provider: groq, mistral, google, openai, or one of your settings.",
    ),
    argument("-m", "--model", metavar="MODEL", help="Model, bare or as provider/model."),
    argument("-s", "--system", metavar="TEXT", help="System prompt; quote it if it has spaces."),
    argument("-t", "--temperature", type=float, metavar="NUMBER", help="0 (steady) to 2 (varied)."),
    argument("--max-tokens", type=int, metavar="TOKENS", help="Longest reply."),
    argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="Wait that long for a route rather than fail or pay (30 if not set; 0: never wait).",
    ),
    argument(
        "--schema",
        metavar="NAME",
        help="What the reply must look like: a variable that holds a class or a JSON Schema, or a "
        "line such as 'mood calm|loud, score float'.",
    ),
    argument(
        "--keep",
        action=BooleanOptionalAction,
        default=None,
        help="Answer what was asked before from memory, and keep each new reply on disk.",
    ),
    argument(
        "--private",
        action=BooleanOptionalAction,
        default=None,
        help="Ask only routes that you marked as not training on prompts.",
    ),
    argument(
        "--same-model",
        action="store_true",
        help="Ask only the model that comes first, with any key and provider that has it.",
    ),
    argument("--tag", metavar="NAME", help="A name to find its cost by: %%llm_stats --by tag."),
    argument(
        "--fallback-on-filter",
        action="store_true",
        help="Let another model try what one refused to answer.",
    ),
    argument("--fresh", action="store_true", help="Ask again all the same; replace what is kept."),
    argument("-o", "--output", metavar="NAME", help="Keep the reply in this variable too."),
    argument("-q", "--quiet", action="store_true", help="Show nothing; for use with -o."),
    argument("-f", "--format", choices=FORMATS, help="Form to ask for and to show it in."),
    argument(
        "--image",
        action="append",
        metavar="FILE",
        help="Send this image too: a file, or a variable such as a figure. May be repeated.",
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
        help="Most that one table or list takes in the prompt (2000 if not set).",
    ),
    argument("--raw", action="store_true", help="Send {{…}} as it stands too."),
    argument("--show-prompt", action="store_true", help="Print what would be sent; send nothing."),
    argument(
        "--dry-run", action="store_true", help="Print who would answer, when, for how many tokens."
    ),
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
        help="With --over FILE.csv: what separates its fields, such as ';' (a comma if not set).",
    ),
    argument(
        "--sheet",
        metavar="NAME",
        help="With --over FILE.xlsx: the sheet that is read (the first one if not set).",
    ),
    argument(
        "--into",
        metavar="NAME",
        help="With --over: keep the rows and their replies in this variable (replies if not set); "
        "those of a file in this file.",
    ),
    argument(
        "--prefix",
        metavar="TEXT",
        help="With --over: put this before the names of the added columns, such as v2_: those of "
        "ours, and fields that the data has a column for already.",
    ),
    argument(
        "--plan",
        action="store_true",
        help="With --over: say how long it would take, and what; send nothing.",
    ),
    argument(
        "--by",
        metavar="TIME",
        help="With --plan: whether it is done by then, such as 08:00, and what that would take.",
    ),
    argument(
        "--pack",
        metavar="ROWS",
        help="With --over: most rows in one request; 1: each alone (as limits ask for it, if not "
        "set).",
    ),
    argument(
        "--reserve",
        metavar="SHARE",
        help="With --over: leave so much of every limit to other cells (10%% if not set).",
    ),
    argument(
        "--details",
        action="store_true",
        help="With --over: columns key, seconds, cost_usd and request too.",
    ),
    argument(
        "--twice",
        metavar="SHARE",
        help="With --over: ask another model too for so many of the rows, such as 5%%; say how far "
        "both agree.",
    ),
    argument(
        "--gold",
        metavar="COLUMN",
        help="With --over: compare with the known labels in this column (FIELD=COLUMN,… if the "
        "schema has several fields).",
    ),
    argument(
        "--allow-paid", action="store_true", help="With --over: paid routes take part as well."
    ),
    argument(
        "--max-cost", type=float, metavar="USD", help="With --over: stop before it costs more."
    ),
    argument(
        "--max-tokens-total",
        type=int,
        metavar="TOKENS",
        help="With --over: stop before it takes more tokens in all.",
    ),
    argument(
        "--stop-after", type=int, metavar="N", help="With --over: stop after so many failed rows."
    ),
    argument(
        "--retry-errors",
        action="store_true",
        help="With --over: ask again what failed for good the last time.",
    ),
)


def llm_options(magic: Callable[..., Any]) -> Callable[..., Any]:
    """A magic with these options."""
    # IPython lists what is nearest to the function last.
    for option in reversed((*_OPTIONS, *_OVER_OPTIONS)):
        magic = option(magic)
    return magic


def given_without_over(options: Any) -> str | None:
    """An option of `--over` that was given, if that was not: it would do nothing."""
    flags = [option.args[0] for option in _OVER_OPTIONS if not options.over]
    names = {flag: flag.removeprefix("--").replace("-", "_") for flag in flags}
    return next((flag for flag, name in names.items() if getattr(options, name, None)), None)
