"""The quality of labels: comparison with those of a second model, and with known ones."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.options import shown
from arche_magic.llm_providers.text.wording import did_you_mean, percent, plural, suggestion
from arche_magic.prompts import as_pandas

from .rows import plain

if TYPE_CHECKING:
    import pandas as pd

    from arche_magic.llm_providers.request import Schema

    from .rows import Rows

# Names of columns that a job adds. Those of a second model's replies begin with SECOND.
REPLY, PROVIDER, SECOND, SECOND_MODEL = "reply", "provider", "second_", "second_model"
# A longer text does not count as a label, because two good answers rarely have the same words.
MOST_WORDS = 5


@dataclass(frozen=True)
class Comparison:
    """The labels of two columns, compared row by row.

    Attributes:
        pairs: how often each pair of labels occurs.
        not_compared: rows where one of the two is free text.
        unanswered: rows that have a label only in the second column.
    """

    pairs: Mapping[tuple[str, str], int]
    not_compared: int = 0
    unanswered: int = 0

    @classmethod
    def of(cls, one: pd.Series, other: pd.Series, swapped: Iterable[bool] = ()) -> Comparison:
        """Compare two columns. Rows without a value in the second column do not count.

        `swapped` says for each row whether its labels are swapped in `pairs`.
        """
        pairs: Counter[tuple[str, str]] = Counter()
        not_compared = unanswered = 0
        import pandas as pd

        whole = isinstance(one.dtype, pd.CategoricalDtype)
        for mine, theirs, swap in zip(one, other, [*swapped] or [False] * len(one), strict=True):
            if plain(theirs) is None:
                continue
            if plain(mine) is None:
                unanswered += 1
                continue
            first, second = _label(mine, whole), _label(theirs, whole)
            if first is None or second is None:
                not_compared += 1
            else:
                pairs[(second, first) if swap else (first, second)] += 1
        return cls(pairs, not_compared, unanswered)

    @property
    def compared(self) -> int:
        """Rows that were compared."""
        return sum(self.pairs.values())

    @property
    def agreed(self) -> int:
        """Compared rows with the same label."""
        return sum(count for (one, other), count in self.pairs.items() if one == other)

    @property
    def share(self) -> float:
        """The share of compared rows with the same label; NaN without any."""
        return self.agreed / self.compared if self.compared else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa, agreement beyond chance: 1 is perfect, 0 is chance, below 0 is worse.

        kappa = (p_o - p_e) / (1 - p_e), where p_o is the share of rows on which both agree, and p_e
        the share on which they would agree if each gave its labels equally often, but at random.
        J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
        Measurement 20 (1960), 37-46. It is NaN without rows, and if both always gave the same
        single label.
        """
        first, second = Counter[str](), Counter[str]()
        for (one, other), count in self.pairs.items():
            first[one] += count
            second[other] += count
        by_chance = sum(count * second[label] for label, count in first.items())
        expected = by_chance / max(1, self.compared) ** 2
        return (self.share - expected) / (1 - expected) if expected < 1 else math.nan

    def plus(self, more: Comparison) -> Comparison:
        """This comparison with the rows of another one added."""
        return Comparison(
            Counter(self.pairs) + Counter(more.pairs),
            self.not_compared + more.not_compared,
            self.unanswered + more.unanswered,
        )


