"""Files larger than memory: read in chunks, asked, and written beside until all of it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.types import Schema

from .results import ABOUT, REPLY

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 10_000
"""Rows that are in memory at a time."""
_ENDINGS = (".parquet", ".csv", ".csv.gz")
_INSTALL = "Parquet files need a package more: pip install 'arche_magic[parquet]'"

Ask = Callable[["pd.DataFrame"], "pd.DataFrame"]


def is_file(data: object) -> bool:
    """Whether data is named by a file: a Path, or a text that ends like one of ours."""
    return isinstance(data, Path) or (isinstance(data, str) and data.endswith(_ENDINGS))


def checked(source: str | Path, to: str | Path | None) -> tuple[Path, Path]:
    """Source and target, after a look at both.

    Raises:
        InvalidRequest: one of them cannot be, before anything is read.
        ConfigurationError: a package is missing.
    """
    source = Path(source).expanduser()
    if to is None:
        raise InvalidRequest(
            f"{source.name} is a file: name another for the result, to='….parquet'"
        )
    to = Path(to).expanduser()
    for path in (source, to):
        if not path.name.endswith(_ENDINGS):
            raise InvalidRequest(f"{path}: a file ends with {', '.join(_ENDINGS)}")
    if not source.is_file():
        raise InvalidRequest(f"there is no file {source}")
    if not to.parent.is_dir():
        raise InvalidRequest(f"there is no folder {to.parent}")
    if source.resolve() == to.resolve():
        raise InvalidRequest(f"{to} would be written over while it is read; name another file")
    if ".parquet" in (source.suffix, to.suffix):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigurationError(_INSTALL) from None
    return source, to


def count_rows(source: Path) -> int:
    """How many rows a file has."""
    if source.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(source).num_rows)
    import pandas as pd

    # Lines are not rows: a text may have several.
    chunks = pd.read_csv(source, dtype=str, usecols=[0], chunksize=100_000, skip_blank_lines=False)
    return sum(len(chunk) for chunk in chunks)


def first_frame(source: Path) -> pd.DataFrame:
    """The first rows of a file, to see whether a job fits them."""
    return next(frame for frame, _ in _read(source, 100))


def column_types(schema: Schema | None) -> dict[str, dict[str, Any]]:
    """The columns that a job adds, in their order, each with the JSON Schema of its values."""
    text: dict[str, Any] = {"type": "string"}
    fields = {REPLY: text}
    if schema is not None:
        definition = schema.definition
        defined = {"$defs": definition.get("$defs", {})}
        fields = {name: {**entry, **defined} for name, entry in definition["properties"].items()}
    return fields | {name: {"type": "integer"} if name == "tokens" else text for name in ABOUT}


def map_file(source: Path, to: Path, ask: Ask, types: Mapping[str, Any], rows: int = ROWS) -> int:
    """Write the rows of a file with what `ask` adds to each frame of them; returns their number.

    The file appears whole, at the end. What was written until an interrupt is dropped: the
    replies are on disk, and the next run takes them from there.

    Args:
        source: the file to read.
        to: the file to write; one that is there already is replaced.
        ask: from a frame to the same rows with columns more.
        types: the added columns in their order, each with the JSON Schema of its values.
        rows: how many are in memory at a time.
    """
    done = 0
    with _beside(to) as part, closing(_Writer(part, to.name, types)) as writer:
        for frame, table in _read(source, rows):
            writer.write(ask(frame), table)
            done += len(frame)
    return done


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


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write to in the same folder, renamed to the right one if all goes well."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
