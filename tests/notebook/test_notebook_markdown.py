"""A reply is untrusted: its display loads, runs and hides nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import mistune
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbconvert.filters import markdown2html

from arche_magic.llm_providers import Reply
from arche_magic.llm_providers.text.code_blocks import code_of
from arche_magic.llm_providers.text.reasoning import without_reasoning
from arche_magic.notebook.commands.llm import FORMATS
from arche_magic.notebook.display import ReplyDisplay
from arche_magic.notebook.markup import as_html
from arche_magic.notebook.reply_formats import reply_bundle

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

MARK = "alert"  # Every attack below contains it, so that its result can be found.
ATTACKS = [
    f"<script>{MARK}(1)</script>",
    f"<img src=x onerror={MARK}(1)>",
    f'<iframe src="javascript:{MARK}(1)"></iframe>',
    f'<a href="javascript:{MARK}(1)">a</a>',
    f"![a](http://example.org/{MARK}.png)",
    f"!![a](http://example.org/{MARK}.png)",
    f"![a][{MARK}]",
    f"[{MARK}]: http://example.org/x.png",
    f"[{MARK}]: javascript:{MARK}(1)",
    f"[a](javascript:{MARK}(1))",
    f"[a]( \n javascript:{MARK}(1))",
    f"[a](<javascript:{MARK}(1)>)",
    f"[a](&#106;avascript:{MARK}(1))",
    f"[a](javascript&colon;{MARK}(1))",
    f"[a](data:text/html,{MARK})",
    f"<javascript:{MARK}(1)>",
    f"<!-- {MARK} -->",
    f"<svg onload={MARK}(1)>",
    f"< img src=x onerror={MARK}(1)>",
    f"![a](http://example.org/{MARK}.png 'title')",
    f"[![a](http://example.org/{MARK}.png)](http://example.org)",
    f"$\\href{{javascript:{MARK}(1)}}{{x}}$",
    f"&#36;&#92;href{{javascript:{MARK}(1)}}{{x}}&#36;",
    f'```mermaid\nclick A href "javascript:{MARK}(1)"\n```',
]
BORDERS = [
    "```", "````", "~~~", "~~~~", "```python", "``` a`b", "~~~ a`b", "`", "``", "\\`", "\\\\`",
    "\\", "- ", "  ", "    ", "> ", "1. ", "- ```", "> ```", "  ~~~", "$", "$$", "\\$",
    "\\begin{a}", "\\end{a}", "\\\\[", "\\\\]", "\\\\(", "\\\\)", "[x](", ")", "[b]:", "\n",
    "\n\n", "\n", "\n", "<pre>", "</pre>",
    "<code>", "</code>", "<!--", "-->", "|", "---", "# ", "text", "\t", "\r", "\x0c", "\u2028",
]  # fmt: skip
FORBIDDEN = {
    "img", "script", "iframe", "svg", "object", "embed", "link", "style", "form", "input", "video",
    "audio", "base", "meta", "math",
}  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def renderings(markdown: str) -> list[str]:
    """The HTML that several frontends' Markdown produces, with raw HTML allowed."""
    plain = mistune.create_markdown(escape=False)
    plugins = ["math", "table", "footnotes", "def_list", "task_lists", "strikethrough"]
    rich = mistune.create_markdown(escape=False, plugins=plugins)
    return [markdown2html(markdown), str(plain(markdown)), str(rich(markdown))]


def assert_harmless(text: str, form: str = "markdown") -> None:
    shown = reply_bundle(text, form)["text/markdown"]
    for page in renderings(shown):
        for tag, attributes in Elements(page).found:
            where = (tag, attributes, shown)
            assert tag not in FORBIDDEN, where
            assert not any(name.startswith("on") for name in attributes), where
            address = re.sub(r"[\x00-\x20]", "", attributes.get("href") or "")
            assert re.match(r"(https?:|mailto:|#|$)", address, re.IGNORECASE), where


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "text `{}` text",
        "`a\n` {} `",
        "\\`{}`",
        "```\ncode\n```\n{}\n```\ncode\n```",
        "```\n{}",
        "- item\n  ```\n  {}\n  ```",
        "> ```\n> {}\n> ```",
        "$$\n```\n$$\n{}\n```\n$$",
        "$$\n\n```\n$$\n{}\n```\n",
        "- a $$ b\n\n$$\n```\n$$ {}\n```",
        "[x]:\n```\n{}\n```",
        "~~~ a`b\n{}\n~~~",
        "~~~\n```\n~~~\n{}\n```",
        "[x](y`z) {} `w`",
        "    ```\n{}\n    ```",
        "\\begin{{a}}\n```\n\\end{{a}}\n{}\n```",
    ],
)
def test_attacks_are_shown_as_text(attack: str, around: str) -> None:
    """Scripts, images, HTML and links that run something, wherever they are."""
    assert_harmless(around.format(attack))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([*BORDERS, *BORDERS, *ATTACKS]), max_size=24).map("".join))
