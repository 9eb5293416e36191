"""One thing that the doctor has examined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "look", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        state: `ok`; `look` if the user may want to look at it; `wrong` if it does not work.
        about: what it is about: a file, a provider, a key's label, a route.
        found: what was found, in words.
        advice: what to do, in one sentence; "" if nothing.
    """

    state: State
    about: str
    found: str
    advice: str = ""
