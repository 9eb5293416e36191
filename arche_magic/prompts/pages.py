"""Web pages as text: fetched when the user names one, without scripts, styles and navigation."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import time
from contextlib import suppress
from functools import partial
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from arche_magic.llm_providers.bounded import TookTooLong, library, within
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.network import problem_of, proxy_of, trusted_certificates
from arche_magic.llm_providers.text.characters import without_controls

from .attachments import MOST_BYTES, Attachment, content_text

if TYPE_CHECKING:
    import httpx

SECONDS = 20.0
_MOST_REDIRECTS = 5
_SCHEMES = ("http", "https")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset=["']?([\w-]+)""", re.IGNORECASE)
_SKIPPED = frozenset({
    "aside", "button", "footer", "iframe", "nav", "noscript", "script", "select", "style", "svg",
    "template",
})  # fmt: skip
_BLOCKS = frozenset({
    "address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "h1",
    "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section",
    "table", "tr", "ul",
})  # fmt: skip
_HEADING = re.compile(r"h([1-6])")


def read_page(url: str, seconds: float = SECONDS) -> Attachment:
    """Return a web page as text; text files, JSON and PDF too.

    Redirects are followed to http and https only, and not from a public address to a private one.
    It takes at most `seconds`.

    Raises:
        InvalidRequest: the address is wrong, the page cannot be fetched, or it has no text.
        ConfigurationError: a PDF needs a package that is not installed.
    """
    httpx = library("httpx")
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidRequest(f"--url {url!r}: {error}") from None
    if address.scheme not in _SCHEMES or not address.host:
        raise InvalidRequest(f"--url {url!r} must begin with http:// or https://")
    if address.userinfo:
        raise InvalidRequest(
            "--url: the address contains a password, which would be displayed; remove it"
        )
    ends = time.monotonic() + seconds
    # The name that the model sees has no query, which may contain a token.
    name = str(address.copy_with(query=None, fragment=None))
    try:
        content, kind, encoding = within(seconds, partial(_fetch, address, seconds))
        if kind.startswith(("image/", "audio/", "video/")):
            raise ValueError(f"is {kind}, not a page")
        if "html" not in kind:
            return Attachment(name, content_text(content, encoding))
        declared = _CHARSET.search(content[:2000])
        encoding = encoding or (declared[1].decode() if declared else "")
        text = readable(_decoded(content, encoding), ends)
    except (TookTooLong, httpx.TimeoutException):
        raise InvalidRequest(f"--url {name} took longer than {seconds:g} s") from None
    except httpx.HTTPError as error:
        reason = without_controls(str(error)) or type(error).__name__
        raise InvalidRequest(f"--url {name} cannot be fetched: {reason}") from None
    except UnicodeError:
        raise InvalidRequest(f"--url {name}: the name of the host is not valid") from None
    except ValueError as error:
        raise InvalidRequest(f"--url {name} {error}") from None
    if not text:
        raise InvalidRequest(f"--url {name} has no text except scripts")
    return Attachment(name, text)


def readable(html: str, ends: float = math.inf) -> str:
    """Return the text of a page: its title, headings, paragraphs and lists, one block per line.

    Scripts, styles, navigation and footers are left out.

    Raises:
        TookTooLong: it is not done when the monotonic clock says `ends`. The parser takes very long
            for tags that are never closed.
    """
    parser = _Reader(ends)
    parser.feed(html)
    parser.close()
    lines = [line.rstrip() for line in "".join(parser.pieces).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    title = " ".join("".join(parser.title).split())
    return f"{title}\n\n{text}" if title and text and title not in text[:500] else text or title


def _fetch(url: httpx.URL, seconds: float) -> tuple[bytes, str, str]:
    """Return the content at an address, its media type, and its encoding if the server states one.

    Raises:
        ValueError: the page does not exist or is too large, the server redirects to a forbidden
            address, or a variable of this machine names a proxy or certificates that do not work.
        httpx.HTTPError: the connection failed.
    """
    import httpx

    ends = time.monotonic() + seconds
    asked, headers = url, {"User-Agent": "arche_magic", "Accept": "text/html,*/*"}
    for _ in range(_MOST_REDIRECTS + 1):
        if problem := problem_of(str(asked)):
            raise ValueError(f"cannot be fetched: {problem}")
        with (
            httpx.Client(
                timeout=seconds,
                headers=headers,
                trust_env=False,
                proxy=proxy_of(str(asked)) or None,
                verify=trusted_certificates() if asked.scheme == "https" else False,
            ) as client,
            client.stream("GET", asked) as response,
        ):
            if (after := response.next_request) is not None:
                asked = after.url
                _check_redirect(url, asked)
                continue
            if response.status_code != 200:
                raise ValueError(f"answered {response.status_code} {response.reason_phrase}")
            content = b""
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise ValueError(f"is larger than {MOST_BYTES // 1_000_000} MB")
                if time.monotonic() > ends:
                    raise TookTooLong
            kind = response.headers.get("content-type", "text/html").partition(";")[0]
            return content, kind.strip().lower(), response.charset_encoding or ""
    raise ValueError(f"redirects more than {_MOST_REDIRECTS} times")


def _check_redirect(first: httpx.URL, after: httpx.URL) -> None:
    """Check that a page does not redirect to a file, or from a public address into this network."""
    if after.scheme not in _SCHEMES:
        raise ValueError(f"redirects to {after.scheme}:, which is not followed")
    if _is_private(after.host) and not _is_private(first.host):
        raise ValueError(f"redirects to the private address {after.host}, which is not followed")


def _is_private(host: str) -> bool:
    # Decided by the resolved address, because `127.1` and public names may also lead into this
    # network.
    with suppress(OSError, UnicodeError):
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
        return not all(ipaddress.ip_address(address).is_global for address in found)
    # Only a proxy knows the address.
    return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding or "utf-8", errors="replace")
    except (LookupError, UnicodeError):
        # Some codecs, such as idna, cannot replace invalid bytes.
        return content.decode("utf-8", errors="replace")


class _Reader(HTMLParser):
    """Collects the text of a page in `pieces`, and its title."""

    def __init__(self, ends: float) -> None:
        super().__init__(convert_charrefs=True)
        self._ends = ends
        self.pieces: list[str] = []
        self.title: list[str] = []
        self._open: list[str] = []
        self._in_title = self._in_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title" and "svg" not in self._open
        if tag in _SKIPPED:
            self._open.append(tag)
        self._in_pre = self._in_pre or tag == "pre"
        if tag in _BLOCKS and not self._open:
            heading = _HEADING.fullmatch(tag)
            self.pieces.append("\n\n" if heading or tag in ("p", "pre", "table") else "\n")
            if heading:
                self.pieces.append("#" * int(heading[1]) + " ")
            elif tag == "li":
                self.pieces.append("- ")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        self._in_pre = self._in_pre and tag != "pre"
        if tag in self._open:
            # Tags that were left open inside end with it.
            while self._open.pop() != tag:
                pass
        elif tag in ("td", "th") and not self._open:
            self.pieces.append(" | ")
        elif tag in _BLOCKS and not self._open:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if time.monotonic() > self._ends:
            raise TookTooLong
        if self._in_title:
            self.title.append(data)
        elif self._in_pre and not self._open:
            self.pieces.append(data)
        elif not self._open:
            text = re.sub(r"\s+", " ", data)
            starts_line = not self.pieces or self.pieces[-1].endswith((" ", "\n"))
            if text := text.lstrip() if starts_line else text:
                self.pieces.append(text)
