"""`%llm` and `%%llm`: send a prompt, one for each row of a table, or one to several models."""

from __future__ import annotations

from argparse import Action, ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from ..arguments import overview
from ..command import Session, Typed, command, import_in_thread, option

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers import Pending, Reply

# The formats of replies, each with the sentence that it adds to the system prompt.
FORMATS = {
    "markdown": "",
    "text": "Answer in plain text, without Markdown.",
    "code": "Answer with source code only, in one fenced code block.",
    "json": "Answer with JSON only.",
    "html-source": "Answer with the source of an HTML document or fragment only.",
    "math": "Answer with LaTeX formulas only, without a document around them.",
}


class _Joined(Action):
    """Adds the names of an option that is repeated: `--compare a --compare b` is `a,b`."""

    def __call__(
        self, parser: ArgumentParser, options: Namespace, value: Any, flag: str | None = None
    ) -> None:
        before = getattr(options, self.dest)
        setattr(options, self.dest, value if before is None else f"{before},{value}")


OPTIONS = (
    option(
        "-p --provider PROVIDER",
        "Use only this provider: groq, mistral, google, openai, or one from your settings.",
    ),
    option("-m --model MODEL", "Model, with or without its provider: MODEL or PROVIDER/MODEL."),
    option(
        "-s --system TEXT",
        "System prompt, with {{variables}}, or the name of a variable; quote it if it has spaces.",
    ),
    option(
        "--prompt NAME",
        "Use this saved prompt (%%llm_prompts lists them); the cell's text replaces {{text}}.",
    ),
    option("-t --temperature NUMBER", "Temperature: 0 (deterministic) to 2 (random).", type=float),
    option("--max-tokens TOKENS", "Maximum length of the reply.", type=int),
    option(
        "--top-p SHARE",
        "Sample only from the most likely tokens that together have this probability: 0 to 1.",
        type=float,
    ),
    option(
        "--seed N",
        "Seed for sampling: the same seed repeats a reply, as far as possible.",
        type=int,
    ),
    option(
        "--stop TEXT",
        r"End the reply before this text; '\n' is a line break. May be repeated.",
        action="append",
    ),
    option("--effort", "How much the model may think.", choices=("low", "medium", "high")),
    option(
        "--patience SECONDS",
        "Seconds to wait for a route instead of failing or paying (default: 30; 0: never wait).",
        type=float,
    ),
    option(
        "--schema NAME",
        "Schema of the reply: a variable with a class or a JSON Schema, or a short line such "
        "as 'mood calm|loud, score float'.",
    ),
    option(
        "--keep",
        "Answer repeated prompts with the kept reply, and keep new replies on disk.",
        action=BooleanOptionalAction,
        default=None,
    ),
    option(
        "--private",
        "Use only routes that are marked under [private]: those that do not train on prompts.",
        action=BooleanOptionalAction,
        default=None,
    ),
    option(
        "--same-model",
        "Use only the first model in the order, with all keys and providers that have it.",
    ),
    option("--tag NAME", "Label of the request; %%llm_stats --by tag has a row per label."),
    option("--fallback-on-filter", "If a model refuses to answer, try another one."),
    option("--fresh", "Send the prompt even if there is a kept reply, and replace that reply."),
    option("-o --output NAME", "Also assign the reply to this variable."),
    option("-q --quiet", "Show nothing; for use with -o."),
    option(
        "-b --background",
        "Run in the background: the cell ends at once, and its output appears while other "
        "cells run. The variable of -o waits for the reply when it is used; with --over, its "
        "wait() returns the frame.",
    ),
    option("-f --format", "Format of the reply.", choices=tuple(FORMATS)),
    option(
        "--file FILE",
        "Also send the content of this text, CSV or PDF file: a path, or a variable with a "
        "path. May be repeated.",
        action="append",
    ),
    option("--url URL", "Also send the text of this web page. May be repeated.", action="append"),
    option(
        "--image IMAGE",
        "Also send this image: a file, or a variable such as a figure. May be repeated.",
        action="append",
    ),
    option(
        "--tools FUNCTION,…",
        "Functions of the notebook that the model may call; they run in this kernel. "
        "May be repeated.",
        action=_Joined,
    ),
    option("--max-rounds N", "With --tools: maximum number of requests (default: 8).", type=int),
    option("--chat NAME", "Continue this conversation, or start it."),
    option(
        "--compare PROVIDER|MODEL,…",
        "Ask several providers or models, and show their replies side by side. May be repeated.",
        action=_Joined,
    ),
    option(
        "--budget TOKENS",
        "Maximum tokens of each table or list in the prompt (default: 2000), and of each file"
        " or page (default: no maximum).",
        type=int,
    ),
    option("--raw", "Send {{…}} unchanged."),
    option("--show-prompt", "Print the whole prompt; send nothing."),
    option(
        "--dry-run", "Print which route would answer, when, and for how many tokens; send nothing."
    ),
)
_OVER_OPTIONS = (
    option(
        "--over FRAME",
        "Send the prompt once per row of this DataFrame, Series or list, or of a file "
        "(.parquet, .csv, .tsv, .jsonl, .xlsx) or a folder/ of Parquet files; {{column}} is "
        "replaced by the row's value.",
    ),
    option(
        "--encoding NAME",
        "With --over FILE: the encoding of a CSV, TSV or JSON lines file, such as cp1252 "
        "(default: UTF-8).",
    ),
    option(
        "--sep CHAR",
        "With --over FILE.csv: the separator between fields, such as ';' (default: a comma).",
    ),
    option("--sheet NAME", "With --over FILE.xlsx: the sheet to read (default: the first one)."),
    option(
        "--into NAME",
        "With --over: the variable for the rows and their replies (default: replies); with "
        "--over FILE, the file to write.",
    ),
    option("--prefix TEXT", "With --over: prefix for the names of added columns, such as v2_."),
    option("--plan", "With --over: estimate the time, requests and tokens; send nothing."),
    option(
        "--by TIME",
        "With --plan: show whether the job finishes by this time, such as 08:00, and what "
        "would help.",
    ),
    option(
        "--pack ROWS",
        "With --over: maximum rows per request; 1 asks each row alone (default: depends on "
        "the limits).",
    ),
    option(
        "--reserve SHARE",
        "With --over: leave this share of every limit to other cells (default: 10%%).",
    ),
    option("--details", "With --over: also add the columns key, seconds, cost_usd and request."),
    option(
        "--twice SHARE",
        "With --over: ask a second model for this share of the rows, such as 5%%, and report "
        "how often both agree.",
    ),
    option(
        "--gold COLUMN",
        "With --over: compare with the known labels in this column (FIELD=COLUMN,… if the "
        "schema has several fields). May be repeated.",
        action=_Joined,
    ),
    option("--allow-paid", "With --over: use paid routes too."),
    option("--max-cost USD", "With --over: stop before the job costs more than this.", type=float),
    option(
        "--max-tokens-total TOKENS",
        "With --over: stop before the job uses more tokens than this.",
        type=int,
    ),
    option("--stop-after N", "With --over: stop after this many failed rows.", type=int),
    option("--retry-errors", "With --over: also ask the rows that failed permanently last time."),
)


@command(*OPTIONS, *_OVER_OPTIONS, needs="ask")
def llm(session: Session, typed: Typed) -> Reply | Pending[Any] | pd.DataFrame | None:
    r"""Send a prompt, show the reply as it arrives, and return it.

    {{name}}, {{name.attribute}}, {{name[0]}} and {{name["key"]}} insert values of the
    notebook: text, data shortened to a budget, figures as images. Everything else, such as single
    braces, quotes and dollar signs, is sent unchanged; \{{name}} sends {{name}}. Put `--` before
    a text that starts with a dash.

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
    from ..cell import is_given

    for declared in _OVER_OPTIONS:
        flag: str = declared.args[0]
        if is_given(getattr(options, flag.removeprefix("--").replace("-", "_"))):
            return flag
    return None
