"""The models that the sandbox knows and the limits an account starts with.

Read from published tables, response headers and reports of August to November 2026:

* Groq free tier: console.groq.com/docs/rate-limits, 2026-10-01; refilling buckets, measured.
* Mistral free tier: 60 requests a minute and 10^9 tokens a month from response headers up to
  2026-02, 100,000 tokens a minute from headers of 2026-08; the window's shape is not documented,
  the sandbox uses a rolling window. The older documented 1 request per second is not enforced (set
  `requests_per_second` to enforce it), because no header shows it.
* Gemini free tier: requests per day and input tokens per minute from reported 429 responses of
  2026-07 to 2026-10; 10 requests per minute is an assumption. Pro models: limit 0.
* OpenAI: paid tier 1 of a small model, platform.openai.com model pages, 2026-09-24.

Context windows in tokens: Mistral's and Gemini's from their error texts, the others assumed.
Images: Groq's from console.groq.com/docs/vision, 2026-10. All other models here accept images.
Tools: no model for classification or search takes them, nor does codestral-mamba.
Embeddings: Gemini's limits from github.com/router-for-me/CLIProxyAPI/issues/179, 2025-10; OpenAI's
are those of tier 1; Mistral's are assumed to be those of its chat models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDERS = ("groq", "mistral", "google", "openai")


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one provider: its context window in tokens and its limits by name."""

    context_window: int
    limits: Mapping[str, int]
    thought_tokens: int = 0  # output tokens that a thinking model spends before its text
    fixed_sampling: bool = False  # OpenAI's reasoning models accept no sampling parameters
    images: bool = True
    tools: bool = True
    dimensions: int = 0  # the length of the vectors of a model for embeddings; 0 for chat


_GROQ = {
    "requests_per_minute": 30,
    "requests_per_day": 1_000,
    "tokens_per_minute": 8_000,
    "tokens_per_day": 200_000,
}
_MISTRAL = {
    "requests_per_minute": 60,
    "tokens_per_minute": 100_000,
    "tokens_per_month": 1_000_000_000,
}
_FLASH = {
    "requests_per_minute": 10,
    "requests_per_day": 20,
    "input_tokens_per_minute": 250_000,
}
_NOT_IN_PLAN = dict.fromkeys(_FLASH, 0)
_OPENAI = {
    "requests_per_minute": 500,
    "requests_per_day": 10_000,
    "tokens_per_minute": 200_000,
}

_GUARD = {
    "requests_per_minute": 30,
    "requests_per_day": 14_400,
    "tokens_per_minute": 15_000,
    "tokens_per_day": 500_000,
}
_GEMINI_EMBEDDING = {
    "requests_per_minute": 100,
    "requests_per_day": 1_000,
    "input_tokens_per_minute": 30_000,
}
_OPENAI_EMBEDDING = {"requests_per_minute": 3_000, "tokens_per_minute": 1_000_000}

MODELS: Mapping[str, Mapping[str, Model]] = {
    "groq": {
        name: Model(131_072, _GROQ, images=name.startswith("qwen/"))
        for name in (
            "openai/gpt-oss-120b",
            "openai/gpt-oss-20b",
            "openai/gpt-oss-safeguard-20b",
            "qwen/qwen3.8-27b",
        )
    }
    | {"meta-llama/llama-prompt-guard-2-22m": Model(512, _GUARD, images=False, tools=False)},
    "mistral": {
        f"{name}-latest": Model(131_072, _MISTRAL)
        for name in ("mistral-small", "mistral-medium", "mistral-large", "ministral-8b")
    }
    | {
        "open-codestral-mamba": Model(262_144, _MISTRAL, images=False, tools=False),
        "mistral-embed": Model(8_192, _MISTRAL, dimensions=1_024),
    },
    "google": {
        name: Model(1_048_575, limits, thought_tokens=8)
        for name, limits in (
            ("gemini-3.8-flash", _FLASH),
            ("gemini-3.6-flash", _FLASH),
            ("gemini-3.5-flash", _FLASH),
            ("gemini-2.5-flash", _FLASH),
            ("gemini-3.5-flash-lite", {**_FLASH, "requests_per_day": 500}),
            ("gemini-3.8-pro", _NOT_IN_PLAN),
            ("gemini-3.1-pro-preview", _NOT_IN_PLAN),
        )
    }
    | {"gemini-embedding-001": Model(2_048, _GEMINI_EMBEDDING, dimensions=3_072)},
    "openai": {
        name: Model(400_000, _OPENAI, fixed_sampling=True)
        for name in ("gpt-5.4-mini", "gpt-5-nano", "gpt-5.6-sol", "gpt-6-luna", "gpt-6-astra")
    }
    | {
        "o4-mini": Model(200_000, _OPENAI, fixed_sampling=True),
        "gpt-4.1-mini": Model(1_047_576, _OPENAI),
        "gpt-4o-mini": Model(128_000, _OPENAI),
        "gpt-4o-search-preview": Model(128_000, _OPENAI, tools=False),
        "text-embedding-3-small": Model(8_192, _OPENAI_EMBEDDING, dimensions=1_536),
        "text-embedding-3-large": Model(8_192, _OPENAI_EMBEDDING, dimensions=3_072),
    },
}
