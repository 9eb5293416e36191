"""How a reply streams into its cell, and the final output."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_kernel import Cell, Kernel, kernel_environment

from arche_magic.sandbox import Sandbox

WORDS = " ".join(f"word{number}" for number in range(60))


def updates(cell: Cell) -> list[float]:
    return [at for at, kind, _ in cell.messages if kind == "update_display_data"]


def tags(html: str) -> set[str]:
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.add(tag)  # type: ignore[method-assign]
    parser.feed(html)
    return found


def test_a_reply_grows_in_one_display(kernel: Kernel, sandboxed) -> None:
    """It is updated at most ten times a second; reply and receipt stay."""
    sandboxed(keys={"groq": 1}, seconds_per_chunk=0.02, reply=lambda *_: WORDS)
    kernel.run("%llm -q warm up --max-tokens 1")
    cell = kernel.run("%llm hi")
    shown = [c for _, kind, c in cell.messages if kind.endswith("display_data")]
    ids = {content["transient"]["display_id"] for content in shown[:-1]}
    assert len(ids) == 1
    times = updates(cell)
    assert 3 <= len(times) <= 2 + 10 * (times[-1] - times[0])
    reply, receipt = cell.displays
    assert reply["data"] == {"text/plain": WORDS, "text/markdown": WORDS}
    kept = reply["metadata"]["arche_magic"]
    assert (kept["provider"], kept["key"]) == ("groq", "groq_key_1")
    assert [json.loads(attempt)["outcome"] for attempt in kept["attempts"]] == ["served"]
    assert receipt["data"]["text/plain"].startswith("groq · key 1 · gpt-oss-120b · ")
    assert "skipped" not in receipt["data"]["text/html"]
    assert cell.results == []


def test_the_receipt_names_every_skipped_route(kernel: Kernel, sandboxed) -> None:
    """It unfolds to each route that did not answer, with the reason."""
    sandbox = sandboxed(keys={"groq": 2, "mistral": 1})
    sandbox.fail("groq_key_1", "unauthorized")
    sandbox.fail("groq_key_2", "rate_limit_day")
    receipt = kernel.run("%llm hi").displays[1]["data"]
    first, *passed = receipt["text/plain"].splitlines()
    assert first.startswith("mistral · key 1 · ")
    assert first.endswith("2 routes skipped")
    assert [line.split(":")[0].strip() for line in passed] == [
        "groq · key 1 · gpt-oss-120b failed",
        "groq · key 2 · gpt-oss-120b refused",
    ]
    assert all(len(line.partition(": ")[2]) > 5 for line in passed)
    allowed = {"div", "details", "summary", "b", "pre", "span"}
    assert tags(receipt["text/html"]) <= allowed
    assert "<details" in receipt["text/html"]
    for name in ("groq · key 1", "groq · key 2", "mistral · key 1"):
        assert name in receipt["text/html"]


def test_the_reply_is_also_a_value(kernel: Kernel, sandboxed) -> None:
    """`_`, `x = %llm …` and `-o name` hold the reply; it is not repeated as Out."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "the *reply*")
    assert kernel.run("%llm one").results == []
    assert kernel.value("(str(_), _.provider)") == ("the *reply*", "groq")
    both = kernel.run("x = %llm two\nx")
    assert (len(both.displays), both.results) == (2, [])
    assert len(kernel.run("%%llm -o kept\nthree").displays) == 2
    assert kernel.value("(type(x).__name__, kept == x, kept.usage.output_tokens > 0)") == (
        "Reply",
        True,
        True,
    )
    again = kernel.run("kept")
    assert again.data() == ["the *reply*"]
    assert again.data("text/markdown") == ["the *reply*"]


