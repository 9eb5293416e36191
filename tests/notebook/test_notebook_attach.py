"""`%%llm --file` and `--url`: files and web pages as text in the prompt."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from loopback import Handler, serving
from promptness import in_time

from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.prompts.pages import read_page
from arche_magic.sandbox import Sandbox

if TYPE_CHECKING:
    from notebook_kernel import Cell, Kernel

PAGE = """<!doctype html><html><head><meta charset="iso-8859-1"><title>Bridges &amp; roads</title>
<style>p { color: red }</style><script>alert("run")</script></head>
<body><nav><a href="/">Home</a></nav><main><h2>A second bridge</h2>
<p>The council of Troms\xf8 said <b>yes</b>,
  and {{reader}} agrees.</p><ul><li>one<li>two</ul><pre>for x in y:
    print(x)</pre><table><tr><td>a</td><td>b</td></tr></table></main>
<footer>Imprint</footer></body></html>"""
READ = """Bridges & roads

## A second bridge

The council of Tromsø said yes, and {{reader}} agrees.

- one
- two

for x in y:
    print(x)

a | b |"""


def pdf(text: str) -> bytes:
    """A PDF with one page and one line of text."""
    draws = f"BT /F 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 5 0 R/Resources 6 0 R>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        f"<</Length {len(draws)}>>stream\n{draws}\nendstream",
        "<</Font<</F 4 0 R>>>>",
    ]
    made, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        starts.append(len(made))
        made += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    return (
        made
        + (
            f"xref\n0 7\n0000000000 65535 f \n{table}trailer<</Size 7/Root 1 0 R>>\n"
            f"startxref\n{len(made)}\n%%EOF"
        ).encode()
    )


ANSWERS: dict[str, tuple[str, bytes]] = {
    "/page": ("text/html", PAGE.encode("latin-1")),
    "/notes.txt": ("text/plain; charset=utf-8", "Grüße".encode()),
    "/report": ("application/pdf", pdf("From the web")),
    "/picture": ("image/png", b"\x89PNG"),
    "/empty": ("text/html", b"<script>run()</script>"),
    "/large": ("text/plain", b"word " * 1_100_000),
    "/bytes": ("application/octet-stream", b"\0\1\2"),
    "/unclosed": ("text/html", b"<a " * 20_000),
    "/codec": ("text/html", b"<meta charset=idna><p>Gr\xc3\xbc\xc3\x9fe"),
}
LEADS = {
    "/moved": "/page", "/around": "/around", "/file": "file:///etc/passwd",
    "http://example.org/in": "http://169.254.169.254/latest", "http://example.org/on": "/page",
    "http://example.org/local": "http://localhost:8888/", "http://example.org/short": "//127.1/",
}  # fmt: skip


GONE = threading.Event()


class Pages(Handler):
    """Answers with the pages above. It is also a proxy, which gets whole addresses."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        known = path.removeprefix("http://example.org")
        if path in LEADS:
            self.answer(302, b"", {"location": LEADS[path]})
        elif path == "/slow":
            GONE.wait(30)
        elif known in ANSWERS:
            kind, content = ANSWERS[known]
            self.answer(200, content, {"content-type": kind})
        else:
            self.answer(404, b"")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a web site on this machine."""
    with serving(Pages) as url:
        yield url
        GONE.set()


@pytest.fixture
def files(kernel: Kernel) -> Iterator[Path]:
    """Files in the kernel's folder."""
    folder = kernel.folder / "files"
    folder.mkdir()
    contents: dict[str, bytes | str] = {
        "notes.md": "\n# Notes\n\nAsk {{reader}}.\n\n",
        "sold.csv": "month,sold\r\n1,3\r\n",
        "long.txt": "\n".join(f"line {number}" for number in range(2000)),
        "wide.txt": "word " * 4000,
        "marked.txt": "Grüße".encode("utf-16"),
        "report.pdf": pdf("The bridge is old"),
        "scan.pdf": pdf(""),
        "broken.pdf": b"%PDF-1.4\nrubbish",
        "latin.csv": "Größe".encode("latin-1"),
        "table.xlsx": b"PK\3\4\0\0\0",
        "plot.png": b"\x89PNG\r\n",
        "empty.txt": "\n",
        "huge.txt": b"x" * 5_000_001,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    os.mkfifo(folder / "pipe")
    kernel.run(
        "from pathlib import Path\nreader, notes, number = 'Ada', Path('files/notes.md'), 5\n"
        "gone = 'files/gone.md'"
    )
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def sandbox(files: Path, sandboxed: Callable[..., Sandbox]) -> Sandbox:
    return sandboxed(keys={"groq": 1})


def sent(sandbox: Sandbox) -> str:
    """The last prompt."""
    content: str = sandbox.requests[-1].body["messages"][-1]["content"]
    return content


def test_files_are_placed_above_the_prompt(kernel: Kernel, sandbox: Sandbox) -> None:
    """In order, each below its name; braces in them are kept; a line shows the tokens of each."""
    cell = kernel.run(
        "%%llm --file files/notes.md --file=files/sold.csv --file files/report.pdf\n"
        "How is {{reader}}?"
    )
    assert cell.status == "ok", cell.error
    assert sent(sandbox) == (
        "[notes.md]\n# Notes\n\nAsk {{reader}}.\n[end of notes.md]\n\n"
        "[sold.csv]\nmonth,sold\r\n1,3\n[end of sold.csv]\n\n"
        "[report.pdf]\nThe bridge is old\n[end of report.pdf]\n\nHow is Ada?"
    )
    shown = "\n".join(cell.data())
    for name in ("notes.md", "sold.csv", "report.pdf"):
        assert f"{name} · " in shown
    assert shown.index("report.pdf · ") < shown.index("groq · key 1")
    assert " tokens\n" in shown


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("notes", "[notes.md]\n# Notes"),
        ("files/marked.txt", "[marked.txt]\nGrüße\n[end"),
        ("long.txt", "[long.txt]\nline 0\n"),
    ],
)
def test_a_file_can_be_a_path_or_a_variable(
    kernel: Kernel, sandbox: Sandbox, files: Path, source: str, text: str
) -> None:
    """The encoding is that of its byte order mark. The file is not cut."""
    if source == "long.txt":
        source = str(files / source)
    assert kernel.run(f"%%llm --file {source}\nHello").status == "ok"
    assert text in sent(sandbox)
    assert "cut" not in sent(sandbox)


