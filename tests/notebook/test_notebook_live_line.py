"""While a request runs, a line says what it is doing; it disappears at the end."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from arche_magic.llm_providers.errors import IncompleteReply
from arche_magic.llm_providers.events import Discarded
from arche_magic.llm_providers.reply import Attempt
from arche_magic.notebook.live_line import starting_over

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel

WORDS = " ".join(f"word{number}" for number in range(40))


def lines_of(cell: Cell) -> list[str]:
    """The text of each display, whenever it was drawn."""
    return [
        content["data"]["text/plain"]
        for _, kind, content in cell.messages
        if kind.endswith("display_data")
    ]


def shown(cell: Cell) -> str:
    """All texts of the cell's displays."""
    return "\n".join(lines_of(cell))


def test_a_slow_service_is_named_with_the_seconds(kernel: Kernel, sandboxed) -> None:
    """The line counts while the service is silent, and is replaced by the reply."""
    answered = threading.Event()
    sandboxed(keys={"groq": 1}, reply=lambda *_: answered.wait(60) and "Hello.")

    def counted(cell: Cell) -> list[int]:
        """The seconds that the line has shown so far."""
        return [int(s) for s in re.findall(r"asking groq · key 1 .* … (\d+) s", shown(cell))]

    def answer_after_two_ticks(cell: Cell) -> bool:
        if len(counted(cell)) == 2:
            answered.set()
        return False

    cell = kernel.run("%llm hi", answer_after_two_ticks)
    assert cell.status == "ok", cell.error
    first, second, *_ = counted(cell)
    assert 1 <= first < second
    assert len(cell.displays) == 2
    assert "asking" not in "".join(cell.data())


def test_the_next_route_is_named_when_one_fails(kernel: Kernel, sandboxed) -> None:
    """If a retry waits, the line has the cause of the failure, besides the opening time."""
    sandbox = sandboxed(keys={"groq": 1}, latency=0.3)
    sandbox.fail("groq", "server_error", times=2)
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    waits = [line for line in lines_of(cell) if line.startswith("waiting: groq · key 1")]
    assert re.search(r"opens in \d+ s \(.*500", waits[0]), waits


def test_the_text_of_a_broken_reply_stays_grey_until_it_is_covered(
    kernel: Kernel, sandboxed
) -> None:
    """The output does not shrink, and the receipt says that the reply started again."""
    sandbox = sandboxed(keys={"groq": 2}, seconds_per_chunk=0.05, reply=lambda *_: WORDS)
    sandbox.fail("groq_key_1", "cut_stream")
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    shown = [
        content["data"]["text/markdown"]
        for _, kind, content in cell.messages
        if kind.endswith("display_data") and "text/markdown" in content["data"]
    ]
    dimmed = [text for text in shown if "<div" in text]
    assert dimmed
    assert all(text.startswith("word0") for text in dimmed)
    assert "<div" not in shown[-1]
    assert "started again after groq · key 1 broke off" in cell.data()[-1]


def test_the_grey_text_does_not_stay(kernel: Kernel, sandboxed) -> None:
    """An interrupt keeps the text of the route that answered last, and nothing of the other one."""
    sandbox = sandboxed(keys={"groq": 2}, seconds_per_chunk=0.05, reply=lambda *_: WORDS)
    sandbox.fail("groq_key_1", "cut_stream")
    cell = kernel.run(
        "%llm hi",
        lambda cell: any(text.startswith("word0") and "<div" in text
                         for text in cell.data("text/markdown")),
    )  # fmt: skip
    assert cell.message.startswith("Interrupted: ")
    assert cell.data("text/markdown")[0].startswith("word0")
    assert "<div" not in cell.data("text/markdown")[0]


def test_the_grey_text_ends_with_its_round(kernel: Kernel) -> None:
    """The model calls a function after its reply has started again."""
    cell = kernel.run(
        "from arche_magic.llm_providers import ToolCall, ToolRun\n"
        "from arche_magic.llm_providers.errors import IncompleteReply\n"
        "from arche_magic.llm_providers.events import Discarded\n"
        "from arche_magic.llm_providers.reply import Attempt\n"
        "from arche_magic.notebook.display import ReplyDisplay\n"
        "show, call = ReplyDisplay(get_ipython()), ToolCall('1', 'count')\n"
        "broken = Attempt('groq', 'k', 'm', 'failed')\n"
        "with show.running():\n"
        "    show.add('A long text that breaks off.')\n"
        "    show.start_over(Discarded(broken, IncompleteReply('')))\n"
        "    show.add('I count.')\n"
        "    show.calling(call)\n"
        "    show.ran(ToolRun(call, '42'))\n"
        "    show.add('It is 42.')"
    )
    assert cell.status == "ok", cell.error
    assert [text.strip() for text in cell.data("text/markdown")] == ["I count.", "", "It is 42."]


def test_a_comparison_counts_the_seconds_of_each_column(kernel: Kernel, sandboxed) -> None:
    """Each column says which route it is asking, and for how long."""
    answered = threading.Event()
    sandboxed(keys={"groq": 1, "mistral": 1}, reply=lambda *_: answered.wait(60) and "Hello.")
    asking = [rf"asking {name} · key 1 · \S+ … [1-9]" for name in ("groq", "mistral")]

    def answer_when_both_count(cell: Cell) -> bool:
        if all(re.search(line, shown(cell)) for line in asking):
            answered.set()
        return False

    cell = kernel.run("%%llm --compare groq,mistral\nhi", answer_when_both_count)
    assert cell.status == "ok", cell.error
    assert answered.is_set()
    assert "asking" not in "".join(cell.data())


def test_a_quiet_cell_shows_no_line(kernel: Kernel, sandboxed) -> None:
    """With -q, however long the service takes."""
    sandboxed(keys={"groq": 1}, latency=1.2)
    cell = kernel.run("%llm -q -o reply hi")
    assert cell.status == "ok", cell.error
    assert lines_of(cell) == []


# Interrupts when the thread that draws the line has started, and its caller does not know it yet.
PRESS_AT_THE_START = """
import signal, sys, threading

def press(frame, event, value):
    if event == "return" and frame.f_code is threading.Thread.start.__code__:
        if frame.f_locals["self"].name == "arche_magic line":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

sys.setprofile(press)
"""
LINES = "[one for one in threading.enumerate() if one.name == 'arche_magic line']"


def test_an_interrupt_at_the_start_leaves_no_line(kernel: Kernel, sandboxed) -> None:
    """Otherwise, its thread would count the seconds in the finished cell forever."""
    sandboxed(keys={"groq": 1}, latency=60)
    cell = kernel.run(f"{PRESS_AT_THE_START}%llm hi")
    assert cell.message.startswith("Interrupted: ")
    kernel.run(f"for one in {LINES}: one.join(3)")
    assert kernel.value(LINES) == []


def test_our_words_follow_the_services_sentence() -> None:
    """The full stop of its sentence is removed."""
    broken = Attempt("mistral", "mistral_key_1", "m", "failed", "server error (500): Not now.")
    line = starting_over(Discarded(broken, IncompleteReply("")))
    assert line == "mistral · key 1 · m failed: server error (500): Not now; starting over"
