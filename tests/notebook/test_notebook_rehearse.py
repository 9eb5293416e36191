"""`--show-prompt` and `--dry-run` show everything, and send and reserve nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_kernel import Kernel


def test_show_prompt_prints_everything_that_would_be_sent(kernel: Kernel, sandboxed) -> None:
    """It prints system prompt, history, values, settings, image sizes and control characters."""
    sandbox = sandboxed(keys={"mistral": 1}, reply=lambda *_: "An answer.")
    kernel.run("from PIL import Image\npicture = Image.new('RGB', (8, 8))\nxs = list(range(5000))")
    kernel.run("%llm -q --chat c -s 'Be brief.' First?")
    line = "%%llm --chat c -t 0 --max-tokens 9 -f json --budget 5 --show-prompt --image picture"
    cell = kernel.run(f"{line}\nLook: {{{{xs}}}} \x1b[31m\u202e")
    assert cell.status == "ok"
    assert cell.displays == []
    assert cell.printed == (
        "xs (list of 5,000) was cut to the first 6\n\n"
        "── system ──\nBe brief.\n\nAnswer with JSON only.\n\n"
        "── user ──\nFirst?\n\n"
        "── assistant ──\nAn answer.\n\n"
        "── user ──\nLook: [xs: list of 5,000, cut to the first 6]\n"
        "[0, 1, 2, 3, 4, 5]\n \\x1b[31m\\x202e\n"
        "[image 1: image/png, 1 kB]\n\n"
        "(max_tokens 9, temperature 0)\n"
    )
    assert len(sandbox.requests) == 1


def test_a_dry_run_names_the_route_that_would_answer(kernel: Kernel, sandboxed) -> None:
    """It shows the time, tokens, price and skipped routes. The ledger does not change."""
    sandbox = sandboxed(keys={"groq": 1, "mistral": 1, "openai": 1})
    sandbox.fail("groq", "unauthorized")
    kernel.run("%llm -q hi")
    kernel.run("%llm_quota")
    before = kernel.value("list(_.session_used)")
    printed = kernel.run("%llm --dry-run --max-tokens 70 How are you").printed
    first, passed, last = printed.strip().splitlines()
    assert first.startswith("mistral · key 1 · mistral-small-latest would answer now · about 1")
    assert first.endswith(" tokens in, 70 out · free")
    assert passed.startswith("  groq · key 1 · gpt-oss-120b is skipped: key refused")
    assert last == "Nothing was sent."
    assert " · $0.000" in kernel.run("%llm --dry-run -p openai hi").printed
    unknown = kernel.run("%llm --dry-run -p openai -m gpt-99 hi").printed
    assert " · paid, price unknown" in unknown
    kernel.run("%llm_quota")
    assert kernel.value("list(_.session_used)") == before
    assert len(sandbox.requests) == 2


def test_a_dry_run_says_when_a_route_opens(kernel: Kernel, sandboxed) -> None:
    """Within the patience, it shows the wait; beyond it, that no route would answer."""
    sandboxed(keys={"groq": 1}, left={"groq": {"requests_per_day": 0}})
    kernel.run("%llm --patience 0 hi")
    printed = kernel.run("%llm --dry-run --patience 0 hi").printed
    assert printed.startswith("No route would answer within 0 s; the first opens in ")
    assert "gpt-oss-120b would answer in " in kernel.run("%llm --dry-run --patience 1e6 hi").printed


def test_an_invalid_request_fails_a_dry_run(kernel: Kernel, sandboxed) -> None:
    """The error is the same as without the option."""
    sandboxed(keys={"groq": 1})
    assert "temperature is 9" in kernel.run("%llm --dry-run -t 9 hi").message
    assert "the prompt is empty" in kernel.run("%%llm --show-prompt\n ").message


def test_the_last_result_stays_after_a_dry_run(kernel: Kernel, sandboxed) -> None:
    """It has no result, so `_` is still that of the cell before."""
    sandboxed(keys={"groq": 1})
    kernel.run("40 + 2")
    assert kernel.run("%llm --dry-run hi").status == "ok"
    assert kernel.value("_") == 42
