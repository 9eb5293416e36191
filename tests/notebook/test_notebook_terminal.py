"""A plain IPython terminal: text as it arrives, the receipt, errors in one line."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from notebook_kernel import kernel_environment
from promptness import in_time

from arche_magic.sandbox import Sandbox

TEXT = "one two\n\n**three** \x1b[31mfour\x1b[0m"
CODE = "```python\nx = 41 + 1\n```"


def as_seen(output: str) -> str:
    """The visible text of an output: text after a carriage return overwrites its line."""
    lines = []
    for line in output.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines)


class Terminal:
    """IPython at a simple prompt."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        environment = kernel_environment(folder, **sandbox.environment())
        environment |= {"TERM": "dumb", "NO_COLOR": "1", "ARCHE_QUOTA_STORE": "memory://"}
        # It would override the size of the terminal.
        environment.pop("COLUMNS", None)
        arguments = ["-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner"]
        self._process = pexpect.spawn(
            sys.executable,
            arguments,
            cwd=str(folder),
            env=environment,
            encoding="utf-8",
            dimensions=(50, 240),
            use_poll=True,
            timeout=120,
        )
        self.sandbox = sandbox
        self._number = 1
        self._process.expect(r"In \[1\]: ")

    def run(self, line: str) -> str:
        """The text between a line and the next prompt."""
        self._number += 1
        self._process.sendline(line)
        self._process.expect(rf"In \[{self._number}\]: ")
        return as_seen(self._process.before).partition("\n")[2].strip("\n")

    @property
    def written(self) -> str:
        """Everything that the last line wrote, even what was overwritten or removed."""
        return self._process.before

    def interrupt(self, line: str, after: str) -> tuple[str, float]:
        """Press Ctrl-C once the line has shown `after`.

        Returns the text from there to the next prompt, and the seconds between.
        """
        self._number += 1
        self._process.sendline(line)
        self._process.expect(after)
        pressed = time.monotonic()
        self._process.sendintr()
        self._process.expect(rf"In \[{self._number}\]: ")
        seconds = time.monotonic() - pressed
        return as_seen(self._process.before).strip("\n"), seconds

    def resize(self, columns: int) -> None:
        """Set the width of the window."""
        self._process.setwinsize(50, columns)

    def close(self) -> None:
        """End IPython."""
        self._process.close(force=True)


def answer(model: str, messages: list[dict[str, str]]) -> str:
    """Code for who asks for it."""
    return CODE if "write code" in messages[-1]["content"] else TEXT


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    with Sandbox(keys={"groq": 2}, reply=answer) as sandbox:
        sandbox.fail("groq_key_1", "unauthorized")
        terminal = Terminal(tmp_path_factory.mktemp("terminal"), sandbox)
        assert terminal.run("%load_ext arche_magic") == ""
        yield terminal
        terminal.close()


def test_a_reply_is_printed_once_with_its_receipt(terminal: Terminal) -> None:
    """There is no empty `Out[n]:`, and colours in the reply are removed."""
    shown = terminal.run("%llm hi")
    assert shown.startswith("one two\n\n**three** four\ngroq · key 2 · gpt-oss-120b · ")
    assert "\n  groq · key 1 · gpt-oss-120b failed: " in shown
    assert "\x1b" not in shown
    assert "Out[" not in shown
    assert shown.count("three") == 1
    assert terminal.run("_.key").endswith("'groq_key_2'")


def test_tables_fit_a_narrow_terminal(terminal: Terminal) -> None:
    """Long cells wrap, so that no name or reason is cut; each figure stays on one line."""
    terminal.run("%llm -q hi")
    terminal.resize(100)
    try:
        why, models = terminal.run("x = %llm_why"), terminal.run("x = %llm_models")
    finally:
        terminal.resize(240)
    assert "…" not in why + models
    assert re.search(r"^\w\S+ +\S.*\n +\S", models, re.MULTILINE), models
    rows = why.splitlines()[:-1]
    assert max(map(len, rows)) <= 100, why
    assert rows[0].split() == ["route", "verdict", "left", "why", "what", "would", "change", "it"]
    assert re.search("^groq · key 2 · gpt-oss-120b  answered ", why, re.MULTILINE)
    assert max(map(len, models.partition("\ngroq: ")[0].splitlines())) <= 100, models