@dataclass(frozen=True, repr=False)
class Quality:
    """Comparison of a job's replies with those of a second model, and with known labels.

    Attributes:
        twice: by field, of the rows that were asked twice.
        gold: by field, of the rows whose label is known; the known label comes second.
        columns: by field, the column with its known labels.
    """

    twice: Mapping[str, Comparison] = field(default_factory=dict)
    gold: Mapping[str, Comparison] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def agreement(self) -> pd.DataFrame:
        """One row per field that was asked twice.

        Columns: `field`, `compared` and `agreed` (rows), `agreement` (their share, 0 to 1),
        `kappa` (Cohen's), `not_compared` (rows with free text).
        """
        return _frame(self.twice, ("field", "compared", "agreed", "agreement", "kappa"))

    @property
    def accuracy(self) -> pd.DataFrame:
        """One row per field with known labels.

        Columns: `field`, `compared` and `correct` (rows), `accuracy` (their share, 0 to 1),
        `not_compared` (rows with free text), `unanswered` (rows without a reply).
        """
        frame = _frame(self.gold, ("field", "compared", "correct", "accuracy"))
        frame["unanswered"] = [comparison.unanswered for comparison in self.gold.values()]
        return frame.astype({"unanswered": "int64"})

    def confusion(self, name: str | None = None) -> pd.DataFrame:
        """How often each known label (rows) got which reply (columns); as compared, in lower case.

        The `name` of the field is not needed if only one has known labels.

        Raises:
            InvalidRequest: there are no known labels, none for that field, or no field was named.
        """
        import pandas as pd

        names = list(self.gold)
        if not names:
            raise InvalidRequest("there are no known labels: name their column with gold=")
        if name is None and len(names) > 1:
            raise InvalidRequest(f"name one of the fields: {', '.join(names)}")
        name = names[0] if name is None else name
        if name not in self.gold:
            hint = suggestion(name, names)
            raise InvalidRequest(f"there are no known labels for {name!r}{hint}")
        pairs = self.gold[name].pairs
        labels = sorted({label for pair in pairs for label in pair})
        known = sorted({label for _, label in pairs})
        return pd.DataFrame(
            [[pairs.get((reply, label), 0) for reply in labels] for label in known],
            index=pd.Index(known, name="gold"),
            columns=pd.Index(labels, name=name),
            dtype="int64",
        )

    def plus(self, more: Quality) -> Quality:
        """These figures with the rows of another part of the job added."""
        twice, gold = _sum(self.twice, more.twice), _sum(self.gold, more.gold)
        return Quality(twice, gold, {**self.columns, **more.columns})

    def __repr__(self) -> str:
        return str(self) or "no rows were asked twice, and there are no known labels"

    def __str__(self) -> str:
        """Both kinds of figures in words, one line each."""
        twice = ", ".join(_twice_in_words(name, found) for name, found in self.twice.items())
        gold = ", ".join(_gold_in_words(name, found) for name, found in self.gold.items())
        lines = [f"asked twice: {twice}" if twice else "", f"gold: {gold}" if gold else ""]
        return "\n".join(filter(None, lines))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, `twice` and `gold` by field; unknown ones are None."""
        gold = {row.pop("field"): row for row in _records(self.accuracy)}
        return {
            "twice": {row.pop("field"): row for row in _records(self.agreement)},
            "gold": {name: {"column": self.columns[name], **row} for name, row in gold.items()},
        }


def quality(frame: pd.DataFrame, gold: Mapping[str, str] | None = None) -> Quality:
    """Compare the replies in a frame with those of a second model, and with known labels.

    The frame can be the result of `map`, a part of it, or a file written by a job. Labels are
    compared ignoring case, white space and a final full stop. Texts of more than five words are not
    compared, unless the schema lists them as choices.

    Args:
        frame: a table with the columns of the replies, in pandas, polars or pyarrow; those of
            `twice=` start with `second_`.
        gold: maps a column of replies to the column with its known labels; by default as in the
            job, from `frame.attrs` of pandas.

    Raises:
        InvalidRequest: `frame` is not a table, the column does not exist, or `gold` is not a
            mapping.
    """
    if isinstance(gold, str):
        raise InvalidRequest(
            f"gold is {gold!r}; name the field of these labels: {{'field': {gold!r}}}"
        )
    frame = as_pandas(frame)
    if not hasattr(frame, "columns"):
        raise InvalidRequest(f"quality needs a table with replies, not a {type(frame).__name__}")
    names = [_name(column) for column in frame.columns]
    columns = dict(zip(names, frame.columns, strict=True))
    if gold is None:
        recorded = frame.attrs.get("arche_magic", {}).get("gold", {})
        gold = {name: entry["column"] for name, entry in recorded.items()}
    missing = next((n for pair in gold.items() for n in pair if n not in columns), None)
    if missing is not None:
        raise InvalidRequest(f"there is no column {missing!r}{did_you_mean(missing, names)}")
    twice = {}
    models = next((name for name in reversed(names) if name.endswith(SECOND_MODEL)), "")
    prefix = models.removesuffix(SECOND_MODEL)
    seconds = _before(models, f"{prefix}{SECOND}", names)
    if f"{prefix}{SECOND}{PROVIDER}" in seconds:
        # These are columns of another job with the prefix `second_`.
        seconds = []
    for name in seconds:
        of = name.removeprefix(f"{prefix}{SECOND}")
        first = next((n for n in (f"{prefix}{of}", of) if n in columns), None)
        if first is not None:
            if f"{prefix}model" not in columns:
                raise InvalidRequest(
                    f"quality needs the column '{prefix}model', which names the first model"
                )
            # Kappa compares two raters, so each of two models stays on the same side.
            one, other = frame[columns[f"{prefix}model"]], frame[columns[models]]
            swapped = [str(a) > str(b) for a, b in zip(one, other, strict=True)]
            twice[first] = Comparison.of(frame[columns[first]], frame[columns[name]], swapped)
    known = {
        name: Comparison.of(frame[columns[name]], frame[columns[label]])
        for name, label in gold.items()
    }
    return Quality(twice, known, dict(gold))


def gold_columns(
    gold: str | Mapping[str, str] | None, schema: Schema | None, rows: Rows
) -> dict[str, str]:
    """By field, the column with its known labels; `gold` is that, or the column of the only field.

    Raises:
        InvalidRequest: it names an unknown field or column, or one that the prompt contains.
    """
    if gold is None:
        return {}
    fields = list(schema.fields if schema else ()) or [REPLY]
    data = [_name(column) for column in rows.frame.columns]
    if isinstance(gold, str):
        if len(fields) > 1:
            example = f"{{{fields[0]!r}: {gold!r}}}"
            raise InvalidRequest(
                f"gold is {gold!r}, and there are several fields ({', '.join(fields)}); name the "
                f"field of these labels: gold={example} (--gold {fields[0]}={gold})"
            )
        gold = {fields[0]: gold}
    if not isinstance(gold, Mapping):
        raise InvalidRequest(f"gold is {shown(gold)}; it must be the name of a column")
    for name, column in gold.items():
        if name not in fields:
            hint = suggestion(name, fields)
            raise InvalidRequest(f"gold: there is no field {name!r}{hint}")
        if column not in data:
            hint = suggestion(str(column), data)
            raise InvalidRequest(f"gold: there is no column {column!r}{hint}")
        if data.count(column) > 1:
            raise InvalidRequest(f"gold: two columns have the name {column!r}")
        if column in map(_name, rows.columns):
            raise InvalidRequest(
                f"gold: the prompt contains the column {column!r}, which has the answers; "
                "remove it from the prompt"
            )
    return dict(gold)


def _before(end: str, start: str, names: list[str]) -> list[str]:
    """The names directly before `end` that begin with `start`."""
    before = reversed(names[: names.index(end)] if end else [])
    return list(takewhile(lambda name: name.startswith(start), before))[::-1]


def _name(column: Hashable) -> str:
    """The name of a column; one that was added to a MultiIndex has empty levels."""
    return ".".join(filter(None, map(str, column))) if isinstance(column, tuple) else str(column)


def _label(value: Any, whole: bool) -> str | None:
    """A value in the form in which it is compared; None for free text, unless `whole`."""
    if isinstance(value, str):
        text = " ".join(value.casefold().split()).strip("\"'").rstrip(".!")
        return text if whole or len(text.split()) <= MOST_WORDS else None
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    elif hasattr(value, "tolist"):
        # Lists that are read from Parquet are arrays.
        value = value.tolist()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).casefold()
    # 7.0 counts as 7, because a column with missing values contains floats.
    whole_number = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole_number else value).casefold()


def _frame(comparisons: Mapping[str, Comparison], names: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (name, c.compared, c.agreed, c.share, c.kappa)[: len(names)]
        for name, c in comparisons.items()
    ]
    frame = pd.DataFrame(rows, columns=list(names))
    frame["not_compared"] = [comparison.not_compared for comparison in comparisons.values()]
    types = dict.fromkeys((*names[1:3], "not_compared"), "int64")
    return frame.astype({"field": "str", **types, **dict.fromkeys(names[3:], "float64")})


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")
    ]


def _sum(one: Mapping[str, Comparison], more: Mapping[str, Comparison]) -> dict[str, Comparison]:
    nothing = Comparison({})
    return {name: one.get(name, nothing).plus(more.get(name, nothing)) for name in {**one, **more}}


def _twice_in_words(name: str, found: Comparison) -> str:
    if not found.compared and not found.not_compared:
        return f"{name} in no row"
    if not found.compared:
        return f"{name} is free text, {plural(found.not_compared, 'row')} not compared"
    kappa = "" if math.isnan(found.kappa) else f" (kappa {found.kappa:.2f})"
    return f"{name} agrees in {found.agreed:,} of {plural(found.compared, 'row')}{kappa}"


def _gold_in_words(name: str, found: Comparison) -> str:
    if not found.compared:
        return f"{name} is not compared"
    share = percent(found.share)
    return f"{name} is correct in {found.agreed:,} of {plural(found.compared, 'row')} ({share})"
