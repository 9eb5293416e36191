"""What people do with a reply: copy, insert and save it, ask again, and go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from test_notebook_completion import offers

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

CODE = "Use **this**:\n\n```python\nx = 1\n```\n\n```\nout\n```\n<script>alert(1)</script>"
Sandboxed = Callable[..., Sandbox]


def test_the_code_of_a_reply(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """`code` is its Python as text, `blocks` has every block with its language."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: CODE)
    kernel.run("%llm -q -o answer hi")
    assert kernel.value("answer.code") == "x = 1"
    assert kernel.value("answer.blocks") == [("python", "x = 1"), ("", "out")]


def test_a_reply_is_saved_once(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """In UTF-8, without another file beside it; a second time only on request."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "é\nü")
    kernel.run("%llm -q -o answer hi")
    assert kernel.value("str(answer.save('a.md'))") == "a.md"
    assert (kernel.folder / "a.md").read_bytes() == "é\nü".encode()
    assert not list(kernel.folder.glob("*.part"))
    again = kernel.run("answer.save('a.md')")
    assert "save: a.md exists already; overwrite=True replaces it" in again.error[-1]
    assert kernel.run("answer.save('a.md', overwrite=True)").status == "ok"
    nowhere = kernel.run("answer.save('missing/a.md')")
    assert "save: missing/a.md: No such file or directory" in nowhere.error[-1]


def test_the_receipt_unfolds_to_the_source(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """In a block that a click selects without a script; what a model wrote is no HTML in it."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: CODE)
    receipt = kernel.run("%llm hi").displays[1]["data"]
    folded, _, block = receipt["text/html"].partition("<pre")
    assert "<details" in folded
    assert "user-select:all" in block
    assert "Use **this**:\n\n```python\nx = 1\n```" in block
    assert "&lt;script&gt;" in block
    assert "<script" not in block
    assert "**this**" not in receipt["text/plain"]


def test_the_source_of_a_huge_reply_is_not_repeated(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The notebook's file would grow by as much again."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "word " * 5000)
    assert "<pre" not in kernel.run("%llm hi").displays[1]["data"]["text/html"]


@pytest.mark.parametrize(
    ("reply", "line", "inserted"),
    [
        (CODE, "%llm_insert", "x = 1"),
        (CODE, "%llm_insert code", "x = 1"),
        (CODE, "%llm_insert markdown", "%%markdown\nUse **this**:"),
        ("Plain *words*", "%llm_insert", "%%markdown\nPlain *words*"),
    ],
)
def test_the_last_reply_becomes_the_next_cell(
    kernel: Kernel, sandboxed: Sandboxed, reply: str, line: str, inserted: str
) -> None:
    """Code as it is, text as a Markdown cell in which no script can run."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: reply)
    kernel.run("%llm hi")
    cell = kernel.run(line)
    (offer,) = (one for one in cell.payload if one["source"] == "set_next_input")
    assert offer["text"].startswith(inserted)
    assert "<script" not in offer["text"]
    assert cell.displays == []


def test_what_cannot_be_inserted_is_said_in_one_line(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """No reply yet, no code in it, a word that is neither."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "Plain words")
    assert kernel.run("%llm_insert").message.endswith("%llm_insert: no reply has come yet")
    kernel.run("%llm hi")
    said = kernel.run("%llm_insert code").message
    assert said.endswith("there is no code in the last reply")
    said = kernel.run("%llm_insert html").message
    assert said.endswith("'html' is neither code nor markdown")
    assert offers(kernel, "%llm_insert ")[:2] == ["code", "markdown"]


def test_the_last_reply_comes_back(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """`%llm_last` shows it, returns it, and binds it; a failure after it changes nothing."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "the **reply**")
    assert kernel.run("%llm_last").message.endswith("%llm_last: no reply has come yet")
    kernel.run("%llm hi")
    sandbox.fail("groq", "unauthorized")
    assert kernel.run("%llm hi").status == "error"
    assert kernel.run("%llm_last").data("text/markdown") == ["the **reply**"]
    kernel.run("%llm_last -o answer\nother = %llm_last")
    assert kernel.value("(answer.provider, other is answer)") == ("groq", True)
    assert "would hide the builtin" in kernel.run("%llm_last -o print").message


def test_a_prompt_is_asked_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """By another model, with the other options as before; both replies and receipts are shown."""
    replies = iter(["the *first*", "the *second*"])
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, reply=lambda *_: next(replies))
    assert "no prompt was sent yet" in kernel.run("%llm_retry").message
    kernel.run('%%llm -p groq -s "Be brief." -t 0.5 -o answer\nWhat?')
    cell = kernel.run("%llm_retry -m mistral-small-latest -t 1 -o second")
    assert cell.status == "ok", cell.error
    assert cell.results == []
    shown, receipt = (content["data"] for content in cell.displays)
    before, _, now = shown["text/plain"].partition("── now ──")
    assert "the *first*" in before
    assert "groq · key 1" in before
    assert now == "\nthe *second*"
    assert shown["text/html"].index("first</") < shown["text/html"].index("second</")
    assert receipt["text/plain"].startswith("mistral · key 1 · mistral-small-latest · ")
    first, second = (request.body for request in sandbox.requests)
    assert second["messages"] == first["messages"]
    assert (first["temperature"], second["temperature"]) == (0.5, 1)
    assert kernel.value("(str(answer), str(second))") == ("the *first*", "the *second*")


def test_a_failed_prompt_is_asked_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """There is nothing to stand beside it."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "at last")
    sandbox.fail("groq", "server_error", times=2)
    assert kernel.run("%llm --patience 0 What?").status == "error"
    assert kernel.run("%llm_retry --patience 30").data()[0] == "at last"


def test_a_kept_reply_is_replaced(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """Otherwise a retry would be answered from memory with the same text."""
    replies = iter(["first", "second"])
    sandboxed(keys={"groq": 1}, reply=lambda *_: next(replies))
    kernel.run("%llm --keep What?")
    assert kernel.run("%llm_retry").data()[0].endswith("── now ──\nsecond")
    assert kernel.run("%llm --keep What?").data()[0] == "second"


def test_a_retry_takes_the_place_of_the_turn(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The conversation goes on from the new reply, and the old one was not sent."""
    replies = iter(["one", "two", "three"])
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: next(replies))
    kernel.run("%llm --chat tutor What?")
    assert "turn 1" in kernel.run("%llm_retry").data()[-1]
    kernel.run("%llm --chat tutor And then?")
    said = [message["content"] for message in sandbox.requests[-1].body["messages"]]
    assert said == ["What?", "two", "And then?"]
    assert len(sandbox.requests[1].body["messages"]) == 1
    kernel.run("%llm_chat clear tutor")


def test_every_cell_is_a_turn(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """Once `ArcheMagics.chat` has a name; `--chat ''` leaves a cell out."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run('%config ArcheMagics.chat = "tutor"')
    kernel.run("%llm What?")
    assert "chat tutor, turn 2" in kernel.run("%llm And then?").data()[-1]
    kernel.run("%llm --chat '' Alone")
    assert len(sandbox.requests[-1].body["messages"]) == 1
    bad = kernel.run('%config ArcheMagics.chat = "a b"')
    assert "chat 'a b': letters, digits, and . _ - make a name" in bad.printed
    kernel.run("1/0")
    kernel.run("%llm_explain")
    assert len(sandbox.requests[-1].body["messages"]) == 2
    assert kernel.value("list(get_ipython().run_line_magic('llm_chat', '').turns)") == [2]
