"""Using a reply: copying, inserting and saving it, asking again, and working meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_kernel import Cell, kernel_environment
from promptness import in_time
from test_notebook_completion import offers
from test_notebook_terminal import Terminal

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

CODE = "Use **this**:\n\n```python\nx = 1\n```\n\n```\nout\n```\n<script>alert(1)</script>"
Sandboxed = Callable[..., Sandbox]


def test_a_reply_has_its_code_and_its_blocks(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """`code` is its Python code; `blocks` has every block with its language."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: CODE)
    kernel.run("%llm -q -o answer hi")
    assert kernel.value("answer.code") == "x = 1"
    assert kernel.value("answer.blocks") == [("python", "x = 1"), ("", "out")]


def test_a_reply_is_saved_without_replacing_a_file(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """It is written in UTF-8 without temporary files. A file is replaced only on request."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "é\nü")
    kernel.run("%llm -q -o answer hi")
    assert kernel.value("str(answer.save('reply.md'))") == "reply.md"
    assert (kernel.folder / "reply.md").read_bytes() == "é\nü".encode()
    assert not list(kernel.folder.glob("*.part"))
    again = kernel.run("answer.save('reply.md')")
    assert "save: reply.md already exists; overwrite=True replaces it" in again.error[-1]
    assert kernel.run("answer.save('reply.md', overwrite=True)").status == "ok"
    nowhere = kernel.run("answer.save('missing/a.md')")
    assert "save: missing/a.md: No such file or directory" in nowhere.error[-1]


def test_the_receipt_unfolds_to_the_source(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A click selects the block without a script; HTML in it is escaped."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: CODE)
    receipt = kernel.run("%llm hi").displays[1]["data"]
    folded, _, block = receipt["text/html"].partition("<pre")
    assert "<details" in folded
    assert "user-select:all" in block
    assert "Use **this**:\n\n```python\nx = 1\n```" in block
    assert "&lt;script&gt;" in block
    assert "<script" not in block
    assert "**this**" not in receipt["text/plain"]


def test_the_source_of_a_very_long_reply_is_not_repeated(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """It would double the size of the notebook."""
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
def test_the_last_reply_can_be_inserted_as_a_cell(
    kernel: Kernel, sandboxed: Sandboxed, reply: str, line: str, inserted: str
) -> None:
    """Code is unchanged, and text becomes a Markdown cell without scripts."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: reply)
    kernel.run("%llm hi")
    cell = kernel.run(line)
    (offer,) = (one for one in cell.payload if one["source"] == "set_next_input")
    assert offer["text"].startswith(inserted)
    assert "<script" not in offer["text"]
    assert cell.displays == []


def test_inserting_without_code_or_reply_is_an_error_in_one_line(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """There is no reply yet, the reply has no code, or the word is unknown."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "Plain words")
    assert kernel.run("%llm_insert").message.endswith(
        "%llm_insert: there is no reply yet; %llm sends a prompt"
    )
    kernel.run("%llm hi")
    said = kernel.run("%llm_insert code").message
    assert said.endswith("%llm_insert markdown inserts its text")
    said = kernel.run("%llm_insert html").message
    assert said.endswith("'html' is neither code nor markdown")
    assert offers(kernel, "%llm_insert ")[:2] == ["code", "markdown"]


def test_llm_last_returns_the_last_reply(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """It also shows and binds it; a later failure does not change it."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "the **reply**")
    assert kernel.run("%llm_last").message.endswith(
        "%llm_last: there is no reply yet; %llm sends a prompt"
    )
    kernel.run("%llm hi")
    sandbox.fail("groq", "unauthorized")
    assert kernel.run("%llm hi").status == "error"
    assert kernel.run("%llm_last").data("text/markdown") == ["the **reply**"]
    kernel.run("%llm_last -o answer\nother = %llm_last")
    assert kernel.value("(answer.provider, other is answer)") == ("groq", True)
    assert "would hide the builtin" in kernel.run("%llm_last -o print").message


def test_a_prompt_can_be_asked_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The model changes and the other options stay. Both replies and receipts are shown."""
    replies = iter(["the *first*", "the *second*, \\[1\\]: $5 or $6"])
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1}, reply=lambda *_: next(replies))
    assert "no prompt has been sent yet" in kernel.run("%llm_retry").message
    kernel.run('%%llm -p groq -s "Be brief." -t 0.5 -o answer\nWhat?')
    cell = kernel.run("%llm_retry -m mistral-small-latest -t 1 -o second")
    assert cell.status == "ok", cell.error
    assert cell.results == []
    (shown,) = (content["data"] for content in cell.displays)
    before, _, now = shown["text/plain"].partition("── now ──")
    assert "the *first*" in before
    assert "groq · key 1" in before
    assert now.startswith(
        "\nthe *second*, \\[1\\]: $5 or $6\nmistral · key 1 · mistral-small-latest · "
    )
    assert shown["text/html"].index("first</") < shown["text/html"].index("second</")
    assert "second</i>, [1]: $5 or $6</div>" in shown["text/html"]
    # Each receipt is in the card of its reply.
    first_card, second_card = shown["text/html"].split("asked again")
    assert "groq · key 1" in first_card
    assert "<details" in second_card
    assert "mistral · key 1 · mistral-small-latest · " in second_card
    first, second = (request.body for request in sandbox.requests)
    assert second["messages"] == first["messages"]
    assert (first["temperature"], second["temperature"]) == (0.5, 1)
    assert kernel.value("(str(answer), str(second))") == (
        "the *first*",
        "the *second*, \\[1\\]: $5 or $6",
    )


def test_a_failed_prompt_can_be_asked_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """There is no old reply to show beside the new one."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "at last")
    sandbox.fail("groq", "server_error", times=2)
    assert kernel.run("%llm --patience 0 What?").status == "error"
    assert kernel.run("%llm_retry --patience 30").data()[0] == "at last"
    kernel.run("import pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})")
    assert "schema" in kernel.run("%llm_retry --schema table").message


def test_an_empty_option_of_a_retry_leaves_it_out(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The prompt goes to the first open route again."""
    sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run("%llm -p mistral --tag early What?")
    _, _, now = kernel.run("%llm_retry -p '' --tag ''").data()[0].partition("── now ──")
    assert "groq · key 1" in now


def test_a_retry_replaces_the_kept_reply(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """Otherwise it would be answered from memory with the same text."""
    replies = iter(["first", "second"])
    sandboxed(keys={"groq": 1}, reply=lambda *_: next(replies))
    kernel.run("%llm --keep What?")
    assert "── now ──\nsecond\ngroq · key 1 · " in kernel.run("%llm_retry").data()[0]
    assert kernel.run("%llm --keep What?").data()[0] == "second"


def test_a_retry_replaces_the_turn_of_a_conversation(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The conversation continues with the new reply, and the old one was not sent."""
    replies = iter(["one", "two", "three"])
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: next(replies))
    kernel.run("%llm --chat tutor What?")
    assert "turn 1" in kernel.run("%llm_retry").data()[-1]
    kernel.run("%llm --chat tutor And then?")
    said = [message["content"] for message in sandbox.requests[-1].body["messages"]]
    assert said == ["What?", "two", "And then?"]
    assert len(sandbox.requests[1].body["messages"]) == 1


def test_a_retry_after_undo_adds_the_turn_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The turn before it may have the same answer."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "yes")
    for line in ("%llm --chat tutor A?", "%llm --chat tutor B?", "%llm_chat undo tutor"):
        kernel.run(line)
    assert "turn 2" in kernel.run("%llm_retry").data()[-1]
    assert "turn 2" in kernel.run("%llm_retry").data()[-1]
    said = [message["content"] for message in sandbox.requests[-1].body["messages"]]
    assert said == ["A?", "yes", "B?"]
    kernel.run("%llm_chat clear tutor")


def test_a_setting_makes_every_cell_a_turn(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """`ArcheMagics.chat` names the conversation; `--chat ''` excludes a cell."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run('%config ArcheMagics.chat = "tutor"')
    kernel.run("%llm What?")
    assert "chat tutor, turn 2" in kernel.run("%llm And then?").data()[-1]
    kernel.run("%llm --chat '' Alone")
    assert len(sandbox.requests[-1].body["messages"]) == 1
    bad = kernel.run('%config ArcheMagics.chat = "a b"')
    assert "chat 'a b': a name can have letters, digits, and . _ -" in bad.printed
    kernel.run("1/0")
    kernel.run("%llm_explain")
    assert len(sandbox.requests[-1].body["messages"]) == 2
    assert kernel.value("list(get_ipython().run_line_magic('llm_chat', '').turns)") == [2]


def test_earlier_prompts_are_found(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A part of the text finds prompts in cells and lines, with the cell and the route."""
    sandboxed(keys={"groq": 1})
    kernel.run("%reset -f in")
    kernel.run("%%llm -p groq -t 0\nWhat is a Walrus?\nBe brief.")
    kernel.run("answer = %llm -m gpt-oss-120b \\\n  About the walrus")
    kernel.run("%llm -b -o later walrus, in the background")
    kernel.run("# %llm walrus\nsource = '%llm walrus'")
    kernel.run("%llm --nonsense walrus")
    kernel.run("%%llm\n \n")
    kernel.run("%llm Something else")
    kernel.run("str(later)")
    cell = kernel.run("found = %llm_history WALRUS")
    assert cell.status == "ok", cell.error
    heads, first, *others = cell.data()[0].splitlines()
    assert heads.split() == ["cell", "prompt", "answered", "by"]
    assert "What is a Walrus?  " in first
    assert len(others) == 2
    assert "Be brief." not in first
    assert "groq · key 1 · gpt-oss-120b" in first
    assert kernel.value("list(found.prompt)") == [
        "What is a Walrus?\nBe brief.", "About the walrus", "walrus, in the background",
    ]  # fmt: skip
    assert kernel.value("[p for p in found.provider if p == p and p]") == ["groq", "groq"]
    assert kernel.value("[In[n][:5] for n in found.cell][2]") == "get_i"
    cell = kernel.run("%llm_history giraffe")
    assert cell.data() == []
    assert cell.printed == "no prompt of this session contains 'giraffe'\n"
    every = kernel.value("list(get_ipython().run_line_magic('llm_history', '').prompt)")
    assert len(every) >= 4
    assert all(prompt.strip() for prompt in every)


def filled(kernel: Kernel, cell: Cell) -> list[dict[str, Any]]:
    """The outputs of an ended cell, as its job left them when `answer` arrived."""
    kernel.run("try: answer.wait()\nexcept Exception: pass")
    places = {content["transient"]["display_id"]: content for content in cell.displays}
    for message in kernel.elsewhere:
        content = message["content"]
        if message["msg_type"] == "update_display_data":
            # A frontend that only reads messages of the running cell has missed these.
            places[content["transient"]["display_id"]] = content
        else:
            assert message["msg_type"] in ("status", "execute_input"), message
    return list(places.values())


def test_a_background_cell_ends_at_once(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """It says when it started. Another cell runs meanwhile, and then the reply appears."""
    sandboxed(keys={"groq": 1}, latency=1.5, reply=lambda *_: "the *reply*")
    cell = kernel.run("%%llm --background -o answer\nWhat?")
    assert cell.status == "ok", cell.error
    assert cell.results == []
    kernel.elsewhere.clear()
    waiting, note = cell.data()
    assert waiting == "waiting for its turn …"
    assert "job 1 was started in the background on " in note
    assert kernel.run("1 + 1").results == ["2"]
    assert kernel.value("(repr(answer), answer.done)") == (
        "<PendingReply: job 1 is running>", False,
    )  # fmt: skip
    reply, receipt = filled(kernel, cell)
    assert reply["data"] == {"text/plain": "the *reply*", "text/markdown": "the *reply*"}
    assert reply["metadata"]["arche_magic"]["provider"] == "groq"
    assert receipt["data"]["text/plain"].startswith("groq · key 1 · gpt-oss-120b · ")
    assert receipt["data"]["text/plain"].endswith(" · job 1")


@pytest.mark.parametrize(
    ("use", "gives"),
    [
        ("str(answer)", "the reply"),
        ("f'{answer}!'", "the reply!"),
        ("answer.provider", "groq"),
        ("answer.upper()", "THE REPLY"),
        ("answer.wait(timeout=30).key", "groq_key_1"),
        ("await answer", "the reply"),
        ("__import__('pickle').loads(__import__('pickle').dumps(answer)).provider", "groq"),
        ("__import__('copy').deepcopy(answer).provider", "groq"),
        ("%llm --show-prompt Is {{answer}} right?", "── user ──\nIs the reply right?"),
        ("%llm_why answer", "groq"),
    ],
)
def test_the_variable_of_a_job_waits_when_it_is_used(
    kernel: Kernel, sandboxed: Sandboxed, use: str, gives: str
) -> None:
    """It is used as text, by attribute, with `await`, in a prompt, and in a pickle (`%store`)."""
    sandboxed(keys={"groq": 1}, latency=0.2, reply=lambda *_: "the reply")
    kernel.run("%%llm -b -o answer\nWhat?")
    cell = kernel.run(use if use.startswith("%") else f"print({use})")
    assert cell.status == "ok", cell.error
    assert gives in cell.printed + "".join(cell.data())
    shown = kernel.run("answer")
    assert "the reply" in shown.data("text/markdown")[-1]


def test_other_cells_do_not_wait_for_a_job(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A cell that looks for frames among the variables skips it."""
    sandboxed(keys={"groq": 1}, latency=5)
    kernel.run("%%llm -b -o answer\nWhat?")
    began = time.monotonic()
    assert "there is no variable 'answers'" in kernel.run("%%llm --over answers\n{{a}}").message
    assert kernel.value("hasattr(answer, 'columns')") is False
    assert time.monotonic() - began < 4
    kernel.run("%llm_jobs stop all")


def test_the_end_of_a_wait_does_not_end_the_job(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A timeout or an interrupt ends only the wait; `%llm_jobs stop` ends a job."""
    sandboxed(keys={"groq": 1}, latency=2.5, reply=lambda *_: "the reply")
    kernel.run("%%llm -b -o answer\nWhat?")
    late = kernel.run("answer.wait(timeout=0.1)")
    assert "TimeoutError" in late.error_name
    assert "no reply within 0.1 s: job 1 is running" in late.error[-1]
    cell = kernel.run(
        "print('waits', flush=True)\nanswer.wait()", lambda cell: "waits" in cell.printed
    )
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.error_name == "KeyboardInterrupt"
    assert kernel.value("str(answer)") == "the reply"


def test_several_jobs_run_at_the_same_time(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """At most eight, and limits apply to all of them together."""
    sandbox = sandboxed(keys={"groq": 3}, latency=1.0)
    kernel.run("import time\nbegan = time.monotonic()")
    for number in range(10):
        kernel.run(f"%%llm -b --max-tokens 50 -o answer{number}\nQuestion {number}")
    kernel.run("texts = [str(globals()[f'answer{n}']) for n in range(10)]")
    # One at a time they would take ten seconds.
    assert 2 <= kernel.value("time.monotonic() - began") < 7
    assert len(sandbox.requests) == 10
    cell = kernel.run("%llm_jobs")
    assert "Question 9" in cell.data()[0]
    assert kernel.value("list(_.columns)") == [
        "job", "state", "prompt", "since", "seconds", "variable", "provider", "key", "model",
        "tokens", "error",
    ]  # fmt: skip
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("(list(jobs.state), list(jobs.variable)[:2])") == (
        ["done"] * 10, ["answer0", "answer1"],
    )  # fmt: skip
    assert kernel.run("%llm_jobs show 3").data()[0] == kernel.value("texts[2]")
    assert kernel.value("len(get_ipython().run_line_magic('llm_quota', ''))") > 0
    assert offers(kernel, "%llm_jobs show ")[:3] == ["1", "2", "3"]


def test_a_job_can_be_stopped(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A queued job stops immediately, and a running one keeps its text.

    Its variable says that it was stopped.
    """
    words = " ".join(f"word{number}" for number in range(400))
    sandboxed(keys={"groq": 1}, seconds_per_chunk=0.1, reply=lambda *_: words)
    kernel.elsewhere.clear()
    cell = kernel.run("%%llm -b -o answer\nWhat?")
    for _ in range(8):
        kernel.run("%llm -b -q What?")
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("list(jobs.state)[-1]") == "queued"
    assert kernel.run("%llm_jobs stop 9").printed == "job 9 stopped\n"
    kernel.run(
        "while not any('word3' in str(job.view._text) for job in "
        "get_ipython().magics_manager.registry['ArcheMagics'].session.jobs): pass"
    )
    assert kernel.run("%llm_jobs stop all").printed == "8 jobs stopped\n"
    reply, receipt = filled(kernel, cell)
    assert reply["data"]["text/plain"].startswith("word0")
    assert "job 1 was stopped on " in receipt["data"]["text/plain"]
    assert kernel.run("answer.wait()").message == "LLMProviderError: job 1 was stopped"
    assert "job 9 has already ended: stopped" in kernel.run("%llm_jobs stop 9").message
    assert "unknown job '99'" in kernel.run("%llm_jobs show 99").message
    assert "usage: %llm_jobs, or %llm_jobs show JOB" in kernel.run("%llm_jobs halt").message


def test_a_failed_job_reports_its_error(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """In the output of its cell, with the attempts, and wherever its variable is used."""
    sandbox = sandboxed(keys={"groq": 1})
    sandbox.fail("groq", "unauthorized")
    kernel.elsewhere.clear()
    cell = kernel.run("%%llm -b -o answer --patience 0\nWhat?")
    error, note = filled(kernel, cell)
    assert error["data"]["text/plain"].startswith("NoRouteAvailable: ")
    assert len(error["metadata"]["arche_magic"]["attempts"]) == 1
    assert "job 1 failed on " in note["data"]["text/plain"]
    assert kernel.run("str(answer)").message == error["data"]["text/plain"]
    assert kernel.value("repr(answer)") == "<PendingReply: job 1 failed>"
    kernel.run("jobs = %llm_jobs")
    assert kernel.value("list(jobs.state)") == ["failed"]


def test_structured_replies_and_code_work_in_the_background(
    kernel: Kernel, sandboxed: Sandboxed
) -> None:
    """`parsed` waits. Code stays in its cell, because an ended cell cannot offer a new one."""
    sandboxed(keys={"groq": 1})
    kernel.run("%%llm -b -o answer --schema 'mood calm|loud'\nWhat?")
    assert kernel.value("answer.parsed['mood']") in ("calm", "loud")
    sandboxed(keys={"groq": 1}, reply=lambda *_: CODE)
    kernel.run("%%llm -b -o answer -f code\nWhat?")
    cell = kernel.run("answer.code")
    assert cell.results == ["'x = 1'"]
    assert cell.payload == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--compare groq", "--background cannot be combined with --compare"),
        ("--tools print", "--background cannot be combined with --tools"),
        ("--dry-run", "--background cannot be combined with --dry-run"),
        ("--show-prompt", "--background cannot be combined with --show-prompt"),
        ("--chat tutor", "--background cannot be combined with --chat"),
        ("--over rows --plan", "--background cannot be combined with --plan"),
        ("--over rows", "the prompt names no column"),
        ("-t 9", "temperature"),
        ("-o print", "would hide the builtin"),
    ],
)
def test_options_that_a_job_cannot_have_are_refused(
    kernel: Kernel, sandboxed: Sandboxed, options: str, said: str
) -> None:
    """Nothing is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("rows = ['a']\ndef f(x: int) -> int: return x")
    options = options.replace("print", "f") if "tools" in options else options
    assert said in kernel.run(f"%%llm --background {options}\nWhat?").message
    assert not sandbox.requests


def test_a_job_in_a_conversation_is_refused(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """The next turn would not contain it; the error says how to exclude the cell."""
    sandboxed(keys={"groq": 1})
    kernel.run('%config ArcheMagics.chat = "tutor"')
    assert "add --chat '' to leave" in kernel.run("%%llm -b\nWhat?").message
    assert kernel.run("%%llm -b --chat ''\nWhat?").status == "ok"


def test_a_captured_job_says_how_to_see_the_reply(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """A captured output cannot be filled in."""
    sandboxed(keys={"groq": 1})
    kernel.run("%%capture out\n%llm -b -o answer What?")
    said = "and stops it, and shows its reply\\n"
    assert kernel.run("(out.outputs, out.stdout)").results[0].endswith(f"{said}')")
    assert kernel.value("answer.provider") == "groq"
    kernel.elsewhere.clear()


def test_the_prompt_of_a_job_can_be_asked_again(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """In the running cell, beside the job's reply, which is the last reply once it has arrived."""
    replies = iter(["first", "second"])
    sandboxed(keys={"groq": 1}, reply=lambda *_: next(replies))
    kernel.run("%%llm -b -o answer\nWhat?")
    kernel.run("answer.wait()")
    assert kernel.run("%llm_last").data("text/markdown") == ["first"]
    shown = kernel.run("%llm_retry").data()[0]
    assert "first" in shown
    assert "── now ──\nsecond\ngroq · key 1 · " in shown


def test_unloading_stops_jobs(kernel: Kernel, sandboxed: Sandboxed) -> None:
    """It says how many. Their variables no longer wait."""
    sandboxed(keys={"groq": 1}, latency=30)
    kernel.run("%%llm -b -o answer\nWhat?")
    unloaded = kernel.run("%unload_ext arche_magic")
    assert unloaded.printed == "Background jobs stopped: 1.\n"
    assert "was stopped" in kernel.run("answer.wait(10)").error[-1]
    kernel.run("%load_ext arche_magic")


def test_a_notebook_that_waits_is_saved_with_its_replies(tmp_path: Path) -> None:
    """Nbconvert and papermill ignore messages for ended cells; a cell that waits shows them."""
    sources = ["%load_ext arche_magic", "%%llm -b -o answer\nWhat?", "answer.wait().provider"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in sources])
    with Sandbox(keys={"groq": 1}, latency=0.5, reply=lambda *_: "the reply") as sandbox:
        variables = kernel_environment(tmp_path, **sandbox.environment())
        NotebookClient(book, kernel_name="python3", timeout=60).execute(
            cwd=str(tmp_path), env=variables
        )
    reply, receipt = (output.data["text/plain"] for output in book.cells[1].outputs)
    assert reply == "the reply"
    assert receipt.startswith("groq · key 1 · ")


def test_a_terminal_says_how_to_see_the_reply(tmp_path: Path) -> None:
    """It cannot change an output above the prompt."""
    with Sandbox(keys={"groq": 1}, reply=lambda *_: "the reply") as sandbox:
        terminal = Terminal(tmp_path, sandbox)
        terminal.run("%load_ext arche_magic")
        said = terminal.run("%llm -b -o answer What?")
        printed = terminal.run("print(answer)")
        shown = terminal.run("%llm_jobs show 1")
        terminal.close()
    assert "job 1 was started in the background on " in said
    assert "%llm_jobs lists and stops it, and shows its reply" in said
    assert "the reply" in printed
    assert "the reply" in shown
    assert " · job 1" in shown
