"""Files of rows, read in chunks: Parquet, CSV, JSON lines and Excel."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.files import expanded, marked_encoding
from arche_magic.prompts import name_in, references

from .file_readers import (
    CsvReader,
    FileReader,
    ParquetReader,
    RecordReader,
    as_frame,
    json_lines,
    opened,
    sheet_reader,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PARQUET, _EXCEL = (".parquet",), (".xlsx", ".xlsm")
_CSV, _TSV = (".csv", ".csv.gz"), (".tsv", ".tsv.gz")
_JSON_LINES = (".jsonl", ".jsonl.gz")
WRITTEN = (*_PARQUET, *_CSV, *_TSV, *_JSON_LINES)
ENDINGS = (*WRITTEN, *_EXCEL)
_NEEDED = {"pyarrow": ("Parquet", "parquet"), "openpyxl": ("Excel", "excel")}


def is_file(data: object) -> bool:
    """Whether data is named by a path: a Path, or a text that ends like a file or with `/`."""
    return isinstance(data, Path) or (
        isinstance(data, str) and data.lower().endswith((*ENDINGS, "/", os.sep))
    )


def usable_path(path: str | Path, endings: Sequence[str] = ENDINGS) -> Path:
    """The path of a file of rows, which may not exist.

    Raises:
        InvalidRequest: its name has another ending.
        ConfigurationError: a package is missing.
    """
    path = expanded(path)
    if not path.name.lower().endswith(tuple(endings)):
        raise InvalidRequest(
            f"{path}: unknown kind of file; the name must end with {', '.join(endings)}"
        )
    if path.name.lower().endswith(_PARQUET):
        _need("pyarrow")
    if path.name.lower().endswith(_EXCEL):
        _need("openpyxl")
    return path


def separator(path: Path, sep: str | None) -> str:
    """The field separator of a file with this name; `sep` is that of a CSV."""
    return "\t" if path.name.lower().endswith(_TSV) or sep == r"\t" else sep or ","


class SourceFile:
    """A file of rows to read.

    Args:
        path: a Parquet, CSV, TSV, JSON lines or Excel file, or a folder of Parquet files; text may
            be compressed (`.csv.gz`).
        encoding: of a text file; by default that of its byte order mark, else UTF-8.
        sep: the field separator of a CSV.
        sheet: the sheet of an Excel file; by default the first one.
        template: the prompt of its rows, if known.

    Attributes:
        path: the path of the file.
        sep: its field separator; "," for files without one.
        kinds: the kind of values in each column of JSON lines or a sheet; empty for other files.
        first_row: its first row with all columns, as a frame; it may be empty.

    Raises:
        InvalidRequest: the file does not exist or cannot be read, an option does not apply, or a
            CSV has another separator.
        ConfigurationError: a package is missing.
    """

    def __init__(
        self,
        path: str | Path,
        encoding: str | None = None,
        sep: str | None = None,
        sheet: str | None = None,
        template: str | None = None,
    ) -> None:
        self.path = expanded(path)
        try:
            is_folder, is_there = self.path.is_dir(), self.path.exists()
        except OSError as error:
            raise InvalidRequest(f"{self.path} cannot be read: {error.strerror}") from None
        if is_folder:
            _need("pyarrow")
        else:
            usable_path(self.path)
        if not is_there:
            raise InvalidRequest(f"there is no file {self.path}")
        name = self.path.name
        self._is_parquet = is_folder or name.lower().endswith(_PARQUET)
        self._is_excel = name.lower().endswith(_EXCEL)
        sep = "\t" if sep == r"\t" else sep
        self._check_options(encoding, sep, sheet)
        self.encoding = encoding or ""
        self.sep: str = separator(self.path, sep)
        with self._readable():
            self._reader = self._reader_for(sheet)
            self.first_row: pd.DataFrame = next(self._reader.frames(1))
            self.kinds = self._reader.kinds if isinstance(self._reader, RecordReader) else {}
        self._check_separator(template or "")

    def count(self) -> int:
        """Number of rows. A text file is read to its end, so errors in it are found.

        Raises:
            InvalidRequest: it cannot be read.
        """
        with self._readable():
            return self._reader.count()

    def _check_separator(self, template: str) -> None:
        """Refuse a CSV with one column if the prompt names a part of that column's name."""
        if len(self.first_row.columns) != 1 or not self.path.name.lower().endswith(_CSV):
            return
        whole = str(self.first_row.columns[0])
        sep = next((sign for sign in ";\t|" if sign in whole), "")
        parts = {part.strip().strip('"') for part in whole.split(sep)} if sep else set()
        if any(name_in(reference) in parts for reference in references(template)):
            shown = r"\t" if sep == "\t" else sep
            raise InvalidRequest(
                f"{self.path.name} has one column, {whole!r}; add --sep '{shown}' (in Python, "
                f"sep={shown!r}) to read it as several"
            )

    def frames(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """The file as frames of at most `rows` rows; row numbers continue from one to the next.

        Only the named columns of a Parquet file are read. All chunks of a column have the same
        type: integers stay integers beside missing values, and cells of a CSV stay text, with empty
        cells as missing values.

        Raises:
            InvalidRequest: it cannot be read.
        """
        with self._readable():
            yield from self._reader.frames(rows, columns)

    def chunks(
        self, rows: int, columns: Sequence[str]
    ) -> Iterator[tuple[pd.DataFrame, pa.Table | None]]:
        """The same frames, each with the Arrow table of all its columns if the file is Parquet."""
        with self._readable():
            if isinstance(self._reader, ParquetReader):
                start = 0
                for table in self._reader.tables(rows):
                    yield as_frame(table.select(columns), start), table
                    start += len(table)
            else:
                for frame in self._reader.frames(rows):
                    yield frame, None

    def _reader_for(self, sheet: str | None) -> FileReader:
        if self._is_parquet:
            return ParquetReader(self.path)
        if self._is_excel:
            return sheet_reader(self.path, sheet)
        self.encoding = self.encoding or self._encoding_by_mark()
        if self.path.name.lower().endswith(_JSON_LINES):
            return RecordReader(partial(json_lines, self.path, self.encoding))
        return CsvReader(self.path, self.encoding, self.sep)

    def _check_options(self, encoding: str | None, sep: str | None, sheet: str | None) -> None:
        name = self.path.name
        if sep is not None and not name.lower().endswith(_CSV):
            raise InvalidRequest(f"{name}: sep is for CSV files")
        if encoding is not None and (self._is_parquet or self._is_excel):
            raise InvalidRequest(f"{name}: encoding is for CSV, TSV and JSON lines files")
        if sheet is not None and not self._is_excel:
            raise InvalidRequest(f"{name}: sheet is for Excel files")
        if encoding is not None:
            try:
                # Some codecs, such as base64, do not encode text.
                "".encode(encoding)
            except (LookupError, TypeError, ValueError):
                raise InvalidRequest(
                    f"encoding {encoding!r} is unknown; common ones are utf-8, cp1252 and utf-16"
                ) from None
        if sep is not None and (not isinstance(sep, str) or len(sep) != 1 or sep in '\0\r\n"'):
            raise InvalidRequest(f"sep is {sep!r}; it must be one character, such as ';'")

    def _encoding_by_mark(self) -> str:
        with opened(self.path) as file:
            start = file.read(4096)
        marked = marked_encoding(start)
        if not marked and b"\0" in start:
            raise InvalidRequest(
                f"{self.path.name} is not UTF-8 text; it may be UTF-16 without a byte order mark: "
                "name the encoding, such as encoding='utf-16-le' (--encoding utf-16-le)"
            )
        return marked or "utf-8-sig"

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn errors of the readers into one line that names the file and its encoding."""
        pd = library("pandas")
        name = self.path.name
        wrong: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
        if self._is_parquet:
            library("pyarrow.parquet")
            library("pyarrow.dataset")
            wrong += (library("pyarrow").ArrowException,)
        if self._is_excel:
            # openpyxl raises different errors depending on where a file is damaged.
            library("openpyxl")
            wrong = (Exception,)
        try:
            yield
        except InvalidRequest:
            raise
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
            if in_quotes := re.match(r"EOF inside string starting at row (\d+)", why):
                why = f"the quote that opens in line {int(in_quotes[1]) + 1} is never closed"
            raise InvalidRequest(
                f"{name} ({self.encoding.removesuffix('-sig')}, fields separated by "
                f"{self.sep!r}) cannot be read: {why}"
            ) from None
        except wrong as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidRequest(f"{name} cannot be read: {why}") from None


def _need(package: str) -> None:
    """Raise a ConfigurationError that names the extra if a package is missing."""
    if find_spec(package) is None:
        kind, extra = _NEEDED[package]
        raise ConfigurationError(
            f"{kind} files need another package: pip install 'arche_magic[{extra}]'"
        )
