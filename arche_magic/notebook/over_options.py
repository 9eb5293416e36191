"""The options of `%%llm` that ask once per row; declared here, as they are many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.magic_arguments import argument

_OPTIONS = (
    argument(
        "--over",
        metavar="FRAME",
        help="Ask once per row of this DataFrame, Series or list, or of a .parquet or .csv file: "
        "{{column}} stands for the row's value.",
    ),
    argument(
        "--into",
        metavar="NAME",
        help="With --over: keep the rows and their replies in this variable (replies if not set); "
        "those of a file in this file.",
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


def over_options(magic: Callable[..., Any]) -> Callable[..., Any]:
    """A magic with these options behind its own."""
    # IPython lists what is nearest to the function last.
    for option in reversed(_OPTIONS):
        magic = option(magic)
    return magic


def given_without_over(options: Any) -> str | None:
    """An option among these that was given, if `--over` was not: it would do nothing."""
    flags = [option.args[0] for option in _OPTIONS if not options.over]
    names = {flag: flag.removeprefix("--").replace("-", "_") for flag in flags}
    return next((flag for flag, name in names.items() if getattr(options, name, None)), None)
