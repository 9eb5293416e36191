"""Addresses of services: which are valid base URLs, and which are on this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# Every parser must find the same host. Parsers disagree about user names, backslashes, control
# characters and letters of other scripts, so these are not allowed.
_BASE_URL = re.compile(
    r"https?://(?:[a-z0-9](?:[\w.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?(?:/[\w./~%+-]*)?",
    re.IGNORECASE | re.ASCII,
)
_PORTS = {"http": 80, "https": 443}


def is_base_url(text: str) -> bool:
    """Return whether a text is an http or https address without user name, query and fragment."""
    return _BASE_URL.fullmatch(text) is not None and origin(text) != ""


def origin(url: str) -> str:
    """`https://host:443`, the part of an address that decides who receives requests; else ""."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" if host else ""


def is_loopback(url: str | None) -> bool:
    """Return whether the address is on this machine's loopback interface.

    Names below `localhost` do not count, since some resolvers send them to other machines.
    """
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
