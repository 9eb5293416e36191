"""Variables of a `.env` that look like keys, but that no provider reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .catalog import Provider, known_services
from .config import is_given
from .config.env_file import candidates, parse_env_file
from .finding import Finding

_KEY_NAME = re.compile(r"API_?KEY(_?\d+)?$", re.IGNORECASE)
# All these names end alike, so that others than misspelt ones are near each other too.
_NEAR = 0.88


def unread_keys(providers: Iterable[Provider], directory: Path | None) -> Iterator[Finding]:
    """A finding for each, with the name that was probably meant.

    Names of known services count as read even while they are off.
    """
    files = candidates(".env", directory) if directory and not is_given() else ()
    path = next((path for path, problem in files if not problem), None)
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
