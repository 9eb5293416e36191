"""`%llm_sandbox` in a kernel: test without keys, then return to the real ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_kernel import Kernel


def test_start_stop_and_status_print_one_line(kernel: Kernel) -> None:
    """Each command prints one line; simulated replies come only while it runs."""
    said = kernel.run("%llm_sandbox").printed
    assert said.startswith("Sandbox on: simulated Groq (3 keys), Mistral (1 key)")
    assert "running" in kernel.run("%llm_sandbox status").printed
    assert kernel.run("%llm -q hi").status == "ok"
    assert kernel.run("%llm_sandbox stop").printed.startswith("Sandbox off")
    assert kernel.run("%llm_sandbox stop").printed == "The sandbox is not running.\n"
    assert kernel.run("%llm -q hi").message.startswith("NoKeys")


def test_aliases_and_prompts_of_the_settings_apply(kernel: Kernel) -> None:
    """They apply to the sandbox's models. The keys and limits are those of the sandbox."""
    settings = (
        '[aliases]\nfast = "mistral/ministral-8b-latest"\nfar = "zai/glm-4.7-flash"\n'
        '[prompts]\nshorter = "Say it in half as many words."\n'
        "[providers.zai]\n"
    )
    kernel.run(
        f"from pathlib import Path; file = Path('arche_magic.toml').absolute(); "
        f"before = file.write_text({settings!r})"
    )
    try:
        assert kernel.run("%llm_sandbox --keys groq=1 --keys mistral=1").status == "ok"
        kernel.run("x = %llm -q -m fast hi")
        assert kernel.value("x.model") == "ministral-8b-latest"
        assert kernel.run("%llm -q -m far hi").message.startswith("ConfigurationError")
        assert (
            "half as many" in kernel.run("%llm --show-prompt --dry-run --prompt shorter hi").printed
        )
    finally:
        kernel.run("%llm_sandbox stop\nfile.unlink()")


def test_the_environment_does_not_change(kernel: Kernel) -> None:
    """Starting and stopping change no variable."""
    kernel.run("import os; before = dict(os.environ)")
    kernel.run("%llm_sandbox --keys groq=1 --tokens-per-second 0 start")
    kernel.run("%llm -q hi")
    assert kernel.value("before == dict(os.environ)") is True
    kernel.run("%llm_sandbox stop")
    assert kernel.value("before == dict(os.environ)") is True


def test_the_real_keys_and_their_ledger_do_not_change(kernel: Kernel, sandboxed, tmp_path) -> None:
    """While it runs, nothing is sent with or counted for them; then they are used again."""
    outside = sandboxed(keys={"mistral": 1})
    ledger = tmp_path / "ledger.json"
    kernel.use(outside, store=str(ledger))
    assert kernel.run("%llm -q real").status == "ok"
    before = ledger.read_text()
    kernel.run("%llm_sandbox --keys groq=1")
    kernel.run("x = %llm -q rehearsed")
    assert kernel.value("x.provider") == "groq"
    assert len(kernel.run("%llm_stats").data("text/plain")[0].splitlines()) == 2
    assert ledger.read_text() == before
    kernel.run("%llm_sandbox stop")
    kernel.run("x = %llm -q real again")
    assert kernel.value("x.provider") == "mistral"
    assert [json.dumps(r.body).count("rehearsed") for r in outside.requests] == [0, 0]


def test_auto_starts_only_without_keys(kernel: Kernel, sandboxed) -> None:
    """`auto` does not start if there are keys, and says so."""
    assert kernel.run("%llm_sandbox auto").printed.startswith("Sandbox on")
    again = kernel.run("%llm_sandbox auto").printed
    assert again.startswith("The sandbox is running")
    sandboxed(keys={"groq": 1})
    said = kernel.run("%llm_sandbox --left groq.requests_per_day=1 auto").printed
    assert "not running" in said or "not needed" in said
    assert kernel.value("__import__('arche_magic').get_quota_tracker().configuration.store") != ""
    assert "running" in kernel.run("%llm_sandbox status").printed