@example("```\n<img src=x>\n~~~\n```\n~~~\n<img src=x>")
def test_no_mixture_of_delimiters_lets_an_attack_through(text: str) -> None:
    """However code, math, lists and quotes are opened and closed."""
    assert_harmless(text)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([form for form in FORMATS if form != "text"]),
    st.lists(st.sampled_from([*BORDERS, *ATTACKS]), max_size=24).map("".join),
)
@example("code", "```python\n```` <img src=x>\n```")
@example("math", "x\n$$\n<img src=x>")
def test_no_format_lets_an_attack_through(form: str, text: str) -> None:
    """Extracted parts of a reply are as harmless as the whole."""
    assert_harmless(text, form)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*BORDERS, *ATTACKS, "**", "*", "a"]), max_size=24).map("".join))
def test_a_reply_in_a_column_has_only_our_tags(text: str) -> None:
    """It is escaped first. Then only fixed tags and links to web pages are added."""
    for tag, attributes in Elements(as_html(text)).found:
        if tag == "span" and "class" in attributes:
            assert attributes == {"class": "mathjax_process tex2jax_process"}
        elif tag == "a":
            assert attributes.pop("href").startswith(("http://", "https://"))
            assert attributes == {"rel": "noopener noreferrer"}
        else:
            allowed = ("div", "pre", "code", "b", "i", "del", "table", "tr", "td", "span")
            assert tag in allowed, (tag, text)
            assert set(attributes) <= {"style", "tabindex"}, (attributes, text)


def test_columns_show_formulas_and_code_blocks() -> None:
    """Prices stay prices, and definitions that would apply to the page are shown as text."""
    page = as_html("$5 to $6, \\(a<b\\) and $\\def\\x{y}$\n\n```\n'''\n    ```\n'''\n```")
    formula = '<span class="mathjax_process tex2jax_process">'
    assert f"$5 to $6, {formula}$a&lt;b$</span> and {formula}$\\ def\\x{{y}}$</span>" in page
    assert page.endswith("&#x27;&#x27;&#x27;\n    ```\n&#x27;&#x27;&#x27;</pre>")


def test_common_markdown_is_rendered_in_columns() -> None:
    """Titles, lines, lists, code, tables and emphasis; other text stays as it is."""
    page = as_html(
        "# Title ##\n## In C#\ntwo\nlines **bold** *it* `a<b` ```py\n\n* * *\n- one\n  2. two\n"
        "```py\nx < 1\n```\n| a |\n|---|\n| b |\n\n2 * 3 * 4"
    )
    plain = re.sub(r' (style|tabindex)="[^"]*"', "", page)
    assert plain == (
        "<div>Title</div><div>In C#</div>"
        "<div>two lines <b>bold</b> <i>it</i> <code>a&lt;b</code> ```py</div>"
        "<div></div><div><div>•</div><div>one</div></div><div><div>2.</div><div>two</div></div>"
        "<pre>x &lt; <span>1</span></pre>"
        "<div><table><tr><td>a</td></tr><tr><td>b</td></tr></table></div>"
        "<div>2 * 3 * 4</div>"
    )


def test_columns_show_quotes_links_and_coloured_code() -> None:
    """They look as in a cell. Only addresses of web pages are links, and no text is lost."""
    page = as_html(
        "> a **quote**\n> > of [me](https://a.b/c?d=*1*&e)\n\n**bold [x](http://y)** [z](data:x)\n"
        "```python\ndef f():\n    return '<b>'  # why\n```\n```brainf\n<b>\n```"
    )
    plain = re.sub(r' (style|rel|tabindex)="[^"]*"', "", page)
    assert plain == (
        '<div><div>a <b>quote</b></div><div><div>of <a href="https://a.b/c?d=*1*&amp;e">me</a></div>'
        '</div></div><div><b>bold <a href="http://y">x</a></b> [z](data:x)</div>'
        "<pre><span>def</span> <span>f</span>():\n    <span>return</span> "
        "<span>&#x27;&lt;b&gt;&#x27;</span>  <span># why</span></pre><pre>&lt;b&gt;</pre>"
    )
    assert len(set(re.findall(r'<span style="(color:#\w{6})">', page))) == 4


