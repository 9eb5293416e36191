"""Images in prompts: how they are sent, which routes are used, and what is refused."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from provider_parts import PROVIDERS, Start, asked

from arche_magic.llm_providers import (
    IntelligentLLMOrchestrator,
    InvalidRequest,
    get_llm_provider,
    get_quota_tracker,
)
from arche_magic.llm_providers.config import get_configuration
from arche_magic.llm_providers.request import Image

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

IMAGE_MODELS = {"groq": "qwen/qwen3.8-27b"}


def png(shade: int = 0) -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, shade])))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def sent_images(sandbox: Sandbox) -> list[bytes]:
    """The image files of the last request, in any wire format."""
    body: Any = sandbox.requests[-1].body
    if sandbox.requests[-1].provider == "google":
        parts = body["contents"][-1]["parts"]
        texts = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
        return [base64.urlsafe_b64decode(text) for text in texts]
    parts = body["messages"][-1]["content"]
    uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(uri.startswith("data:image/png;base64,") for uri in uris)
    return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


@pytest.mark.parametrize("name", PROVIDERS)
def test_images_are_sent_with_their_text_in_every_wire_format(
    sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    """They come from a file or from bytes, and are sent in order, plain and streamed."""
    file = tmp_path / "picture"
    file.write_bytes(png(1))
    provider = get_llm_provider(name)
    model = IMAGE_MODELS.get(name)
    reply = provider.generate("What is it?", model=model, images=[file, png(2)])
    assert sent_images(sandbox) == [png(1), png(2)]
    assert "You sent 2 images." in reply
    assert "What is it?" in reply
    streamed = provider.stream("What is it?", model=model, images=[str(file)])
    assert "You sent 1 image." in "".join(streamed)


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_image_without_text_is_sent_alone(sandbox: Sandbox, name: str) -> None:
    """Some services refuse empty texts."""
    messages = [{"role": "user", "content": "", "images": [png()]}]
    get_llm_provider(name).generate_chat(messages, model=IMAGE_MODELS.get(name))
    assert sent_images(sandbox) == [png()]
    assert "text': ''" not in str(sandbox.requests[-1].body)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_conversation_includes_the_images_of_its_turns(sandbox: Sandbox, name: str) -> None:
    """A user's message has its own images; other messages have none."""
    messages = [
        {"role": "user", "content": "What is it?", "images": [png()]},
        {"role": "assistant", "content": "A pixel."},
        {"role": "user", "content": "Of which shade?"},
    ]
    reply = get_llm_provider(name).generate_chat(messages, model=IMAGE_MODELS.get(name))
    assert "You sent 1 image." in reply


def test_a_prompt_with_images_skips_models_without_vision(sandbox: Sandbox) -> None:
    """Models known to take only text are not called, and the attempts say so."""
    reply = get_llm_provider().generate("What is it?", images=[png()])
    assert asked(sandbox) == ["mistral"]
    skipped = reply.attempts[0]
    assert (skipped.provider, skipped.outcome, skipped.error) == (
        "groq",
        "skipped",
        "takes no images",
    )


def test_a_model_without_vision_is_refused_by_name(sandbox: Sandbox) -> None:
    """Nothing is sent, and a model that takes images is named."""
    with pytest.raises(InvalidRequest) as refused:
        get_llm_provider("groq").generate("What is it?", images=[png()])
    assert str(refused.value) == "openai/gpt-oss-120b takes no images; groq/qwen/qwen3.8-27b does"
    assert sandbox.requests == ()


def test_a_pattern_of_models_is_not_named_as_one_with_vision(start: Start) -> None:
    """The limits of some services are for patterns of models, such as `*`."""
    start()
    configuration = get_configuration()
    groq = configuration.providers["groq"]
    providers = {"groq": replace(groq, limits={"*": ()})}
    provider = IntelligentLLMOrchestrator(configuration=replace(configuration, providers=providers))
    with pytest.raises(InvalidRequest, match=r"^openai/gpt-oss-120b takes no images$"):
        provider.generate("What is it?", images=[png()])


def test_an_unknown_model_is_tried_with_images(sandbox: Sandbox) -> None:
    """It may take them; otherwise the provider says so."""
    get_llm_provider().generate("What is it?", model="mistral-medium-latest", images=[png()])
    assert asked(sandbox) == ["mistral"]


def test_an_image_counts_in_the_estimate_but_not_in_the_calibration(sandbox: Sandbox) -> None:
    """About 2,000 tokens are reserved for it; estimates of text do not change."""
    provider = get_llm_provider("mistral")
    before = provider.preview("Hello").usage.input_tokens
    assert 1_900 < provider.preview("Hello", images=[png()]).usage.input_tokens - before < 2_200
    provider.generate("Hello", images=[png()])
    assert provider.preview("Hello").usage.input_tokens == before
    used = get_quota_tracker().get_usage_summary("mistral")["mistral"]["mistral_key_1"][
        "tokens_per_minute"
    ]
    (counted,) = sandbox.usage()["mistral_key_1"].values()
    assert used["used"] == pytest.approx(counted["input_tokens"] + counted["output_tokens"])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([b"%PDF-1.7"], "is not a PNG, JPEG, WebP or GIF"),
        (["nowhere.png"], "image nowhere.png cannot be read"),
        (["a\0b.png"], r"^'a\\x00b.png' is not a path"),
        (["https://example.com/a.png"], "images are not downloaded"),
        ([png() + bytes(20_000_001)], "has 21 MB; the limit is 20 MB"),
        ([3], "an image must be a path or bytes, not int"),
        ("a.png", "images must be a list"),
    ],
)
def test_an_invalid_image_is_refused_before_anything_is_sent(
    sandbox: Sandbox, images: Any, said: str
) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(InvalidRequest, match=said):
        get_llm_provider("mistral").generate("What is it?", images=images)
    assert sandbox.requests == ()


def test_only_user_messages_can_have_images(sandbox: Sandbox) -> None:
    """Providers accept images only from users."""
    with pytest.raises(InvalidRequest, match="only user messages can have images"):
        get_llm_provider("mistral").generate_chat(
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hi", "images": [png()]},
            ]
        )


def test_the_repr_of_an_image_does_not_contain_its_bytes() -> None:
    """Its `str` does not contain them either."""
    image = Image("image/png", png())
    assert repr(image) == "Image(media_type='image/png')"
    assert str(image) == "image/png, 1 kB"


def test_a_preview_sends_and_reserves_nothing(sandbox: Sandbox) -> None:
    """It names the route that would answer, the wait, or what is wrong."""
    sandbox.fail("groq", "unauthorized")
    provider = get_llm_provider()
    provider.generate("Hello")
    before = get_quota_tracker().get_usage_summary()
    preview = provider.preview("Hello", system="Be brief.", max_tokens=50)
    assert preview.route is not None
    assert (preview.route.provider, preview.wait) == ("mistral", 0)
    assert [(route.provider, "key refused" in why) for route, _, why in preview.closed] == [
        ("groq", True)
    ]
    assert [message.content for message in preview.request.messages] == ["Be brief.", "Hello"]
    assert preview.usage.output_tokens == 50
    assert preview.room == 250_000
    assert len(sandbox.requests) == 2
    after = get_quota_tracker().get_usage_summary()
    assert [row["used"] for row in after["mistral"]["mistral_key_1"].values()] == pytest.approx(
        [row["used"] for row in before["mistral"]["mistral_key_1"].values()], rel=0.05
    )
