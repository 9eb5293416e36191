"""Addresses of services, and this machine's variables for proxies and certificates.

The HTTP library reads the same variables, and its errors do not say which one is wrong, so they are
checked here before they are used.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

# All URL parsers must agree on the host. They disagree about user names, backslashes, control
# characters and letters of other scripts, so these are not allowed.
_BASE_URL = re.compile(
    r"https?://(?:[a-z0-9](?:[\w.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?(?:/[\w./~%+-]*)?",
    re.IGNORECASE | re.ASCII,
)
_PORTS = {"http": 80, "https": 443}
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# What requests and curl trust. Companies whose proxy signs with its own certificate set these.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_TRUSTED = (*CERTIFICATES, *_BUNDLES)
_VARIABLES = (
    *_TRUSTED,
    *_PROXIES,
    "NO_PROXY",
    *map(str.lower, (*_PROXIES, "NO_PROXY")),
)


def is_base_url(text: str) -> bool:
    """Return whether a text is an http or https address without user name, query and fragment."""
    return _BASE_URL.fullmatch(text) is not None and origin(text) != ""


@lru_cache(maxsize=256)  # each call checks where its request goes
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

    Names below `localhost` do not count, because some resolvers map them to other machines.
    """
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return False
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def variables() -> tuple[object, ...]:
    """Return the values of all variables that connections depend on.

    Also returns when the certificates that they name were last changed.
    """
    values = [*map(os.environ.get, _VARIABLES)]
    file, folder, *bundles = values[: len(_TRUSTED)]
    # As in `trusted_certificates`.
    paths = [file or folder] if file or folder else bundles
    return *values, *map(_changed_at, filter(None, paths))


def proxy_of(url: str) -> str:
    """Return the proxy for requests to an address, by this machine's settings; "" without one.

    A proxy cannot reach the loopback addresses of this machine, so they have none. NO_PROXY is read
    as curl does: a name also covers the names below it, addresses can be given as networks
    (`::1/128`), and an entry that is not a host is ignored. httpx 0.28 fails on such entries.
    """
    if is_loopback(url):
        return ""
    # Imported when it is needed: an import of this package does not load it.
    from urllib.request import getproxies

    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme)
    entries = re.split(r"[,\s]+", proxies.get("no", ""))
    if "*" in entries or any(_excludes(entry, host, port) for entry in entries):
        return ""
    return _as_url(proxy)


def _as_url(proxy: str) -> str:
    """Return a proxy's address with its scheme, which is http if none is given."""
    proxy = proxy.strip()
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def proxy_variable(url: str) -> str:
    """Return the variable that sets the proxy for an address; "" if there is none."""
    scheme = url.partition(":")[0].upper()
    names = (_name_of(f"{scheme}_PROXY"), _name_of("ALL_PROXY"))
    return next((name for name in names if os.environ.get(name)), "")


def certificate_variable() -> str:
    """Return the variable that sets the trusted certificates; "" if there is none."""
    return next((name for name in CERTIFICATES if os.environ.get(name)), "")


def where_to_trust() -> str:
    """Return what to do so that the certificate of a CA is trusted."""
    names = [certificate_variable()] if certificate_variable() else _BUNDLES
    for name in names:
        if Path(os.environ.get(name, "")).is_file():
            return f"add its CA's certificate to {os.environ[name]} ({name})"
    return "set SSL_CERT_FILE to the file with its CA's certificate"


def problems() -> Iterator[str]:
    """Yield what is wrong with these variables, one line each, without a proxy's password."""
    for name in map(_name_of, _PROXIES):
        if (value := os.environ.get(name, "")) and (problem := _proxy_problem(_as_url(value))):
            yield f"{name} {problem}"
    if problem := _certificate_problem():
        yield problem


def problem_of(url: str) -> str:
    """Return why this machine's settings prevent a connection to an address; "" if they do not."""
    proxy = proxy_of(url)
    if proxy and (problem := _proxy_problem(proxy)):
        return f"{proxy_variable(url) or 'the proxy setting of this machine'} {problem}"
    return _certificate_problem() if url.lower().startswith("https:") else ""


