"""Environments with planted keys."""

from __future__ import annotations

import os

from leaks import keys_of
from provider_parts import BASE_URLS, PROVIDERS


def all_at(url: str) -> dict[str, str]:
    """Variables with the first planted key of each provider, and this address for all of them."""
    keys = {f"{name.upper()}_API_KEY": keys_of(name)[0] for name in PROVIDERS}
    return keys | dict.fromkeys(BASE_URLS.values(), url)


def loud_environment(**more: str) -> dict[str, str]:
    """This process's variables and these; SDKs are told to log everything."""
    loud = {"OPENAI_LOG": "debug", "GROQ_LOG": "debug", "MISTRAL_DEBUG": "true"}
    return {**os.environ, **loud, **more}
