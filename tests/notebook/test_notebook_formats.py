"""`-f`: the instruction to the model, the display, and code offered as the next cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_kernel import Kernel, kernel_environment

from arche_magic.llm_providers.text.code_blocks import code_of
from arche_magic.notebook.commands.llm import FORMATS
from arche_magic.notebook.reply_formats import is_json, reply_bundle
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Cell

HARMONY = (
    "<|channel|>analysis<|message|>```py\nx = 0\n```<|end|><|start|>assistant"
    "<|channel|>final<|message|>```py\nx = 1\n```<|return|>"
)
CODE = "Here it is:\n\n```python\nimport math\n\nmath.pi\n```\n\nRun it."


def offered(cell: Cell) -> list[str]:
    """The texts for a new cell that a frontend received."""
    texts = [entry for entry in cell.payload if entry["source"] == "set_next_input"]
    assert not any(entry["replace"] for entry in texts)
    return [entry["text"] for entry in texts]


@pytest.mark.parametrize(
    ("form", "text", "plain", "markdown"),
    [
        ("markdown", "**hi**", "**hi**", "**hi**"),
        ("text", "**hi**", "**hi**", ""),
        ("code", CODE, "import math\n\nmath.pi", "```python\nimport math\n\nmath.pi\n```"),
        (
            "json",
            '{"a":[1]}',
            '{\n  "a": [\n    1\n  ]\n}',
            '```json\n{\n  "a": [\n    1\n  ]\n}\n```',
        ),
        ("json", '```json\n{"a":1}\n```', '{\n  "a": 1\n}', '```json\n{\n  "a": 1\n}\n```'),
        ("html-source", "<b>hi</b>", "<b>hi</b>", "\n```html\n<b>hi</b>\n```\n"),
        ("math", "x^2 < 1", "x^2 < 1", "$$\nx^2 \\lt  1\n$$"),
        ("math", "So $x$ is 1.", "So $x$ is 1.", "So $x$ is 1."),
    ],
)
def test_a_reply_is_shown_in_the_requested_format(
    kernel: Kernel, sandboxed, form: str, text: str, plain: str, markdown: str
) -> None:
    """Blocks are extracted from the text around them; the value is the whole reply."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: text)
    shown = kernel.run(f"%llm -o reply -f {form} hi").displays[0]["data"]
    assert shown["text/plain"] == plain
    assert shown.get("text/markdown", "") == markdown
    assert kernel.value("str(reply)") == text


@pytest.mark.parametrize("form", FORMATS)
def test_the_model_is_told_the_format(kernel: Kernel, sandboxed, form: str) -> None:
    """A sentence is added to the system prompt. The setting has the same effect."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run(f"%llm -q -s 'Be brief.' -f {form} hi")
    kernel.run(f"%config ArcheMagics.format = {form!r}\n%llm -q -s 'Be brief.' hi")
    for request in sandbox.requests:
        system = request.body["messages"][0]["content"]
        assert system == f"Be brief.\n\n{FORMATS[form]}".rstrip()


def test_code_is_offered_as_the_next_cell_and_never_run(kernel: Kernel, sandboxed) -> None:
    """The frontend gets only the code; the notebook's variables do not change."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "```python\nran = True\x1b[8m\n```")
    kernel.run("ran = False")
    assert offered(kernel.run("%llm -f code hi")) == ["ran = True"]
    assert kernel.value("ran") is False
    assert offered(kernel.run("%llm -q -f code hi")) == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("x = 1\ny = 2", ["x = 1\ny = 2"]),
        ("```python\nx = 1\n```\nand\n~~~py\ny = 2\n~~~", ["x = 1\n\ny = 2"]),
        ("```bash\npip install x\n```\n```python\nimport x\n```", ["import x"]),
        ("```sql\nselect 1\n```", []),
        ("I cannot write that.", []),
    ],
)
def test_only_python_is_offered(kernel: Kernel, sandboxed, reply: str, code: list[str]) -> None:
    """Python blocks are joined; other languages are shown, and prose is not treated as code."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: reply)
    cell = kernel.run("%llm -f code hi")
    assert offered(cell) == code
    assert cell.displays[0]["data"]["text/plain"] == (code_of(reply)[1] or reply)
    assert ("no code in it" in cell.displays[1]["data"]["text/plain"]) == ("cannot" in reply)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("reply", "language", "code"),
    [
        ("print('hi')", "python", "print('hi')"),
        (r"re.split('\d', x)", "python", r"re.split('\d', x)"),
        (r"C\d(x)", "", ""),
        ("[x for x in xs if x]", "python", "[x for x in xs if x]"),
        ("import math\n\nmath.pi", "python", "import math\n\nmath.pi"),
        ("Hello, world", "", ""),
        ("yes or no", "", ""),
        ("Note: this", "", ""),
        ("Hello (world)", "", ""),
        ("Hello [1]", "", ""),
        ("<think>```python\nx = 0\n```</think>\n```python\nx = 1\n```", "python", "x = 1"),
        ("<think>x = 0", "", ""),
        ("```\nx = '<think>'\n```", "python", "x = '<think>'"),
        ("```\nx = '</think>'\n```", "python", "x = '</think>'"),
        ("<think>Hm.</think>x = 1", "python", "x = 1"),
        (HARMONY, "python", "x = 1"),
        ("```python\nx = 1\n```\nThat sets x.", "python", "x = 1"),
        ("````md\n```\nx\n```\n````", "md", "```\nx\n```"),
        ('```\nx = """\n    ```\n"""\n```', "python", 'x = """\n    ```\n"""'),
        ("```mermaid\ngraph TD\n```", "mermaid", "graph TD"),
        ("~~~js\nlet x\n```\n~~~", "js", "let x\n```"),
        ("```python\nx = 1", "python", "x = 1"),
        ("```python\nprint(1)\n```\nOutput:\n```\n1\n```", "python", "print(1)"),
        ("```js\nlet x\n```\nOutput:\n```\n1\n```", "js", "let x"),
        ("```md\n# Title\n```py\nx\n```\nmore\n```", "md", "# Title\n```py\nx"),
    ],
)
def test_code_is_extracted_without_prose(reply: str, language: str, code: str) -> None:
    """Reasoning is ignored, and prose that Python could parse is still prose."""
    assert code_of(reply) == (language, code)