def test_a_quiet_cell_shows_nothing(kernel: Kernel, sandboxed) -> None:
    """With `-q`, displaying the variable still works, even in the same cell."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "the reply")
    silent = kernel.run("%llm -q -o kept hi")
    assert (silent.displays, silent.printed) == ([], "")
    assert kernel.run("%llm -q -o kept hi\ndisplay(kept)").data() == ["the reply"]
    for line in ("x = %llm -q hi\nx", "%llm -q -o x hi\nx", "%%time\nx = %llm -q hi\nx"):
        assert kernel.run(line).results == ["the reply"], line
    kernel.run("def ask():\n    reply = %llm -q hi\n    return reply")
    assert kernel.run("ask()").results == ["the reply"]
    for line in ("%llm -q hi", "%time %llm -q hi", "%%time\n%llm -q hi", "%%llm -q\nhi"):
        assert kernel.run(line).results == [], line


@pytest.mark.parametrize("line", ["%llm_quota", "%llm_stats", "%llm_why", "%llm_models groq"])
def test_a_frame_is_shown_only_if_it_is_named(kernel: Kernel, sandboxed, line: str) -> None:
    """A magic alone shows only its table; its variable on the next line also shows the frame."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "the reply")
    kernel.run("%llm -q hi")
    assert kernel.run(line).results == []
    assert kernel.run(f"{line}\n_").results != []
    (shown,) = kernel.run(f"frame = {line}\nframe").results
    assert "provider" in shown


@pytest.mark.parametrize("kind", ["cut_stream", "server_error", "reset", "stream_error"])
def test_a_broken_reply_starts_again_without_repeated_text(
    kernel: Kernel, sandboxed, kind: str
) -> None:
    """The next route's text replaces it, and the receipt says so."""
    sandbox = sandboxed(
        keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.01, reply=lambda *_: WORDS
    )
    sandbox.fail("groq", kind)
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    drawn = [c["data"] for _, type_, c in cell.messages if type_.endswith("display_data")]
    texts = [data["text/plain"] for data in drawn if "text/markdown" in data]
    assert len(texts) > 2
    assert all(WORDS.startswith(text) for text in texts)
    assert cell.data()[0] == WORDS
    assert "groq · key 1 · gpt-oss-120b failed: " in cell.data()[1]
    final = cell.displays[0]["metadata"]["arche_magic"]["attempts"]
    kept = [json.loads(attempt) for attempt in final]
    assert [attempt["outcome"] for attempt in kept] == ["failed", "served"]
    assert not [attempt for attempt in kept if "said" in attempt]


def test_a_filtered_reply_fails_the_cell_in_one_line(kernel: Kernel, sandboxed) -> None:
    """A filtered prompt is not sent to another provider, and no text is left."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    sandbox.fail("groq", "content_filter")
    cell = kernel.run("%llm hi")
    assert cell.status == "error"
    assert cell.message.startswith("ContentFiltered: groq (openai/gpt-oss-120b) refused to answer")
    assert "".join(cell.data()) == ""
    assert len(sandbox.requests) == 1


def test_another_model_may_answer_a_filtered_prompt(kernel: Kernel, sandboxed) -> None:
    """With `--fallback-on-filter`, its text replaces the first one, and the receipt says so."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, reply=lambda *_: WORDS)
    sandbox.fail("groq", "content_filter")
    cell = kernel.run("%llm --fallback-on-filter hi")
    assert cell.status == "ok"
    assert cell.data()[0] == WORDS
    assert "mistral · key 1" in cell.data()[1]
    assert "the provider filtered the reply" in cell.data()[1]


def test_the_receipt_says_that_a_reply_was_cut(kernel: Kernel, sandboxed) -> None:
    """Readers should know that the text is incomplete."""
    sandboxed(keys={"groq": 1})
    cell = kernel.run("%llm --max-tokens 20 hi")
    assert " · cut at max_tokens · " in cell.data()[1]


