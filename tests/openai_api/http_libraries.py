"""The HTTP libraries that official clients come with."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import openai

_OWN = next(base for base in openai.DefaultHttpxClient.__mro__ if base.__name__ == "Client")
LIBRARIES: list[Any] = list(dict.fromkeys((httpx, sys.modules[_OWN.__module__.partition(".")[0]])))
"""httpx, and the one that the installed official client brings: httpx2 since openai 3."""
