"""`%%llm --prompt`, `%llm_prompts`, and `--system` with variables."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

SETTINGS = """
[prompts]
shorter = "Say it in half as many words."

[prompts.translate]
system = "You translate into {{language}}."
prompt = 'Translate, and keep \\{{text}} and {x}: {{text}}'

[prompts.polite]
system = "You are polite."
"""
FILES = {
    "review.md": "Review {{ text }} for {{reader}}.\n",
    "review.system.md": "You review.\n",
    "shorter.md": "Beside the notebook.",
    "mood.md": "Mood of {{text}}?",
    "broken.md": b"\xff\xfe\xfa",
    "notes.txt": "Not a prompt.",
}


@pytest.fixture
def saved(kernel: Kernel) -> Iterator[Kernel]:
    """Saved prompts in the settings and beside the notebook."""
    settings, folder = kernel.folder / "arche_magic.toml", kernel.folder / "prompts"
    settings.write_text(SETTINGS)
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    kernel.run(
        "language, reader, tone, number = 'Norwegian', 'children', 'Be {{reader}}.', 5\n"
        "tones = {'dry': 'Be dry.'}"
    )
    yield kernel
    settings.unlink()
    shutil.rmtree(folder)


@pytest.fixture
def sandbox(saved: Kernel, sandboxed: Callable[..., Sandbox]) -> Sandbox:
    return sandboxed(keys={"groq": 1})


@pytest.mark.parametrize(
    ("typed", "system", "prompt"),
    [
        ("--prompt review\nmy {{number}} pages", "You review.", "Review my 5 pages for children."),
        ("--prompt review -s Brief\na", "Brief", "Review a for children."),
        (
            "--prompt translate\na {{tone}}",
            "You translate into Norwegian.",
            "Translate, and keep {{text}} and {x}: a Be {{reader}}.",
        ),
        ("--prompt shorter\nA poem.", None, "Beside the notebook.\n\nA poem."),
        ("--prompt polite\nHello", "You are polite.", "Hello"),
        ("-s tone\nHello", "Be {{reader}}.", "Hello"),
        ("-s tones[dry]\nHello", "tones[dry]", "Hello"),
        ("""-s 'tones["dry"]'\nHello""", "Be dry.", "Hello"),
        ("-s 'For {{reader}}: {x}'\nHello", "For children: {x}", "Hello"),
        ("-s number\nHello", "number", "Hello"),
        ("-s briefly\nHello", "briefly", "Hello"),
        ("--raw -s tone\n{{x}}", "tone", "{{x}}"),
    ],
)
def test_the_saved_prompt_is_filled_and_sent(
    saved: Kernel, sandbox: Sandbox, typed: str, system: str | None, prompt: str
) -> None:
    """Fields are variables, and `{{text}}` is the cell's text; values are not expanded."""
    cell = saved.run(f"%%llm {typed}")
    assert cell.status == "ok", cell.error
    messages = {m["role"]: m["content"] for m in sandbox.requests[-1].body["messages"]}
    assert messages == {"user": prompt} | ({"system": system} if system else {})


def test_a_line_may_have_no_text(saved: Kernel, sandbox: Sandbox) -> None:
    """In that case, `{{text}}` is a variable."""
    saved.run("text = 'my book'")
    assert saved.run("%llm --prompt mood").status == "ok"
    assert sandbox.requests[-1].body["messages"][-1]["content"] == "Mood of my book?"
    saved.run("del text")


def test_each_row_fills_the_fields(saved: Kernel, sandbox: Sandbox) -> None:
    """With `--over`, fields can also be columns; the cell's text may name some."""
    saved.run("import pandas as pd\nbooks = pd.DataFrame({'text': ['Faust'], 'year': [1808]})")
    assert saved.run("%llm --over books --prompt mood --into moods -s tone").status == "ok"
    messages = sandbox.requests[-1].body["messages"]
    assert [m["content"] for m in messages] == ["Be {{reader}}.", "Mood of Faust?"]
    saved.run("%%llm --over books --prompt mood --into moods --fresh\nthe year {{year}}")
    assert sandbox.requests[-1].body["messages"][-1]["content"] == "Mood of the year 1808?"


def test_a_conversation_keeps_the_system_prompt(saved: Kernel, sandbox: Sandbox) -> None:
    """The text of the variable, not its name."""
    saved.run("%llm --chat tale -s tone Hello\n%llm --chat tale And then?")
    first = sandbox.requests[-1].body["messages"][0]
    assert first == {"role": "system", "content": "Be {{reader}}."}
    saved.run("%llm_chat clear tale")


