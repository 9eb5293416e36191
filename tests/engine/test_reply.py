"""A reply is a text that knows how it came."""

from __future__ import annotations

import pickle

from arche_magic.llm_providers.reply import Reply
from arche_magic.llm_providers.tools import ToolCall


def test_a_reply_shows_itself_harmlessly_without_the_extension() -> None:
    """What a model wrote is not run or loaded, while the text itself stays as it was."""
    text = "**Yes** <script>alert(1)</script> ![x](http://example.com/x.png) \x1b[31mred"
    reply = Reply(text)
    shown = reply._repr_markdown_()
    assert reply == text
    assert "**Yes**" in shown
    assert "<script" not in shown
    assert "![" not in shown
    assert "\x1b" not in shown


def test_a_reply_shows_what_the_model_asks_to_run() -> None:
    """Names and arguments, as untrusted as its text."""
    calls = (ToolCall("c1", "f", '{"x": "```\\n<script>"}'), ToolCall("c2", "g", '{"y":\n 2}'))
    shown = Reply("", tool_calls=calls)._repr_markdown_()
    assert 'g({"y": 2})' in shown
    assert shown.rstrip().endswith("````")
    assert shown.count("````") == 2


def test_a_reply_with_calls_is_pickled() -> None:
    """Its calls and choices come back with it."""
    reply = Reply("", tool_calls=(ToolCall("c1", "f"),), choices=({"index": 0},))
    copy = pickle.loads(pickle.dumps(reply))
    assert (copy.tool_calls, copy.choices) == (reply.tool_calls, reply.choices)
