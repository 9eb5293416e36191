"""Parts of messages: suggestions for misspelt names, counts, shares, lists, shortened texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MOST_DECIMALS = 2
_MOST_NAMES = 30
_LONGEST_MESSAGE = 1000
# What `repr` writes for a text of more than 200 characters.
_LONG_QUOTE = re.compile(r"""(?<![\w\\])(['"])((?:(?!\1)[^\\]|\\.){201,}+)\1(?!\w)""", re.DOTALL)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'groq'?` for a near miss, else nothing.

    Case does not matter. The dashes before an option do not count as similarity.
    """
    import difflib

    names = {name.lower().lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lower().lstrip("-"), list(names), n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def suggestion(word: str, known: Iterable[str], heading: str = "there are") -> str:
    """`; did you mean 'groq'?` for a near miss, else `; there are groq, mistral`, if any are."""
    names = list(known)
    listed = f"; {heading} {', '.join(names[:_MOST_NAMES])}" if names else ""
    return did_you_mean(word, names) or listed


def plural(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(reasons: Iterable[str]) -> str:
    """The reasons that are not empty, separated by semicolons.

    A provider's own sentence loses its full stop if another reason follows.
    """
    *others, last = [*filter(None, reasons)] or [""]
    return "; ".join([*(reason.rstrip(" .") for reason in others), last])


def percent(share: float, decimals: int = 0) -> str:
    """A share from 0 to 1 as `42 %`.

    Only a share of 1 is `100 %`, and only 0 is `0 %`. Near them, more decimals are shown: `99.9 %`,
    `0.04 %`, or in the end `over 99.99 %` and `under 0.01 %`.
    """
    text = f"{100 * share:.{decimals}f}"
    if share in (0, 1) or float(text) not in (0, 100):
        return f"{text} %"
    if decimals < _MOST_DECIMALS:
        return percent(share, decimals + 1)
    return "under 0.01 %" if share < 0.5 else "over 99.99 %"


def without_long_values(message: str) -> str:
    """Return a message that does not repeat a whole document that was given in place of a name.

    A text in quotes of more than 200 characters loses its middle: the end of a path names the file.
    A message that is still longer than 1,000 characters loses its middle, too.
    """
    # At the end of Python, a template with groups could not be parsed any more.
    message = _LONG_QUOTE.sub(
        lambda found: f"{found[1]}{found[2][:60]}…{found[2][-40:]}{found[1]}", message
    )
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:500]} … {message[-400:]}"
    return message


def shortened(text: str, longest: int) -> str:
    """Return the text, cut to at most `longest` characters; "" if none fit."""
    return text if len(text) <= longest else text[: max(0, longest - 1)] + "…" * (longest > 1)