def test_retry_keeps_the_saved_prompt(saved: Kernel, sandbox: Sandbox) -> None:
    """`%llm_retry` accepts a variable after `-s`; the saved prompt is in the text."""
    saved.run("%llm --prompt review my text")
    assert saved.run("%llm_retry -s tone").status == "ok"
    messages = [message["content"] for message in sandbox.requests[-1].body["messages"]]
    assert messages == ["Be {{reader}}.", "Review my text for children."]
    assert "--prompt" not in saved.run("%llm_retry --help").printed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--prompt revew\na", "there is no saved prompt 'revew'; did you mean 'review'?"),
        ("--prompt x\na", "'x'; there are broken, mood, polite, review, shorter, translate"),
        ("--prompt ../secret\na", "there is no saved prompt '../secret'"),
        ("--prompt broken\na", "broken.md cannot be read: it is not text in UTF-8"),
        ("--prompt mood", "{{text}}: there is no variable 'text'"),
        ("--prompt mood --raw\na", "%llm: --prompt cannot be combined with --raw"),
        ("--prompt polite", "the prompt is empty"),
        ("-s '{{raeder}}'\na", "{{raeder}}: there is no variable 'raeder'; did you mean 'reader'?"),
        ("-s '{{year}}' --over books\n{{year}}", "the same for all rows; {{year}} is a column"),
        ("-s '{{dot}}'\na", "%llm: a system prompt cannot contain images"),
    ],
)
def test_an_invalid_prompt_is_an_error_in_one_line(
    saved: Kernel, sandbox: Sandbox, typed: str, said: str
) -> None:
    """Nothing is sent."""
    saved.run(
        "import pandas as pd\nfrom PIL import Image\nbooks = pd.DataFrame({'year': [1808]})\n"
        "dot = Image.new('RGB', (1, 1))"
    )
    magic = "%%llm" if "\n" in typed else "%llm"
    assert said in saved.run(f"{magic} {typed}").message
    assert not sandbox.requests


def test_prompts_are_listed_with_their_fields(saved: Kernel) -> None:
    """They are sorted by name. Nothing is sent, and no key is needed."""
    (saved.folder / "prompts" / "broken.md").unlink()
    cell = saved.run("frame = %llm_prompts")
    assert cell.status == "ok", cell.error
    shown = cell.data()[0]
    assert "Review {{ text }} for {{reader}}." in shown
    fields = dict(saved.value("list(zip(frame.name, frame.fields))"))
    assert fields == {
        "mood": "text", "polite": "", "review": "text, reader", "shorter": "",
        "translate": "text, language",
    }  # fmt: skip
    sources = dict(saved.value("list(zip(frame.name, frame.source))"))
    assert sources["translate"] == "[prompts]"
    assert sources["shorter"] == "prompts/shorter.md"
    assert sources["review"] == "prompts/review.md, prompts/review.system.md"


def test_without_prompts_the_list_says_where_to_write_one(kernel: Kernel) -> None:
    """The message is one line."""
    assert "prompts/NAME.md" in kernel.run("%llm_prompts").data()[0]


@pytest.mark.parametrize(
    "setting",
    ["review = 5", "review = ''", "[prompts.review]\nprompt = 5", "[prompts.review]\na = 'b'"],
)
def test_an_invalid_setting_is_refused(kernel: Kernel, setting: str) -> None:
    """The message names the file and the valid values."""
    path = kernel.folder / "arche_magic.toml"
    path.write_text(f"[prompts]\n{setting}")
    try:
        message = kernel.run("%llm Hello").message
    finally:
        path.unlink()
    assert "arche_magic.toml: [prompts]: review is " in message
    assert "must be a text, or a table with a prompt, a system prompt or both" in message


def test_a_schema_can_be_an_entry_of_a_dict(saved: Kernel, sandbox: Sandbox) -> None:
    """The values of `--image` and `--over` can be entries too."""
    saved.run("schemas = {'mood': {'type': 'object', 'properties': {'mood': {'type': 'string'}}}}")
    cell = saved.run("""reply = %llm -q --schema 'schemas["mood"]' Hello""")
    assert cell.status == "ok", cell.error
    assert saved.value("list(reply.parsed)") == ["mood"]
