"""`--chat`: a conversation continues with other providers, and has only answered turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from test_notebook_replies import WORDS, updates

if TYPE_CHECKING:
    from notebook_kernel import Kernel

    from arche_magic.sandbox import Sandbox


def said(sandbox: Sandbox, number: int = -1) -> list[tuple[str, str]]:
    """Role and text of each message of a request."""
    messages: Any = sandbox.requests[number].body["messages"]
    return [(message["role"], message["content"]) for message in messages]


def answer(model: str, messages: list[dict[str, str]]) -> str:
    """A reply that says how many messages the request had."""
    return f"{model.rpartition('/')[2]} saw {len(messages)}"


@pytest.fixture
def chatting(kernel: Kernel, sandboxed) -> Sandbox:
    """Two providers whose replies say how many messages they saw."""
    return sandboxed(keys={"groq": 1, "mistral": 1}, reply=answer)


def test_a_conversation_continues_with_another_provider(kernel: Kernel, chatting: Sandbox) -> None:
    """The second provider gets the first one's reply; the receipts count the turns."""
    first = kernel.run("%llm --chat c -p groq One")
    second = kernel.run("%%llm --chat c -p mistral\nTwo")
    assert said(chatting) == [
        ("user", "One"),
        ("assistant", "gpt-oss-120b saw 1"),
        ("user", "Two"),
    ]
    receipts = [cell.displays[1]["data"]["text/plain"] for cell in (first, second)]
    assert [receipt.rpartition(" · ")[2] for receipt in receipts] == [
        "chat c, turn 1",
        "chat c, turn 2",
    ]
    kernel.run("%llm -q Alone")
    assert said(chatting) == [("user", "Alone")]


def test_a_conversation_keeps_its_system_prompt(kernel: Kernel, chatting: Sandbox) -> None:
    """The last -s applies to all later turns."""
    kernel.run("%llm -q --chat c -s 'Be brief.' One")
    kernel.run("%llm -q --chat c Two")
    assert said(chatting)[0] == ("system", "Be brief.")
    kernel.run("%llm -q --chat c -s 'Be long.' Three")
    kernel.run("%llm -q --chat c Four")
    assert said(chatting)[0] == ("system", "Be long.")
    assert len(said(chatting)) == 8


def test_a_failed_turn_is_not_added(kernel: Kernel, chatting: Sandbox) -> None:
    """Neither its question nor its system prompt is kept, whatever failed."""
    kernel.run("%llm -q --chat c One")
    for kind in ("content_filter", "invalid_request"):
        chatting.fail("*", kind, times=None)
        assert kernel.run("%llm --chat c -s 'Be rude.' Fail").status == "error"
        chatting.clear_failures()
    kernel.run("%llm --chat c -t 9 Fail")
    kernel.run("%llm -q --chat c Two")
    assert said(chatting) == [
        ("user", "One"),
        ("assistant", "gpt-oss-120b saw 1"),
        ("user", "Two"),
    ]
    chatting.fail("groq", "content_filter")
    kernel.run("%llm --chat new Fail")
    kernel.run("%llm_chat")
    assert kernel.value("list(_.chat)") == ["c"]


def test_an_interrupted_turn_is_not_added(kernel: Kernel, sandboxed) -> None:
    """Its text stays on the screen, but not in the conversation."""
    sandbox = sandboxed(keys={"groq": 1}, seconds_per_chunk=0.05, reply=lambda *_: WORDS)
    cell = kernel.run("%llm --chat c One", interrupt_when=lambda cell: len(updates(cell)) > 1)
    assert cell.message.startswith("Interrupted: ")
    sandbox.seconds_per_chunk = 0
    kernel.run("%llm -q --chat c Two")
    assert said(sandbox) == [("user", "Two")]


def test_a_reply_that_started_again_is_added_once(kernel: Kernel, chatting: Sandbox) -> None:
    """The turn has the complete text of the route that finished."""
    chatting.fail("groq", "cut_stream")
    kernel.run("%llm -q --chat c One")
    kernel.run("%llm -q --chat c Two")
    assert said(chatting)[1] == ("assistant", "mistral-small-latest saw 1")


def test_an_empty_turn_is_refused(kernel: Kernel, chatting: Sandbox) -> None:
    """Earlier messages do not make a prompt."""
    kernel.run("%llm -q --chat c One")
    assert "the prompt is empty" in kernel.run("%%llm --chat c\n \n").message
    assert len(chatting.requests) == 1


