"""`--image` and `{{figure}}`: files, figures and images in a prompt."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from notebook_kernel import Kernel

    from arche_magic.sandbox import Sandbox

SETUP = """
import matplotlib; matplotlib.use("agg")
import io, pathlib
import matplotlib.pyplot as plt
from PIL import Image
fig, axes = plt.subplots()
axes.plot([1, 3, 2])
plt.close(fig)
picture = Image.new("RGB", (8, 8), "red")
picture.save("red.png"); picture.save("red.jpg")
file = pathlib.Path("red.png")
data = file.read_bytes()
number = 3
"""


def sent(sandbox: Sandbox) -> tuple[str, list[str], list[bytes]]:
    """Text, media types and image files of the last request to Mistral."""
    content: Any = sandbox.requests[-1].body["messages"][-1]["content"]
    uris = [part["image_url"]["url"].split(",") for part in content[1:]]
    types = [head.removeprefix("data:").removesuffix(";base64") for head, _ in uris]
    return content[0]["text"], types, [base64.b64decode(data) for _, data in uris]


@pytest.mark.parametrize(
    ("source", "media_type"),
    [
        ("red.png", "image/png"),
        ("red.jpg", "image/jpeg"),
        ("fig", "image/png"),
        ("axes", "image/png"),
        ("picture", "image/png"),
        ("file", "image/png"),
        ("data", "image/png"),
    ],
)
def test_an_image_can_be_a_file_or_a_variable(
    kernel: Kernel, sandboxed, source: str, media_type: str
) -> None:
    """A path names a file. Figures, axes, images, paths and bytes are named by their variable."""
    sandbox = sandboxed(keys={"mistral": 1})
    assert kernel.run(SETUP).status == "ok"
    cell = kernel.run(f"%llm --image {source} What is it?")
    assert cell.status == "ok", cell.error
    text, types, (data,) = sent(sandbox)
    assert (text, types) == ("What is it?", [media_type])
    assert len(data) > 50
    assert "You sent 1 image." in cell.displays[0]["data"]["text/plain"]


def test_figures_in_the_text_become_images_in_order(kernel: Kernel, sandboxed) -> None:
    """The text marks their places; images of --image follow them."""
    sandbox = sandboxed(keys={"mistral": 1})
    kernel.run(SETUP)
    kernel.run("%%llm -q --image red.jpg\nCompare {{fig}} with {{picture}}.")
    text, types, _ = sent(sandbox)
    assert text == "Compare [image 1] with [image 2]."
    assert types == ["image/png", "image/png", "image/jpeg"]


def test_routes_without_vision_are_skipped(kernel: Kernel, sandboxed) -> None:
    """The receipt says so; if no route is left, the cell fails and names a model."""
    sandboxed(keys={"groq": 1, "mistral": 1})
    kernel.run(SETUP)
    receipt = kernel.run("%llm --image red.png What is it?").displays[1]["data"]["text/plain"]
    assert receipt.startswith("mistral · key 1")
    assert "groq · key 1 · gpt-oss-120b skipped: takes no images" in receipt
    kernel.run("reasons = %llm_why")
    change = "reasons.set_index('provider').would_change['groq']"
    assert kernel.value(change) == "a prompt that this route can take"
    refused = kernel.run("%llm -p groq --image red.png What is it?")
    assert refused.message == (
        "InvalidRequest: openai/gpt-oss-120b takes no images; groq/qwen/qwen3.8-27b does"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rde.png", "there is no such file, and no such variable"),
        ("pictur", "did you mean 'picture'?"),
        ("nope.png", "there is no such file, and no such variable"),
        ("number", "--image number is of type int, not an image"),
        ("https://example.com/a.png", "images are not downloaded"),
        ("notes.txt", "is not a PNG, JPEG, WebP or GIF"),
    ],
)
def test_an_invalid_image_fails_the_cell(kernel: Kernel, sandboxed, source: str, said: str) -> None:
    """One line, and nothing is sent."""
    sandbox = sandboxed(keys={"mistral": 1})
    kernel.run(SETUP + "pathlib.Path('notes.txt').write_text('text')")
    cell = kernel.run(f"%llm --image {source} What is it?")
    assert cell.status == "error"
    assert said in cell.message
    assert "'open'" not in cell.message, "IPython's function is not an image"
    assert "\n" not in cell.message
    assert sandbox.requests == ()
