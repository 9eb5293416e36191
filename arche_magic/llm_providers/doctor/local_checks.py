"""Checks of this machine: packages, network variables, `.env` and the settings file."""

from __future__ import annotations

import difflib
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from ..catalog import Provider, known_services
from ..config import is_from_program
from ..config.env_file import parse_env_file
from ..config.sources import SETTINGS_FILE, candidates, how_to_hide, own_settings_file
from ..network import certificate_variable, problems, proxy_variable
from ..secrets import without_key_like

FindingState = Literal["ok", "look", "wrong"]
SDKS = ("openai", "groq", "mistralai", "google-genai", "httpx")
_KEY_NAME = re.compile(r"API_?KEY(_?\d+)?$", re.IGNORECASE)
# These names all end alike, so even unrelated ones are similar.
_NEAR = 0.88


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        state: `ok`; `look` if the user may want to look at it; `wrong` if it does not work.
        about: what it is about: a file, a provider, a key's label, a route.
        found: what was found, in words.
        advice: what to do, in one sentence; "" if nothing.
    """

    state: FindingState
    about: str
    found: str
    advice: str = ""


def check_packages() -> Iterator[Finding]:
    """Check that the SDKs are installed in versions that are new enough."""
    try:
        needs = requires("arche_magic") or []
        own = version("arche_magic")
    except PackageNotFoundError:
        needs, own = [], "from its source"
    lowest = {m[1]: m[2] for need in needs if (m := re.match(r"([\w-]+)>=([\d.]+)$", need))}
    found = []
    for name in SDKS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("wrong", "packages", f"{name} is missing", f"pip install {name}")
            continue
        if name in lowest and _numbers(version(name)) < _numbers(lowest[name]):
            older = f"{name} {version(name)} is older than {lowest[name]}"
            yield Finding("wrong", "packages", older, f"pip install --upgrade {name}")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "packages", f"arche_magic {own}, Python {python}, {', '.join(found)}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


def check_network() -> Iterator[Finding]:
    """Yield what this machine's variables say about proxies and certificates, if anything."""
    advice = "correct it, or remove it from the environment"
    wrong = [Finding("wrong", "network", without_key_like(text), advice) for text in problems()]
    yield from wrong
    names = [proxy_variable("https:"), certificate_variable()]
    if not wrong and any(names):
        yield Finding("ok", "network", f"uses {' and '.join(filter(None, names))}")


def check_files(directory: Path | None) -> Iterator[Finding]:
    """Yield the `.env` and the settings file that count, those that are skipped, and bad lines."""
    if is_from_program():
        given = "set by the program or the sandbox; keys and limits in files are not used"
        yield Finding("ok", "settings", given)
        return
    own = own_settings_file()
    if directory is None:
        advice = "change to another folder (%cd), or restart the kernel in one"
        found = "the working directory was removed or cannot be read, so no file there is used"
        yield Finding("wrong", "files", found, advice)
    nearest: dict[str, Path] = {}
    for name in (".env", SETTINGS_FILE):
        for path, problem in candidates(name, directory):
            if not problem:
                nearest[name] = path
                break
            yield Finding("look", name, f"{path} {problem}")
    if env_file := nearest.get(".env"):
        yield from _env_file(env_file)
    elif directory:
        yield Finding("ok", ".env", f"not in {directory} or the folders above it")
    settings = nearest.get(SETTINGS_FILE)
    try:
        settings = settings or (own if stat.S_ISREG(own.stat().st_mode) else None)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        yield Finding("look", SETTINGS_FILE, f"{own} cannot be read ({error.strerror})")
    absent = f"there is no {own}"
    if directory:
        absent = f"not in {directory} or the folders above it; {absent} either"
    yield Finding("ok", SETTINGS_FILE, str(settings or absent))


def _env_file(path: Path) -> Iterator[Finding]:
    found = parse_env_file(path)
    if found.problem:
        skipped = f"{path} cannot be read and was skipped: {found.problem}"
        yield Finding("wrong", ".env", skipped, "keys in the environment are still used")
        return
    numbers: dict[str, list[str]] = {}
    for number, why in found.unused.items():
        numbers.setdefault(why, []).append(str(number))
    for why, lines in numbers.items():
        line = f"line{'s' if len(lines) > 1 else ''} {', '.join(lines)} of {path}"
        yield Finding("look", ".env", f"{line} cannot be used: {why}", "correct the line")
    if advice := how_to_hide(path):
        yield Finding("look", ".env", f"{path}, which other users can read", advice)
    elif not found.unused:
        pipe = ", a named pipe, read once per process" if path.is_fifo() else ""
        yield Finding("ok", ".env", f"{path}{pipe}")


def unread_keys(providers: Iterable[Provider], directory: Path | None) -> Iterator[Finding]:
    """Yield variables in `.env` that look like keys but are not read, with the name to use.

    Names of known services count as read even while they are off.
    """
    paths = () if is_from_program() else candidates(".env", directory)
    path = next((path for path, problem in paths if not problem), None)
    owners = (*providers, *known_services().values())
    read = {variable for provider in owners for variable in provider.key_variables}
    for name in parse_env_file(path).variables if path else ():
        plain = re.sub(r"_\d+$", "", name)
        if not _KEY_NAME.search(name) or plain in read:
            continue
        near = difflib.get_close_matches(plain.upper(), read, n=1, cutoff=_NEAR)
        advice = f"rename it to {near[0]}" if near else ""
        found = f"{name} of {path} is not used: no provider reads it"
        yield Finding("look" if near else "ok", ".env", found, advice)
