"""Python values as parts of a prompt: as text cut to a budget, or as images.

No library is imported for this, because the library of a value is already loaded.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from arche_magic.llm_providers import Pending
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.request import Image, read_image

from .tables import (
    PLAIN,
    ValueText,
    array_text,
    as_pandas,
    collection_text,
    cut_text,
    library_of,
    str_of,
    table_text,
)

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
# For example, the text of a generator is only its type and its address.
_ADDRESS = re.compile(r"<(memory|[\w.]+ object( \S+)?)( at 0x[0-9A-Fa-f]+)?>")


def as_text(value: Any, name: str, budget: int) -> ValueText:
    """Return the value as the text of a prompt.

    Text is never cut. A table, array or collection is cut to `budget` tokens, after a line with its
    size and what was left out. A function or class is its source; a path is its name.

    Raises:
        InvalidRequest: it has no text form.
    """
    if isinstance(value, Pending):
        value = value.wait()
    if isinstance(value, str):
        return ValueText(str(value))
    try:
        shown = _as_text(value, name, budget)
    except InvalidRequest:
        raise
    except Exception as error:  # noqa: BLE001  # a value's own code runs when it is shown
        raise InvalidRequest(f"{name} cannot be shown as text: {error!r}") from None
    return replace(shown, block="\n" in shown.text)


def _as_text(value: Any, name: str, budget: int) -> ValueText:
    if isinstance(value, PLAIN):
        return ValueText(str_of(value))
    # A function wrapped by `functools.cache` is not a function, but holds one.
    if inspect.isfunction(getattr(value, "__wrapped__", value)) or inspect.isclass(value):
        return ValueText(_source_of(value, name))
    if isinstance(value, os.PathLike):
        return _path(Path(value), name)
    if inspect.ismodule(value) or inspect.isroutine(value):
        kind = "module" if inspect.ismodule(value) else "function"
        raise InvalidRequest(
            f"{name} is a {kind}; {{{{…}}}} does not call functions: assign the result to a "
            "variable first"
        )
    if isinstance(value, bytes | bytearray):
        raise InvalidRequest(f"{name} is bytes, but not an image; decode it to text first")
    value = as_pandas(value)
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas and isinstance(value, pandas.DataFrame):
        return table_text(value, name, "DataFrame", budget)
    if pandas and isinstance(value, pandas.Series):
        return table_text(value.to_frame(), name, "Series", budget)
    if pandas and isinstance(value, pandas.Index):
        return table_text(value.to_frame(index=False), name, "Index", budget)
    if numpy and isinstance(value, numpy.ndarray) and value.dtype == object:
        return _as_text(value.tolist(), name, budget)
    if numpy and isinstance(value, numpy.ndarray):
        return array_text(value, name, budget)
    if isinstance(value, Mapping | list | tuple | set | frozenset) or is_dataclass(value):
        return collection_text(value, name, budget)
    if hasattr(value, "model_dump"):
        return collection_text(value.model_dump(mode="json"), name, budget)
    made_of, text = type(value), str(value)
    if _ADDRESS.fullmatch(text):
        raise InvalidRequest(f"{name} is of type {made_of.__name__}, which has no text form")
    return cut_text(text, name, made_of.__name__, budget)


def as_image(value: Any) -> Image | None:
    """Return the value as an image if it is one: bytes of an image file, a figure or a picture.

    It takes figures and axes of matplotlib and seaborn, and images of Pillow and IPython.

    Raises:
        InvalidRequest: it is one, but cannot be drawn or is too large.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, bytes | bytearray):
        try:
            return read_image(bytes(value))
        except InvalidRequest:
            return None
    maker = library_of(value)
    if maker in ("matplotlib", "seaborn"):
        figure: Any = value if hasattr(value, "savefig") else getattr(value, "figure", None)
        if hasattr(figure, "savefig"):
            return _drawn(lambda file: figure.savefig(file, format="png", bbox_inches="tight"))
    if maker == "PIL" and hasattr(value, "save"):
        kind = "JPEG" if getattr(value, "format", "") == "JPEG" else "PNG"
        return _drawn(lambda file: value.save(file, format=kind))
    if maker == "IPython" and isinstance(getattr(value, "data", None), bytes):
        return read_image(value.data)
    return None


def _drawn(draw: Callable[[io.BytesIO], object]) -> Image:
    file = io.BytesIO()
    try:
        draw(file)
    except Exception as error:  # noqa: BLE001  # a figure runs its owner's code when drawn
        raise InvalidRequest(f"the figure cannot be drawn: {error}") from None
    return read_image(file.getvalue())


def _path(path: Path, name: str) -> ValueText:
    """Return the name of a file, with a note on how to insert its contents."""
    how = f"text = {name}.read_text() and {{{{text}}}} insert it"
    if path.suffix.lower() in IMAGES:
        how = f"--image {name} sends the image"
    return ValueText(str(path), f"{name} is a path, so only the path was inserted; {how}")


def _source_of(value: Any, name: str) -> str:
    """Return the source of a function or class.

    Raises:
        InvalidRequest: it cannot be found; `name` is its name in the prompt.
    """
    try:
        return inspect.getsource(value).rstrip("\n")
    except (OSError, TypeError, SyntaxError):
        pass
    # Up to Python 3.12, `inspect` finds classes in the file of their module, and a notebook has no
    # such file.
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
        given: ast.expr | None = None
        match line:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=given):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=given):
                pass
            case _:
                continue
        if name not in has:
            return False
        # A decorator or a metaclass may have replaced a value by one of another type.
        if (
            isinstance(given, ast.Constant)
            and type(has[name]) is type(given.value)
            and has[name] != given.value
        ):
            return False
    return True
