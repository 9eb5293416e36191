r"""The `{{variables}}` of a prompt, and the images that go with it.

`{{name}}`, with any number of `.attribute`, `[0]` or `["key"]` after the name, stands for a value:
a variable of the notebook, or a column of a frame. References inside a value are not replaced. All
other braces are sent as they are, and so is `\{{name}}`, without its backslash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.files import expanded
from arche_magic.llm_providers.request import Image, read_image
from arche_magic.llm_providers.text.wording import did_you_mean

from .tables import ValueText
from .tables import as_pandas as as_pandas
from .values import IMAGES, as_image, as_text

# Double braces on one line. Their content is a reference if it begins like a name, or if it is the
# name of a value: a column may be called `2023`, `% change` or `f{x}`.
_REFERENCE = re.compile(r"(\\?)\{\{([^{}\n](?:[^{}\n]|\{[^{}\n]*\})*)\}\}")
_NAME = re.compile(r"(?!\d)\w+")
_STEP = re.compile(
    r"""\.(?P<attribute>(?!\d)\w+)|\[(?P<number>-?\d{1,18})\]|\["(?P<key>[^"]*)"\]|\['(?P<word>[^']*)'\]"""
)
_STEPS = re.compile(f"(?:{_STEP.pattern})*")
_PATH = re.compile(r"""(?:pathlib\.)?Path\((['"])(?P<file>[^'"]*)\1\)""")
_SHOWN_CHARACTERS = 100
_OF_IPYTHON = ("In", "Out", "exit", "get_ipython", "open", "quit")
_UNCHANGED = r"(\{{ sends braces unchanged)"


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to send.

    `notes` tell the user what was left out of a value.
    """

    text: str
    images: tuple[Image, ...] = ()
    notes: tuple[str, ...] = ()


class Template(str):
    """A prompt in which some references have the same text for all rows; see `fill`.

    The string is the prompt as typed, so references inside the given texts are not replaced.

    Attributes:
        given: the texts, by reference.
    """

    given: Mapping[str, ValueText]

    def __new__(cls, text: str, given: Mapping[str, ValueText]) -> Self:
        """Build a template from the prompt as it was typed."""
        template = super().__new__(cls, text)
        template.given = given
        return template


def fill(text: str, names: Mapping[str, Any], budget: int) -> Prompt:
    """Return the text with its variables replaced by their values, in one pass.

    After a table or another value of several lines, the prompt continues on a new line, so that the
    last row of a table stays as it is.

    Args:
        text: the prompt; the texts of a `Template` take precedence over `names`.
        names: the variables.
        budget: maximum tokens for one table, array or collection.

    Raises:
        InvalidRequest: a variable does not exist, or cannot be part of a prompt.
    """
    images: list[Image] = []
    notes: list[str] = []
    given = text.given if isinstance(text, Template) else {}

    def replace(match: re.Match[str]) -> str:
        reference = match[2].strip()
        if match[1]:
            return match[0][1:]
        name = name_in(reference, names)
        if reference not in given and name not in names and not _NAME.fullmatch(name):
            return match[0]
        shown = given.get(reference)
        if shown is None:
            value = look_up(reference, names)
            if image := as_image(value):
                images.append(image)
                return f"[image {len(images)}]"
            shown = as_text(value, reference, budget)
        if shown.note:
            notes.append(shown.note)
        ends_line = match.end() == len(text) or text.startswith(("\n", "\r\n"), match.end())
        return shown.text + ("\n" if shown.block and not ends_line else "")

    return Prompt(_REFERENCE.sub(replace, text), tuple(images), tuple(dict.fromkeys(notes)))


def references(text: str) -> list[str]:
    """Return the contents of `{{…}}` in a text, each once, in order, without those that are given.

    They include texts that are not names, such as `2023`, because a column may have that name.
    """
    given = text.given if isinstance(text, Template) else {}
    found = (match[2].strip() for match in _REFERENCE.finditer(text) if not match[1])
    return [reference for reference in dict.fromkeys(found) if reference not in given]


def name_in(reference: str, names: Container[str] = ()) -> str:
    """Return the name that a reference begins with: `review` of `review.title[0]`.

    It is the longest of `names` after which only steps follow, such as `unit price` of
    `unit price[0]`; if none of them fits, the part that looks like a name.
    """
    ends = [step.start() for step in re.finditer(r"[.\[]", reference)]
    for end in (len(reference), *reversed(ends)):
        name, rest = reference[:end], reference[end:]
        # Names such as `a.b` have no attributes: `a.b.c` is probably misspelt.
        follows = name.isidentifier() or not rest.startswith(".")
        if name in names and follows and _STEPS.fullmatch(rest):
            return name
    start = _NAME.match(reference)
    return start[0] if start and "{" not in reference else reference


def look_up(reference: str, names: Mapping[str, Any]) -> Any:
    """Return the value of `name`, `name.attribute`, `name[0]` or `name["key"]`. Nothing is called.

    Raises:
        InvalidRequest: it is written in another way, or does not exist.
    """
    name = name_in(reference, names)
    steps = steps_in(reference, name)
    if name not in names:
        hint = did_you_mean(name, own_names(names)) or f" {_UNCHANGED}"
        raise InvalidRequest(f"{{{{{reference}}}}}: there is no variable {name!r}{hint}")
    value = names[name]
    for step in steps:
        path = reference[: step.start()]
        if (attribute := step["attribute"]) is not None:
            value = _attribute(value, attribute, path)
        else:
            number = step["number"]
            value = _item(value, int(number) if number else step["key"] or step["word"] or "", path)
    return value


def steps_in(reference: str, name: str) -> list[re.Match[str]]:
    """Return the steps after the name in a reference: `.title` and `[0]` of `review.title[0]`.

    Raises:
        InvalidRequest: something else follows it.
    """
    steps, end = [], len(name)
    while step := _STEP.match(reference, end):
        steps.append(step)
        end = step.end()
    if end < len(reference):
        raise InvalidRequest(f"{{{{{reference}}}}}: {{{{…}}}} {_why_not(reference)} {_UNCHANGED}")
    return steps


def _why_not(reference: str) -> str:
    if path := _PATH.fullmatch(reference):
        if path["file"].lower().endswith(IMAGES):
            return f"does not call functions; --image {path['file']!r} sends the image"
        return (
            "does not call functions; to insert the file: "
            f"text = {reference}.read_text(), {{{{text}}}}"
        )
    if "(" in reference:
        return "does not call functions; assign the result to a variable first"
    return 'takes a name, name.attr, name[0], name["k"]'


def is_reference(text: str, names: Mapping[str, Any]) -> bool:
    """Return whether a text is a variable's name, with any number of steps after it."""
    name = name_in(text, names)
    return (
        name in names
        and _NAME.fullmatch(name) is not None
        and bool(_STEPS.fullmatch(text, len(name)))
    )