def test_columns_show_escaped_signs_as_themselves() -> None:
    """A backslash or a character reference makes a sign plain text, also in an address."""
    page = as_html(r"In\[1\] \*a\* &#42;b&#42; &lt;i&gt; [x\]y](https://a/\_b) AT&T &no; `\*&lt;`")
    plain = re.sub(r' (style|rel)="[^"]*"', "", page)
    assert plain == (
        '<div>In[1] *a* *b* &lt;i&gt; <a href="https://a/_b">x]y</a> AT&amp;T &amp;no; '
        "<code>\\*&amp;lt;</code></div>"
    )


def test_columns_show_images_as_links_and_deleted_text_as_such() -> None:
    """An image is a link that names its host, as in a cell; nothing is loaded."""
    page = as_html("![a *map*](https://[x/y.png) and ~~no~~ ~~ yes ~~ ![b](data:x)")
    plain = re.sub(r' (style|rel)="[^"]*"', "", page)
    assert plain == (
        '<div><a href="https://[x/y.png">image: a <i>map</i> ([x)</a> and <del>no</del> '
        "~~ yes ~~ ![b](data:x)</div>"
    )


CODE = 'for (i = 0; i<n; i++) { a[i](x) = "<b>" + `t`; }  // ![x](y)'


@pytest.mark.parametrize(
    "text",
    [
        f"Look:\n```c\n{CODE}\n```\nDone.",
        f"Look:\n\n```c\n{CODE}\n{CODE}",
        f"- item\n\n  ```c\n  {CODE}\n  ```\n\n- next",
        f"1. ```c\n   {CODE}\n   ```",
        f"> ```c\n> {CODE}\n> ```",
        f"~~~c\n{CODE}\n~~~",
        f"A sum: $$x$$\n\n```c\n{CODE}\n```",
        "Use `a<b>` and ``x ` <y>``.",
    ],
)
def test_code_stays_readable(text: str) -> None:
    """Code is shown as it was written, in fences, lists, quotes and spans, closed or not."""
    code = ["a<b>", "x ` <y>"] if "Use" in text else [CODE]
    for page in renderings(reply_bundle(text)["text/markdown"]):
        found = " ".join(re.findall(r"<code[^>]*>(.*?)</code>", page, re.DOTALL) or [page])
        plain = re.sub(r"<[^>]+>", "", found)
        assert all(line in unescape(plain) for line in code), page


@pytest.mark.parametrize(
    "text",
    [
        "# A title\n\n- **bold**, *italic*, `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        "```python\nif a > b and c:\n    print('ok')\n```",
        "See [the docs](https://example.org/a?b=c) and $e^{i\\pi} = -1$.",
        "$$\n\\int_0^1 x\\,dx\n$$",
    ],
)
def test_ordinary_markdown_does_not_change(text: str) -> None:
    """Titles, tables, code, math and links to web pages."""
    assert reply_bundle(text) == {"text/plain": text, "text/markdown": text}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("so $a<b$ and $c < d$", "so $a\\lt b$ and $c \\lt  d$"),
        ("$$\nx < y\n$$", "$$\nx \\lt  y\n$$"),
        ("\\begin{align}a &< b\\end{align}", "\\begin{align}a &\\lt  b\\end{align}"),
        ("$n![k](x)$", "$n!{}[k]{}(x)$"),
    ],
)
def test_a_formula_is_still_a_formula(text: str, shown: str) -> None:
    """TeX has no entities: text that could be HTML or a link is replaced by TeX commands."""
    assert reply_bundle(text)["text/markdown"] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![a cat](https://e.org/cat.png)", "[image: a cat (e.org)](https://e.org/cat.png)"),
        (
            "![](https://e.org:8/x?y=z#w)",
            "[image: without a title (e.org:8)](https://e.org:8/x?y=z#w)",
        ),
        ("![a](https://e.org/x 'title')", "[image: a (e.org)](https://e.org/x)"),
        ("![a](https://me@e.org/x)", "&#33;[a](https://me@e.org/x)"),
        ("![a][b]", "&#33;[a][b]"),
    ],
)
def test_an_image_becomes_a_link_with_its_host(text: str, shown: str) -> None:
    """Nothing is loaded until the user clicks it."""
    assert reply_bundle(text)["text/markdown"] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$\\href{x}{y}$", "$\\ href{x}{y}$"),
        ("$\\hrefs{x}$ and \\alpha", "$\\hrefs{x}$ and \\alpha"),
        ("\\\\style{x}{y}", "\\\\ style{x}{y}"),
        ("&#92;url{x} &bsol;url{x} \\u&#114;l{x}", "&#92; url{x} &bsol; url{x} \\ u&#114;l{x}"),
        ("$\\newcommand{\\le}{\\ge}$", "$\\ newcommand{\\le}{\\ge}$"),
        ("$\\sum_{i=1}^n \\frac{1}{i}$", "$\\sum_{i=1}^n \\frac{1}{i}$"),
    ],
)
def test_tex_beyond_formulas_is_shown_as_text(text: str, shown: str) -> None:
    """Links, styles, and definitions that would apply to every formula on the page."""
    assert reply_bundle(text)["text/markdown"] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a \\< b", "a < b"),
        ("a \\\\< b", "a \\< b"),
        ("\\<img src=x>", "<img src=x>"),
        ("\\!\\[a](b)", "![a](b)"),
        ("\\![a](b)", "![a](b)"),
        ("`a \\< b`", "a \\< b"),
        ("\\`<b> \\\\<b>", "`<b> \\<b>"),
        ("\\*a " * 501, "*a " * 501),
    ],
)
def test_a_backslash_that_escapes_a_character_is_not_shown(text: str, shown: str) -> None:
    r"""As in Markdown: `\<` is shown as `<`, and an escaped backslash as one backslash."""
    for page in renderings(reply_bundle(text)["text/markdown"]):
        assert unescape(re.sub(r"<[^>]*>", "", page)).strip() == shown.strip()