@pytest.mark.parametrize("name", ["long.txt", "wide.txt"])
def test_the_budget_cuts_files_and_says_so(kernel: Kernel, sandbox: Sandbox, name: str) -> None:
    """The line above the reply and the prompt say so. No line is split."""
    cell = kernel.run(f"%%llm --budget 100 --file files/{name}\nHello")
    start = f"[{name}, cut to the first "
    assert sent(sandbox).startswith(start)
    body = sent(sandbox).partition("\n")[2].partition(f"\n[end of {name}]")[0]
    assert 200 < len(body) < 500
    assert body.endswith(" …")
    if name == "long.txt":
        assert body.splitlines()[-1].removesuffix(" …") in [f"line {n}" for n in range(100)]
    note = next(line for line in "\n".join(cell.data()).splitlines() if name in line)
    assert " of " in note
    assert note.endswith(" characters by --budget")


def test_other_features_accept_files(kernel: Kernel, sandbox: Sandbox) -> None:
    """Comparisons, conversations, --dry-run and saved prompts."""
    option = "--file files/notes.md"
    kernel.run(f"%%llm --compare groq {option}\nHello")
    assert sent(sandbox).startswith("[notes.md]")
    kernel.run(f"%%llm --chat tale {option}\nHello\n")
    kernel.run("%llm --chat tale And then?")
    assert sandbox.requests[-1].body["messages"][0]["content"].startswith("[notes.md]")
    kernel.run("%llm_chat clear tale")
    count = len(sandbox.requests)
    printed = kernel.run(f"%llm {option} --show-prompt --raw {{{{x}}}}").printed
    assert "[notes.md]\n# Notes" in printed
    assert "notes.md · " in printed
    assert "{{x}}" in printed
    assert len(sandbox.requests) == count


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--file files/note.md",
            "--file files/note.md: there is no such file, and no such variabl",
        ),
        ("--file files/note.md", "did you mean 'files/notes.md'?"),
        ("--file gone", "--file gone: there is no file files/gone.md"),
        ("--file number", "--file number is of type int, not a path; {{number}} inserts its value"),
        ("--file files", "--file files is a folder; name its files"),
        ("--file files/pipe", "--file files/pipe is not a regular file"),
        ("--file files/huge.txt", "--file files/huge.txt is larger than 5 MB"),
        ("--file files/table.xlsx", "--file files/table.xlsx is not a text file"),
        ("--file files/plot.png", "--file files/plot.png is an image; --image sends it"),
        ("--file files/latin.csv", "--file files/latin.csv is not text in UTF-8"),
        ("--file files/empty.txt", "--file files/empty.txt is empty"),
        ("--file files/scan.pdf", "scan.pdf is a PDF without text"),
        ("--file files/broken.pdf", "broken.pdf cannot be read as PDF: "),
        ("--file files/notes.md --over sold", "%llm: --over cannot be combined with --file"),
        ("--url http://x.org --over sold", "%llm: --over cannot be combined with --url"),
        ("--url file:///etc/passwd", "must begin with http:// or https://"),
        ("--url example.org", "--url 'example.org' must begin with http:// or https://"),
        ("--url http://u:" + "secret@x.org/", "the address contains a password"),
        ("--url http://:80/", "must begin with http://"),
        (f"--url http://{70 * 'a'}.org/", "the name of the host is not valid"),
        ("--url http://127.0.0.1:9/", "--url http://127.0.0.1:9/ cannot be fetched: "),
        ("--url {site}/nowhere", "/nowhere answered 404 Not Found"),
        ("--url {site}/picture", "/picture is image/png, not a page"),
        ("--url {site}/empty", "/empty has no text except scripts"),
        ("--url {site}/bytes", "/bytes is not a text file"),
        ("--url {site}/large", "/large is larger than 5 MB"),
        ("--url {site}/around", "/around redirects more than 5 times"),
        ("--url {site}/file", "/file redirects to file:, which is not followed"),
    ],
)
def test_an_invalid_file_or_page_is_an_error_in_one_line(
    kernel: Kernel, sandbox: Sandbox, site: str, options: str, said: str
) -> None:
    """Nothing is sent, and the error shows no password."""
    message = kernel.run(f"%%llm {options.format(site=site)}\nHello").message
    assert said in message
    assert "secret" not in message
    assert not sandbox.requests


