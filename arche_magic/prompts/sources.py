"""The source of functions and classes, also of those defined in a notebook's cells."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from arche_magic.llm_providers.errors import InvalidRequest


def source_of(value: Any, name: str) -> str:
    """Return the source of a function or class.

    Raises:
        InvalidRequest: it cannot be found; `name` is its name in the prompt.
    """
    try:
        return inspect.getsource(value).rstrip("\n")
    except (OSError, TypeError, SyntaxError):
        pass
    # Up to Python 3.12 `inspect` finds a class by its module's file; a notebook has none.
    found = list(_in_cells(value)) if inspect.isclass(value) else []
    if not found:
        raise InvalidRequest(f"the source of {name} cannot be found; insert it as text instead")
    return next((text for text, node in found if _fits(node, value)), found[0][0])


def _in_cells(value: Any) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield each definition of the class's name in the cells that were run, the latest first."""
    cells = getattr(sys.modules.get(value.__module__), "In", None)
    for cell in reversed(cells if isinstance(cells, list) else []):
        if not isinstance(cell, str) or value.__name__ not in cell:
            continue
        try:
            tree = ast.parse(cell)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for name, node in _classes(tree):
            if name == value.__qualname__:
                first = min([node.lineno, *(line.lineno for line in node.decorator_list)])
                yield "\n".join(cell.splitlines()[first - 1 : node.end_lineno]), node


def _classes(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes of a module by their qualified names, the last first."""
    for node in reversed(list(ast.iter_child_nodes(tree))):
        if isinstance(node, ast.ClassDef):
            yield f"{outer}{node.name}", node
            yield from _classes(node, f"{outer}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _classes(node, f"{outer}{node.name}.<locals>.")
        else:
            yield from _classes(node, outer)


def _fits(node: ast.ClassDef, value: Any) -> bool:
    """Return whether a definition fits the class; cells may define the same name twice."""
    has = {**inspect.get_annotations(value), **value.__dict__}
    for line in node.body:
        if isinstance(line, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names, constant = [line.name], None
        elif isinstance(line, ast.Assign | ast.AnnAssign):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            constant = line.value
        else:
            continue
        for name in names:
            if name not in has:
                return False
            if not isinstance(constant, ast.Constant):
                continue
            # A decorator or a metaclass may have replaced a value by one of another type.
            if type(has[name]) is type(constant.value) and has[name] != constant.value:
                return False
    return True