def _certificate_problem() -> str:
    """Return what is wrong with the file or folder of trusted certificates; "" if nothing."""
    # Imported when it is needed: an import of this package does not load it.
    import ssl

    name = certificate_variable()
    if not name:
        return ""
    path = os.environ[name]
    kind = "file" if name == "SSL_CERT_FILE" else "folder"
    if not (Path(path).exists() if kind == "file" else _folders(path)):
        return f"{name} names a {kind} that does not exist: {path}"
    try:
        trusted_certificates()
    except ssl.SSLError:
        return f"{name} names a {kind} without a certificate: {path}"
    except OSError as error:
        return f"{name} names a {kind} that cannot be read: {path} ({error.strerror})"
    return ""


def trusted_certificates() -> ssl.SSLContext:
    """Return the certificates of SSL_CERT_FILE, else of the folders of SSL_CERT_DIR.

    Without these variables, those of the package certifi, of this system, and of the files that
    REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name.

    Raises:
        OSError: they cannot be read (`ssl.SSLError`: there are none).
    """
    import ssl

    name = certificate_variable()
    if name == "SSL_CERT_FILE":
        return ssl.create_default_context(cafile=os.environ[name])
    if name:
        if not any(any(folder.iterdir()) for folder in _folders(os.environ[name])):
            raise ssl.SSLError("no certificate")
        return ssl.create_default_context(capath=os.environ[name])
    bundles = (Path(path).absolute() for path in map(os.environ.get, _BUNDLES) if path)
    return _usual_certificates(tuple((path, _changed_at(path)) for path in bundles))


@lru_cache(maxsize=1)  # reading them takes 30 ms
def _usual_certificates(bundles: tuple[tuple[Path, int], ...]) -> ssl.SSLContext:
    """Return what is trusted if no variable says otherwise, and these files or folders."""
    import ssl

    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    # Python up to 3.12 fails if the store of Windows has an invalid certificate
    # (github.com/python/cpython/issues/79846).
    with suppress(OSError):
        context.load_default_certs()
    for path, _ in bundles:
        # Nothing but requests and curl needs them.
        with suppress(OSError):
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
    return context


def _changed_at(path: str | Path) -> int:
    """Return when a file was last changed, in nanoseconds; 0 if it cannot be read."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  # for each call
    except OSError:
        return 0


def _folders(paths: str) -> list[Path]:
    """Return the folders of a list as in SSL_CERT_DIR that exist."""
    return [Path(path) for path in paths.split(os.pathsep) if path and Path(path).is_dir()]


def _name_of(name: str) -> str:
    """Return the variable as it is set here; the name in small letters takes precedence.

    Even if it is empty: that turns the proxy off, as in `urllib.request.getproxies`.
    """
    return name.lower() if name.lower() in os.environ else name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _proxy_problem(address: str) -> str:
    import ssl

    import httpx

    scheme = address.partition("://")[0].lower()[:20]
    try:
        url = httpx.URL(address)
        if not url.host or (url.port or 0) > 65_535:
            return "is not the address of a proxy, such as http://host:3128"
        nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        httpx.Client(proxy=address, verify=nothing, trust_env=False).close()
    except ImportError:
        return f"names a {scheme}:// proxy, which needs a package: pip install 'httpx[socks]'"
    except (httpx.InvalidURL, ValueError, TypeError):
        if scheme.startswith("socks"):
            return f"names a {scheme}:// proxy, which is not supported; write socks5://…"
        if scheme not in ("http", "https"):
            return f"names a {scheme}:// proxy; write http://…, https://… or socks5://…"
        return "is not the address of a proxy, such as http://host:3128"
    return ""


def _excludes(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY names the host, a domain above it, or its network."""
    _, is_url, name = entry.lower().rpartition("://")
    if is_url:
        name = name.partition("/")[0]
    if with_port := re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", name):
        name = with_port[1]
        if with_port[2] != str(port):
            return False
    address = _address(host)
    try:
        network = ipaddress.ip_network(name.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return name != "" and (host == name or (address is None and host.endswith(f".{name}")))
    return address is not None and address in network
