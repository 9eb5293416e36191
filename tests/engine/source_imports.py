"""The imports of each module of the package, read from its source."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import arche_magic

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(arche_magic.__file__).parent


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())
# Functions that import the module whose name they get.
IMPORTERS = {"import_module", "library", "__import__"}


class Import(NamedTuple):
    """A name that a module imports from another; "" if it imports the other module itself."""

    importer: str
    module: str
    name: str
    typing_only: bool


@cache
def source(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def absolute(name: str, importer: str) -> str:
    """The name without the dots of a relative import."""
    is_package = MODULES.get(importer, ROOT).name == "__init__.py"
    return resolve_name(name, importer if is_package else importer.rpartition(".")[0])


def imports(importer: str, node: ast.AST, typing_only: bool = False) -> Iterator[Import]:
    """The imports in a piece of a module's source."""
    match node:
        case ast.Import(names):
            for alias in names:
                yield Import(importer, alias.name, "", typing_only)
        case ast.ImportFrom(module, names, level):
            base = absolute("." * level + (module or ""), importer)
            for alias in names:
                inner = f"{base}.{alias.name}"
                target = (inner, "") if inner in MODULES else (base, alias.name)
                yield Import(importer, *target, typing_only)
        case ast.Call(ast.Name(called) | ast.Attribute(attr=called)) if called in IMPORTERS:
            texts = [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
            for text in texts:
                if text.startswith(("arche_magic", ".")):
                    yield Import(importer, absolute(text, importer).rstrip("."), "", typing_only)
        case ast.If(ast.Name("TYPE_CHECKING"), body, orelse):
            for child in body:
                yield from imports(importer, child, True)
            for child in orelse:
                yield from imports(importer, child, typing_only)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports(importer, child, typing_only)


@cache
def all_imports() -> list[Import]:
    return [found for module in MODULES for found in imports(module, source(module))]


@cache
def offered(module: str) -> set[str]:
    """The public names that a module defines, lists in `__all__` or imports as themselves."""
    names = set(getattr(import_module(module), "__all__", ()))
    for node in source(module).body:
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names |= {alias.name for alias in aliases if alias.asname == alias.name}
    return {name for name in names if not name.startswith("_")}
