"""A reply is a text that knows how it came."""

from __future__ import annotations

from arche_magic.llm_providers.reply import Reply


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
