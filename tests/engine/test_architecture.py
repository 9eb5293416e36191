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
    "formulas": set(),
    "characters": set(),
    "markdown": {"formulas"},
    "code_blocks": {"markdown", "reasoning"},
    "clock": set(),
    "tools": set(),
    "functions": {"bounded", "characters", "errors", "schemas", "tools"},
    "tool_rounds": {
        "errors", "functions", "redaction", "reply", "request", "stopping", "tools", "types",
    },
    "types": {"tools"},
    "provider_failure": {"types?"},
    "request": {"tools", "types"},
    "reply": {
        "characters", "code_blocks", "errors", "folders", "markdown", "tools", "types", "routing?",
    },
    "pending": {"reply"},
    "reply_stream": {"reply", "errors"},
    "errors": {"characters", "types?", "reply?"},
    "catalog": {"addresses", "errors", "types"},
    "addresses": set(),
    "machine": set(),
    "redaction": {"characters", "tracebacks", "types?"},
    "tracebacks": set(),
    "folders": {"errors", "tracebacks"},
    "choices": {"config?"},
    "config": {
        "clock", "addresses", "catalog", "choices", "errors", "folders", "forks", "redaction",
        "safe_files", "tracebacks", "types",
    },
    "safe_files": set(),
    "storage": {"bounded", "errors", "folders", "forks", "safe_files", "types"},
    "quota": set(),
    "quota.state": {"catalog", "types"},
    "quota.budget_state": {"quota.state", "types"},
    "quota.older_versions": {"catalog", "storage", "types"},
    "quota.codec": {
        "quota.budget_state", "bounded", "quota.older_versions", "quota.state", "quota",
        "storage",
    },
    "quota.windows": {"quota.state", "types"},
    "quota.closures": {"quota.state", "types"},
    "quota.opening": {
        "quota.budget_state", "quota.closures", "quota.state", "quota.windows", "quota", "types",
    },
    "quota.ledger": {
        "request", "quota.closures", "quota.opening", "quota.state", "quota.windows", "quota",
        "types",
    },
    "quota.failing": {
        "provider_failure", "quota.closures", "quota.ledger", "quota.opening", "quota.state",
        "quota.windows", "quota",
        "errors",
    },
    "quota.views": {
        "quota.closures", "quota.opening", "quota.state", "quota.windows", "quota", "types",
    },
    "quota.forecast": {"quota.ledger", "quota.state", "quota.windows", "reply", "types"},
    "quota.budget": {
        "quota.budget_state", "quota.codec", "quota.opening", "quota.state", "quota",
        "processes", "storage", "types",
    },
    "quota.merging": {
        "quota.budget_state", "quota.closures", "quota.codec", "quota.ledger", "quota.state",
        "quota.windows", "quota", "types",
    },
    "quota.accounts": {
        "quota.codec", "quota.merging", "quota.state", "quota", "config", "storage", "types",
    },
    "quota.older_package": {
        "quota.codec", "quota.ledger", "quota.state", "quota.windows", "quota", "catalog",
        "config", "storage", "types",
    },
    "quota.route_records": {
        "quota.accounts", "quota.budget?", "quota.ledger", "quota.state", "quota", "catalog",
        "config", "processes", "storage", "types",
    },
    "quota.route_states": {
        "request", "quota.accounts", "quota.ledger", "quota.opening", "quota.route_records",
        "quota.state",
        "quota", "types",
    },
    "quota.spending": {
        "request", "quota.budget", "quota.ledger", "quota.opening", "quota.state", "quota",
        "config",
        "prices", "storage", "types",
    },
    "quota.booking": {
        "provider_failure", "request", "quota.closures", "quota.failing", "quota.ledger",
        "quota.opening",
        "quota.route_records",
        "quota.state", "quota.views", "quota", "errors", "processes", "types",
    },
    "quota.key_states": {
        "provider_failure", "quota.accounts", "quota.closures", "quota.state", "quota", "config",
        "errors", "types",
    },
    "quota.standings": {
        "request", "quota.ledger", "quota.route_records", "quota.spending", "quota.views",
        "quota", "config",
        "types",
    },
    "quota_tracker": {
        "provider_failure", "request", "suitability", "quota.booking", "quota.budget",
        "quota.capabilities",
        "quota.closures",
        "quota.codec",
        "quota.failing",
        "quota.key_states", "quota.merging", "quota.older_package", "quota.ledger", "quota.opening",
        "quota.route_records", "quota.route_states", "quota.spending", "quota.standings",
        "quota.state",
        "quota.views", "quota", "catalog", "config", "storage", "errors", "types",
    },
    "bounded": set(),
    "processes": set(),
    "forks": set(),
    "reasoning": set(),
    "adapters": {
        "provider_failure", "request", "addresses", "bounded", "characters", "errors", "machine",
        "reasoning", "redaction",
        "stopping", "suitability", "tools", "tracebacks", "types",
    },
    "prices": {"bounded", "types"},
    "key_checks": {"provider_failure", "adapters", "config", "errors", "quota_tracker", "types"},
    "services": {"addresses", "catalog", "config", "folders"},
    "finding": set(),
    "unread_keys": {"catalog", "config", "finding"},
    "doctor": {
        "addresses", "catalog", "config", "errors", "finding", "folders", "key_checks", "machine",
        "orchestrator", "quota_tracker", "services", "storage", "types", "unread_keys",
    },
    "attempt_file": {"safe_files", "storage", "reply", "types"},
    "attempt_log": {
        "attempt_file", "folders", "forks", "safe_files", "storage", "reply", "types", "routing?",
    },
    "vectors": {"folders", "forks", "replies"},
    "embeddings": {
        "catalog", "characters", "config", "errors", "parameters", "redaction", "request",
        "quota_tracker?", "types?",
    },
    "replies": {"folders", "forks", "safe_files", "storage", "reply", "tools", "types"},
    "records": set(),
    "stopping": set(),
    "awaiting": {"stopping"},
    "replay": {"request", "bounded", "replies", "errors", "records", "reply", "types"},
    "routing": {"request", "quota.opening", "records", "types"},
    "offered_routes": {
        "request", "config", "errors", "privacy", "routing", "sources", "suitability", "trust",
        "types",
    },
    "given_keys": {"config", "errors", "tracebacks", "types"},
    "images": {"request", "errors", "folders", "types"},
    "conversation": {"request", "characters", "errors", "images", "tools"},
    "tool_parameters": {"characters", "errors", "tools"},
    "extra_fields": {"request", "errors", "schemas"},
    "suitability": {"request?"},
    "quota.capabilities": {
        "provider_failure", "request", "suitability", "config", "quota.closures", "quota.opening",
        "quota.state", "quota",
    },
    "parameters": {
        "request", "characters", "conversation", "extra_fields", "schemas", "config", "errors",
        "redaction", "tool_parameters", "tools", "types",
        "reply_stream?",
    },
    "schemas": {"request", "bounded", "characters", "config", "errors", "reasoning", "types"},
    "preview": {"request", "prices", "quota_tracker", "routing", "types"},
    "calls": {
        "request", "adapters", "config", "forks", "machine", "quota_tracker", "tools", "types",
    },
    "endings": {
        "provider_failure", "request", "quota.opening", "config", "errors", "reply", "types",
    },
    "remaining": {
        "provider_failure", "endings", "errors", "quota.opening", "reply", "schemas", "types",
        "attempt?",
        "request_progress?",
    },
    "timed_ledger": {
        "provider_failure", "request?", "bounded", "errors", "storage", "config?", "quota.opening?",
        "quota_tracker?", "reply?",
        "routing?", "types?",
    },
    "request_progress": {
        "request?", "attempt_log", "errors", "prices", "reply", "types", "calls?", "config?",
        "routing?",
        "timed_ledger?",
    },
    "attempt": {
        "provider_failure", "calls", "errors", "prices", "reply", "quota_tracker?",
        "request_progress?",
        "timed_ledger?", "types?",
    },
    "waiting": {"forks"},
    "together": {
        "provider_failure", "request", "attempt_log", "errors", "quota.opening", "quota_tracker",
        "reply", "types",
        "config?",
        "routing?",
    },
}  # fmt: skip
# The notebook layer and other users of the engine may import these modules only.
PUBLIC = {
    ENGINE,
    *(
        f"{ENGINE}.{name}"
        for name in (
            "types",
            "errors",
            "folders",
            "images",
            "preview",
            "routing",
            "choices",
            "clock",
            "config",
            "key_checks",
            "finding",
            "unread_keys",
            "doctor",
            "embeddings",
            "attempt_file",
            "attempt_log",
            "awaiting",
            "bounded",
            "processes",
            "catalog",
            "characters",
            "code_blocks",
            "formulas",
            "functions",
            "markdown",
            "parameters",
            "pending",
            "prices",
            "quota.forecast",
            "quota_tracker",
            "reasoning",
            "records",
            "replies",
            "request",
            "reply",
            "safe_files",
            "schemas",
            "services",
            "stopping",
            "together",
            "tools",
            "tracebacks",
            "vectors",
        )
    ),
}


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
    assert (f"{ENGINE}.quota_tracker", f"{ENGINE}.quota.ledger") in edges
    assert {layer(name) for name in MODULES} >= set(ALLOWED)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_each_part_of_the_engine_imports_only_allowed_parts(part: str) -> None:
    """The layers of the engine."""
    used = {
        f"{layer(target)}{'?' if only else ''}"
        for name, target, only in all_imports()
        if layer(name) == part and layer(target) not in (None, part)
    }
    allowed = ALLOWED[part] | {f"{name}?" for name in ALLOWED[part]}
    assert used <= allowed, f"{part} also imports {', '.join(sorted(used - allowed))}"


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


