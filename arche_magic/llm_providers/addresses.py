"""Addresses of services: what may stand as a base URL, and whose machine it is."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# Plainly one host, whatever reads it: what parsers disagree on (user names, backslashes,
# control characters, letters of other scripts) could name one host here and another there.
_BASE_URL = re.compile(
    r"https?://(?:[a-z0-9](?:[\w.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?(?:/[\w./~%+-]*)?",
    re.IGNORECASE | re.ASCII,
)
_PORTS = {"http": 80, "https": 443}


def is_base_url(text: str) -> bool:
    """Whether a text is an http or https address of one host: no user name, query or fragment."""
    return _BASE_URL.fullmatch(text) is not None and origin(text) != ""


def origin(url: str) -> str:
    """`https://host:443`, the part of an address that says who receives what is sent; else ""."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" if host else ""


def is_loopback(url: str | None) -> bool:
    """Whether the address is on this machine's loopback interface.

    A name below `localhost` is not taken for one: not every resolver keeps those on the machine.
    """
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
