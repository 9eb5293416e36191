r"""TeX in a reply: which dollar signs enclose a formula, and which belong to prices.

Frontends treat any two dollar signs in a paragraph as a formula, so "It costs $5 to $10" becomes
unreadable. This module follows Pandoc's rule (pandoc.org/MANUAL.html, extension
`tex_math_dollars`): no space inside the dollar signs, and no digit after the second one.
Models also write formulas as `\(…\)` and `\[…\]`, which Markdown reads as escaped brackets.
"""

from __future__ import annotations

import re

# Lengths are bounded, so that unclosed openings cost linear time.
_FORMULA = (
    r"(?<!\\)\$\$.{1,1000}?(?<!\\)\$\$"
    # "$5 and 6$" starts like a price and continues with a word.
    r"|(?<![\\$\w])\$(?![\s$]|\d[\d.,]*\s[A-Za-z]{2})(?:\\\$|[^$\n]){1,500}?(?<![\s\\])\$"
    # "the $n$th" ends with a suffix. "$a/$b" are shell variables.
    r"(?=(?:th|st|nd|rd|s)\b|[^\w$]|\Z)"
    r"|\\\\\(.{1,500}?\\\\\)|\\\\\[.{1,1000}?\\\\\]"
    r"|\\begin\{(?P<name>\w+\*?)\}.{1,1000}?\\end\{(?P=name)\}"
)
FORMULA = re.compile(_FORMULA, re.DOTALL)
_BRACKETS = re.compile(
    r"(?<!\\)\\\((?P<inline>(?:[^$\n\\]|\\[^)\n]|\n(?![ \t]*\n)){1,500}?)\\\)"
    r"|(?<!\\)\\\[(?P<display>(?:[^$\n\\]|\\[^\]\n]|\n(?![ \t]*\n)){1,1000}?)\\\](?!\s*[(\[:])"
)
# A formula, the address of a link, or a dollar sign with an optional backslash before it.
_DOLLAR = re.compile(rf"{_FORMULA}|\]\([^\s()]*\)|https?://\S+|(?P<dollar>\\?\$)", re.DOTALL)
# What opens a formula in some frontends. If it stays open, it swallows the rest.
_OPENING = re.compile(r"\$\$|\\begin\{|\\\\\[")
_BLANK_LINE = re.compile(r"\n[ \t>]*\n")
# The element hides the sign from MathJax, which reads the page. The entity hides it from frontends
# that search the Markdown for formulas.
_PLAIN_DOLLAR = "<span>&#36;</span>"


def with_dollar_formulas(text: str) -> str:
    r"""Write `\(…\)` as `$…$` and `\[…\]` as `$$…$$`, which every frontend reads."""
    return _BRACKETS.sub(_in_dollars, text) if "\\" in text else text


def _in_dollars(match: re.Match[str]) -> str:
    if (display := match["display"]) is not None:
        # \[1\], \[x\] and \[sic\] are escaped brackets.
        is_formula = "\n" in display or re.search(r"[\\^_=<>+*/-]", display)
        return f"$${display}$$" if is_formula else match[0]
    formula = " ".join(match["inline"].split())
    return f"${formula}$" if formula else match[0]


def with_plain_dollars(text: str) -> str:
    """Escape dollar signs that do not enclose a formula."""
    return _DOLLAR.sub(lambda match: _PLAIN_DOLLAR if match["dollar"] else match[0], text)


def has_formula(text: str) -> bool:
    """Return whether a reply contains a formula."""
    return FORMULA.search(with_dollar_formulas(text)) is not None


def has_open_formula(text: str) -> bool:
    """Return whether a display formula is opened and not closed in its paragraph."""
    rest = FORMULA.sub(lambda match: match[0] if _BLANK_LINE.search(match[0]) else "", text)
    return _OPENING.search(rest) is not None
