"""While a request runs, a line says what it is doing; it disappears at the end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel

WORDS = " ".join(f"word{number}" for number in range(40))


def lines_of(cell: Cell) -> list[tuple[float, str]]:
    """When each display was drawn, in seconds since the start of the cell, and its text."""
    return [
        (at - cell.started, content["data"]["text/plain"])
        for at, kind, content in cell.messages
        if kind.endswith("display_data")
    ]


def test_a_slow_service_is_named_with_the_seconds(kernel: Kernel, sandboxed) -> None:
    """The line appears at once, counts, and is replaced by the reply."""
    sandboxed(keys={"groq": 1}, latency=2.6)
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    asking = [(at, line) for at, line in lines_of(cell) if line.startswith("asking groq · key 1")]
    counted = [line.partition(" …")[2] for _, line in asking]
    assert {" 1 s", " 2 s"} <= set(counted)
    assert counted == sorted(counted)
    assert lines_of(cell)[0][0] < 1.5
    assert len(cell.displays) == 2
    assert "asking" not in "".join(cell.data())


def test_the_next_route_is_named_when_one_fails(kernel: Kernel, sandboxed) -> None:
    """If a retry waits, the line has the cause of the failure, besides the opening time."""
    sandbox = sandboxed(keys={"groq": 1}, latency=0.3)
    sandbox.fail("groq", "server_error", times=2)
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    waits = [line for _, line in lines_of(cell) if line.startswith("waiting: groq · key 1")]
    assert re.search(r"opens in \d+ s \(.*500", waits[0]), waits


def test_the_text_of_a_broken_reply_stays_grey_until_it_is_covered(
    kernel: Kernel, sandboxed
) -> None:
    """The output does not shrink, and the receipt says that the reply started again."""
    sandbox = sandboxed(keys={"groq": 2}, seconds_per_chunk=0.15, reply=lambda *_: WORDS)
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


def test_a_comparison_counts_the_seconds_of_each_column(kernel: Kernel, sandboxed) -> None:
    """Each column says which route it is asking, and for how long."""
    sandboxed(keys={"groq": 1, "mistral": 1}, latency=2.3)
    cell = kernel.run("%%llm --compare groq,mistral\nhi")
    assert cell.status == "ok", cell.error
    lines = "\n".join(text for _, text in lines_of(cell))
    assert re.search(r"asking groq · key 1 · gpt-oss-120b … 1 s", lines)
    assert re.search(r"asking mistral · key 1 · \S+ … 2 s", lines)
    assert "asking" not in "".join(cell.data())


def test_a_quiet_cell_shows_no_line(kernel: Kernel, sandboxed) -> None:
    """With -q, however long the service takes."""
    sandboxed(keys={"groq": 1}, latency=1.2)
    cell = kernel.run("%llm -q -o reply hi")
    assert cell.status == "ok", cell.error
    assert lines_of(cell) == []


def test_the_receipt_separates_waiting_from_answering(kernel: Kernel, sandboxed) -> None:
    """Seconds of waiting for a route are not those of the service."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_minute": 0}})
    receipt = kernel.run("%llm hi").data()[-1]
    assert re.search(r" · \d\.\d+ s, after \d+ s of waiting · ", receipt), receipt
