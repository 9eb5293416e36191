"""Rules for imports, checked by reading the source, and what importing the package loads.

"Other layers" are all parts of the package except the engine.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from source_imports import MODULES, ROOT, Import, all_imports, imports, offered, source

ENGINE = "arche_magic.llm_providers"

# The layers that each layer may import, as drawn in CONTRIBUTING.md.
LAYERS = {
    "llm_providers": set(),
    "local_server": set(),
    "prompts": {"llm_providers"},
    "bulk": {"llm_providers", "prompts"},
    "openai_api": {"llm_providers", "local_server"},
    "sandbox": {"local_server"},
    "notebook": {"bulk", "llm_providers", "openai_api", "prompts", "sandbox"},
}
# Above all layers: the names of the package itself, and the command line.
TOP = {"arche_magic", "arche_magic.__main__"}
# The layers that may import these packages.
PACKAGES = {
    "IPython": {"notebook"},
    "ipywidgets": {"notebook"},
    "traitlets": {"notebook"},
    "pandas": {"bulk", "notebook", "prompts"},
    "starlette": {"local_server", "openai_api", "sandbox"},
    "uvicorn": {"local_server"},
}
# The public modules of the engine; "" is its `__init__`, and `.*` means all modules of a package.
# Other layers may import names that these modules define or re-export, and nothing else.
PUBLIC = {
    # The providers, and the classes that users meet.
    "",
    # A request and its reply: routes, keys and usage; options; attempts; events; errors.
    "types", "request", "options", "reply", "events", "errors",
    # Settings, keys and providers, and checks of them.
    "config", "doctor",
    # Quota, money, the record of attempts, and kept replies and vectors.
    "quota_tracker", "quota.forecast", "prices", "attempt_log", "reply_cache.*",
    # Texts to vectors; the ledger for many requests in one change.
    "embeddings", "batch_ledger",
    # Helpers that know nothing of models: text, files, network, secrets, threads and processes.
    "text.*", "files", "network", "secrets", "bounded", "stopping", "processes",
}  # fmt: skip
# What each module of the engine may import from the engine; `?` allows it for type checking only.
ALLOWED = {
    "text": set(),
    "config": {"catalog", "errors", "files", "network", "processes", "secrets", "text", "types"},
    "tools": set(),
    "functions": {
        "bounded", "errors", "events", "options", "reply", "request", "schemas", "secrets",
        "stopping", "text", "tools", "types",
    },
    "types": {"secrets", "tools"},
    "provider_failure": {"types?"},
    "request": {"errors", "files", "text", "tools", "types"},
    "reply": {"errors", "files", "routing?", "text", "tools", "types"},
    "events": {"errors?", "reply", "tools", "types?"},
    "errors": {"reply?", "secrets", "text"},
    "catalog": {"network", "types"},
    "network": set(),
    "secrets": {"text", "types?"},
    "files": {"errors", "secrets"},
    "storage": {"bounded", "errors", "files", "processes", "secrets", "types"},
    "quota": set(),
    "quota.state": {"catalog", "types"},
    "quota.codec": {
        "bounded", "catalog", "quota.state", "storage", "types",
    },
    "quota.windows": {"quota.state", "types"},
    "quota.closures": {"quota.state", "types"},
    "quota.opening": {
        "config", "provider_failure", "quota.closures", "quota.state",
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
        "processes", "quota.codec", "quota.opening", "quota.state", "quota.windows", "storage",
        "types",
    },
    "quota.merging": {
        "quota.closures", "quota.codec", "quota.counting", "quota.state",
        "quota.windows", "storage", "types",
    },
    "quota.accounts": {
        "config", "quota.booking?", "quota.codec", "quota.merging", "quota.state", "storage",
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
        "processes", "provider_failure", "quota.budget?", "quota.closures", "quota.learning",
        "quota.counting", "quota.opening", "quota.route_records", "quota.standings", "quota.state",
        "quota.windows", "request", "types",
    },
    "quota.standings": {
        "quota.closures", "quota.counting", "quota.opening", "quota.route_records",
        "quota.spending", "quota.state", "quota.windows", "request", "types",
    },
    "quota_tracker": {
        "catalog", "config", "errors", "options", "provider_failure", "quota.booking",
        "quota.budget", "quota.codec", "quota.counting", "quota.merging",
        "quota.older_package", "quota.opening", "quota.route_records", "quota.spending",
        "quota.standings", "quota.state", "request", "storage", "types", "wire_fields",
    },
    "bounded": {"stopping"},
    "processes": set(),
    "adapters": {
        "bounded", "network", "processes", "provider_failure", "request", "secrets", "stopping",
        "text", "tools", "types", "wire_fields",
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
        "config", "errors", "events?", "request", "schemas", "secrets", "text",
        "tools", "types",
    },
    "wire_fields": {"request?"},
    "schemas": {"bounded", "errors", "request", "text"},
    "remaining": {
        "attempt?", "config", "errors", "provider_failure", "quota.opening", "reply", "request?",
        "request_progress?", "schemas", "text", "types",
    },
    "request_progress": {
        "attempt?", "attempt_log", "batch_ledger?", "bounded", "errors", "events", "prices",
        "provider_failure", "quota.booking", "quota.opening?", "quota_tracker?", "reply",
        "request?", "routing?", "storage", "types",
    },
    "attempt": {
        "adapters", "config", "events", "network", "prices", "processes", "provider_failure",
        "quota.booking", "quota_tracker?", "reply", "request?", "request_progress?", "tools",
        "types",
    },
    "batch_ledger": {
        "attempt_log", "config?", "provider_failure", "quota.opening", "quota_tracker", "reply",
        "request", "routing?", "types",
    },
}  # fmt: skip


def in_engine(module: str) -> bool:
    return f"{module}.".startswith(f"{ENGINE}.")


def layer(module: str) -> str:
    """The layer of a module; the name of the package if it belongs to another package."""
    return module.removeprefix("arche_magic.").partition(".")[0]


def part(module: str) -> str:
    """The part of the engine that a module belongs to; a package, except `quota`, is one part."""
    inner = module.removeprefix(ENGINE).removeprefix(".")
    return inner if inner.startswith("quota.") else inner.partition(".")[0]


def public_part(module: str) -> str | None:
    """The entry of `PUBLIC` that a module of the engine belongs to."""
    inner = module.removeprefix(ENGINE).removeprefix(".")
    return next((entry for entry in (inner, f"{part(module)}.*") if entry in PUBLIC), None)


def breaks_layers(found: Import) -> bool:
    """Whether a module imports a layer or a package that its own layer must not use."""
    if found.importer in TOP:
        return False
    own, other = layer(found.importer), layer(found.module)
    if found.module.partition(".")[0] == "arche_magic":
        return other not in {own, *LAYERS[own]}
    return own not in PACKAGES.get(other, LAYERS)


def reaches_inside(found: Import) -> bool:
    """Whether another layer imports more of the engine than public names."""
    if in_engine(found.importer) or not in_engine(found.module):
        return False
    return public_part(found.module) is None or found.name not in offered(found.module)


def test_imports_are_found() -> None:
    """A rule about an empty list would always hold."""
    edges = {(found.importer, found.module) for found in all_imports()}
    assert (f"{ENGINE}.loop", f"{ENGINE}.routing") in edges
    assert (f"{ENGINE}.quota_tracker", f"{ENGINE}.quota.counting") in edges
    assert {layer(importer) for importer, _ in edges} >= set(LAYERS)


def test_each_layer_imports_only_layers_below_it() -> None:
    """The engine needs no notebook, and the sandbox shares no code with the engine it tests."""
    assert not [found for found in all_imports() if breaks_layers(found)]


def test_other_layers_import_only_public_names_of_the_engine() -> None:
    """No routing and no quota rules are reached around the public names."""
    assert not [found for found in all_imports() if reaches_inside(found)]


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("sandbox", "from arche_magic import get_llm_provider"),
        ("prompts", "from arche_magic import map"),
        ("prompts", "import arche_magic"),
        ("llm_providers", "def later(): import IPython.display"),
        ("sandbox", "importlib.import_module('arche_magic.llm_providers.quota.windows')"),
        ("notebook", "import_module('.windows', 'arche_magic.llm_providers.quota')"),
        ("notebook", "import_module('..llm_providers.loop', __package__)"),
        ("notebook", "library('arche_magic.llm_providers.loop')"),
        ("notebook", "library(f'arche_magic.llm_providers.{name}')"),
        ("notebook", "from arche_magic.llm_providers.loop import RequestRun"),
        ("notebook", "from arche_magic.llm_providers.quota_tracker import RouteRecords"),
        ("notebook", "from arche_magic.llm_providers.prices import _table"),
        ("notebook", "from arche_magic.llm_providers.reply import *"),
        ("notebook", "from arche_magic.llm_providers import prices"),
        ("notebook", "from .. import llm_providers as e; e.loop.RequestRun"),
        ("notebook", "import arche_magic.llm_providers.prices"),
    ],
)
def test_ways_around_the_layers_are_found(importer: str, line: str) -> None:
    """Also imports of whole modules, whose attributes could be anything."""
    found = list(imports(f"arche_magic.{importer}.example", ast.parse(line)))
    assert any(breaks_layers(one) or reaches_inside(one) for one in found)


def test_everything_public_is_used() -> None:
    """The list shrinks with its uses."""
    used = {
        public_part(found.module)
        for found in all_imports()
        if in_engine(found.module) and not in_engine(found.importer)
    }
    assert used == PUBLIC


def imports_between_parts() -> set[tuple[str, str, bool]]:
    """Pairs of different parts of the engine, and whether the import is for type checking only."""
    return {
        (part(importer), part(module), typing_only)
        for importer, module, _, typing_only in all_imports()
        if in_engine(importer) and in_engine(module) and part(importer) != part(module)
    }


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_each_part_of_the_engine_imports_only_allowed_parts(name: str) -> None:
    """The table above defines the layers of the engine."""
    used = {
        f"{other}{'?' if typing_only else ''}"
        for own, other, typing_only in imports_between_parts()
        if own == name
    }
    allowed = ALLOWED[name] | {f"{other}?" for other in ALLOWED[name]}
    assert used <= allowed, f"{name} also imports {', '.join(sorted(used - allowed))}"
    unused = ALLOWED[name] - used
    assert not unused, f"{name} does not import {', '.join(sorted(unused))}"


def test_every_engine_module_has_a_rule() -> None:
    """A new module needs a line above. These three stand above the others."""
    parts = {part(module) for module in MODULES if in_engine(module)}
    assert parts - set(ALLOWED) == {"", "loop", "orchestrator"}
    assert parts >= set(ALLOWED)


def test_the_engine_has_no_cycle() -> None:
    """Each part can be read after the parts that it uses."""
    graph: dict[str, set[str]] = {}
    for own, other, typing_only in imports_between_parts():
        if not typing_only:
            graph.setdefault(own, set()).add(other)
    assert list(TopologicalSorter(graph).static_order())


def test_broad_except_clauses_are_few() -> None:
    """They are listed here; everywhere else, exceptions are named."""
    catching = set()
    for module in filter(in_engine, MODULES):
        for node in ast.walk(source(module)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type, f"{module}:{node.lineno} catches everything"
                if ast.unparse(node.type) == "Exception":
                    catching.add(module.removeprefix(f"{ENGINE}."))
    assert catching == {
        "adapters.adapter", "batch_ledger", "config.keys", "functions", "request_progress",
        "text.json_values",
    }  # fmt: skip


HEAVY = [
    "openai", "groq", "mistralai", "google.genai", "pandas", "ipywidgets", "pydantic",
    "jsonschema", "sqlite3", "IPython", "httpx", "httpx2", "arche_magic.openai_api",
]  # fmt: skip


@pytest.mark.parametrize("module", ["arche_magic", "arche_magic.llm_providers"])
def test_importing_loads_no_large_packages(module: str) -> None:
    """SDKs and pandas are loaded at their first use, so that loading stays fast."""
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == ""