def test_an_address_with_half_a_character_is_an_error_in_one_line(kernel: Kernel) -> None:
    """The notebook itself cannot send one to the kernel, but a variable may contain it."""
    cell = kernel.run(r"get_ipython().run_line_magic('llm', '--url \ud800 hi')")
    assert cell.message.startswith(r"InvalidRequest: --url '\ud800': ")


def test_a_file_without_a_prompt_is_an_error(kernel: Kernel, sandbox: Sandbox) -> None:
    """A file alone asks nothing."""
    assert "the prompt is empty" in kernel.run("%llm --file files/notes.md").message


def test_a_page_is_sent_as_text(kernel: Kernel, sandbox: Sandbox, site: str) -> None:
    """Redirects are followed and scripts removed. The model does not see the address's query."""
    cell = kernel.run(
        f"%%llm --url {site}/moved?token=abc --url {site}/notes.txt\nAnd {{{{reader}}}}?"
    )
    assert cell.status == "ok", cell.error
    assert sent(sandbox) == (
        f"[{site}/moved]\n{READ}\n[end of {site}/moved]\n\n"
        f"[{site}/notes.txt]\nGrüße\n[end of {site}/notes.txt]\n\nAnd Ada?"
    )
    assert f"{site}/moved · " in "\n".join(cell.data())


def test_a_pdf_can_be_on_the_web(site: str) -> None:
    """It is read like a file."""
    assert read_page(f"{site}/report").text == "From the web"


def test_an_interrupt_ends_the_download_of_a_page(
    kernel: Kernel, sandbox: Sandbox, site: str
) -> None:
    """At once, and nothing is sent; until then, a line says what the cell waits for."""

    def is_running(cell: Cell) -> bool:
        return cell.data() == [f"reading {site}/slow …"]

    cell = kernel.run(f"%%llm --url {site}/slow\nHello", is_running)
    in_time("an interrupt", cell.ended - cell.started)
    assert cell.message.startswith("Interrupted: ")
    assert cell.data() == [""]
    assert not sandbox.requests


def test_a_key_in_a_file_is_not_sent(kernel: Kernel, sandbox: Sandbox, files: Path) -> None:
    """The rule is the same for all parts of a prompt."""
    key = sandbox.environment()["GROQ_API_KEY"]
    (files / "secrets.env").write_text(f"GROQ_API_KEY={key}")
    message = kernel.run("%%llm --file files/secrets.env\nHello").message
    assert "the request contains the key groq_key_1" in message
    assert key not in message
    assert not sandbox.requests


@pytest.mark.parametrize("path", ["slow", "unclosed"])
def test_a_page_has_a_time_limit(site: str, path: str) -> None:
    """A slow page is an error, as is one that takes too long to read."""
    with pytest.raises(InvalidRequest, match=r"took longer than 0\.3 s"):
        read_page(f"{site}/{path}", seconds=0.3)


def test_a_page_with_an_unusual_encoding_is_read(site: str) -> None:
    """A page may name any codec of Python, such as one for names of hosts."""
    assert read_page(f"{site}/codec").text == "Grüße"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("in", "redirects to the private address 169.254.169.254, which is not followed"),
        ("local", "redirects to the private address localhost, which is not followed"),
        ("short", r"redirects to the private address 127\.1, which is not followed"),
    ],
)
def test_a_public_page_cannot_redirect_into_this_network(
    site: str, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    """Only an address that the user typed may be private."""
    monkeypatch.setenv("HTTP_PROXY", site)
    monkeypatch.setenv("http_proxy", site)
    assert "second bridge" in read_page("http://example.org/on").text
    with pytest.raises(InvalidRequest, match=said):
        read_page(f"http://example.org/{path}")
