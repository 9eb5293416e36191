"""`%llm_explain`: what is sent about a failed cell, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from notebook_kernel import Kernel

    from arche_magic.sandbox import Sandbox

HELPERS = "import json\n\n\ndef load(text):\n    return json.loads(text)\n"


def question(sandbox: Sandbox) -> str:
    """The question of the last request."""
    return str(sandbox.requests[-1].body["messages"][-1]["content"])


def test_the_last_error_is_explained_with_its_cell(kernel: Kernel, sandboxed) -> None:
    """The prompt has the marked cell, the notebook's own frames and the message."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("def ratio(row):\n    total = row['total']\n    return row['part'] / total")
    failed = kernel.run("rows = [{'total': 0, 'part': 1}]\nfor row in rows:\n    ratio(row)")
    assert failed.status == "error"
    number = kernel.value("get_ipython().execution_count - 2")
    cell = kernel.run("%llm_explain")
    assert cell.status == "ok", cell.error
    assert question(sandbox) == (
        f"Cell In[{number}]:\n"
        "  1 rows = [{'total': 0, 'part': 1}]\n"
        "  2 for row in rows:\n"
        "> 3     ratio(row)\n\n"
        "Called, innermost last:\n"
        f"  Cell In[{number}], line 3, in <module>: ratio(row)\n"
        f"  Cell In[{number - 1}], line 3, in ratio: return row['part'] / total\n\n"
        f"Cell In[{number - 1}]:\n"
        "  1 def ratio(row):\n"
        "  2     total = row['total']\n"
        "> 3     return row['part'] / total\n\n"
        "ZeroDivisionError: division by zero\n\n"
        "What went wrong, and how do I fix it?"
    )
    assert sandbox.requests[-1].body["messages"][0]["role"] == "system"
    assert len(cell.displays) == 2
    assert cell.displays[1]["data"]["text/plain"].startswith("groq · key 1")


def test_another_question_can_be_asked(kernel: Kernel, sandboxed) -> None:
    """It replaces the usual one, and can be asked again."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("1 / 0")
    kernel.run("%llm_explain -q Is zero a number?")
    assert question(sandbox).endswith("\n\nIs zero a number?")
    kernel.run("%llm -t 9 fails")
    cell = kernel.run("%llm_explain Once more?")
    assert "1 / 0" in question(sandbox)
    assert cell.data()[0] == (
        "This explains ZeroDivisionError. The error after it came from arche_magic, and its "
        "message says what to do."
    )


def test_values_are_sent_only_with_locals(kernel: Kernel, sandboxed) -> None:
    """--locals sends the variables that the failing code uses, shortened."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("diagnosis, other, long = 'measles', 'unused', list(range(10_000))")
    kernel.run(
        "def check(patient):\n    hidden = patient\n    return len(long) / 0\ncheck(diagnosis)"
    )
    kernel.run("%llm_explain -q")
    assert "measles" not in question(sandbox)
    kernel.run("%llm_explain -q --locals")
    assert "Variables:\npatient = 'measles'\nhidden = 'measles'" in question(sandbox)
    assert "unused" not in question(sandbox)
    kernel.run("x = long[20_000]")
    kernel.run("%llm_explain -q --locals")
    assert "long = [long: list of 10,000, cut to the first " in question(sandbox)
    assert len(question(sandbox)) < 1200


def test_frames_of_libraries_are_shortened(kernel: Kernel, sandboxed) -> None:
    """The user's files are shown with the failing line; for a library, only the last frame."""
    sandbox = sandboxed(keys={"groq": 1})
    (kernel.folder / "loading.py").write_text(HELPERS)
    kernel.run("import loading\nloading.load('{')")
    kernel.run("%llm_explain -q")
    text = question(sandbox)
    assert "\n  loading.py, line 5, in load: return json.loads(text)\n  … 2 frames of libr" in text
    assert "\nloading.py:\n  1 import json\n  2\n  3\n  4 def load(text):\n> 5     ret" in text
    assert "json/decoder.py, line " in text
    assert str(kernel.folder) not in text
    assert len(text) < 900


def test_a_syntax_error_of_a_file_is_shown_at_its_import(kernel: Kernel, sandboxed) -> None:
    """The arrow marks the import; the message names the file without its folder."""
    sandbox = sandboxed(keys={"groq": 1})
    (kernel.folder / "broken.py").write_text("a = 1\nb = = 2\n")
    kernel.run("a = 1\nb = 2\nimport broken")
    kernel.run("%llm_explain -q")
    assert "\n> 3 import broken\n" in question(sandbox)
    assert "broken.py, line 2\n" in question(sandbox)
    assert str(kernel.folder) not in question(sandbox)


