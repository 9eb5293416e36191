"""The rows of a job: makes prompts from a frame and a template, and holds tasks and results.

Prompts are made for some rows at a time, so that a large frame is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError, SchemaMismatch
from arche_magic.llm_providers.options import keys_to_check, with_prompt
from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.wording import did_you_mean
from arche_magic.prompts import Prompt, as_pandas, fill, name_in, references, steps_in

from .file_source import ENDINGS, is_file
from .packing import Check, Model

if TYPE_CHECKING:
    import pandas as pd

    from .group import Group

PROMPT = "prompt"
# The number of rows that are read and looked up together.
CHUNK = 1000
MOST_PACKED = 50
"""Maximum number of rows in one request."""
# Maximum tokens for a table or list in one cell.
_BUDGET = 2000


@dataclass(frozen=True)
class Row:
    """One finished row.

    Attributes:
        position: its number in the data, from 0.
        label: its label in the index.
        prompt: the prompt without images; "" if it could not be made.
        reply: the reply, or None.
        error: why it has no reply, or None.
        resumed: whether it needed no request in this run: its reply was kept, or another row is
            equal.
        tokens: the tokens it used, now or when its reply was kept.
        cost_usd: its cost in USD, now or then; None if a price is unknown.
        request: the id of its attempts in the record; "" if nothing was sent for it.
        raw: the text of a reply that does not fit the schema, or None.
        second: the answer of a second model, if the row was asked twice; it is then yielded again.
    """

    position: int
    label: Hashable
    prompt: str
    reply: Reply | None = None
    error: str | None = None
    resumed: bool = False
    tokens: int = 0
    cost_usd: float | None = None
    request: str = ""
    raw: str | None = None
    second: Reply | None = None


@dataclass(eq=False)
class Task:
    """A prompt that is asked once for all rows that have it, and then its outcome.

    Attributes:
        address: where its reply is kept.
        request: the request that asks it alone.
        rows: position and label of each row.
        limit: maximum number of tasks in a request that contains this one.
        tries: how often it failed for a temporary reason.
        too_long_for: the groups for whose routes it is too long.
        checks: the packed reply to compare with, if it is asked only for a comparison.
        group: the only group that may take it; None for any group.
        reply: its reply, once it has one.
        packed_by: the model that gave the reply, if it is a packed one.
        error: why it has no reply, once it is given up.
        may_work_later: it was given up, but may succeed in another run.
    """

    address: str
    request: Request
    rows: list[tuple[int, Hashable]]
    limit: int = MOST_PACKED
    tries: int = 0
    too_long_for: set[Group] = field(default_factory=set)
    checks: Check | None = None
    group: Group | None = None
    reply: Reply | None = None
    packed_by: Model | None = None
    error: LLMProviderError | None = None
    may_work_later: bool = False

    def suits(self, group: Group) -> bool:
        """Whether the group can take it."""
        return group not in self.too_long_for and self.group in (None, group)

    def give_up(self, error: LLMProviderError, *, may_work_later: bool = False) -> None:
        """Note why it gets no reply in this run."""
        self.error, self.may_work_later = error, may_work_later

    def as_rows(
        self, *, resumed: bool = False, error: str | None = None, raw: str | None = None
    ) -> list[Row]:
        """Its rows with its outcome; only the first one counts the request.

        `error` and `raw` are those of an earlier run.
        """
        reply, failed = self.reply, self.error
        tokens, cost, request = 0, None, ""
        if reply is not None:
            tokens, cost, request = reply.usage.total_tokens, reply.cost, reply.request
        elif failed is not None:
            error, raw, attempts = str(failed), raw_text(failed), failed.attempts
            tokens = sum(attempt.input_tokens + attempt.output_tokens for attempt in attempts)
            costs = [attempt.cost_usd for attempt in attempts]
            cost = None if None in costs else sum(one or 0.0 for one in costs)
            request = attempts[-1].request if attempts else ""
        prompt = self.request.messages[-1].content
        return [
            Row(
                position, label, prompt, reply, error, resumed or number > 0, tokens, cost, request,
                raw,
            )
            for number, (position, label) in enumerate(self.rows)
        ]  # fmt: skip


def raw_text(error: LLMProviderError) -> str | None:
    """The text of a reply that does not fit its schema, if that is the error."""
    return (error.text or None) if isinstance(error, SchemaMismatch) else None


class Rows:
    """The rows of a job, and the prompt of each.

    Args:
        data: a DataFrame, a Series, a list or array of texts, or a table of another library; see
            `as_pandas`.
        template: the prompt, with `{{column}}` for the value of a row. A Series is a column with
            its own name, or `prompt`; a list is the column `prompt`. Without a template, each text
            is the prompt.

    Attributes:
        frame: the data as a frame.
        index: its labels.

    Raises:
        InvalidRequest: the data has another type; or the template is missing, names no column, or
            names one that does not exist.
    """

    def __init__(self, data: Any, template: str | None = None) -> None:
        self.frame = _as_frame(data, template)
        self.index = self.frame.index
        if template is None:
            if list(self.frame.columns) != [PROMPT]:
                raise InvalidRequest(
                    "a frame needs a template: a prompt with {{column}} for the values of a row"
                )
            template = f"{{{{{PROMPT}}}}}"
        elif not isinstance(template, str):
            raise InvalidRequest(
                f"the template is of type {type(template).__name__}; it must be text"
            )
        self.template = template
        self._columns = self._used()
        self._text_of = self._fast_text_of()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[Any]:
        """The columns that the template names."""
        return list(self._columns.values())

    def prompts(self, start: int, stop: int) -> Iterator[tuple[Hashable, Prompt | str]]:
        """The label of each row, with its prompt or the reason why it has none."""
        part = self.frame.iloc[start:stop]
        values = [part[column].tolist() for column in self._columns.values()]
        names, text_of = list(self._columns), self._text_of
        for label, *row in zip(part.index, *values, strict=True):
            if text_of and all(type(value) is str for value in row):
                yield label, Prompt(text_of(row))
                continue
            for name, value in zip(names, row, strict=True):
                if not isinstance(value, str) and plain(value) is None:
                    yield label, f"{name!r} has no value in this row (fill it to ask anyway)"
                    break
            else:
                try:
                    yield label, fill(self.template, dict(zip(names, row, strict=True)), _BUDGET)
                except InvalidRequest as error:
                    yield label, str(error)

    def chunks(self) -> range:
        """Where each chunk of rows begins; see `requests`."""
        return range(0, len(self), CHUNK)

    def requests(
        self, start: int, configuration: Configuration, sample: Request
    ) -> Iterator[tuple[int, Hashable, str, Request | str]]:
        """The position, label, prompt and request of each row in the chunk that begins at `start`.

        Requests are like the sample, except for their prompt. A row that cannot be asked has the
        reason in place of its request.
        """
        found = list(self.prompts(start, start + CHUNK))
        texts = [prompt.text for _, prompt in found if isinstance(prompt, Prompt)]
        keys = keys_to_check(texts, configuration)
        for position, (label, prompt) in enumerate(found, start):
            if isinstance(prompt, str):
                yield position, label, "", prompt
                continue
            try:
                request = with_prompt(sample, prompt.text, keys, prompt.images)
            except InvalidRequest as error:
                yield position, label, prompt.text, str(error)
            else:
                yield position, label, prompt.text, request

    def _fast_text_of(self) -> Callable[[Sequence[str]], str] | None:
        """Returns a function for the prompt of a row of texts; None if the template needs more.

        It gives the same result as `fill`, without searching the template for each row.
        """
        names = list(self._columns)
        if not set(references(self.template)) <= set(names):
            return None
        if "\0" in fill(self.template, dict.fromkeys(names, ""), _BUDGET).text:
            return None
        marks = {name: f"\0{number}\0" for number, name in enumerate(names)}
        # Every second piece is the number of a column.
        pieces = fill(self.template, marks, _BUDGET).text.split("\0")
        columns = [int(number) for number in pieces[1::2]]

        def text_of(row: Sequence[str]) -> str:
            whole = pieces.copy()
            whole[1::2] = [row[column] for column in columns]
            return "".join(whole)

        return text_of

    def _used(self) -> dict[str, Any]:
        """The columns that the template names, by their names as text."""
        found = references(self.template)
        columns = columns_by_name(self.frame.columns)
        shown = ", ".join(map(_name, self.frame.columns[:20])) or "none"
        if not found:
            raise InvalidRequest(
                "the prompt names no column, so it would be the same for every row: write "
                f"{{{{column}}}} to insert a value; the columns are {shown}"
            )
        used = {}
        for reference in found:
            name = name_in(reference, columns)
            if name in columns:
                steps_in(reference, name)
            else:
                hint = did_you_mean(name, columns) or f"; there are {shown}"
                if name in self.index.names:
                    hint = f", only an index; frame.reset_index({name!r}) makes it a column"
                raise InvalidRequest(
                    f"{{{{{reference}}}}}: there is no column {name!r}{hint} "
                    f"(\\{{{{{reference}}}}} sends the braces unchanged)"
                )
            same = [column for column in self.frame.columns if str(column) == str(columns[name])]
            if len(same) > 1 or sum(column == columns[name] for column in self.frame.columns) > 1:
                raise InvalidRequest(f"{{{{{reference}}}}}: two columns have the name {name!r}")
            used[name] = columns[name]
        return used


def columns_by_name(columns: Iterable[Hashable]) -> dict[str, Hashable]:
    """Columns by their names between braces: `2023`, `% change`, `price.low`.

    The names of a MultiIndex are joined by dots; the tuple `('price', 'low')` works too. A day may
    be written without its time, `2026-11-29`. White space around and within a name may be written
    as one space.
    """
    columns = list(columns)
    named = {str(column): column for column in columns}
    for column in columns:
        for name in (_name(column), " ".join(str(column).split())):
            named.setdefault(name, column)
    return named


def _name(column: Hashable) -> str:
    parts = column if isinstance(column, tuple) else (column,)
    texts = [
        # As in pandas, a day has no time, and empty levels are omitted.
        str(part).removesuffix(" 00:00:00") if isinstance(part, datetime) else str(part)
        for part in parts
    ]
    return " ".join(".".join(filter(None, texts)).split())


def plain(value: Any) -> Any:
    """None for what pandas marks as missing."""
    import pandas as pd

    return None if pd.isna(value) is True else value


def name_of_series(name: Hashable, template: str | None) -> Hashable:
    """The name of the column that a Series becomes; without a template its texts are prompts."""
    return PROMPT if template is None or name is None else name


def _as_frame(data: Any, template: str | None) -> pd.DataFrame:
    library("pandas")
    import pandas as pd

    if is_file(data):
        raise InvalidRequest(
            f"{data} is a file, which only arche_magic.map and plan read; pass a frame instead, "
            "such as the result of pandas.read_csv"
        )
    data = as_pandas(data)
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, pd.Series):
        return data.to_frame(name_of_series(data.name, template))
    if getattr(data, "ndim", 0) == 1 and hasattr(data, "tolist"):
        data = data.tolist()
    if isinstance(data, str):
        raise InvalidRequest(
            f"{data[:80]!r} is a str; pass a table, a list of prompts, or the path of a file whose "
            f"name ends with {', '.join(ENDINGS)}; for a single prompt, call generate"
        )
    if isinstance(data, Sequence) and not isinstance(data, bytes):
        for value in data:
            # A missing value may be None, NaN or NA.
            if not isinstance(value, str) and plain(value) is not None:
                raise InvalidRequest(
                    f"the list holds a value of type {type(value).__name__}; it must hold texts "
                    "only. For several values in a row, use a DataFrame"
                )
        return pd.DataFrame({PROMPT: pd.Series(list(data), dtype=object)})
    kind = type(data).__name__
    raise InvalidRequest(
        f"the data is of type {kind}; it must be a DataFrame, a Series, a list of texts, the path "
        "of a file, or a table of polars, pyarrow or DuckDB"
    )
