"""One file per wire format: how a provider reads, answers and refuses requests."""

from __future__ import annotations

from .base import Wire
from .google import Google
from .groq import Groq
from .mistral import Mistral
from .openai import OpenAI

WIRES: dict[str, Wire] = {wire.provider: wire for wire in (Groq(), Mistral(), Google(), OpenAI())}

__all__ = ["WIRES", "Wire"]