def test_the_causes_of_an_error_are_sent(kernel: Kernel, sandboxed) -> None:
    """They are in order and include errors raised while another one was handled."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('bad') from error"
    )
    kernel.run("%llm_explain -q")
    assert "ValueError: bad\ncaused by KeyError: 'a'" in question(sandbox)
    kernel.run("try:\n    {}['a']\nexcept KeyError:\n    1 / 0")
    kernel.run("%llm_explain -q")
    assert "ZeroDivisionError: division by zero\nwhile handling KeyError: 'a'" in question(sandbox)


# IPython takes ten seconds to show the three thousand frames that it allows.
RECURSION = """
import sys
limit = sys.getrecursionlimit()
sys.setrecursionlimit(200)
try:
    def again(n): return again(n + 1)
    again(0)
finally:
    sys.setrecursionlimit(limit)
"""


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("x = = 3", "> 1 x = = 3\n\nCell In["),
        ("%%time\na = 1\nx = = 3", "> 3 x = = 3"),
        ("a = 1\nb = 2\nimport ast; ast.literal_eval('=')", "> 3 import ast; ast.literal_eval"),
        ("%%time\na = 1\n1 / (a - 1)", "> 3 1 / (a - 1)"),
        ("\n".join(f"x{n} = {n}" for n in range(200)) + "\n1 / 0", "> 201 1 / 0"),
        ("raise ValueError('long ' * 5000)", "ValueError: long long"),
        ("raise ExceptionGroup('both', [ValueError('one'), TypeError('two')])", "- TypeError: two"),
        (RECURSION, "RecursionError"),
    ],
)
def test_every_kind_of_failure_fits_into_a_prompt(
    kernel: Kernel, sandboxed, cell: str, said: str
) -> None:
    """They are syntax errors, cell magics, long cells and messages, groups and recursion."""
    sandbox = sandboxed(keys={"groq": 1})
    assert kernel.run(cell).status == "error"
    assert kernel.run("%llm_explain -q").status == "ok"
    assert said in question(sandbox)
    assert len(question(sandbox)) < 3000


def test_the_fix_is_offered_as_the_next_cell(kernel: Kernel, sandboxed) -> None:
    """`-f code` asks for the whole corrected cell."""
    sandbox = sandboxed(keys={"groq": 1}, reply=lambda *_: "```python\n1 / 1\n```")
    kernel.run("1 / 0")
    cell = kernel.run("%llm_explain -f code")
    assert question(sandbox).endswith("Answer with the whole corrected cell.")
    assert [entry["text"] for entry in cell.payload] == ["1 / 1"]


def test_an_explanation_can_be_continued(kernel: Kernel, sandboxed) -> None:
    """Later cells continue it as a conversation."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("1 / 0")
    kernel.run("%llm_explain -q --chat why")
    kernel.run("%llm -q --chat why And in floats?")
    assert [message["role"] for message in sandbox.requests[-1].body["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_a_conversation_keeps_its_system_prompt(kernel: Kernel, sandboxed) -> None:
    """An explanation in it is one turn, and does not change the others."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("%llm -q --chat tutor -s 'Be patient.' Hello")
    kernel.run("1 / 0")
    kernel.run("%llm_explain -q --chat tutor")
    kernel.run("%llm -q --chat tutor Thanks")
    assert sandbox.requests[-1].body["messages"][0] == {"role": "system", "content": "Be patient."}


def test_without_a_failure_the_cell_says_so(kernel: Kernel, sandboxed) -> None:
    """It fails in one line. Interrupts and our own errors are not explained."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(
        "import sys\nfor name in ('last_value', 'last_exc'):\n    sys.__dict__.pop(name, None)"
    )
    kernel.run("%reload_ext arche_magic")
    kernel.run("raise KeyboardInterrupt")
    kernel.run("from arche_magic.notebook.command import CellInterrupted as C; raise C('stopped')")
    assert kernel.run("%llm_explain").message == (
        "InvalidRequest: %llm_explain: no cell has failed yet; run it after one that fails"
    )
    kernel.run("%llm -t 9 hi")
    for _ in range(2):
        assert kernel.run("%llm_explain").message == (
            "InvalidRequest: %llm_explain: the last error came from arche_magic, and its message "
            "says what to do: InvalidRequest: temperature is 9; it must be 0 to 2"
        )
    assert sandbox.requests == ()


def test_a_failure_before_loading_is_explained(kernel: Kernel, sandboxed) -> None:
    """It is found in Python's record of the last error."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("%unload_ext arche_magic")
    kernel.run("1 / 0")
    kernel.run("%load_ext arche_magic")
    kernel.run("%llm_explain -q")
    assert "ZeroDivisionError: division by zero" in question(sandbox)
    assert "1 / 0" in question(sandbox)


def test_the_question_can_be_shown_first(kernel: Kernel, sandboxed) -> None:
    """--show-prompt prints it and sends nothing."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("1 / 0")
    assert "> 1 1 / 0" in kernel.run("%llm_explain --show-prompt").printed
    assert sandbox.requests == ()


def test_a_key_in_an_error_is_not_sent(kernel: Kernel, sandboxed) -> None:
    """The explanation is refused."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("import os\nraise ValueError('bad key ' + os.environ['GROQ_API_KEY'])")
    cell = kernel.run("%llm_explain")
    assert cell.message.startswith("InvalidRequest: the request contains the key groq_key_1")
    assert sandbox.requests == ()