def test_the_oldest_turns_of_a_long_conversation_are_not_sent(kernel: Kernel, sandboxed) -> None:
    """The rest fits the largest route, and a note names what is not sent; all turns are kept."""
    sandbox = sandboxed(keys={"groq": 1}, reply=answer)
    turn = {"images": [], "answer": "ok", "provider": "groq", "model": "m", "tokens": 1}
    turns = [
        {**turn, "question": f"{number} " + "word " * 1200, "at": "2026-11-23T12:00:00+00:00"}
        for number in range(6)
    ]
    long = {"chat": "c", "system": None, "turns": turns}
    (kernel.folder / "long.json").write_text(json.dumps(long))
    kernel.run("%llm_chat load long.json")
    note, _, receipt = kernel.run("%llm --chat c last").displays
    assert (
        note["data"]["text/plain"]
        == "c: the 2 oldest turns were not sent, because only 8,000 tokens fit"
    )
    assert receipt["data"]["text/plain"].endswith("chat c, turn 7")
    questions = [text.split()[0] for role, text in said(sandbox) if role == "user"]
    assert questions == ["2", "3", "4", "5", "last"]
    assert said(sandbox)[0][0] == "user"
    kernel.run("%llm_chat")
    assert kernel.value("list(_.turns)") == [7]


def test_conversations_are_listed_shown_forked_and_cleared(
    kernel: Kernel, chatting: Sandbox
) -> None:
    """Each subcommand does one thing and reports it."""
    assert kernel.run("%llm_chat").printed == (
        "no conversations yet; %%llm --chat NAME starts one\n"
    )
    kernel.run("%llm -q --chat a -s Kind One <b>")
    kernel.run("%llm -q --chat a Two")
    shown = kernel.run("%llm_chat show a").displays[0]["data"]
    assert shown["text/plain"].startswith("*Kind*\n\n> One <b>\n\ngpt-oss-120b saw 2\n\n*groq · ")
    assert "<b>" not in shown["text/markdown"]
    assert kernel.run("%llm_chat a").displays[0]["data"] == shown
    assert kernel.run("%llm_chat fork a b").printed.startswith("Copied a (2 turns) to b;")
    kernel.run("%llm -q --chat b Three")
    assert len(said(chatting)) == 6
    kernel.run("%llm_chat undo a")
    kernel.run("%llm -q --chat a Else")
    assert said(chatting) == [
        ("system", "Kind"),
        ("user", "One <b>"),
        ("assistant", "gpt-oss-120b saw 2"),
        ("user", "Else"),
    ]
    listed = kernel.run("%llm_chat")
    assert listed.displays[0]["data"]["text/plain"].splitlines()[1].split()[:2] == ["a", "2"]
    assert kernel.value("(list(_.chat), list(_.turns), list(_.provider))") == (
        ["a", "b"],
        [2, 3],
        ["groq", "groq"],
    )
    assert kernel.run("%llm_chat clear b").printed == "Removed b (3 turns).\n"
    kernel.run("%llm_chat")
    assert kernel.value("list(_.chat)") == ["a"]


def test_a_conversation_can_be_exported_and_loaded(kernel: Kernel, chatting: Sandbox) -> None:
    """As JSON, it is restored with its images; Markdown is for readers."""
    kernel.run("from PIL import Image\nImage.new('RGB', (8, 8)).save('dot.png')")
    kernel.run("%llm -q --chat a -s Kind --image dot.png One")
    cell = kernel.run("%llm_chat export a 'a chat.json'")
    assert cell.printed == "Wrote a (1 turn) to a chat.json.\n"
    kernel.run(r"%llm_chat export a b\a.md")
    assert (kernel.folder / r"b\a.md").exists()
    kernel.run("%llm_chat export a a.md")
    markdown = (kernel.folder / "a.md").read_text()
    assert "> One\n> [image/png, 1 kB]\n\nmistral-small-latest saw 2\n\n*mistral · " in markdown
    kernel.run("%reload_ext arche_magic\n%llm_chat load 'a chat.json' again")
    kernel.run("%llm -q --chat again Two")
    messages: Any = chatting.requests[-1].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


MARK = """
from dataclasses import replace
from arche_magic.llm_providers.config import get_configuration, use_configuration
use_configuration(replace(get_configuration(), private_routes=frozenset({"groq"})))
"""


