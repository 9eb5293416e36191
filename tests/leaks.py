"""Finding leaked keys: keys to plant, and a search for pieces of them.

    found = leaks_in_folder(tmp_path)          # files that hold part of a planted key
    found = leaks_in(text_or_bytes)            # ["groq_key_1 at 120: …"], empty if there is none

A leak is eight consecutive characters of a key, plain or escaped for a URL, eight of its form in
base64, or sixteen hexadecimal digits. Fewer are not enough to recognise a key, or occur by chance.
The sandbox's keys end in hexadecimal digits.
"""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np

from arche_magic.sandbox import Sandbox

FRAGMENT = 8
_BEGINNING = 2**24 - 1
_DIGITS = re.compile(rb"[0-9a-f]*|[0-9A-F]*")


def _drawn(seed: int, length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


# Shapes that providers issue, and unusual ones.
PLANTED: Mapping[str, str] = {
    "groq_key_1": f"gsk_{_drawn(1, 52)}",
    "groq_key_2": f"team.{_drawn(2, 20)}+/{_drawn(3, 11)}==",
    "mistral_key_1": _drawn(4, 32),
    "google_key_1": f"AIzaSy{_drawn(5, 33, string.ascii_letters + string.digits + '-_')}",
    "google_key_2": f"AQ.Ab8{_drawn(6, 47, string.ascii_letters + string.digits + '-_')}",
    "openai_key_1": f"sk-proj-{_drawn(7, 156, string.ascii_letters + string.digits + '-_')}",
    "openai_key_2": f"k'{_drawn(8, 12)}\"%41&{_drawn(9, 12)}~!",
    "redis_password": f"p@{_drawn(10, 8)}/{_drawn(11, 8)}:%40?{_drawn(12, 8)}",
}
_EVERYWHERE = dict.fromkeys(("groq", "mistral", "google", "openai"), 8)
SANDBOX: Mapping[str, str] = {
    key.label: re.split("[_-]", key.text)[-1]
    for key in Sandbox(keys=_EVERYWHERE).service.accounts.keys
}
# Tests write the sandbox's keys here, into cells that set up a kernel.
WITH_SET_UP = (".env", "*.ipynb", "*.html", "history.sqlite*", "userdata.py")
# The prefixes of keys are public; documentation and our own patterns contain them.
_PUBLIC = ("gsk_", "AIzaSy", "AQ.Ab8", "sk-proj-")


def keys_of(provider: str) -> list[str]:
    """The planted keys of a provider, in the order of their labels."""
    return [text for label, text in PLANTED.items() if label.startswith(f"{provider}_key_")]


def leaks_in(
    data: str | bytes, planted: Mapping[str, str] = PLANTED, fragment: int = FRAGMENT
) -> list[str]:
    """The planted keys with a piece in the data, each with its first position."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    names, beginnings = _wanted(tuple(planted.items()))
    found: dict[str, int] = {}
    for shift in range(FRAGMENT):
        count = (len(content) - shift) // FRAGMENT
        if count <= 0:
            break
        words = np.frombuffer(content, "<u8", count, shift)
        for place in np.flatnonzero(beginnings[words & _BEGINNING]):
            name, at = names.get(int(words[place])), shift + FRAGMENT * int(place)
            # Times and ids contain eight digits of a hexadecimal form by chance.
            only_digits = _DIGITS.fullmatch(content, at, at + FRAGMENT)
            length = max(fragment, 2 * FRAGMENT) if only_digits else fragment
            piece = content[at : at + length]
            whole = len(piece) == length
            if name and whole and any(piece in form for form in _forms(planted[name])):
                found[name] = min(at, found.get(name, at))
    return [
        f"{name} at {at}: …{content[max(0, at - 60) : at + 60].decode('utf-8', 'replace')}…"
        for name, at in sorted(found.items())
    ]


def leaks_in_folder(
    folder: Path, planted: Mapping[str, str] = PLANTED, but: Iterable[str] = (".env",)
) -> list[str]:
    """The files in a folder, at any depth, that contain a piece of a planted key.

    `but` has patterns of names of files that may contain one.
    """
    return [
        f"{path}: {leak}"
        for path, content in _files(folder, tuple(but))
        for leak in leaks_in(content, planted)
    ]


def leaks_of_a_run(folders: Iterable[Path]) -> list[str]:
    """The files of the folders that contain a piece of any key used in tests."""
    return [
        *(leak for folder in folders for leak in leaks_in_folder(folder)),
        *(
            f"{path}: sandbox {leak}"
            for folder in folders
            for path, content in _files(folder, WITH_SET_UP)
            for leak in leaks_in(content, SANDBOX, 2 * FRAGMENT)
        ),
    ]


def _files(folder: Path, but: tuple[str, ...]) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if "site-packages" in path.parts:
            continue  # written by pip, in the environments of a benchmark
        if not any(path.match(pattern) for pattern in but) and not path.is_symlink():
            # A folder or a socket, or a file that was deleted or cannot be read.
            with suppress(OSError):
                if path.is_file():
                    yield path, path.read_bytes()


@lru_cache
def _wanted(planted: tuple[tuple[str, str], ...]) -> tuple[dict[int, str], np.ndarray]:
    """The key that each piece (eight bytes as a number) belongs to, and how pieces begin."""
    names: dict[int, str] = {}
    for name, text in planted:
        for form in _forms(text):
            for start in range(len(form) - FRAGMENT + 1):
                piece = form[start : start + FRAGMENT]
                if not any(piece.decode() in public for public in _PUBLIC):
                    names[int.from_bytes(piece, "little")] = name
    beginnings = np.zeros(_BEGINNING + 1, dtype=bool)
    beginnings[np.array(list(names), dtype="<u8") & _BEGINNING] = True
    return names, beginnings


def _forms(text: str) -> Iterator[bytes]:
    raw = text.encode()
    hidden = raw
    for public in _PUBLIC:
        hidden = hidden.removeprefix(public.encode())
    yield raw
    yield quote(text, safe="").encode()
    # In these encodings, eight characters of a key take up more than eight bytes.
    yield hidden.hex().encode()
    yield hidden.hex().upper().encode()
    for offset in range(3):
        # The characters at both ends depend on the bytes around the key.
        encoded = base64.b64encode(bytes(offset) + hidden).rstrip(b"=")
        yield encoded[2 if offset else 0 : -2]
        yield base64.urlsafe_b64encode(bytes(offset) + hidden).rstrip(b"=")[2 if offset else 0 : -2]