def test_options_set_the_keys_and_limits(kernel: Kernel) -> None:
    """--keys, --limit and --left."""
    said = kernel.run(
        "%llm_sandbox --keys groq=2 --keys mistral=1 --left groq_key_1.requests_per_day=1 "
        "--limit mistral.requests_per_minute=2"
    ).printed
    assert "Groq (2 keys), Mistral (1 key)" in said
    kernel.run("a = %llm -q one")
    kernel.run("b = %llm -q two")
    assert kernel.value("(a.key, b.key)") == ("groq_key_1", "groq_key_2")


def test_time_scale_speeds_up_the_limits(kernel: Kernel) -> None:
    """With --time-scale 60, a minute of waiting takes a second."""
    kernel.run("%llm_sandbox --keys groq=1 --left groq.requests_per_minute=1 --time-scale 60")
    assert kernel.run("%llm -q one").status == "ok"
    kernel.run("began = __import__('time').monotonic()")
    assert kernel.run("%llm -q --patience 600 two").status == "ok"
    assert kernel.value("__import__('time').monotonic() - began") < 10


def test_the_speed_of_replies_can_be_set(kernel: Kernel) -> None:
    """At 25 tokens a second, the text grows visibly; at 0, it appears immediately."""
    draws = []
    for speed in (25, 0):
        kernel.run(f"%llm_sandbox --keys groq=1 --tokens-per-second {speed}")
        cell = kernel.run("%llm hi")
        draws.append(len([kind for _, kind, _ in cell.messages if kind.endswith("display_data")]))
    assert draws[0] > 2 * draws[1]


INVALID = {
    "--keys groq=2 status": "%llm_sandbox: status takes no options",
    "--seed 1 stop": "%llm_sandbox: stop takes no options",
    "stopp": "'stopp' is not start, auto, stop or status",
    "--keys groq": "--keys 'groq' is not like groq=2",
    "--keys groq=0": "--keys leaves no provider with a key",
    "--keys groq=²": "--keys 'groq=²' is not like groq=2",
    f"--keys groq={5000 * '9'}": "--keys groq: the number is too large; it may have 15 digits",
    "--keys groq=1000000": "must be at most 10,000",
    "--keys grok=2": "unknown provider 'grok'",
    "--left groq_key_1=2": "is not like groq_key_1.requests_per_day=2",
    "--left groq_key_9.requests_per_day=2": "groq_key_9",
    "--left groq.requests_per_day=few": "is not like groq_key_1.requests_per_day=2",
    "--left groq.requests_per_day=²": "is not like groq_key_1.requests_per_day=2",
    "--left groq.requests_per_day=1234567890123456": "is too large; it may have 15 digits",
    "--limit groq.request_per_day=2": (
        "unknown limit 'request_per_day'; did you mean 'requests_per_day'?"
    ),
    "--latency slow": "'slow' is not a number",
    "--latency -1": "--latency -1 is not a number of seconds, 0 or more",
    "--tokens-per-second -1": "is not a number of tokens, 0 or more",
    "--time-scale 0": "--time-scale 0 is not a number more than 0",
    "--sed 3": "did you mean '--seed'?",
}


def test_an_invalid_option_does_not_stop_a_running_sandbox(kernel: Kernel) -> None:
    """It fails the cell in one line."""
    kernel.run("%llm_sandbox --tokens-per-second 0")
    for line, said in INVALID.items():
        cell = kernel.run(f"%llm_sandbox {line}")
        assert cell.status == "error", line
        assert said in cell.message
        assert len(cell.message) < 300
        assert "\n" not in cell.message
    assert kernel.run("%llm -q hi").status == "ok"


def test_broken_settings_start_and_stop_nothing(kernel: Kernel) -> None:
    """No server is left behind, and a running sandbox goes on."""
    settings = kernel.folder / "arche_magic.toml"
    servers = "sum(t.name == 'arche-sandbox' for t in __import__('threading').enumerate())"
    settings.write_text("[budget")
    try:
        assert "arche_magic.toml cannot be read" in kernel.run("%llm_sandbox").message
        assert kernel.value(servers) == 0
        settings.unlink()
        kernel.run("%llm_sandbox")
        settings.write_text("[budget")
        assert "arche_magic.toml cannot be read" in kernel.run("%llm_sandbox").message
        assert kernel.value(servers) == 1
    finally:
        settings.unlink()
    assert kernel.run("%llm -q hi").status == "ok"
