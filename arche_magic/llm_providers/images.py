"""Images from files and bytes, recognized by their content, not by their names."""

from __future__ import annotations

from pathlib import Path

from .errors import InvalidRequest
from .files import expanded
from .request import Image

# Google accepts 20 MB per request, Groq 4 MB, the others more. If one refuses, the next is asked.
_MOST_BYTES = 20_000_000


def read_image(source: Image | str | Path | bytes) -> Image:
    """An image from a path or from a file's bytes: PNG, JPEG, WebP or GIF.

    Raises:
        InvalidRequest: it cannot be read, has another format, or is larger than 20 MB.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, str | Path):
        name = str(source)
        if name.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"image {name}: images are not downloaded; save it to a file first"
            )
        try:
            data = expanded(source).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"image {name} cannot be read: {error.strerror}") from None
    elif isinstance(source, bytes):
        name, data = "data", source
    else:
        raise InvalidRequest(f"an image must be a path or bytes, not {type(source).__name__}")
    media_type = _media_type(data)
    if media_type is None:
        raise InvalidRequest(f"image {name} is not a PNG, JPEG, WebP or GIF")
    if len(data) > _MOST_BYTES:
        raise InvalidRequest(f"image {name} has {len(data) / 1e6:.0f} MB; the limit is 20 MB")
    return Image(media_type, data)


def _media_type(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None