def test_no_text_is_left_when_every_route_fails(kernel: Kernel, sandboxed) -> None:
    """The text of a broken reply is removed if no other route answers."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, reply=lambda *_: WORDS)
    sandbox.fail("groq", "cut_stream", times=None)
    sandbox.fail("mistral", "cut_stream", times=None)
    cell = kernel.run("%llm --patience 0 hi")
    assert cell.status == "error"
    assert cell.message.startswith("NoRouteAvailable: ")
    assert "\n" not in cell.message
    assert any("word0" in c["data"]["text/plain"] for _, k, c in cell.messages if "display" in k)
    assert "".join(cell.data()) == ""


def test_replies_from_python_are_displayed_safely(kernel: Kernel, sandboxed) -> None:
    """If the last value of a cell is a reply of `generate`, its HTML is shown as text."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "<img src=x> *yes*")
    kernel.run("from arche_magic.llm_providers import get_llm_provider")
    cell = kernel.run("get_llm_provider().generate('hi')")
    assert cell.data() == ["<img src=x> *yes*"]
    assert cell.data("text/markdown") == ["&lt;img src=x> *yes*"]
    assert cell.data("text/html") == [""]


@pytest.mark.parametrize("line", ["", " --over texts", " --over texts --plan"])
def test_without_a_key_a_cell_says_what_to_do(kernel: Kernel, line: str) -> None:
    """The error names the variables, the `.env` file and the sandbox."""
    kernel.run("texts, prompt = ['no key a', 'no key b'], 'hi'")
    cell = kernel.run(f"%%llm{line}\n{{{{prompt}}}}")
    assert cell.status == "error"
    lines = cell.message.splitlines()
    assert lines[0] == "NoKeys: no API key is configured."
    assert len(lines) < 8
    for word in ("GROQ_API_KEY", ".env", "%llm_sandbox"):
        assert word in cell.message


def test_with_all_routes_closed_the_error_says_what_opens_when(kernel: Kernel, sandboxed) -> None:
    """In one line, if nothing opens within the patience."""
    sandboxed(keys={"groq": 2}, left={"groq": {"requests_per_day": 0}})
    cell = kernel.run("%llm --patience 0 hi")
    assert cell.status == "error"
    assert "\n" not in cell.message
    found = re.findall(r"groq · key \d · gpt-oss-120b opens in \d+ (?:s|min|h)", cell.message)
    assert len(found) == 2


def test_waiting_is_displayed_and_then_replaced(kernel: Kernel, sandboxed) -> None:
    """A countdown appears in place of the reply, and disappears completely."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_minute": 0}})
    cell = kernel.run("%llm hi")
    assert cell.status == "ok", cell.error
    shown = [c["data"] for _, kind, c in cell.messages if kind.endswith("display_data")]
    waits = [data for data in shown if data["text/plain"].startswith("waiting: groq · key 1")]
    seconds = [int(re.search(r"opens in (\d+) s \(", data["text/plain"])[1]) for data in waits]
    assert seconds == list(range(seconds[0], 0, -1))
    assert "text/html" in waits[0]
    assert len(cell.displays) == 2
    assert "waiting: " not in "".join(cell.data())
    # Seconds of waiting for a route are not those of the service.
    assert re.search(r" · \d\.\d+ s, after \d+ s of waiting · ", cell.data()[-1])


def test_a_saved_notebook_stops_at_a_failure_and_contains_no_keys(tmp_path) -> None:
    """Run All stops at a failed prompt; the saved file has replies and receipts."""
    with Sandbox(keys={"groq": 2}) as sandbox:
        sandbox.fail("groq_key_1", "echo_key")
        sources = [
            "%load_ext arche_magic",
            "%%llm -o reply\nhello",
            "%llm_quota",
            "%llm_stats",
            "%llm -t 9 hi",
            "after = 1",
        ]
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in sources]
        )
        client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
        with pytest.raises(CellExecutionError, match="temperature"):
            client.execute(env=kernel_environment(tmp_path, **sandbox.environment()))
        saved = nbformat.writes(notebook)
        for name, value in sandbox.environment().items():
            if "KEY" in name:
                assert value not in saved
    assert "Simulated reply" in saved
    assert "groq · key 2" in saved
    error = notebook.cells[4].outputs[0]
    assert (error.output_type, len(error.traceback)) == ("error", 1)
    assert notebook.cells[5].execution_count is None
