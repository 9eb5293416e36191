"""Compare the package with alternatives on the same sandbox: `python tests/bench/peers`.

Each peer runs in its own environment under `build/peers`, which is created on the first run. There
is no extra for them because they need older SDKs, so that one environment cannot hold all. A run
takes
about ten minutes, in real time. It prints a table in Markdown, with versions and the load of the
machine before the start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT))

from arche_magic.sandbox import Sandbox  # noqa: E402  # after the path

PLENTY = 1_000_000_000
PERIODS = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
NO_LIMITS = dict.fromkeys(PERIODS, PLENTY)


@dataclass(frozen=True)
class Peer:
    """One row of the table: its driver module, its requirements, and the package to name."""

    title: str
    module: str
    requirements: tuple[str, ...]
    package: str
    strategy: str = ""


PEERS = (
    Peer("arche_magic", "arche", (), "arche_magic"),
    Peer("LiteLLM Router", "litellm_router", ("litellm",), "litellm"),
    Peer("LiteLLM usage-based-v2", "litellm_router", ("litellm",), "litellm",
         "usage-based-routing-v2"),
    Peer("LangChain with_fallbacks", "langchain_fallbacks",
         ("langchain-groq", "langchain-mistralai", "langchain-google-genai", "langchain-openai"),
         "langchain-core"),
    Peer("pydantic-ai FallbackModel", "pydantic_ai_fallback",
         ("pydantic-ai-slim[groq,mistral,google,openai]",), "pydantic-ai-slim"),
)  # fmt: skip


def python_of(peer: Peer) -> str:
    """The interpreter of the peer's environment, created if it is missing; ours for arche_magic."""
    if not peer.requirements:
        return sys.executable
    folder = ROOT / "build" / "peers" / peer.module
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(peer.requirements)} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *peer.requirements], check=True)
    return str(python)


def version_of(peer: Peer) -> str:
    """The installed version of the peer's package."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    done = subprocess.run([python_of(peer), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(
    peer: Peer,
    variables: Mapping[str, str],
    task: str,
    prompts: int = 0,
    threads: int = 1,
    limits: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Run one task in the peer's environment, in an empty folder, without our variables.

    arche_magic gets `limits` in its settings, and LiteLLM as `rpm`; the others accept none.
    """
    ours = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = os.pathsep.join([str(HERE), *([] if peer.requirements else [str(ROOT)])])
    kept |= {"PYTHONPATH": path, "PEER_STRATEGY": peer.strategy or "simple-shuffle"}
    command = [python_of(peer), HERE / "driver.py", peer.module, task, str(prompts), str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        if not peer.requirements:
            Path(folder, "arche_magic.toml").write_text(settings(limits or {}), encoding="utf-8")
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=kept | dict(variables),
        )
    if done.returncode:
        raise RuntimeError(f"{peer.title}, {task}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def settings(limits: Mapping[str, Mapping[str, int]]) -> str:
    """`arche_magic.toml` with these limits per provider."""
    lines = []
    for provider, amounts in limits.items():
        lines.append(f"[limits.{provider}]")
        lines += [f"{name} = {amount}" for name, amount in amounts.items()]
    return "\n".join(lines) + "\n"


def refused(sandbox: Sandbox) -> int:
    """Calls that the server refused."""
    return sum(count["refused"] for models in sandbox.usage().values() for count in models.values())


def measure(peer: Peer, options: argparse.Namespace) -> list[str]:
    """Run all tasks of a peer; returns its row of the table."""
    with Sandbox(keys={"groq": 1}, limits={"groq": NO_LIMITS}) as sandbox:
        variables = sandbox.environment()
        unlimited = {"groq": NO_LIMITS}
        starts = [run(peer, variables, "start") for _ in range(3)]
        begin = min(starts, key=lambda one: one["answer_s"])
        added = run(peer, variables, "overhead", 200, limits=unlimited)
    limits = {"google": {"requests_per_minute": 15}, "mistral": {"requests_per_minute": 60}}
    keys = {"groq": 3, "mistral": 1, "google": 1}
    with Sandbox(keys=keys, limits=limits) as sandbox:
        variables = sandbox.environment()
        many = run(peer, variables, "many", options.prompts, 8, limits)
        many_refused = refused(sandbox)
    left = {f"groq_key_{number}": {"requests_per_day": 0} for number in range(1, 5)}
    with Sandbox(keys={"groq": 5}, left=left) as sandbox:
        spent = run(peer, sandbox.environment(), "many", 20, 1)
        dead_calls = sum(1 for request in sandbox.requests if request.key != "groq_key_5")
    return [
        peer.title, version_of(peer),
        f"{begin['import_s']:.2f} s", f"{begin['answer_s']:.2f} s",
        f"{added['ratio']:.2f} x (+{added['added_ms']:.1f} ms)",
        f"{many['failed']} of {options.prompts}", str(many_refused), f"{many['seconds']:.0f} s",
        f"{20 - spent['failed']} of 20", str(dead_calls),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300, help="prompts of the long situation")
    parser.add_argument("--only", help="the driver module of one peer")
    options = parser.parse_args()
    heads = (
        "", "version", "import", "first answer", "added per call", "failed", "refused calls",
        "until the last answer", "with 4 of 5 keys spent: answered", "calls to spent keys",
    )  # fmt: skip
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"Measured {datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, load {load}.\n")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads), flush=True)
    for peer in PEERS:
        if options.only in (None, peer.module):
            print("| " + " | ".join(measure(peer, options)) + " |", flush=True)


if __name__ == "__main__":
    main()
