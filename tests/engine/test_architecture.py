"""Rules for imports, checked by reading the source, and what importing the package loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import arche_magic

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(arche_magic.__file__).parent
ENGINE = "arche_magic.llm_providers"

# What each module of the engine may import from the engine; `?` allows it for type checking only.
ALLOWED = {
    "text": set(),
    "config": {
        "catalog", "errors", "files", "network", "processes", "redaction", "secrets", "text",
        "types",
    },
    "tools": set(),
    "functions": {
        "bounded", "errors", "events", "options", "redaction", "reply", "request", "schemas",
        "stopping", "text", "tools", "types",
    },
    "types": {"secrets", "tools"},
    "provider_failure": {"types?"},
    "request": {"errors", "files", "text", "tools", "types"},
    "reply": {"errors", "files", "routing?", "text", "tools", "types"},
    "events": {"errors?", "reply?", "tools", "types?"},
    "pending": {"reply"},
    "errors": {"reply?", "secrets", "text"},
    "catalog": {"network", "types"},
    "network": set(),
    "redaction": {"secrets", "text", "types?"},
    "secrets": set(),
    "files": {"errors", "secrets"},
    "storage": {"bounded", "errors", "files", "processes", "secrets", "types"},
    "quota": set(),
    "quota.state": {"catalog", "types"},
    "quota.budget_state": {"quota.state", "types"},
    "quota.older_versions": {"catalog", "storage", "types"},
    "quota.codec": {
        "bounded", "quota.budget_state", "quota.older_versions", "quota.state", "storage",
    },
    "quota.windows": {"quota.state", "types"},
    "quota.closures": {"quota.state", "types"},
    "quota.opening": {
        "config", "provider_failure", "quota.budget_state", "quota.closures", "quota.state",
        "quota.windows", "request", "types", "wire_fields",
    },
    "quota.counting": {
        "quota.closures", "quota.opening", "quota.state", "quota.windows", "request", "types",
    },
    "quota.learning": {
        "quota.counting", "quota.opening", "quota.state", "quota.windows", "types",
    },
    "quota.forecast": {"quota.counting", "quota.state", "quota.windows", "reply", "types"},
    "quota.budget": {
        "processes", "quota.budget_state", "quota.codec", "quota.opening", "storage", "types",
    },
    "quota.merging": {
        "quota.budget_state", "quota.closures", "quota.codec", "quota.counting", "quota.state",
        "quota.windows", "storage", "types",
    },
    "quota.locations": {
        "config", "quota.codec", "quota.merging", "quota.state", "storage", "types",
    },
    "quota.holds": {"quota.budget?", "quota.state", "types"},
    "quota.accounts": {
        "config", "quota.codec", "quota.holds", "quota.locations", "quota.state", "storage",
        "types",
    },
    "quota.older_package": {
        "catalog", "config", "quota.codec", "quota.counting", "quota.state", "quota.windows",
        "storage", "types",
    },
    "quota.route_records": {
        "catalog", "config", "processes", "quota.accounts", "quota.counting", "quota.opening",
        "quota.state", "request", "storage", "types",
    },
    "quota.spending": {
        "bounded", "config", "prices", "quota.budget", "quota.counting", "quota.opening",
        "quota.state", "request", "storage", "types",
    },
    "quota.booking": {
        "processes", "provider_failure", "quota.closures", "quota.holds", "quota.learning",
        "quota.counting", "quota.opening", "quota.route_records", "quota.standings", "quota.state",
        "quota.windows", "request", "types",
    },
    "quota.standings": {
        "quota.closures", "quota.counting", "quota.opening", "quota.route_records",
        "quota.spending", "quota.state", "quota.windows", "request", "types",
    },
    "quota_tracker": {
        "catalog", "config", "errors", "options", "provider_failure", "quota.booking",
        "quota.budget", "quota.codec", "quota.holds", "quota.counting", "quota.merging",
        "quota.older_package", "quota.opening", "quota.route_records", "quota.spending",
        "quota.standings", "quota.state", "request", "storage", "types", "wire_fields",
    },
    "bounded": {"stopping"},
    "processes": set(),
    "adapters": {
        "bounded", "network", "processes", "provider_failure", "redaction", "request", "secrets",
        "stopping", "text", "tools", "types", "wire_fields",
    },
    "prices": {"bounded", "types"},
    "doctor": {
        "adapters", "catalog", "config", "errors", "files", "network", "orchestrator",
        "provider_failure", "quota_tracker", "secrets", "stopping", "storage", "text", "types",
    },
    "attempt_file": {"files", "reply", "storage", "types"},
    "attempt_log": {"attempt_file", "files", "processes", "reply", "routing?", "storage", "types"},
    "reply_cache": {
        "bounded", "errors", "files", "processes", "reply", "request", "storage", "text",
        "tools", "types",
    },
    "embeddings": {
        "catalog", "config", "errors", "options", "quota_tracker?", "request", "text", "types?",
    },
    "stopping": set(),
    "routing": {"quota.opening", "reply", "request", "types"},
    "offered_routes": {"config", "errors", "request", "routing", "types", "wire_fields"},
    "options": {
        "config", "errors", "events?", "redaction", "request", "schemas", "secrets", "text",
        "tools", "types",
    },
    "wire_fields": {"request?"},
    "schemas": {"bounded", "errors", "request", "text"},
    "preview": {"prices", "quota_tracker", "request", "routing", "types"},
    "remaining": {
        "attempt?", "config", "errors", "provider_failure", "quota.opening", "reply", "request?",
        "request_progress?", "schemas", "text", "types",
    },
    "timed_ledger": {
        "attempt_log?", "bounded", "provider_failure", "quota.opening?", "quota_tracker?", "reply?",
        "request?", "routing?", "storage", "batch_ledger?", "types?",
    },
    "request_progress": {
        "attempt?", "attempt_log", "config?", "errors", "events", "prices", "provider_failure",
        "reply", "request?", "routing?", "timed_ledger?", "types",
    },
    "attempt": {
        "adapters", "config", "events", "network", "prices", "processes", "provider_failure",
        "quota_tracker?", "reply", "request?", "request_progress?", "timed_ledger?", "tools",
        "types",
    },
    "batch_ledger": {
        "attempt_log", "config?", "provider_failure", "quota.opening", "quota_tracker", "reply",
        "request", "routing?", "types",
    },
}  # fmt: skip
# The engine's public surface: what other layers may import besides the names in its `__init__`. Of
# a package, they may import the names in its `__init__`, and all modules if it is marked `.*`.
PUBLIC = {
    # A request and its reply: routes, keys and usage; options; attempts; events; errors.
    "types", "request", "options", "reply", "events", "errors",
    # Settings and keys, the table of providers, and checks of both.
    "config", "catalog", "doctor",
    # Quota, money, the record of attempts, and kept replies and vectors.
    "quota_tracker", "quota.forecast", "prices", "attempt_log", "reply_cache.*",
    # Texts to vectors; the ledger for many requests in one change.
    "embeddings", "batch_ledger",
    # Helpers that know nothing of models: text, files, network, secrets, threads and processes.
    "text.*", "files", "network", "secrets", "bounded", "stopping", "processes",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(name: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module imports, and whether only for type checking.

    `from . import x` counts as the module `x` if it exists.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, typing_only: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, typing_only
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{folder}.{base}" if base else folder
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), typing_only
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, typing_only)
        else:
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, ast.expr):  # it holds no import
                    yield from visit(child, typing_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def layer(module: str) -> str | None:
    """The part of the engine that a module belongs to; a package, except `quota`, is one part."""
    if not module.startswith(f"{ENGINE}."):
        return None
    inner = module.removeprefix(f"{ENGINE}.")
    return inner if inner.startswith("quota.") else inner.partition(".")[0]


@cache
def all_imports() -> list[tuple[str, str, bool]]:
    """Importing module, imported module, and whether only for type checking."""
    return [
        (name, target, only)
        for name, path in MODULES.items()
        for target, only in imports(name, path)
    ]


def test_imports_are_found() -> None:
    """A rule about an empty list would always hold."""
    edges = {(name, target) for name, target, _ in all_imports()}
    assert (f"{ENGINE}.loop", f"{ENGINE}.routing") in edges
    assert (f"{ENGINE}.quota_tracker", f"{ENGINE}.quota.counting") in edges
    assert {layer(name) for name in MODULES} >= set(ALLOWED)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_each_part_of_the_engine_imports_only_allowed_parts(part: str) -> None:
    """The table above defines the layers of the engine."""
    used = {
        f"{layer(target)}{'?' if only else ''}"
        for name, target, only in all_imports()
        if layer(name) == part and layer(target) not in (None, part)
    }
    allowed = ALLOWED[part] | {f"{name}?" for name in ALLOWED[part]}
    assert used <= allowed, f"{part} also imports {', '.join(sorted(used - allowed))}"
    left = {name.removesuffix("?") for name in ALLOWED[part] - used - {f"{n}?" for n in used}}
    assert left <= {name.removesuffix("?") for name in used}, f"{part} does not import {left}"


def test_every_engine_module_has_a_rule() -> None:
    """A new module needs a line above."""
    parts = {layer(name) for name in MODULES} - {None}
    assert parts - set(ALLOWED) == {"loop", "orchestrator"}


def test_the_engine_has_no_cycle() -> None:
    """Each part can be read after the parts that it uses."""
    graph: dict[str, set[str]] = {}
    for name, target, only in all_imports():
        one, two = layer(name), layer(target)
        if one and two and one != two and not only:
            graph.setdefault(one, set()).add(two)
    assert list(TopologicalSorter(graph).static_order())


# What each folder and module never imports, as in CONTRIBUTING.md; "" is `arche_magic` itself.
FACE = ("notebook", "IPython", "ipywidgets", "traitlets")
FORBIDDEN = {
    "llm_providers": (
        *FACE, "", "pandas", "starlette", "uvicorn",
        "prompts", "bulk", "openai_api", "sandbox", "local_server",
    ),
    "prompts": (*FACE, "bulk", "openai_api", "sandbox", "local_server"),
    "bulk": (*FACE, "openai_api", "sandbox", "local_server"),
    "openai_api": (*FACE, "bulk", "prompts", "sandbox"),
    "sandbox": (*FACE, "llm_providers", "bulk", "prompts", "openai_api"),
    "local_server": (*FACE, "llm_providers", "bulk", "prompts", "openai_api", "sandbox"),
}  # fmt: skip


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_each_layer_imports_only_layers_below_it(folder: str) -> None:
    """The engine needs no notebook, and the sandbox shares no code with the engine it tests."""
    importing = [(n, t) for n, t, _ in all_imports() if n.split(".")[1:2] == [folder]]
    assert importing
    for name, target in importing:
        top, _, inner = target.partition(".")
        imported = inner.partition(".")[0] if top == "arche_magic" else top
        assert imported not in FORBIDDEN[folder], f"{name} imports {target}"


def test_broad_except_clauses_are_few() -> None:
    """They are listed here, with the reason; everywhere else, exceptions are named."""
    catching = set()
    for path in sorted((ROOT / "llm_providers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                assert caught, f"{path.name}:{node.lineno} catches everything"
                if caught == "Exception":
                    catching.add(path.relative_to(ROOT / "llm_providers").as_posix())
    assert catching == {
        "adapters/adapter.py", "batch_ledger.py", "config/keys.py", "functions.py",
        "text/json_values.py", "timed_ledger.py",
    }  # fmt: skip


def public_part(target: str) -> str | None:
    """The entry of `PUBLIC` that a module of the engine belongs to."""
    inner = target.removeprefix(f"{ENGINE}.")
    whole = f"{inner.partition('.')[0]}.*"
    return next((part for part in (inner, whole) if part in PUBLIC), None)


def used_outside() -> Iterator[tuple[str, str]]:
    """The modules of the engine that other layers import, each with the module that imports it."""
    for name, target, _ in all_imports():
        if not name.startswith(ENGINE) and target.startswith(f"{ENGINE}."):
            yield name, target


def test_other_layers_use_only_what_is_public() -> None:
    """No routing and no quota rules are reached around the public names."""
    for name, target in used_outside():
        assert public_part(target), f"{name} imports {target}"


def test_everything_public_is_used() -> None:
    """The list shrinks with its uses."""
    assert {public_part(target) for _, target in used_outside()} == PUBLIC


HEAVY = [
    "openai",
    "groq",
    "mistralai",
    "google.genai",
    "pandas",
    "ipywidgets",
    "pydantic",
    "jsonschema",
    "sqlite3",
    "IPython",
    "httpx",
    "httpx2",
    "arche_magic.openai_api",
]


@pytest.mark.parametrize("module", ["arche_magic", "arche_magic.llm_providers"])
def test_importing_loads_no_large_packages(module: str) -> None:
    """SDKs and pandas are loaded at their first use, so that loading stays fast."""
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == ""
