"""LiteLLM's Router as in its documentation: a group per provider, then fallbacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import pairwise

STRATEGY = os.environ.get("PEER_STRATEGY", "simple-shuffle")


def build() -> Callable[[str], str]:
    """A function that answers a prompt."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    from litellm import Router

    litellm.suppress_debug_info = True
    # arche_magic gets these limits too.
    limited = sys.argv[2] == "many"
    rpm = {"groq": 30, "mistral": 60, "gemini": 15} if limited else {}
    entries = [
        (group, model, os.environ[variable], base)
        for group, model, variable, base in _deployments()
    ]
    router = Router(
        model_list=[
            {
                "model_name": group,
                "litellm_params": {
                    "model": model, "api_key": key, "api_base": base, "rpm": rpm.get(group),
                },
            }
            for group, model, key, base in entries
        ],
        fallbacks=[{one: [other]} for one, other in pairwise(dict.fromkeys(e[0] for e in entries))],
        routing_strategy=STRATEGY,
        num_retries=2,
    )  # fmt: skip

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        reply = router.completion(model="groq", messages=messages)
        return str(reply.choices[0].message.content)

    return ask


def _deployments() -> list[tuple[str, str, str, str]]:
    groq = os.environ["GROQ_BASE_URL"] + "/openai/v1"
    found = [
        ("groq", "groq/openai/gpt-oss-120b", name, groq)
        for name in sorted(os.environ)
        if name.startswith("GROQ_API_KEY")
    ]
    if "MISTRAL_API_KEY" in os.environ:
        base = os.environ["MISTRAL_BASE_URL"] + "/v1"
        found.append(("mistral", "mistral/mistral-small-latest", "MISTRAL_API_KEY", base))
    if "GOOGLE_API_KEY" in os.environ:
        base = os.environ["GOOGLE_GEMINI_BASE_URL"] + "/v1beta/models/gemini-3.5-flash-lite"
        found.append(("gemini", "gemini/gemini-3.5-flash-lite", "GOOGLE_API_KEY", base))
    return found
