"""LangChain: a chat model per key, joined by with_fallbacks, each without its own retries."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def build() -> Callable[[str], str]:
    """A function that answers a prompt."""
    from langchain_groq import ChatGroq

    models: list[Any] = [
        ChatGroq(
            model="openai/gpt-oss-120b",
            api_key=os.environ[name],
            base_url=os.environ["GROQ_BASE_URL"],
            max_retries=0,
        )
        for name in sorted(os.environ)
        if name.startswith("GROQ_API_KEY")
    ]
    if "MISTRAL_API_KEY" in os.environ:
        from langchain_mistralai import ChatMistralAI

        models.append(
            ChatMistralAI(
                model_name="mistral-small-latest",
                endpoint=os.environ["MISTRAL_BASE_URL"] + "/v1",
                max_retries=1,
            )
        )
    if "GOOGLE_API_KEY" in os.environ:
        from langchain_google_genai import ChatGoogleGenerativeAI

        models.append(
            ChatGoogleGenerativeAI(
                model="gemini-3.5-flash-lite",
                google_api_key=os.environ["GOOGLE_API_KEY"],
                base_url=os.environ["GOOGLE_GEMINI_BASE_URL"],
                max_retries=0,
            )
        )
    chain = models[0].with_fallbacks(models[1:])
    return lambda prompt: str(chain.invoke(prompt).text)
