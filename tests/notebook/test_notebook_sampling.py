"""`--top-p`, `--seed`, `--stop` and `--effort`, with all other features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from test_notebook_completion import offers

from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Kernel

OPTIONS = r"--top-p 0.5 --seed 7 --stop '\n' --stop END --effort low"
SENT = {"top_p": 0.5, "seed": 7, "stop": ["\n", "END"], "reasoning_effort": "low"}


def fields(body: dict[str, Any]) -> dict[str, Any]:
    """The names of the options in the request."""
    return {name: body.get(name) for name in SENT}


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("", "Hello"),
        ("--chat tale", "Hello"),
        ("--compare groq", "Hello"),
        ("--over words --into answers", "Explain {{prompt}}"),
    ],
)
def test_all_features_send_the_options(
    kernel: Kernel, sandboxed: Callable[..., Sandbox], form: str, prompt: str
) -> None:
    r"""The options have the service's names, and `\n` is a line break."""
    sandbox = sandboxed(keys={"groq": 1})
    kernel.run("words = ['one']")
    cell = kernel.run(f"%%llm {form} {OPTIONS}\n{prompt}")
    assert cell.status == "ok", cell.error
    assert [fields(request.body) for request in sandbox.requests] == [SENT]
    kernel.run("%llm_chat clear tale")


def test_effort_is_translated_for_each_provider(
    kernel: Kernel, sandboxed: Callable[..., Sandbox]
) -> None:
    """Gemini has its own levels; a model without reasoning is skipped, and the receipt says so."""
    sandbox = sandboxed(keys={"groq": 1, "google": 1, "openai": 1})
    kernel.run("%llm -p google --effort medium Hello")
    thinking = sandbox.requests[-1].body["generationConfig"]["thinkingConfig"]
    # Versions of the SDK write the name differently.
    assert list(thinking.values()) == ["MEDIUM"]
    assert kernel.run("%llm -p groq --effort high Hello").status == "ok"
    assert sandbox.requests[-1].body["reasoning_effort"] == "high"
    cell = kernel.run("%llm -m openai/gpt-4.1-mini --effort high Hello")
    assert "gpt-4.1-mini does not take this reasoning_effort (--effort)" in cell.message


def test_show_prompt_lists_the_options(kernel: Kernel, sandboxed: Callable[..., Sandbox]) -> None:
    """They follow the prompt."""
    sandbox = sandboxed(keys={"groq": 1})
    shown = kernel.run(f"%llm {OPTIONS} --show-prompt Hello").printed
    for setting in ("top_p 0.5", "seed 7", r"stop ('\n', 'END')", "reasoning_effort low"):
        assert setting in shown
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--top-p 2", "top_p is 2; it must be 0 to 1"),
        ("--top-p much", "--top-p: 'much' is not a number"),
        ("--seed 1.5", "--seed: '1.5' is not a whole number"),
        ("--stop ''", "--stop is empty"),
        ("--effort huge", "--effort: invalid choice: 'huge'"),
    ],
)
def test_an_invalid_value_is_an_error_in_one_line(
    kernel: Kernel, sandboxed: Callable[..., Sandbox], options: str, said: str
) -> None:
    """Before anything is sent."""
    sandbox = sandboxed(keys={"groq": 1})
    assert said in kernel.run(f"%llm {options} Hello").message
    assert not sandbox.requests


def test_levels_of_effort_complete_on_tab(kernel: Kernel) -> None:
    """Tab offers the three levels."""
    assert offers(kernel, "%%llm --effort ") == ["low", "medium", "high"]
