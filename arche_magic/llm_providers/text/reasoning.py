"""Reasoning that a model writes into its reply, together with the answer.

Most services return reasoning in a separate field. Servers without a parser for a model's chat
template leave it in the text: between `<think>` tags (DeepSeek, Qwen), `[THINK]` (Magistral),
`◁think▷` (Kimi), or in a channel of the harmony format (gpt-oss).
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)think(?:ing)?>|<(/?)thought>|\[(/?)THINK\]|◁(/?)think▷", re.IGNORECASE)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>"
)
# The ends of messages in common chat templates.
_END = r"<\|(?:end|return|call|im_end|endoftext|end_of_text|eot_id|eom_id|start)\|>"
_END_OF_MESSAGE = re.compile(_END)
END_TOKEN = re.compile(_END + r"|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>|\[EOS\]")
"""A token that ends a reply. Servers that do not know it leave it in the text."""


def without_reasoning(text: str) -> str:
    """Return the answer without the reasoning around it; "" if everything is reasoning.

    Reasoning comes before the answer; a tag in the middle belongs to the answer. A closing tag
    without an opening one ends reasoning that began in the prompt, as in some chat templates. An
    opening tag without a closing one means that the reply was cut before the answer began.
    """
    if "<|channel|>" in text:
        text = _final_channel(text)
    start, inside = 0, False
    for tag in _TAG.finditer(text):
        closes = any(tag.groups())
        if not inside:
            before = text[start : tag.start()]
            if "```" in before if closes else before.strip():
                break
        if closes:
            start = tag.end()
        inside = not closes
    return "" if inside else text[start:]


def after_reasoning(text: str) -> str:
    """Return the text after the last mark of reasoning, or the whole text if there is none.

    Use it for JSON. Strings in JSON may contain such marks, and `without_reasoning` would remove
    parts of them.
    """
    final = _final(text)
    if final:
        text = text[final.end() :]
    ends = [tag.end() for tag in _TAG.finditer(text) if any(tag.groups())]
    return text[ends[-1] :] if ends else text


def _final_channel(text: str) -> str:
    """Return the last message for the user."""
    final = _final(text)
    if not final:
        return text[: text.index("<|channel|>")]
    return _END_OF_MESSAGE.split(text[final.end() :], maxsplit=1)[0]


def _final(text: str) -> re.Match[str] | None:
    """Return the head of the last message on the final channel, or on any channel but analysis."""
    shown = [found for found in _CHANNEL.finditer(text) if found[1] != "analysis"]
    final = [found for found in shown if found[1] == "final"] or shown
    return final[-1] if final else None
