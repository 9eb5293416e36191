"""Files larger than memory: read in chunks, asked, and written beside until all of it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.safe_files import open_ours
from arche_magic.llm_providers.types import Schema, utc

from .job import Job
from .progress import Progress, Row
from .results import ABOUT, REPLY, Replies
from .rows import columns_by_name

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 10_000
"""Rows that are in memory at a time."""
# What the progress of a file is the sum of, chunk by chunk.
_SUMS = ("done", "resumed", "errors", "cost_usd", "tokens", "packed", "checked", "agreed")
_ENDINGS = (".parquet", ".csv", ".csv.gz")
_INSTALL = "Parquet files need a package more: pip install 'arche_magic[parquet]'"


def is_file(data: object) -> bool:
    """Whether data is named by a file: a Path, or a text that ends like one of ours."""
    return isinstance(data, Path) or (isinstance(data, str) and data.endswith(_ENDINGS))


class FileJob:
    """A job over the rows of a file, whose result is another file; used like a `Job`.

    The result appears whole, at the end. What was written until an interrupt is dropped: the
    replies are on disk, and the next run takes them from there. Parquet keeps the types of its
    columns; a CSV's cells stay the texts they are.

    Args:
        source: the file to read: Parquet or CSV.
        to: the file to write; one that is there already is replaced.
        template: the prompt; see `Job`, also for the options.
        **options: bounds hold for all of the file.

    Raises:
        InvalidRequest: a file cannot be used, or template or an option is wrong.
        ConfigurationError: a package is missing.
    """

    def __init__(
        self, source: str | Path, to: str | Path | None, template: str | None, **options: Any
    ) -> None:
        self.source, self.to = _checked(source, to)
        self._template, self._options = template, options
        self._job = Job(_first(self.source), template, **options)
        self._types = column_types(self._job.schema)
        # Says where a field and a column have one name.
        Replies(self._job)
        self._total = _count_rows(self.source)
        self._before = self._now = Progress(0, self._total, 0, 0, 0.0, None, None, 0.0, 0)
        self._failed = 0
        self._purse = self._job.purse
        self._cancelled = False

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[Row]:
        """The rows as they finish; the file is there when the last one was taken.

        Raises:
            InvalidRequest: the file cannot be written.
            JobStopped, LLMProviderError: as a `Job`.
        """
        start = 0
        part = self.to.with_name(f".{self.to.name}.part")
        _begin(part)
        try:
            with closing(_Writer(part, self.to.name, self._types)) as writer:
                for frame, table in _read(self.source, ROWS):
                    self._job = Job(frame, self._template, **self._left())
                    replies = Replies(self._job)
                    for row in self._job:
                        replies.add(row)
                        self._failed += row.reply is None and not row.resumed
                        yield replace(row, position=start + row.position)
                    if self._cancelled:
                        return
                    writer.write(replies.frame(), table)
                    self._before = self.progress()
                    start += len(frame)
            part.replace(self.to)
        finally:
            part.unlink(missing_ok=True)

    def progress(self) -> Progress:
        """How far all of it is."""
        if self._before.done == self._total:
            return self._before
        now, before = self._job.progress(), self._before
        done, finish = before.done + now.done, now.finish_at
        if finish is not None and now.total > now.done:
            # At the same pace, the chunks to come too.
            left = (self._total - done) / (now.total - now.done)
            now_is = utc(get_configuration().clock.time())
            finish = now_is + left * (finish - now_is)
        sums = {name: getattr(before, name) + getattr(now, name) for name in _SUMS}
        return replace(now, total=self._total, finish_at=finish, **sums)

    def cancel(self) -> None:
        """End soon; see `Job`."""
        self._cancelled = True
        self._job.cancel()

    def _left(self) -> dict[str, Any]:
        """The options for the next chunk, which shares the bounds; failures count as well."""
        most = self._options.get("stop_after")
        failing = {} if most is None else {"stop_after": most - self._failed}
        whole = {} if self._purse is None else {"part_of": self._purse}
        return self._options | failing | whole


def _begin(part: Path) -> None:
    """Make an empty file in place of what an earlier run left, or of a link."""
    try:
        part.unlink(missing_ok=True)
        os.close(open_ours(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except OSError as error:
        raise InvalidRequest(f"{part} cannot be written ({error.strerror})") from None


def columns_of(source: str | Path) -> set[str]:
    """The names of a file's columns.

    Raises:
        InvalidRequest: it is no file of rows.
        ConfigurationError: a package is missing.
    """
    return set(columns_by_name(_first(_checked_source(source)).columns))


def frames_of(source: str | Path) -> Iterator[pd.DataFrame]:
    """The rows of a file, as many at a time as a job has in memory.

    Raises:
        InvalidRequest: it is no file of rows.
        ConfigurationError: a package is missing.
    """
    return (frame for frame, _ in _read(_checked_source(source), ROWS))


def _first(source: Path) -> pd.DataFrame:
    return next(frame for frame, _ in _read(source, 1))


def _checked(source: str | Path, to: str | Path | None) -> tuple[Path, Path]:
    source = _checked_source(source)
    if to is None:
        raise InvalidRequest(
            f"{source.name} is a file: name another one for the rows and their replies"
        )
    to = _usable(Path(to).expanduser())
    if not to.parent.is_dir():
        raise InvalidRequest(f"there is no folder {to.parent}")
    if to.is_dir():
        raise InvalidRequest(f"{to} is a folder; name a file")
    if source.resolve() == to.resolve():
        raise InvalidRequest(f"{to} would be written over while it is read; name another file")
    return source, to


def _checked_source(source: str | Path) -> Path:
    source = _usable(Path(source).expanduser())
    if not source.is_file():
        raise InvalidRequest(f"there is no file {source}")
    return source


def _usable(path: Path) -> Path:
    if not path.name.endswith(_ENDINGS):
        raise InvalidRequest(f"{path}: a file of rows ends with {', '.join(_ENDINGS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigurationError(_INSTALL)
    return path


def column_types(schema: Schema | None) -> dict[str, dict[str, Any]]:
    """The columns that a job adds, in their order, each with the JSON Schema of its values."""
    text: dict[str, Any] = {"type": "string"}
    fields = {REPLY: text}
    if schema is not None:
        definition = schema.definition
        defined = {"$defs": definition.get("$defs", {})}
        fields = {name: {**entry, **defined} for name, entry in definition["properties"].items()}
    return fields | {name: {"type": "integer"} if name == "tokens" else text for name in ABOUT}


def _count_rows(source: Path) -> int:
    if source.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(source).num_rows)
    import pandas as pd

    # Lines are not rows: a text may have several.
    chunks = pd.read_csv(source, dtype=str, usecols=[0], chunksize=100_000, skip_blank_lines=False)
    return sum(len(chunk) for chunk in chunks)


def _read(source: Path, rows: int) -> Iterator[tuple[pd.DataFrame, pa.Table | None]]:
    """A file as frames, each numbered on from the one before, and as tables if it has types.

    Every chunk of a column is read alike, whatever stands in it: integers stay integers beside
    missing ones, and a CSV's cells stay the texts they are, empty ones missing.
    """
    import pandas as pd

    if source.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        began = 0
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches(rows):
                frame = batch.to_pandas(integer_object_nulls=True, ignore_metadata=True)
                frame.index = pd.RangeIndex(began, began + len(frame))
                began += len(frame)
                yield frame, pa.Table.from_batches([batch])
        if not began:
            table = pq.read_table(source)
            yield table.to_pandas(ignore_metadata=True), table
        return
    chunks = pd.read_csv(
        source, dtype=str, keep_default_na=False, na_values=[""], chunksize=rows,
        skip_blank_lines=False, encoding="utf-8-sig",
    )  # fmt: skip
    with chunks:
        for frame in chunks:
            yield frame, None


class _Writer:
    """Appends frames to a file; the first one decides the columns."""

    def __init__(self, path: Path, name: str, types: Mapping[str, Any]) -> None:
        self._path, self._name, self._types = path, name, types
        self._parquet: Any = None
        self._begun = False

    def write(self, frame: pd.DataFrame, table: pa.Table | None) -> None:
        """Append a frame; what it has besides the added columns is taken from the table if any."""
        if self._name.endswith(".parquet"):
            self._write_parquet(frame, table)
            return
        packed = "gzip" if self._name.endswith(".gz") else None
        shown = frame.assign(
            **{name: [_as_cell(value) for value in frame[name]] for name in self._types}
        )
        mode = "a" if self._begun else "w"
        shown.to_csv(self._path, mode=mode, header=not self._begun, index=False, compression=packed)  # type: ignore[call-overload]  # "a" and "w" are modes
        self._begun = True

    def close(self) -> None:
        """Write what ends the file."""
        if self._parquet is not None:
            self._parquet.close()

    def _write_parquet(self, frame: pd.DataFrame, table: pa.Table | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if table is None:
            kept = [name for name in frame.columns if name not in self._types]
            texts = [pa.array(frame[name], pa.string(), from_pandas=True) for name in kept]
            table = pa.Table.from_arrays(texts, names=[str(name) for name in kept])
        for name, schema in self._types.items():
            kind = _arrow_type(schema, schema)
            values = [_plain(value) for value in frame[name]]
            if kind == pa.string():
                values = [value if value is None else _text(value) for value in values]
            table = table.append_column(name, pa.array(values, kind))
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._path, table.schema)
        self._parquet.write_table(table)


def _arrow_type(schema: Mapping[str, Any], root: Mapping[str, Any]) -> pa.DataType:
    """The type of a column that holds what a JSON Schema describes; text where none fits."""
    import pyarrow as pa

    if reference := schema.get("$ref"):
        target: Any = root
        for step in str(reference).removeprefix("#/").split("/"):
            target = target.get(step, {})
        # What holds itself has no type.
        return pa.string() if target is root else _arrow_type(target, {**root, "$defs": {
            name: entry for name, entry in root.get("$defs", {}).items() if entry is not target
        }})  # fmt: skip
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    others = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(others) == 1:
        return _arrow_type(others[0], root)
    kinds = [kind for kind in kinds if kind != "null"]
    simple = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    if len(kinds) == 1 and kinds[0] in simple:
        return simple[kinds[0]]
    if kinds == ["array"]:
        return pa.list_(_arrow_type(schema.get("items", {}), root))
    properties = schema.get("properties")
    if kinds == ["object"] and properties:
        return pa.struct(
            [pa.field(name, _arrow_type(entry, root)) for name, entry in properties.items()]
        )
    return pa.string()


def _plain(value: Any) -> Any:
    """None for what pandas marks as missing."""
    import pandas as pd

    return None if not isinstance(value, list | dict) and pd.isna(value) else value


def _as_cell(value: Any) -> Any:
    return _text(value) if isinstance(value, list | dict) else value


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
