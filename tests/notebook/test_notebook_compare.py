"""`--compare`: one prompt, several answers side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from promptness import in_time
from test_notebook_replies import WORDS, tags, updates

from arche_magic.llm_providers.events import Waiting
from arche_magic.llm_providers.types import RouteId
from arche_magic.notebook.compare import ReplyColumn, columns_bundle
from arche_magic.notebook.display import for_frontends
from arche_magic.notebook.past_attempts import attempts_from_notebook

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel


def columns(cell: Cell) -> list[str]:
    """The final text of each column."""
    (shown,) = cell.displays
    return shown["data"]["text/plain"].split("\n\n── ")


def test_each_answer_has_a_column_and_a_row(kernel: Kernel, sandboxed) -> None:
    """Text, tokens, seconds and cost; the rows of the frame are in the order of the columns."""
    sandbox = sandboxed(
        keys={"groq": 2, "mistral": 1, "openai": 1}, reply=lambda model, _: f"I am **{model}**."
    )
    line = "%%llm --compare groq,mistral --compare openai/gpt-4o-mini -o both -t 0"
    cell = kernel.run(f"{line}\nWho are you?")
    assert cell.status == "ok", cell.error
    assert cell.results == []
    first, second, third = columns(cell)
    assert first.splitlines()[0].startswith("── groq · key ")
    assert first.splitlines()[1] == "I am **openai/gpt-oss-120b**."
    assert first.splitlines()[2].endswith(" s · free")
    assert second.splitlines()[1] == "I am **mistral-small-latest**."
    assert " s · paid · $0.000" in third
    assert kernel.value("(float(both.cost_usd[0]), bool(both.cost_usd[2] > 0))") == (0.0, True)
    html = cell.data("text/html")[0]
    assert "<b>mistral-small-latest</b>" in html
    assert tags(html) <= {"div", "b"}
    assert kernel.value("list(both.provider)") == ["groq", "mistral", "openai"]
    assert kernel.value("both.reply[1]") == "I am **mistral-small-latest**."
    assert kernel.value("list(both)") == [
        "provider", "key", "model", "reply", "tokens", "seconds", "cost_usd", "error",
    ]  # fmt: skip
    assert kernel.value("(bool((both.tokens > 5).all()), both.error.isna().all().item())") == (
        True,
        True,
    )
    assert {request.body["temperature"] for request in sandbox.requests} == {0}
    assert kernel.value("_ is both") is True


def test_columns_of_one_provider_have_different_titles(kernel: Kernel, sandboxed) -> None:
    """The title is what was asked for, or only the provider if the providers differ."""
    sandboxed(keys={"groq": 1, "mistral": 1})
    names = ["groq", "groq/openai/gpt-oss-20b", "mistral"]
    html = kernel.run(f"x = %llm --compare {','.join(names)} hi").data("text/html")[0]
    assert re.findall(r"<b>([^<]+)</b><div", html) == names
    assert "groq · key 1 · gpt-oss-120b" in html
    assert "anywhere" not in html


def test_the_columns_fill_at_the_same_time(kernel: Kernel, sandboxed) -> None:
    """All columns grow together in one display, with at most ten redraws a second."""
    sandboxed(keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.02, reply=lambda *_: WORDS)
    kernel.run("%llm -q -p mistral --max-tokens 1 warm up")
    kernel.run("%llm -q -p groq --max-tokens 1 warm up")
    cell = kernel.run("%%llm --compare groq,mistral\nhi")
    drawn = [c["data"]["text/plain"] for _, kind, c in cell.messages if "display" in kind]
    assert any(text.count("word3") == 2 and "word50" not in text for text in drawn)
    times = updates(cell)
    assert len(times) <= 3 + 10 * (times[-1] - times[0])
    assert len(cell.displays) == 1


def test_a_failing_column_does_not_affect_the_others(kernel: Kernel, sandboxed) -> None:
    """It shows the error; the others are answered."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    sandbox.fail("mistral", "content_filter")
    cell = kernel.run("%%llm --patience 0 --compare groq,mistral,google,gemini-3.5-flash\nhi")
    assert cell.status == "ok", cell.error
    _, filtered, without_key, _ = columns(cell)
    assert filtered.startswith("mistral ──\nmistral (mistral-small-latest) refused")
    assert without_key.startswith("google ──\nNo available LLM providers: no API key")
    assert kernel.value("_.error.isna().tolist()") == [True, False, False, False]
    assert kernel.value("_.reply.isna().tolist()") == [False, True, True, True]
    assert kernel.value("_.provider.tolist()") == ["groq", "mistral", "google", "google"]
    assert kernel.value("_.model.iloc[3]") == "gemini-3.5-flash"


