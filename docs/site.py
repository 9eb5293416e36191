"""Write the pages of the site and build it: `make docs`.

The pages are the README as the home page, `docs/*.md`, the changelog, the guide for contributors,
and the notebooks with their outputs. All of them are readable Markdown in the repository. This
module adapts their links to the site, and replaces `<!-- magics -->` and `<!-- python MODULE -->`
by a reference that is generated from the magics and modules.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from posixpath import normpath
from typing import Any

from arche_magic.notebook.arguments import first_sentence
from arche_magic.notebook.magics import ArcheMagics

ROOT = Path(__file__).resolve().parent.parent
# Pages outside docs/ and their names in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
# Sentences about the site, which the site itself does not need.
_ANNOUNCED = re.compile(r"^The site, which `make docs` builds, continues here.*\n\n", re.MULTILINE)
_CODE = re.compile(r"\\?\{\{.+?\}\}|`--`|(?<!\w)--\w[\w-]*")


def main(target: Path = ROOT / "build") -> None:
    """Write `pages/` and `site/` into the folder `target`; a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    pages, site = target / "pages", target / "site"
    write_pages(pages)
    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(site))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)


def write_pages(folder: Path) -> None:
    """Write all pages, and the files that they show or link to, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(ROOT / "docs" / name, folder)
    for source in [*map(ROOT.joinpath, ELSEWHERE), *sorted((ROOT / "docs").glob("*.md"))]:
        text = source.read_text("utf-8")
        (folder / place(source)).write_text(page(source, text), "utf-8")
        for target in _LINK.findall(_FENCED.sub("", text)):
            file = Path(normpath(source.parent / target))
            (folder / place(file)).parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".ipynb":
                (folder / place(file)).write_text("\n".join(notebook(file)), "utf-8")
            elif file.suffix != ".md":
                shutil.copy(file, folder / place(file))


def page(source: Path, text: str) -> str:
    """The text of a page in the site."""

    def linked(text: str) -> str:
        return _LINK.sub(lambda m: place(Path(normpath(source.parent / m[1]))).as_posix(), text)

    text = _outside_fences(_ANNOUNCED.sub("", text), linked)
    text = text.replace("<!-- magics -->", "\n".join(magics()))
    seen: dict[int, str] = {}
    return re.sub(
        r"<!-- python ([\w.]+)(?:: ([\w ]+))? -->",
        lambda m: "\n".join(python(m[1], (m[2] or "").split(), seen)),
        text,
    )


def place(file: Path) -> Path:
    """The path of a file in the site. All documents are in one folder."""
    inside = file.relative_to(ROOT)
    if inside.as_posix() in ELSEWHERE:
        return Path(ELSEWHERE[inside.as_posix()])
    if inside.suffix == ".ipynb":
        return inside.with_suffix(".md")
    return inside.relative_to("docs") if inside.parts[0] == "docs" else inside


def magics() -> Iterator[str]:
    """The reference of the magics, generated from their declarations like `%%llm?`."""
    for name in sorted({name for kind in ArcheMagics.magics.values() for name in kind}):
        magic = getattr(ArcheMagics, name)
        yield f"## %{name} {{#{name}}}\n\n{first_sentence(magic)}\n"
        for part in inspect.cleandoc(magic.parser.description).split("\n\n")[1:]:
            heading, _, below = part.partition("\n")
            if heading.endswith(":"):
                yield f"{heading}\n\n```text\n{inspect.cleandoc(below)}\n```\n"
            else:
                yield _CODE.sub(lambda m: f"`{m[0].strip('`')}`", part) + "\n"
        if options := magic.parser._actions:
            yield "| option | meaning |\n|---|---|"
            yield from (f"| {_spelled(option)} | {_cell(option.help)} |" for option in options)
            yield ""


def python(module: str, names: list[str], seen: dict[int, str]) -> Iterator[str]:
    """The reference of these names of a module, or of all its public names."""
    loaded = import_module(module)
    for name in names or loaded.__all__:
        path = f"{module}.{name}"
        first = seen.setdefault(id(getattr(loaded, name)), path)
        if first == path:
            yield f"::: {path}\n"
        else:
            yield f"### `{name}` {{#{path}}}\n\nThe same as [`{first}`](#{first}).\n"


def notebook(file: Path) -> Iterator[str]:
    """A notebook as a page, with its cells and their saved outputs."""
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source + "\n"
            continue
        yield f"```{'' if source.startswith('%') else 'python'}\n{source}\n```\n"
        for output in cell["outputs"]:
            yield _output(output) + "\n"


def _output(output: dict[str, Any]) -> str:
    """An output of a cell in the first format that it has: HTML, picture, Markdown, text."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">\n{"".join(data["text/html"])}\n</div>'
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<div class="output"><img alt="" src="data:image/png;base64,{picture}"></div>'
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = output.get("text") or data.get("text/plain") or f"{output['ename']}: {output['evalue']}"
    return f"```text\n{''.join(text).rstrip()}\n```"


def _spelled(option: argparse.Action) -> str:
    value = "" if option.nargs == 0 else f" {option.metavar or '|'.join(option.choices or ())}"
    return f"`{', '.join(option.option_strings)}{value}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("%%", "%").replace("|", "\\|")


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    fenced = [match[0] for match in _FENCED.finditer(text)]
    parts = [change(part) for part in _FENCED.sub("\0", text).split("\0")]
    return "".join(part + fence for part, fence in zip(parts, [*fenced, ""], strict=True))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