DOLLAR = "<span>&#36;</span>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It costs $5 to $10.", f"It costs {DOLLAR}5 to {DOLLAR}10."),
        ("$5 <b> and $6", f"{DOLLAR}5 &lt;b> and {DOLLAR}6"),
        ("$5-$10, or ($5)/($6)", f"{DOLLAR}5-{DOLLAR}10, or ({DOLLAR}5)/({DOLLAR}6)"),
        ("US$5 and A$6", f"US{DOLLAR}5 and A{DOLLAR}6"),
        ("from $5 and 6$ on", f"from {DOLLAR}5 and 6{DOLLAR} on"),
        ("pay \\$5 to \\$10", f"pay {DOLLAR}5 to {DOLLAR}10"),
        ("$HOME/bin and $PATH", f"{DOLLAR}HOME/bin and {DOLLAR}PATH"),
        ("| $5 | $10 |", f"| {DOLLAR}5 | {DOLLAR}10 |"),
        ("costs $5 for `x` and $6", f"costs {DOLLAR}5 for `x` and {DOLLAR}6"),
        ("$5 for $n$ of them", f"{DOLLAR}5 for $n$ of them"),
        ("[a](https://e.org/?x=$1) $2", f"[a](https://e.org/?x=$1) {DOLLAR}2"),
        ("```sh\necho $A $B\n```", "\n```sh\necho $A $B\n```\n"),
        ("`$A` and `$B`", "`$A` and `$B`"),
        ("It costs $5.", "It costs $5."),
    ],
)
def test_a_price_is_not_a_formula(text: str, shown: str) -> None:
    """Frontends would treat text between two dollar signs as TeX."""
    assert reply_bundle(text)["text/markdown"] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("so \\(x^2\\) and \\( y \\)", "so $x^2$ and $y$"),
        ("\\[\nx = 1\n\\]", "$$\nx = 1\n$$"),
        ("\\(a < b\\)", "$a \\lt  b$"),
        ("the $n$th and the $k$-means", "the $n$th and the $k$-means"),
        ("$5x + 3$ and $\\text{\\$5}$", "$5x + 3$ and $\\text{\\$5}$"),
        ("a matrix: $$\\begin{matrix}a\\\\[6pt]b\\end{matrix}$$", None),
        ("the pattern `\\(a\\)`", "the pattern <code>&#92;&#40;a&#92;&#41;</code>"),
        (
            "an escaped \\[x=1\\]: y, \\[1\\] and \\[sic\\]",
            "an escaped \\[x=1\\]&#58; y, \\[1\\] and \\[sic\\]",
        ),
    ],
)
def test_formulas_in_brackets_are_tex(text: str, shown: str | None) -> None:
    r"""Models often write `\(…\)` and `\[…\]`; Markdown would drop the backslashes."""
    assert reply_bundle(text)["text/markdown"] == (text if shown is None else shown)