def test_the_cell_fails_if_every_column_fails(kernel: Kernel, sandboxed) -> None:
    """It fails in one line, and the errors stay in the columns."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    sandbox.fail("*", "content_filter", times=None)
    cell = kernel.run("%%llm --compare groq,mistral\nhi")
    assert cell.status == "error"
    assert cell.message.startswith(
        "NoRouteAvailable: no model answered: groq: groq (openai/gpt-oss"
    )
    assert len(columns(cell)) == 2
    same = kernel.run("%%llm --compare groq,mistral -t 9\nhi")
    assert same.message == "InvalidRequest: temperature is 9; it must be 0 to 2"


def test_each_column_uses_the_next_key_of_its_provider(kernel: Kernel, sandboxed) -> None:
    """A column is a request like any other."""
    sandbox = sandboxed(keys={"groq": 2, "mistral": 1})
    sandbox.fail("groq_key_1", "unauthorized")
    sandbox.fail("groq_key_2", "cut_stream")
    first, _ = columns(kernel.run("%%llm --compare groq,mistral\nhi"))
    assert first.startswith("── groq · key 2")
    assert first.count("Simulated reply") == 1


def test_an_interrupt_keeps_the_text_so_far(kernel: Kernel, sandboxed) -> None:
    """The cell fails immediately in one line. Both columns are marked and counted."""
    sandboxed(keys={"groq": 1, "mistral": 1}, seconds_per_chunk=0.1, reply=lambda *_: WORDS)
    cell = kernel.run(
        "%%llm --compare groq,mistral\nhi",
        interrupt_when=lambda cell: any(text.count("word2") == 2 for text in cell.data()),
    )
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.message.startswith("Interrupted: ")
    for text in columns(cell):
        assert "word0 word1 word2" in text
        assert text.endswith("interrupted: not complete")
    kernel.run("%llm_stats")
    assert kernel.value("sorted(_.outcome)") == ["interrupted", "interrupted"]


def test_an_interrupt_before_the_first_text_closes_the_connections(
    kernel: Kernel, sandboxed
) -> None:
    """Calls to servers that do not answer end with the cell, and are counted."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, latency=30)
    cell = kernel.run(
        "%%llm --compare groq,mistral\nhi", interrupt_when=lambda _: len(sandbox.requests) == 2
    )
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.message == "Interrupted: the requests were stopped; their tokens are counted"
    kernel.run("frame = %llm_stats")
    assert kernel.value("sorted(frame.outcome)") == ["interrupted", "interrupted"]
    assert len(sandbox.requests) == 2


def test_a_reply_cannot_leave_its_column(kernel: Kernel, sandboxed) -> None:
    """HTML in a reply is shown as text."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "</div><script>alert(1)</script><img src=x>")
    html = kernel.run("%%llm --compare groq\nhi").data("text/html")[0]
    assert tags(html) == {"div", "b"}
    assert html.count("<div") == html.count("</div>")


def test_a_server_cannot_hide_a_column() -> None:
    """A terminal escape that begins in one state line and ends in the next hides nothing."""
    columns = [ReplyColumn("groq"), ReplyColumn("mistral")]
    for column, quoted in zip(columns, ("busy\x1b]0;", "try\x07 later"), strict=True):
        route = RouteId(column.asked, f"{column.asked}_key_1", "model")
        column.before(Waiting(route, 9.0, quoted))
    shown = for_frontends(columns_bundle(columns))
    for text in shown.values():
        assert re.search("groq · key 1 .*busy.*mistral · key 1 .*later", text, re.DOTALL)
        assert not re.search("[\x1b\x07]", text)
    assert shown["text/html"].count("<b>") == 2


def test_the_saved_notebook_contains_the_attempts(kernel: Kernel, sandboxed, tmp_path) -> None:
    """They can be read from the file, like those of a single reply."""
    import nbformat

    sandboxed(keys={"groq": 1, "mistral": 1})
    cell = kernel.run("%%llm --compare groq,mistral\nhi")
    output = nbformat.v4.new_output(
        "display_data", data=cell.displays[0]["data"], metadata=cell.displays[0]["metadata"]
    )
    code = nbformat.v4.new_code_cell("…", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "saved.ipynb")
    assert set(attempts_from_notebook(tmp_path / "saved.ipynb").provider) == {"groq", "mistral"}


def test_variables_and_images_are_sent_in_every_column(kernel: Kernel, sandboxed) -> None:
    """A model without vision fails only in its own column."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("from PIL import Image\npicture = Image.new('RGB', (8, 8))\nword = 'red'")
    cell = kernel.run(
        "%%llm --compare groq,mistral,groq/qwen/qwen3.8-27b\nIs {{picture}} {{word}}?"
    )
    first, *others = columns(cell)
    assert first.splitlines()[1].startswith("openai/gpt-oss-120b takes no images")
    assert all("You sent 1 image." in text for text in others)
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--compare gorq,mistral", "--compare: unknown provider 'gorq'; did you mean 'groq'?"),
        ("--compare groq,gpt-oss-12b", "did you mean 'openai/gpt-oss-120b'?"),
        ("--compare ,", "takes 1 to 8 names"),
        ("--compare groq -p mistral", "--compare cannot be combined with --provider"),
        ("--compare groq --chat c", "--compare cannot be combined with --chat"),
        ("--compare groq --dry-run", "--compare cannot be combined with --dry-run"),
        ("--compare groq --schema table", "--compare cannot be combined with --schema"),
    ],
)
def test_an_invalid_comparison_sends_nothing(
    kernel: Kernel, sandboxed, line: str, said: str
) -> None:
    """The error is one line."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("import pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})")
    cell = kernel.run(f"%%llm {line}\nhi")
    assert said in cell.message
    assert sandbox.requests == ()


def test_kept_answers_fill_the_columns(kernel: Kernel, sandboxed, tmp_path) -> None:
    """With --keep, nothing is sent the second time, and the columns say so."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run(f"os.environ['ARCHE_REPLIES'] = {str(tmp_path / 'kept.sqlite')!r}")
    first = columns(kernel.run("%%llm --keep --compare groq,mistral\nhi {{1}} kept"))
    again = columns(kernel.run("%%llm --keep --compare groq,mistral\nhi {{1}} kept"))
    assert len(sandbox.requests) == 2
    assert [text.splitlines()[1] for text in again] == [text.splitlines()[1] for text in first]
    assert all(text.endswith(" tokens · from memory") for text in again)
