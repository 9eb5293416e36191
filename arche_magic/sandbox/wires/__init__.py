"""One class per wire format: how a provider reads, answers and refuses requests."""

from __future__ import annotations

from .google import Google
from .groq import Groq
from .mistral import Mistral
from .openai import OpenAI

Wire = OpenAI | Google  # Groq's and Mistral's are derived from OpenAI's
WIRES: dict[str, Wire] = {
    "groq": Groq(),
    "mistral": Mistral(),
    "google": Google(),
    "openai": OpenAI(),
}

__all__ = ["WIRES", "Wire"]
