"""Pydantic AI: an agent with a FallbackModel over a model per key, without SDK retries.

Its documentation recommends this, so that the next model is tried immediately. All threads use one
event loop, because clients that are shared by several loops hang.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any


def build() -> Callable[[str], str]:
    """A function that answers a prompt."""
    from groq import AsyncGroq
    from pydantic_ai import Agent
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.groq import GroqModel
    from pydantic_ai.providers.groq import GroqProvider

    base = os.environ["GROQ_BASE_URL"]
    models: list[Any] = [
        GroqModel(
            "openai/gpt-oss-120b",
            provider=GroqProvider(
                groq_client=AsyncGroq(api_key=os.environ[name], base_url=base, max_retries=0)
            ),
        )
        for name in sorted(os.environ)
        if name.startswith("GROQ_API_KEY")
    ]
    if "MISTRAL_API_KEY" in os.environ:
        from pydantic_ai.models.mistral import MistralModel
        from pydantic_ai.providers.mistral import MistralProvider

        provider = MistralProvider(
            api_key=os.environ["MISTRAL_API_KEY"], base_url=os.environ["MISTRAL_BASE_URL"]
        )
        models.append(MistralModel("mistral-small-latest", provider=provider))
    if "GOOGLE_API_KEY" in os.environ:
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        google = GoogleProvider(
            api_key=os.environ["GOOGLE_API_KEY"], base_url=os.environ["GOOGLE_GEMINI_BASE_URL"]
        )
        models.append(GoogleModel("gemini-3.5-flash-lite", provider=google))
    agent = Agent(FallbackModel(models[0], *models[1:]) if len(models) > 1 else models[0])
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def ask(prompt: str) -> str:
        return str(asyncio.run_coroutine_threadsafe(agent.run(prompt), loop).result().output)

    return ask