def test_a_variable_shows_its_reply(terminal: Terminal) -> None:
    """`x = %llm …` prints it as it arrives; `x` shows it again, without the quotes of a repr."""
    assert terminal.run("x = %llm hi").count("three") == 1
    assert terminal.run("x").endswith("\none two\n\n**three** four")
    assert terminal.run("%llm -q hi") == ""


def test_tables_are_text(terminal: Terminal) -> None:
    """Quota and statistics are printed once as aligned text."""
    quota = terminal.run("%llm_quota")
    assert quota.splitlines()[0].startswith("groq · key 1 · gpt-oss-120b · closed: ")
    assert "requests/day" in quota
    assert max(len(line) for line in quota.splitlines()) <= 100
    assert "Out[" not in quota
    assert "<" not in quota
    assert "answered" in terminal.run("s = %llm_stats").splitlines()[0]
    assert terminal.run("s.shape[1]").endswith("16")


def test_the_panel_is_a_table(terminal: Terminal) -> None:
    """A terminal has no widgets: it prints the table, and says where the panel works."""
    *table, last = terminal.run("%llm_panel").splitlines()
    assert table[0].startswith("groq · key 1 · gpt-oss-120b · ")
    assert last == "The panel itself shows in JupyterLab and Notebook 7."


def test_plots_are_described_in_words(terminal: Terminal) -> None:
    """Each plot has one line."""
    lines = terminal.run("s = %llm_stats --plot").splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["Tokens", "Seconds", "Answered:"]


def test_an_error_is_one_line(terminal: Terminal) -> None:
    """It has no traceback and no escape sequences."""
    assert terminal.run("%llm -t 9 hi") == "InvalidRequest: temperature is 9; it must be 0 to 2"


def test_a_broken_reply_starts_again_on_a_new_line(terminal: Terminal) -> None:
    """Printed text cannot be removed, so the line below says that the reply starts again."""
    terminal.sandbox.fail("groq", "cut_stream")
    lines = terminal.run("%llm hi").splitlines()
    shown = [line for line in lines if not line.startswith("waiting: groq · key 2")]
    (place,) = (n for n, line in enumerate(shown) if line.startswith("[groq · key 2"))
    assert shown[place].endswith("starting over]")
    assert shown[place + 1 : place + 5] == ["", "one two", "", "**three** four"]
    assert shown[place + 5].startswith("groq · key 2 · ")
    terminal.sandbox.fail("groq", "cut_stream")
    assert terminal.run("%llm -q hi") == ""
    assert "starting over" not in terminal.written


def test_a_filtered_reply_fails_on_a_new_line(terminal: Terminal) -> None:
    """The error is not appended to text that was printed before it."""
    terminal.sandbox.fail("groq", "content_filter")
    shown = terminal.run("%llm hi").splitlines()
    assert shown[-1].startswith("ContentFiltered: groq")


def test_notes_and_turns_are_printed_as_lines(terminal: Terminal) -> None:
    """Cut values are named before the text; the receipt ends with the turn."""
    terminal.run("xs = list(range(5000))")
    shown = terminal.run("%llm --chat c --budget 20 sum {{xs}}").splitlines()
    assert shown[0].startswith("xs (list of 5,000) was cut to the first ")
    assert shown[1] == "one two"
    assert any(line.endswith("chat c, turn 1 · 1 route skipped") for line in shown)
    assert "\nc         1 " in terminal.run("%llm_chat")
    assert "Nothing was sent." in terminal.run("%llm --dry-run hi")


def test_code_becomes_the_next_input(terminal: Terminal) -> None:
    """A terminal has no cells: the code is put where the user types, and shown above."""
    assert CODE in terminal.run("%llm -f code write code")
    assert terminal.run("get_ipython().rl_next_input").endswith("'x = 41 + 1'")