def test_the_engine_does_not_import_notebook_packages() -> None:
    """It imports no IPython, ipywidgets or pandas, and neither `notebook` nor `sandbox`."""
    foreign = ("IPython", "ipywidgets", "pandas", "traitlets", "starlette", "uvicorn")
    for name, target, _ in all_imports():
        if name.startswith(ENGINE):
            assert target.partition(".")[0] not in foreign, f"{name} imports {target}"
            assert not target.startswith(
                ("arche_magic.notebook", "arche_magic.openai_api", "arche_magic.sandbox")
            ), name
            assert target != "arche_magic", name


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
        "adapters/base.py", "config/keys.py", "functions.py", "timed_ledger.py", "together.py",
    }  # fmt: skip


def test_other_layers_import_only_public_modules_of_the_engine() -> None:
    """No routing or quota rule can be reached around the public names."""
    users = tuple(f"arche_magic.{part}" for part in ("notebook", "bulk", "prompts", "openai_api"))
    for name, target, _ in all_imports():
        if name.startswith(users) and target.startswith(ENGINE):
            assert target in PUBLIC, f"{name} imports {target}"


def test_bulk_does_not_import_the_notebook_layer() -> None:
    """Jobs also run in scripts and on other machines."""
    for name, target, _ in all_imports():
        if name.startswith(("arche_magic.bulk", "arche_magic.prompts")):
            assert not target.startswith(("arche_magic.notebook", "IPython")), f"{name}: {target}"


def test_the_openai_api_does_not_import_the_notebook_layer() -> None:
    """It also serves scripts and other programs, and needs only the engine."""
    face = ("arche_magic.notebook", "arche_magic.bulk", "arche_magic.prompts", "IPython")
    for name, target, _ in all_imports():
        if name.startswith("arche_magic.openai_api"):
            assert not target.startswith(face), f"{name} imports {target}"


def test_the_sandbox_imports_no_other_layer() -> None:
    """It imitates the providers, so it must not share code with the engine that it tests."""
    for name, target, _ in all_imports():
        if name.startswith("arche_magic.sandbox"):
            assert not target.startswith((ENGINE, "arche_magic.notebook")), f"{name}: {target}"


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