def file_or_value(option: str, source: str, names: Mapping[str, Any]) -> Any:
    """Return the path of the file that an option names, or the value of the variable.

    Raises:
        InvalidRequest: there is neither.
    """
    path = expanded(source)
    try:
        if path.exists():
            return path
        near = [str(path.with_name(other.name)) for other in path.parent.iterdir()]
    except (OSError, ValueError):
        near = []
    if is_reference(source, names):
        return look_up(source, names)
    variables = (name for name in own_names(names) if not callable(names[name]))
    hint = did_you_mean(source, [*near, *variables])
    raise InvalidRequest(f"{option} {source}: there is no such file, and no such variable{hint}")


def image_of(source: str, names: Mapping[str, Any]) -> Image:
    """Return the image that `--image` names: a file, or a variable with an image or its path.

    Raises:
        InvalidRequest: there is no such image.
    """
    value = source if "://" in source else file_or_value("--image", source, names)
    if image := as_image(value):
        return image
    if isinstance(value, str | Path):
        if "://" not in str(value) and not os.path.isfile(expanded(value)):  # noqa: PTH113
            raise InvalidRequest(f"--image {source}: {one_line(value)} is not a file")
        return read_image(value)
    raise InvalidRequest(f"--image {source} is of type {type(value).__name__}, not an image")


def one_line(value: object) -> str:
    """Return the beginning of a value's text in one line, for a message."""
    return " ".join(str(value)[:_SHOWN_CHARACTERS].split())


def own_names(names: Iterable[str]) -> list[str]:
    """Return the names that a user may mean: no private ones, and none that IPython adds."""
    return [name for name in names if not name.startswith("_") and name not in _OF_IPYTHON]


def _attribute(value: Any, name: str, path: str) -> Any:
    if name.startswith("_"):
        raise InvalidRequest(f"{{{{{path}.{name}}}}}: names that start with _ are private")
    try:
        return getattr(value, name)
    except AttributeError:
        hint = did_you_mean(name, own_names(dir(value)))
        if isinstance(value, Mapping) and name in value:
            hint = f"; write {{{{{path}[{name!r}]}}}}"
        raise InvalidRequest(f"{{{{{path}.{name}}}}}: {path} has no {name!r}{hint}") from None
    except Exception as error:  # noqa: BLE001  # a property runs its owner's code
        raise InvalidRequest(f"{{{{{path}.{name}}}}} cannot be read: {error!r}") from None


def _item(value: Any, key: int | str, path: str) -> Any:
    reference = f"{{{{{path}[{key!r}]}}}}"
    is_mapping = isinstance(value, Mapping)
    try:
        # Checked first, because a defaultdict would create a missing key.
        if not is_mapping or key in value:
            return value[key]
    except (KeyError, IndexError):
        pass
    except Exception as error:  # noqa: BLE001  # an index runs its owner's code
        raise InvalidRequest(f"{reference} cannot be read: {error}") from None
    known: Iterable[object] = value if is_mapping else ()
    if isinstance(key, str) and not is_mapping:
        known = getattr(value, "columns", ())
    what = f"key {key!r}" if is_mapping else repr(key)
    hint = did_you_mean(str(key), map(str, known))
    raise InvalidRequest(f"{reference}: {path} has no {what}{hint}")