def test_only_the_code_is_drawn_while_it_streams(kernel: Kernel, sandboxed) -> None:
    """This starts when its block has begun."""
    sandboxed(keys={"groq": 1}, seconds_per_chunk=0.08, reply=lambda *_: CODE)
    cell = kernel.run("%llm -f code hi")
    drawn = [c["data"]["text/plain"] for _, kind, c in cell.messages if "display" in kind]
    assert any(text.startswith("Here") for text in drawn)
    assert any(text.startswith("import") and "pi" not in text for text in drawn)
    assert cell.displays[0]["data"]["text/plain"] == "import math\n\nmath.pi"


def test_a_reply_without_json_is_shown_and_marked(kernel: Kernel, sandboxed) -> None:
    """The receipt says so."""
    sandboxed(keys={"groq": 1}, reply=lambda *_: "sorry")
    reply, receipt = kernel.run("%llm -f json hi").displays
    assert reply["data"]["text/plain"] == "sorry"
    assert receipt["data"]["text/plain"].endswith(" · not valid JSON")


def test_without_a_frontend_the_code_is_saved_in_the_notebook(tmp_path) -> None:
    """A scheduled run cannot offer a cell, so the saved output contains the code."""
    with Sandbox(keys={"groq": 1}, reply=lambda *_: CODE) as sandbox:
        cells = [
            nbformat.v4.new_code_cell(source)
            for source in ("%load_ext arche_magic", "%llm -f code hi")
        ]
        notebook = nbformat.v4.new_notebook(cells=cells)
        client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
        client.execute(env=kernel_environment(tmp_path, **sandbox.environment()))
    assert len(notebook.cells) == 2
    assert notebook.cells[1].outputs[0]["data"]["text/markdown"] == (
        "```python\nimport math\n\nmath.pi\n```"
    )


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (r"\[x\]", "$$x$$"),
        (r"\(x\)", "$x$"),
        ("\\[\nx\n\\]", "$$\nx\n$$"),
        ("```latex\n\\[ x \\]\n```", "$$ x $$"),
        ("```latex\n$$x$$\n```", "$$x$$"),
        ("```latex\nx\n```", "$$\nx\n$$"),
        ("x = 1\n\ny = 2", "$$\nx = 1\n$$\n\n$$\ny = 2\n$$"),
        (r"<think>\(y\)</think>\[x^2\]", "$$x^2$$"),
        ("a + b + c + d", "$$\na + b + c + d\n$$"),
        ("I cannot answer that here.", "I cannot answer that here."),
        ("Use $x$:\n```\ny\n```", "Use $x$:\n\n```\ny\n```\n"),
    ],
)
def test_formulas_are_between_dollar_signs(reply: str, shown: str) -> None:
    """Whatever delimiters the model uses, and without those in its reasoning.

    A sentence is not a formula.
    """
    assert reply_bundle(reply, "math")["text/markdown"] == shown


@pytest.mark.parametrize(
    "reply",
    [
        '<think>{"b": 2}</think>{"a": 1}',
        '<think>{"a": 1}</think>',
        '{"a": 1}}',
        '{"a": 1}<|im_end|>',
        '{"a": 1}\n```',
        'With {x} in mind: {"a": 1}',
        '```bash\nls\n```\n```json\n{"a": 1}\n```',
    ],
)
def test_json_is_extracted_from_the_text_around_it(reply: str) -> None:
    """It is found in the same way as for a schema."""
    assert is_json(reply)
    assert reply_bundle(reply, "json")["text/plain"] == '{\n  "a": 1\n}'


def test_lists_are_json_and_footnotes_are_not() -> None:
    """Nothing is extracted from a reply without JSON."""
    assert reply_bundle("```json\n[1]\n```", "json")["text/plain"] == "[\n  1\n]"
    assert reply_bundle("As in [1], {x}.", "json")["text/plain"] == "As in [1], {x}."
    assert not is_json("As in [1], {x}.")


def test_an_unknown_format_is_refused(kernel: Kernel, sandboxed) -> None:
    """The error lists the formats."""
    sandboxed(keys={"groq": 1})
    assert "'markdown', 'text', 'code', 'json'" in kernel.run("%llm -f yaml hi").message
