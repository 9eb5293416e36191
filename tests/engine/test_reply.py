"""A reply is a string with attributes."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Attempt, Reply
from arche_magic.llm_providers.tools import ToolCall


def test_a_reply_is_displayed_safely_without_the_extension() -> None:
    """HTML is not run and images are not loaded; the text itself does not change."""
    text = "**Yes** <script>alert(1)</script> ![x](http://example.com/x.png) \x1b[31mred"
    reply = Reply(text)
    shown = reply._repr_markdown_()
    assert reply == text
    assert "**Yes**" in shown
    assert "<script" not in shown
    assert "![" not in shown
    assert "\x1b" not in shown


def test_a_reply_displays_its_tool_calls() -> None:
    """Names and arguments, escaped like its text."""
    calls = (ToolCall("c1", "f", '{"x": "```\\n<script>"}'), ToolCall("c2", "g", '{"y":\n 2}'))
    shown = Reply("", tool_calls=calls)._repr_markdown_()
    assert 'g({"y": 2})' in shown
    assert shown.rstrip().endswith("````")
    assert shown.count("````") == 2


def test_a_reply_with_tool_calls_can_be_pickled() -> None:
    """Its calls and choices are restored."""
    reply = Reply("", tool_calls=(ToolCall("c1", "f"),), choices=({"index": 0},))
    twin = pickle.loads(pickle.dumps(reply))
    assert (twin.tool_calls, twin.choices) == (reply.tool_calls, reply.choices)


def test_a_deep_copy_of_a_reply_shares_nothing_with_it() -> None:
    """A change of its value does not change the value of the original."""
    reply = Reply('["a"]', parsed=["a"])
    copy.deepcopy(reply).parsed.append("b")
    assert reply.parsed == ["a"]


@pytest.mark.parametrize("path", ["", ".", "a\0b.md"])
def test_a_reply_is_saved_only_under_the_name_of_a_file(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is not (the name of a file|a path)"):
        Reply("Hello").save(path, overwrite=True)


def test_a_reply_that_cannot_be_saved_is_an_error_in_one_line(tmp_path: Path) -> None:
    """There is a file instead of the folder, or a folder instead of the file."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.md", tmp_path / "folder"):
        with pytest.raises(InvalidRequest, match=f"^save: {path}: "):
            Reply("Hello").save(path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_when_a_route_opens_follows_the_providers_sentence() -> None:
    """The full stop of that sentence is removed."""
    attempt = Attempt(
        "groq", "groq_key_1", "m", "refused", "rate limit (429): Try later.", at=0, opens_at=42
    )
    assert str(attempt) == "groq · key 1 · m refused: rate limit (429): Try later, opens in 42 s"


def test_threads_can_save_to_the_same_file(tmp_path: Path) -> None:
    """Each writes the whole text, and the last one stays."""
    path = tmp_path / "reply.md"
    texts = [str(number) * 100_000 for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            list(pool.map(lambda text: Reply(text).save(path, overwrite=True), texts))
            assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]
