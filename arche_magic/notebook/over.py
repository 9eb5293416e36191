"""`%%llm --over`: one prompt for every row of a frame or a file."""

from __future__ import annotations

import math
import re
import time
from argparse import Namespace
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from arche_magic.bulk import Job, Plan, cluster, planning
from arche_magic.bulk.file_job import FileJob
from arche_magic.bulk.file_source import SourceFile, is_file
from arche_magic.bulk.rows import columns_by_name
from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.attempt_log import name_notebook
from arche_magic.llm_providers.errors import InvalidRequest, NoKeys
from arche_magic.llm_providers.text.wording import did_you_mean, plural
from arche_magic.prompts import Template, as_pandas, is_reference, look_up, name_in, references
from arche_magic.prompts.values import as_image, as_text

from .cell import (
    EMPTY,
    check_together,
    first_given,
    is_given,
    request_options,
    typed_prompt,
    with_values,
)
from .collect import FileRows, FrameRows, RowsJob, variable_for
from .display import CellOutput
from .keys import require_keys
from .progress_bar import Bar
from .styles import html_table, notes_html, quiet_line

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from .command import Session, Typed
    from .magics import Defaults

_PLAN_SECONDS = 0.5
# Options that have the same names in Python.
_AS_TYPED = (
    "schema", "details", "retry_errors", "allow_paid", "same_model", "patience", "max_cost",
    "max_tokens_total", "stop_after",
)  # fmt: skip


def over(session: Session, typed: Typed) -> pd.DataFrame | Pending[Any] | None:
    """Send the prompt for every row and show the progress; with `--plan`, show an estimate.

    With `--background`, return an object that waits for the frame or the file.

    Raises:
        LLMProviderError: an option or the data is wrong, or no row can be sent.
        JobStopped: at one of the bounds; the finished rows are in the variable.
        CellInterrupted: the user stopped it; the finished rows are in the variable.
    """
    shell, defaults, options = session.shell, session.defaults, typed.options
    _check(options, defaults)
    name_notebook(session.notebook)
    names, text = typed.names, typed_prompt(typed).strip("\n")
    if not text.strip():
        raise InvalidRequest(EMPTY)
    read = {name: getattr(options, name) for name in ("encoding", "sep", "sheet")}
    table = options.over if is_file(options.over) else _value(options.over, names)
    from_file = is_file(table)
    if any(map(is_given, read.values())) and not from_file:
        raise InvalidRequest("%llm: --encoding, --sep and --sheet need --over FILE")
    data = table if from_file else as_pandas(table)
    if options.background and hasattr(data, "iloc"):
        # Other cells may change the frame in place while the job runs.
        data = data.copy()
    head = data
    if from_file:
        head = SourceFile(data, **read, template=text).first_row
    # The texts of a list are in the column `prompt`.
    names_of_head = getattr(head, "columns", (getattr(head, "name", ""), "prompt"))
    columns = set(columns_by_name(names_of_head))
    template = _with_variables(text, columns, names, defaults.budget)
    with_values(options, names, defaults.budget, columns)
    asked = _job_options(defaults, options)
    if options.plan or options.dry_run:
        _show_plan(shell, data, template, by=options.by, **read, **asked)
        return None
    into = first_given(options.into, options.output)
    variable = "" if from_file else variable_for(shell, into, data=name_in(options.over))
    rows: FileRows | FrameRows = (
        FileRows(FileJob(data, into, template, **read, **asked))
        if from_file
        else FrameRows(Job(data, template, **asked), table, variable, shell)
    )
    if options.background:
        background = RowsJob(shell, text, options.quiet, rows)
        session.jobs.start(background)
        if isinstance(rows, FrameRows):
            rows.bind(background.pending)
        return background.pending
    frame: pd.DataFrame | None = rows.collect(Bar(shell, options.quiet))
    return frame


def _check(options: Namespace, defaults: Defaults) -> None:
    """Raise InvalidRequest for options that exclude each other."""
    check_together(options, defaults)
    if options.keep is False:
        raise InvalidRequest(
            "%llm: --over keeps each reply, so that nothing is asked twice; leave out --no-keep"
        )
    if options.into is not None and options.output is not None:
        raise InvalidRequest("%llm: --into and -o both name the result; leave out one of them")
    if options.by is not None and not (options.plan or options.dry_run):
        raise InvalidRequest("%llm: --by needs --plan")