def test_less_and_greater_signs_stay_in_formulas() -> None:
    """They may be written in any way."""
    for text in ("$a < b$", "$a \\< b$"):
        assert re.sub(" +", " ", reply_bundle(text)["text/markdown"]) == "$a \\lt b$"


DOCSTRING = [
    "def f():",
    '    """Example:',
    "",
    "    ```",
    "    f() < 1",
    "    ```",
    '    """',
]


@pytest.mark.parametrize("margin", ["", "   "])
def test_a_block_ends_where_commonmark_ends_it(margin: str) -> None:
    """A fence that is indented by four columns, as in a docstring, belongs to the code."""
    lines = ["```python", *DOCSTRING, "```"]
    text = "\n".join(["1. Do this:", "", *(margin + line for line in lines), "", "Done <b>."])
    shown = reply_bundle(text)["text/markdown"]
    assert "".join(f"{margin}{line}\n" for line in DOCSTRING) in shown
    assert shown.endswith("Done &lt;b>.")
    assert code_of(text) == ("python", "\n".join(DOCSTRING))


@pytest.mark.parametrize(
    "text",
    [
        "$$\nx < 1\n$$\n\n```python\nx < 1\n```",
        "- a\n  ```python\n  x < 1\n  ```\n- b",
        "1. a\n\n   ```python\n   x < 1\n   ```",
        "- ```python\n  x < 1\n  ```",
    ],
)
def test_code_keeps_its_colours(text: str) -> None:
    """The block keeps its fence and its language, even beside formulas and in lists."""
    page = markdown2html(reply_bundle(text)["text/markdown"])
    code = page[page.index('<div class="highlight') :]
    assert 'class="o">&lt;</span>' in code


@pytest.mark.parametrize("fence", ["```mermaid", "~~~ Mermaid", "```mermaid {x}", "```merm&#97;id"])
def test_diagrams_are_shown_as_source(fence: str) -> None:
    """Drawing them would load the pictures that they name."""
    shown = reply_bundle(f"{fence}\ngraph TD\n A --> B\n{fence[:3]}")["text/markdown"]
    assert shown == "\n```\ngraph TD\n A --> B\n```\n"


PERSIAN = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f"


BLACK_FLAG, END_OF_TAGS = "\U0001f3f4", "\U000e007f"
PIRATES = f"{BLACK_FLAG}\u200d\u2620\ufe0f"


def tags(text: str) -> str:
    """Letters and digits as invisible characters."""
    return "".join(chr(0xE0000 + ord(letter)) for letter in text)


ENGLAND, SCOTLAND, WALES, TEXAS = (
    BLACK_FLAG + tags(region) + END_OF_TAGS for region in ("gbeng", "gbsct", "gbwls", "ustx")
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{ENGLAND} v {SCOTLAND}{WALES}, {TEXAS}", f"{ENGLAND} v {SCOTLAND}{WALES}, {TEXAS}"),
        (f"{ENGLAND}{tags('hidden')}{END_OF_TAGS}!", f"{ENGLAND}!"),
        (f"{BLACK_FLAG}{tags('gbeng')} cut", f"{BLACK_FLAG} cut"),
        (BLACK_FLAG + tags("hiddentext") + END_OF_TAGS, BLACK_FLAG),
        (f"a{tags('gbeng')}{END_OF_TAGS}b", "ab"),
        (f"{PIRATES} {BLACK_FLAG}", f"{PIRATES} {BLACK_FLAG}"),
        ("in\u200bvis\u2060ible\ufeff so\u00adft", "invisible soft"),
        ("a\U000e0049\U000e0047b", "ab"),
        ("x\ufe0f\ufe01\ufe02\ufe03y", "x\ufe0fy"),
        ("a\u200db c\u200fd", "ab cd"),
        (PERSIAN, PERSIAN),
        (FAMILY, FAMILY),
        ("\ud83d\ude00 \ud800", "\U0001f600 \ufffd"),
        ("a\x1b]8;;https://e.org\x07b\x1b]8;;\x1b\\c", "abc"),
    ],
)  # fmt: skip
def test_invisible_characters_are_removed(text: str, shown: str) -> None:
    """Those that a script or an emoji needs are kept, and the rest can be saved."""
    assert reply_bundle(text)["text/plain"] == shown
    assert shown.encode()


