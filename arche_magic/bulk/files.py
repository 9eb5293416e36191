"""Files of rows, read a chunk at a time: Parquet and CSV."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.folders import expanded

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ENDINGS = (".parquet", ".csv", ".csv.gz")
_INSTALL = "Parquet files need a package more: pip install 'arche_magic[parquet]'"
# Rows that are read at once where they are only checked and counted.
_MOST_ROWS = 100_000
# The longer mark first: UTF-32's begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_file(data: object) -> bool:
    """Whether data is named by a file: a Path, or a text that ends like one of ours."""
    return isinstance(data, Path) or (isinstance(data, str) and data.endswith(ENDINGS))


def usable_path(path: str | Path) -> Path:
    """The path of a file of rows, there or not.

    Raises:
        InvalidRequest: its name ends otherwise.
        ConfigurationError: a package is missing.
    """
    path = expanded(path)
    if not path.name.endswith(ENDINGS):
        raise InvalidRequest(f"{path}: a file of rows ends with {', '.join(ENDINGS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigurationError(_INSTALL)
    return path


class SourceFile:
    """A file of rows to read.

    Args:
        path: a Parquet or CSV file; a CSV may be compressed (`.csv.gz`).
        encoding: of a CSV; if not given, that of its byte order mark, else UTF-8.
        sep: what separates the fields of a CSV.

    Raises:
        InvalidRequest: the file does not exist or cannot be read, or an option does not apply.
        ConfigurationError: a package is missing.
    """

    def __init__(
        self, path: str | Path, encoding: str | None = None, sep: str | None = None
    ) -> None:
        self.path = usable_path(path)
        try:
            is_there = self.path.is_file()
        except OSError as error:
            raise InvalidRequest(f"{self.path} cannot be read: {error.strerror}") from None
        if not is_there:
            raise InvalidRequest(f"there is no file {self.path}")
        if self.is_parquet and (encoding is not None or sep is not None):
            raise InvalidRequest(f"{self.path.name}: encoding and sep are for CSV files")
        if encoding is not None:
            try:
                # Some codecs, such as base64, are none of texts.
                "".encode(encoding)
            except (LookupError, TypeError, ValueError):
                raise InvalidRequest(
                    f"encoding {encoding!r} is unknown; common ones are utf-8, cp1252 and utf-16"
                ) from None
        sep = "\t" if sep == r"\t" else sep
        if sep is not None and (not isinstance(sep, str) or len(sep) != 1 or sep in '\0\r\n"'):
            raise InvalidRequest(f"sep is {sep!r}; it must be one character, such as ';'")
        self.sep = sep or ","
        with self._readable():
            self.encoding = encoding or self._encoding_by_mark()
            self.first_row = next(frame for frame, _ in self._frames(1))

    @property
    def is_parquet(self) -> bool:
        """Whether its columns have types."""
        return self.path.suffix == ".parquet"

    def count(self) -> int:
        """Its rows. A CSV is read to its end for that, so what is wrong in it is found.

        Raises:
            InvalidRequest: it cannot be read.
        """
        with self._readable():
            if self.is_parquet:
                import pyarrow.parquet as pq

                return int(pq.read_metadata(self.path).num_rows)
            # Lines are not rows: a text may have several.
            return sum(len(frame) for frame, _ in self._frames(_MOST_ROWS))

    def frames(self, rows: int) -> Iterator[tuple[pd.DataFrame, pa.Table | None]]:
        """The file as frames, numbered on from one to the next, and as tables if it has types.

        Every chunk of a column is read alike, whatever it holds: integers stay integers beside
        missing ones, and a CSV's cells stay the texts they are, empty ones missing.

        Raises:
            InvalidRequest: it cannot be read.
        """
        with self._readable():
            yield from self._frames(rows)

    def _frames(self, rows: int) -> Iterator[tuple[pd.DataFrame, pa.Table | None]]:
        import pandas as pd

        if self.is_parquet:
            import pyarrow as pa
            import pyarrow.parquet as pq

            began = 0
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(rows):
                    frame = batch.to_pandas(integer_object_nulls=True, ignore_metadata=True)
                    frame.index = pd.RangeIndex(began, began + len(frame))
                    began += len(frame)
                    yield frame, pa.Table.from_batches([batch])
            if not began:
                table = pq.read_table(self.path)
                yield table.to_pandas(ignore_metadata=True), table
            return
        chunks = pd.read_csv(
            self.path, dtype=str, keep_default_na=False, na_values=[""], chunksize=rows,
            skip_blank_lines=False, encoding=self.encoding, sep=self.sep,
            engine="c" if self.sep.isascii() else "python",
        )  # fmt: skip
        with chunks:
            for frame in chunks:
                if not isinstance(frame.index, pd.RangeIndex):
                    # pandas takes the first fields of such rows for an index.
                    raise pd.errors.ParserError("the rows have more fields than the header")
                yield frame, None

    def _encoding_by_mark(self) -> str:
        if self.is_parquet:
            return ""
        with self._open() as file:
            start = file.read(4096)
        for mark, encoding in _BYTE_ORDER_MARKS.items():
            if start.startswith(mark):
                return encoding
        if b"\0" in start:
            raise InvalidRequest(
                f"{self.path.name} is not UTF-8 text; it may be UTF-16 without a byte order mark: "
                "name the encoding, such as encoding='utf-16-le' (--encoding utf-16-le)"
            )
        return "utf-8-sig"

    def _open(self) -> Any:
        import gzip

        return gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what the readers raise into one line that names the file and its encoding."""
        pd = library("pandas")
        name = self.path.name
        wrong: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
        if self.is_parquet:
            library("pyarrow.parquet")
            wrong += (library("pyarrow").ArrowException,)
        try:
            yield
        except UnicodeError:
            shown = self.encoding.removesuffix("-sig").upper()
            raise InvalidRequest(
                f"{name} is not {shown} text; name its encoding, such as encoding='cp1252' "
                "(--encoding cp1252)"
            ) from None
        except pd.errors.EmptyDataError:
            raise InvalidRequest(f"{name} is empty: it has no header") from None
        except pd.errors.ParserError as error:
            why = str(error).replace("Error tokenizing data. C error: ", "").strip()
            if opened := re.match(r"EOF inside string starting at row (\d+)", why):
                why = f"the quote that opens in line {int(opened[1]) + 1} is never closed"
            raise InvalidRequest(
                f"{name} ({self.encoding.removesuffix('-sig')}, fields separated by "
                f"{self.sep!r}) cannot be read: {why}"
            ) from None
        except wrong as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidRequest(f"{name} cannot be read: {why}") from None