def test_columns_are_printed_one_after_another(terminal: Terminal) -> None:
    """Each answer is below the name of its route, with its figures."""
    shown = terminal.run("df = get_ipython().run_cell_magic('llm', '--compare groq,mistral', 'hi')")
    assert shown.startswith("── groq · key 2 · gpt-oss-120b ──\none two\n\n**three** four\n")
    assert "── mistral ──\nNo available LLM providers" in shown
    assert "<" not in shown
    assert terminal.run("df.shape").endswith("(2, 8)")


def test_the_last_error_is_explained(terminal: Terminal) -> None:
    """The explanation is printed as it arrives."""
    terminal.run("1 / 0")
    assert "> 1 1 / 0" in terminal.run("%llm_explain --show-prompt")
    assert "three" in terminal.run("%llm_explain")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """All four providers, at ten words a second."""
    words = " ".join(f"word{number}" for number in range(60))
    with Sandbox(
        keys=dict.fromkeys(("groq", "mistral", "google", "openai"), 1),
        seconds_per_chunk=0.1,
        reply=lambda *_: words,
    ) as sandbox:
        terminal = Terminal(tmp_path_factory.mktemp("slow"), sandbox)
        assert terminal.run("%load_ext arche_magic") == ""
        yield terminal
        terminal.close()


@pytest.mark.parametrize("provider", ["groq", "mistral", "google", "openai"])
def test_ctrl_c_stops_a_reply_at_once(slow: Terminal, provider: str) -> None:
    """The text stays and is marked, and one line says that the request was stopped."""
    shown, seconds = slow.interrupt(f"%llm -p {provider} hi", "word2 ")
    in_time("an interrupt", seconds)
    lines = [line for line in shown.replace("^C", "").splitlines() if line.strip()]
    assert lines[-2].startswith("interrupted: the reply is not complete · " + provider)
    assert lines[-1].startswith("Interrupted: the request was stopped")
    assert len(lines) <= 3
    slow.run("s = %llm_stats")
    assert slow.run("s.outcome.iloc[-1]").endswith("'interrupted'")


def test_ctrl_c_stops_a_wait_at_once(slow: Terminal) -> None:
    """The line of the wait disappears, and one line says that the request was stopped."""
    slow.sandbox.fail("mistral", "rate_limit_day")
    shown, seconds = slow.interrupt(
        "%llm -p mistral --patience 1e9 hi", r"waiting: mistral[^\r]+ \([^\r]+\)"
    )
    in_time("an interrupt", seconds)
    lines = [line for line in shown.replace("^C", "").splitlines() if line.strip()]
    assert [line.startswith("Interrupted: ") for line in lines] == [True]


def test_a_structured_reply_is_printed_when_it_is_complete(terminal: Terminal) -> None:
    """It is not printed in pieces. A reply that does not fit is shown with the reason."""
    shown = terminal.run("%llm --schema 'x int' hi")
    assert shown.count("one two") == 1
    assert "this does not fit the schema" in shown
    assert "SchemaMismatch: the reply of groq (openai/gpt-oss-120b) does not fit reply" in shown
    assert "\x1b" not in shown


def test_characters_that_the_encoding_lacks_lose_no_reply(tmp_path: Path) -> None:
    """They are printed as `?`: github.com/TheR1D/shell_gpt/issues/330."""
    lines = "%load_ext arche_magic\n%llm -o r hi\n%llm_quota\n%unload_ext arche_magic\n"
    lines += "import sys\nprint(r.key, sys.stdout.errors)"
    with Sandbox(keys={"groq": 1}, reply=lambda *_: "π 😀 done") as sandbox:
        variables = kernel_environment(tmp_path, **sandbox.environment())
        done = subprocess.run(
            [sys.executable, "-m", "IPython", "-c", lines],
            cwd=tmp_path,
            env=variables | {"PYTHONIOENCODING": "cp1252"},
            capture_output=True,
            encoding="cp1252",
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert "? ? done" in done.stdout
    assert "requests/min" in done.stdout
    assert done.stdout.endswith("groq_key_1 strict\n")