def plan_bundle(plan: Plan) -> dict[str, str]:
    """A plan as text, and as a table between lines in HTML."""
    heads = ("route", "rows", "requests", "held back by")
    rows = plan.table()
    table = html_table(heads, rows, right=("rows", "requests")) if rows else ""
    first, *more = plan.summary()
    lines = [_line(f"<b>{escape(first)}</b>"), *(_line(escape(line)) for line in more), table]
    for line in plan.outlook():
        by = line.startswith("By ")
        indent = len(line) - len(line.lstrip())
        text = f"<b>{escape(line)}</b>" if by else escape(line)
        lines.append(_line(text, f";padding-left:{0.6 * indent:.1f}em"))
    end = notes_html(["Nothing was sent."])
    return {"text/plain": str(plan), "text/html": "".join([*lines, end])}


def _line(html: str, style: str = "") -> str:
    return f'<div style="margin:3px 0{style}">{html}</div>'


def _show_plan(shell: InteractiveShell, data: Any, template: str, **options: Any) -> None:
    """Show the plan; before that, how many rows have been read."""
    place, next_draw = CellOutput(shell), time.monotonic() + _PLAN_SECONDS

    def show(rows: int) -> None:
        nonlocal next_draw
        if hasattr(shell, "kernel") and time.monotonic() >= next_draw:
            next_draw = time.monotonic() + _PLAN_SECONDS
            place.draw(quiet_line(f"planning: {plural(rows, 'row')} read"))

    try:
        plan = planning.plan(data, template, on_rows=show, **options)
    except NoKeys:
        require_keys()
        raise
    place.draw(plan_bundle(plan), last=True)


def _value(name: str, names: Mapping[str, Any]) -> Any:
    """The value of the variable that `--over` names: rows, or the path of a file."""
    first = name_in(name)
    if first not in names:
        hint = did_you_mean(first, [name for name in names if hasattr(names[name], "iloc")])
        raise InvalidRequest(f"%llm: --over {name}: there is no variable {first!r}{hint}")
    if not is_reference(name, names):
        raise InvalidRequest(
            f'%llm: --over takes a name, name.attr, name[0] or name["k"], not {name!r}; assign the '
            "value to a variable first"
        )
    data = look_up(name, names)
    if isinstance(data, Pending):
        data = data.wait()
    if cluster.is_dask(data):
        raise InvalidRequest("%llm: for a Dask frame, call arche_magic.map(frame, …) in Python")
    return data


def _with_variables(
    template: str, columns: set[str], names: Mapping[str, Any], budget: int
) -> Template:
    """The template with the values of variables, which are the same for every row.

    A column takes precedence over a variable with the same name. The job reports unknown names.
    """
    given = {}
    for reference in references(template):
        name = name_in(reference)
        if columns.isdisjoint((reference, name)) and name in names:
            value = look_up(reference, names)
            if as_image(value):
                raise InvalidRequest(f"%llm: {{{{{reference}}}}} is an image; put it into a column")
            given[reference] = as_text(value, reference, budget)
    return Template(template, given)


def _job_options(defaults: Defaults, options: Namespace) -> dict[str, Any]:
    """The arguments of a job and of its plan."""
    return {
        **request_options(options, defaults, "provider", "model"),
        **{name: getattr(options, name) for name in _AS_TYPED},
        "reserve": 0.1 if options.reserve is None else _share("reserve", options.reserve),
        "twice": None if options.twice is None else _share("twice", options.twice),
        "gold": _gold(options.gold),
        "pack": _pack(options.pack),
        "prefix": options.prefix or "",
    }


def _share(name: str, text: str) -> float:
    """`10%` or `0.1` as 0.1."""
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else math.inf
    if share > 1:
        raise InvalidRequest(f"%llm: --{name} {text!r} is not a share such as 10% or 0.1")
    return share


def _gold(text: str | None) -> str | dict[str, str] | None:
    """`label`, or `mood=label,topic=known` by field."""
    if text is None or "=" not in text:
        return text
    pairs = (pair.partition("=") for pair in text.split(","))
    return {field.strip(): column.strip() for field, _, column in pairs}


def _pack(text: str | None) -> int | str:
    """Maximum rows per request."""
    if text is None or text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InvalidRequest(
            f"%llm: --pack {text!r} is not a number of rows, 1 or more, and not auto"
        )
    return int(text)
