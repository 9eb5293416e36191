"""How a reply ended, from the server's word for it.

The words are those of the four providers, and of Anthropic, Cohere, Hugging Face, Fireworks,
Together, DeepSeek, Zhipu and Bedrock, from their references of 2025 and 2026. Brokers pass them on.
"""

from __future__ import annotations

import re

# Searched in this order, in words reduced to their letters. If no pattern fits, the reply is
# complete: the text is there, and servers often invent new words for "done".
_PATTERNS = {
    "content_filter": re.compile(
        "filter|safety|unsafe|prohibited|blocklist|blocked|spii|recitation|refus|guardrail"
        "|sensitive|moderat|toxic|policy|violat|modelarmor|censor|escalation|flagged|copyright"
    ),
    "error": re.compile(
        "error|fail|cancel|abort|timeout|timedout|interrupt|malformed|unexpected|toomany|missing"
        "|overload|capacity|insufficient|unavailable|exception|disconnect|disabled|preempt"
        "|quota|noimage|(?:rate|usage|spend)limit|other$|^language$|^continuation$"
    ),
    "length": re.compile(
        "length|truncat|incomplete|max(?:imum)?(?:new|output|completion)?tokens?|contextwindow"
        "|maxtime"
        "|limit(?:reached|exceeded|hit)?$"
    ),
    "tool_calls": re.compile("^(?:tool|function)(?:call|use)?s?$"),
}
_NOT_YET = ("null", "none", "finishreasonunspecified")


def finish_kind(word: str) -> str | None:
    """`stop`, `length`, `tool_calls`, `content_filter` or `error`; None for "not yet"."""
    if not word or word == "stop":
        # The usual case, without the patterns.
        return word or None
    letters = re.sub("[^a-z]", "", word.casefold())
    if letters in _NOT_YET:
        return None
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(letters)), "stop")
