"""Makes text safe to show and to write: no lone surrogates, control characters or hidden text."""

from __future__ import annotations

import re

# Terminal escapes, control characters, marks that reorder text, and invisible characters. They
# make text look different from what is copied, searched or sent.
_CONTROLS = re.compile(
    # Tags after a black flag spell its region (England, Texas). Anywhere else, they hide text.
    r"(\U0001f3f4[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,4}"
    r"\U000e007f)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,2000}(?:\x07|\x1b\\)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u202a-\u202e\u2066-\u206f"
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u3164\ufeff\uffa0\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
    # Variation selectors: one may follow a character. Many in a row hide a message.
    r"|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]+|(?<![\u3400-\u9fff])[\U000e0100-\U000e01ef]+"
)
# Joiners and direction marks between characters that do not need them, as some scripts do.
_JOINERS = re.compile(r"(?<![^\x00-\u058f])[\u061c\u200c-\u200f]+(?![^\x00-\u058f])")
_UNFINISHED = re.compile(r"(?:\U0001f3f4[\U000e0020-\U000e007e]{0,6}|[\u061c\u200c-\u200f]{1,6})\Z")
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")


def whole_characters(text: str) -> str:
    r"""Join surrogate pairs and replace lone surrogates, so that the text can be written to a file.

    JSON writes some characters as two surrogates (`\ud83d\ude00`).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def unfinished(text: str) -> int:
    """How many characters at the end of a growing text may be incomplete.

    They are the start of a flag, or a joiner, and `without_controls` would remove them.
    """
    end = _UNFINISHED.search(text)
    return len(end[0]) if end else 0


def without_controls(text: str) -> str:
    """Remove terminal escapes, control characters, and marks that hide or reorder text."""
    text = _CONTROLS.sub(r"\1", _LINE_ENDS.sub("\n", whole_characters(text)))
    return text if text.isascii() else _JOINERS.sub("", text)