@pytest.mark.parametrize("text", [f"a{SCOTLAND}b{TEXAS}", f"{FAMILY}c", f"flag {BLACK_FLAG}"])
def test_an_emoji_may_arrive_in_pieces(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminals print text as it arrives, and models send one character at a time."""
    reply = ReplyDisplay(cast("InteractiveShell", SimpleNamespace(display_pub=None)))
    for sign in text:
        reply.add(sign)
    reply.finish(Reply(text))
    assert capsys.readouterr().out.startswith(text + "\n")


PATTERNS = [
    "[", "![", "[a](", "[a]:\n", "<", "<a ", "<*", "*", "*a ", "**a ", "a**b", "_a", "*_", "`",
    "`a``", ">", "> ", "- ", "~~a", "$", "$a ", "$$a", "\\begin{a}", "\\", "\\href{", "&",
    "&#92;", "&#x5c;a", "](a", "| a ", "```\n", "```a ", "~", "\x1b[", "\x1b]", "\u202e",
    "a\u200b", "\ud800", "a", "![a](http://a.b/", "`<", "- ```\n", "\n", " ", "\\(a", "\\[\n",
    "<think>", "\n> ", "a (b)\n", "#",
]  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "start"),
    [
        (reply_bundle, ""), (reply_bundle, "<"), (code_of, ""), (as_html, ""),
        (lambda text: as_html(f"{text}."), "# "), (lambda text: reply_bundle(text, "math"), ""),
    ],
    ids=["Markdown", "Markdown after <", "code", "HTML in columns", "title in columns", "math"],
)  # fmt: skip
def test_time_is_linear_in_the_length(draw: Callable[[str], object], start: str) -> None:
    """Four times the text takes about four times as long, not sixteen times."""

    def seconds(text: str) -> float:
        began = time.process_time()
        draw(text)
        return time.process_time() - began

    for pattern in PATTERNS:
        short, long = (start + pattern * (n // len(pattern)) for n in (5_000, 20_000))
        # A pause of the machine can affect one measurement, but not three.
        assert any(seconds(long) < 8 * seconds(short) + 0.05 for _ in range(3)), pattern


def test_the_time_to_remove_reasoning_is_linear() -> None:
    """Quadratic time would be 5 s here."""
    began = time.process_time()
    assert without_reasoning("<think>" * 150_000 + "</think>a") == "a"
    assert time.process_time() - began < 1


def test_a_very_long_reply_is_shown_as_source() -> None:
    """As one block of plain text, because frontends would take too long to render it."""
    text = "```\n<b>" + "[" * 1_000_000 + "\n~~~\n" + "a" * 4_000_000
    shown = reply_bundle(text)["text/markdown"]
    assert shown == f"\n````\n{text}\n````\n"
    assert_harmless(f"{ATTACKS[0]}\n```\n{ATTACKS[1]}\n" * 3_000)


def test_hundreds_of_emphasis_marks_are_shown_as_source() -> None:
    """Frontends need quadratic time for unpaired marks in one paragraph."""
    calm, wild = "*a* " * 200, "*a " * 600
    shown = reply_bundle(f"{calm}\n\n{wild}\n\n**b**")["text/markdown"]
    assert shown == f"{calm}\n\n{wild.replace('*', '&#42;')}\n\n**b**"


@pytest.mark.parametrize(
    "text", ["`" * 2_000, "` " + " ".join("`" * n for n in range(150)), "a`" * 100_000 + "`" * 99]
)
def test_endless_backticks_are_shown_as_text(text: str) -> None:
    """A frontend that looks for their partners would hang."""
    shown = reply_bundle(text)["text/markdown"]
    assert "`" not in shown
    assert Elements(shown).found == [("pre", {}), ("code", {})]
    assert unescape(re.sub(r"<[^>]*>", "", shown)) == f"{text}\n"
    prose = "Call `f(x)` and ``g`h``, then `print`. " * 200
    assert reply_bundle(prose)["text/markdown"] == prose


def test_terminal_escapes_and_bidirectional_marks_are_removed() -> None:
    """A reply can neither colour nor move text in a terminal, nor reorder it."""
    shown = reply_bundle("a\x1b[31mred\x1b[0m b\x1b]0;t\x07 c\u202ed\u2066e\x00f\r\ng\u2028h")
    assert shown["text/plain"] == "ared b cdef\ng\nh"
    assert shown["text/markdown"] == shown["text/plain"]
    assert reply_bundle("a\x1b[31mred", "text") == {"text/plain": "ared"}
