"""Files and web pages that are added to a prompt as text, each below a line with its name."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.files import expanded, marked_encoding
from arche_magic.llm_providers.request import text_tokens

from . import Prompt, file_or_value, one_line
from .tables import beginning
from .values import IMAGES

MOST_BYTES = 5_000_000
_PDF = b"%PDF-"


@dataclass(frozen=True)
class Attachment:
    """The text of a file or a web page; the model sees `name` as its name."""

    name: str
    text: str


def read_file(source: str, names: Mapping[str, Any]) -> Attachment:
    """Return the file that `--file` names: its path, or a variable that holds one.

    Raises:
        InvalidRequest: there is no such file, or it is too large or has no text.
        ConfigurationError: a PDF needs a package that is not installed.
    """
    path = _path(source, names)
    name = " ".join(path.name.split())
    if path.is_dir():
        raise InvalidRequest(f"--file {source or '.'} is a folder; name its files")
    try:
        if not path.is_file():
            raise InvalidRequest(f"--file {source} is not a regular file")
        if path.stat().st_size > MOST_BYTES:
            raise InvalidRequest(f"--file {source} is larger than {MOST_BYTES // 1_000_000} MB")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"--file {source} cannot be read: {error.strerror}") from None
    if path.suffix.lower() in IMAGES:
        raise InvalidRequest(f"--file {source} is an image; --image sends it")
    try:
        return Attachment(name, content_text(content))
    except ValueError as error:
        raise InvalidRequest(f"--file {source} {error}") from None


def content_text(content: bytes, encoding: str = "") -> str:
    """Return the text of a file's content; that of a PDF without its layout.

    Args:
        content: its bytes.
        encoding: its encoding if it is known; else UTF-8, or what its byte order mark says.

    Raises:
        ValueError: it has no text; the message continues "the file …".
        ConfigurationError: a PDF needs a package that is not installed.
    """
    if content.startswith(_PDF):
        text = _text_of_pdf(content)
    else:
        marked = marked_encoding(content)
        if not marked and b"\0" in content:
            raise ValueError("is not a text file")
        try:
            text = content.decode(marked or encoding or "utf-8")
        except (UnicodeError, LookupError):
            raise ValueError(f"is not text in {encoding or 'UTF-8'}") from None
    if not text.strip():
        raise ValueError("is empty")
    return text.strip("\r\n")


def attach(prompt: Prompt, attachments: Sequence[Attachment], budget: int | None) -> Prompt:
    """Return the prompt below the texts of the attachments, with a note about the size of each.

    `budget` is the maximum number of tokens of each; None for no maximum.
    """
    if not attachments:
        return prompt
    made = (_part(attachment, budget) for attachment in attachments)
    parts, notes = zip(*made, strict=True)
    # An empty prompt stays empty, which is an error, because attachments without a prompt ask
    # nothing.
    text = "\n\n".join([*parts, prompt.text]) if prompt.text.strip() else ""
    return replace(prompt, text=text, notes=(*prompt.notes, *notes))


def _part(attachment: Attachment, budget: int | None) -> tuple[str, str]:
    """Return the text between a line with the name and one that ends it, and a note."""
    name, text = attachment.name, attachment.text
    tokens = round(text_tokens(text))
    kept = text if budget is None or tokens <= budget else _first(text, budget)
    if kept is text:
        return f"[{name}]\n{text}\n[end of {name}]", f"{name} · {tokens:,} tokens"
    cut = f"cut to the first {len(kept):,} of {len(text):,} characters"
    note = f"{name} · {text_tokens(kept):,.0f} of {tokens:,} tokens: {cut} by --budget"
    return f"[{name}, {cut}]\n{kept} …\n[end of {name}]", note


def _first(text: str, budget: int) -> str:
    """Return as much of the beginning as fits, in whole lines if that is more than half of it."""
    kept = beginning(text, budget)
    end = kept.rfind("\n")
    return kept[:end] if end > len(kept) / 2 else kept


def _path(source: str, names: Mapping[str, Any]) -> Path:
    value = file_or_value("--file", source, names)
    if not isinstance(value, str | Path):
        kind = type(value).__name__
        raise InvalidRequest(
            f"--file {source} is of type {kind}, not a path; {{{{{source}}}}} inserts its value"
        )
    path = expanded(value)
    if not os.path.exists(path):  # noqa: PTH110  # also for texts that cannot be paths
        raise InvalidRequest(f"--file {source}: there is no file {one_line(value)}")
    return path


def _text_of_pdf(content: bytes) -> str:
    try:
        pypdf = library("pypdf")
    except ImportError:
        raise ConfigurationError(
            "PDF files need the package pypdf: pip install 'arche_magic[pdf]'"
        ) from None
    # Without a handler, Python would print pypdf's warnings about small faults, which most files
    # have.
    logging.getLogger("pypdf").addHandler(logging.NullHandler())
    pages: list[str] = []
    try:
        for page in pypdf.PdfReader(io.BytesIO(content)).pages:
            pages.append(page.extract_text().strip())
            if sum(map(len, pages)) > MOST_BYTES:
                break
    except Exception as error:  # noqa: BLE001  # a damaged file may break the parser anywhere
        raise ValueError(f"cannot be read as PDF: {type(error).__name__}: {error}") from None
    text = "\n\n".join(filter(None, pages))
    if len(text) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES:,} characters")
    if not text:
        raise ValueError("is a PDF without text; send pictures of its pages with --image")
    return text
