"""A script written for the older package runs with only the root name of its imports changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from env_file import write_env_file
from provider_parts import PROVIDERS, Start, run_script

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = '''
import json
import os
import sys

from Three_PointO_ArchE.llm_providers import (
    IntelligentLLMOrchestrator,
    LLMProviderError,
    MultiKeyGroqProvider,
    get_llm_provider,
)
from Three_PointO_ArchE.llm_providers.quota_tracker import get_quota_tracker


def summarize(provider, text):
    """Text in, text out: the reply is used as a str everywhere."""
    answer = provider.generate(
        "Summarize: " + text, model=None, max_tokens=200, temperature=0.2
    )
    lines = answer.strip().split("\\n")
    assert isinstance(answer, str) and len(answer) > 10
    return {"answer": answer, "title": lines[0][:40].upper(), "words": len(answer.split())}


provider = get_llm_provider("intelligent")
result = summarize(provider, "rivers run to the sea")
print(json.dumps(result))
with open("answer.txt", "w", encoding="utf-8") as file:
    file.write(result["answer"])
print("Answer: " + result["answer"])
print("%s" % result["answer"], f"{result['answer']:>10}")

chat = provider.generate_chat(
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    max_tokens=50,
    temperature=0,
)
print("chat:", chat.lower().replace("hello", "bye"))

try:
    default = get_llm_provider()
    print("default:", default.generate("Which one?")[:20])
    get_llm_provider("nonsense")
except LLMProviderError as error:
    print("error:", error)

groq = MultiKeyGroqProvider(api_keys=[os.environ["MY_KEY_1"], os.environ["MY_KEY_2"]])
for number in range(3):
    print("groq:", len(groq.generate(f"Question {number}", max_output_tokens=30)))
for key_id, limits in groq.get_usage_summary()["groq"].items():
    for limit_type, info in limits.items():
        print(
            f"  {key_id} {limit_type}: {info['used']:.0f}/{info['limit']:.0f} "
            f"({info['usage_percent']:.1f}%) remaining {info['remaining']:.0f}, "
            f"resets {info['reset_time'][:16].replace('T', ' ')} "
            f"{'OK' if info['available'] else 'EXHAUSTED'}"
        )

orchestrator = IntelligentLLMOrchestrator(
    enable_multi_key_groq=True, preferred_provider="mistral"
)
print("preferred:", orchestrator.generate("Hello")[:20])

stats = orchestrator.get_stats()
print("=" * 40)
print(f"Total calls: {stats['total_calls']}")
print(f"Fallbacks: {stats['fallbacks']}, errors: {stats['errors']}")
print(f"Current provider: {stats['current_provider']}")
print(f"Available: {', '.join(stats['available_providers'])}")
for name, calls in stats["provider_calls"].items():
    print(f"  {name}: {calls}")
print(json.dumps(stats["quota_summary"], indent=2)[:80])

tracker = get_quota_tracker()
for name in tracker.get_usage_summary():
    print("tracked:", name)
print(sorted(tracker.get_usage_summary(provider="groq")["groq"]))
print(sorted(tracker.get_usage_summary("groq")["groq"]))
'''


@pytest.fixture
def output(start: Start, tmp_path: Path) -> list[str]:
    sandbox = start(keys={"groq": 2, "mistral": 1, "google": 1, "openai": 1})
    write_env_file(tmp_path, sandbox)
    names = sandbox.environment()
    mine = {f"MY_KEY_{number}": names[f"GROQ_API_KEY_{number}"] for number in (1, 2)}
    script = SCRIPT.replace("Three_PointO_ArchE", "arche_magic")
    out, err = run_script(script, tmp_path, mine)
    assert err == ""
    assert (tmp_path / "answer.txt").read_text(encoding="utf-8")
    return out.splitlines()


def test_a_script_for_the_older_package_runs(output: list[str]) -> None:
    """It uses replies as strings, both classes, statistics, usage and errors."""
    text = "\n".join(output)
    assert '{"answer": "*Simulated reply' in output[0]
    assert "error: unknown provider 'nonsense'" in text
    assert "Total calls: 1\nFallbacks: 0, errors: 0\nCurrent provider: mistral" in text
    assert f"Available: {', '.join(PROVIDERS)}\n  mistral: 1\n" in text
    assert [line for line in output if line.startswith("tracked:")] == [
        f"tracked: {name}" for name in PROVIDERS
    ]
    assert output[-1] == output[-2] == "['groq_key_1', 'groq_key_2']"


def test_its_usage_report_adds_up(output: list[str]) -> None:
    """Five requests went to Groq's two keys, three of them through the multi-key class."""
    rows = [line.split() for line in output if "requests_per_day:" in line]
    assert [row[0] for row in rows] == ["groq_key_1", "groq_key_2"]
    assert sum(int(row[2].partition("/")[0]) for row in rows) >= 5
    assert {row[-1] for row in rows} == {"OK"}