@pytest.fixture
def private(kernel: Kernel, sandboxed) -> Iterator[None]:
    """A provider for private prompts, whose replies have all kinds of line ends."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "one\r\ntwo\rthree\n")
    kernel.run(MARK)
    yield
    kernel.run("use_configuration(None)")


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("option", ["", "-s 'Be brief. '", "--private"])
@pytest.mark.parametrize("ending", ["md", "json"])
def test_exporting_again_loses_nothing(kernel: Kernel, ending: str, option: str) -> None:
    """It replaces an earlier state of the conversation; another file only with `replace`.

    A later turn may change the system prompt or the privacy.
    """
    path = kernel.folder / f"again.{ending}"
    path.unlink(missing_ok=True)
    export = f"%llm_chat export a {path.name}"
    kernel.run("%llm -q --chat a One")
    first = kernel.run(f"%llm_chat fork a b\n{export}\n{export}")
    assert first.printed.count("Wrote a (1 turn)") == 2
    for number, words in (2, f"{option} Two"), (3, "-s 'Be long.' Three"), (4, "Four"):
        cell = kernel.run(f"%llm -q --chat a {words}\n{export}")
        assert cell.printed.startswith(f"Wrote a ({number} turns)"), cell.message
    exported = path.read_text()
    kernel.run("%llm -q --chat b Three")
    refused = kernel.run(f"%llm_chat export b {path.name}")
    assert f"{path.name} already exists, and it is not an earlier state" in refused.message
    assert "put the word replace after its name" in refused.message
    assert path.read_text() == exported
    assert kernel.run(f"%llm_chat export b {path.name} replace").status == "ok"
    assert "Three" in path.read_text()


INVALID = {
    "%llm --chat 'a b' hi": "--chat 'a b': a name can have letters, digits, and . _ -",
    "%llm_chat show abd": "unknown conversation 'abd'; did you mean 'abc'?",
    "%llm_chat shwo abc": "did you mean 'show'?",
    "%llm_chat fork abc": "usage: %llm_chat fork CHAT NAME",
    "%llm_chat export abc": "usage: %llm_chat export CHAT FILE [replace]",
    "%llm_chat abc foo": "usage: %llm_chat show CHAT",
    "%llm_chat list abc": "usage: %llm_chat [list]",
    "%llm_chat fork abc abc": "a conversation 'abc' already exists",
    "%llm_chat export abc notes.txt": "the file's name must end in .md or .json",
    "%llm_chat export abc no/where.md": "No such file or directory",
    "%llm_chat load nowhere.json": "No such file or directory",
    "%llm_chat load other.json": "is not a .json file that %llm_chat export wrote",
    "%llm_chat load empty.json": "is not a .json file that %llm_chat export wrote",
    "%llm_chat load deep.json": "is not a .json file that %llm_chat export wrote",
    "%llm_chat load endless.json": "is not a .json file that %llm_chat export wrote",
    "%llm_chat show 'abc": 'the quote at "\'abc" is never closed',
}


def test_an_invalid_line_or_file_is_an_error_in_one_line(kernel: Kernel, chatting: Sandbox) -> None:
    """This holds for any content."""
    kernel.run("%llm -q --chat abc One")
    (kernel.folder / "other.json").write_text(json.dumps({"chat": "x", "turns": [{"question": 1}]}))
    (kernel.folder / "empty.json").write_text("")
    (kernel.folder / "deep.json").write_text("[" * 100_000)
    kernel.run("%llm_chat export abc endless.json")
    exported = json.loads((kernel.folder / "endless.json").read_text())
    exported["turns"][0]["tokens"] = float("inf")
    (kernel.folder / "endless.json").write_text(json.dumps(exported))
    for line, message in INVALID.items():
        cell = kernel.run(line)
        assert cell.status == "error", line
        assert message in cell.message
        assert "\n" not in cell.message


def test_a_kept_conversation_needs_no_keys(kernel: Kernel, chatting: Sandbox, tmp_path) -> None:
    """Each turn is answered from memory, and is part of the next question."""
    kernel.run(f"os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'kept.sqlite')!r}")
    turns = ["%llm --keep --chat c One kept", "%llm --keep --chat c Two kept"]
    first = [kernel.run(line).data()[0] for line in turns]
    kernel.run("%llm_chat clear c")
    kernel.run("for name in [n for n in os.environ if '_API_KEY' in n]: del os.environ[name]")
    assert [kernel.run(line).data()[0] for line in turns] == first
    assert len(chatting.requests) == 2
