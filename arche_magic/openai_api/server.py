"""The OpenAI API on a port of this machine, for programs that accept only a URL."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shlex
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from arche_magic.llm_providers.config import own_settings_folder
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.files import expanded, home_folder
from arche_magic.llm_providers.options import shown

if TYPE_CHECKING:
    from ..local_server import LocalServer

DEFAULT_PORT = 8377
"""The usual port; it stays the same, so that clients need no new settings."""
_LAST_PORT = 65_535
# How long a connection may stay open without a request, and how long a request may take to arrive.
_IDLE_SECONDS = 20
_TOKEN_BYTES = 32
# A shorter text could be guessed.
_FEWEST_CHARACTERS = 20
_LONGEST_FILE = 1000
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::\d{1,5})?")


class Server:
    """OpenAI's chat completions, models and embeddings on 127.0.0.1, answered by your routes.

    Use it as a context manager, or call `start` and `stop`. Each request uses the configuration of
    that moment, like `get_llm_provider().generate`. Clients need `base_url` and `api_key`.

    Args:
        port: the port to listen on; by default 8377, or any free one if that is in use.
        allow_origins: web pages of these origins may use the server from a browser, such as
            `https://app.example.org`. By default none may.
        token_file: the file of the token, which is reused if it exists. By default, every start
            makes a new token, in your settings folder.

    Raises:
        InvalidRequest: the port, an origin or the path is not valid.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        allow_origins: Sequence[str] = (),
        token_file: str | Path | None = None,
    ) -> None:
        if port is not None and not (isinstance(port, int) and 0 <= port <= _LAST_PORT):
            raise InvalidRequest(f"port {shown(port)} is not between 1 and {_LAST_PORT:,}")
        self._wanted_port = port
        if isinstance(allow_origins, str):
            raise InvalidRequest(f"allow_origins must be a list, such as [{allow_origins!r}]")
        self._origins = tuple(_origin(address) for address in allow_origins)
        if token_file == "":
            # `--token-file "$NAME"` is blank if the variable is not set.
            raise InvalidRequest("the path of the token file is empty")
        self._token_file = None if token_file is None else expanded(token_file).absolute()
        self._listener: LocalServer | None = None
        self._token = ""
        self._path = Path()

    def start(self) -> Self:
        """Open the port and start serving. Does nothing if the server is already running.

        Raises:
            ConfigurationError: packages are not installed, the port is in use, the token cannot be
                read or written, or too many files are open.
        """
        if self._listener is not None:
            return self
        try:
            from .app import application

            listener = self._listen()
        except ImportError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            raise ConfigurationError(
                "the server needs starlette and uvicorn: pip install 'arche_magic[server]'"
            ) from None
        port = listener.port
        try:
            if self._token_file is None:
                # A file in a project's folder could be shared or committed with the project.
                self._path = own_settings_folder() / f"server-{port}.token"
                with suppress(OSError):
                    self._path.unlink()
                self._token = _create_token(self._path)
            else:
                self._token, self._path = _kept_token(self._token_file), self._token_file
            listener.serve(application(port, self._token, self._origins))
        except BaseException as error:
            listener.close()
            if self._token_file is None:
                _forget_token(self._path, self._token)
            if isinstance(error, OSError):
                message = f"the server cannot be started: {error.strerror}"
                raise ConfigurationError(message) from None
            raise
        self._listener = listener
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the requests in progress and close the port; a token made by `start` expires.

        Does nothing if the server is not running.
        """
        if self._listener is None:
            return
        atexit.unregister(self.stop)
        listener, self._listener = self._listener, None
        if listener.close() and self._token_file is None:
            _forget_token(self._path, self._token)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.base_url}>" if self.running else "<Server, not running>"

    @property
    def running(self) -> bool:
        """Whether the port is open."""
        return self._listener is not None

    @property
    def port(self) -> int:
        """The port. Raises RuntimeError if the server is not running."""
        return self._running().port

    @property
    def base_url(self) -> str:
        """The URL for clients (OPENAI_BASE_URL). Raises RuntimeError if it is not running."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def api_key(self) -> str:
        """The token for clients (OPENAI_API_KEY); "" before the first start."""
        return self._token

    @property
    def token_file(self) -> Path:
        """The file that holds the token. Raises RuntimeError if the server is not running."""
        self._running()
        return self._path

    def environment(self) -> dict[str, str]:
        """Return the two variables for a program that this one starts.

        Do not set them for this process: its own requests would then go to this server. Raises
        RuntimeError if the server is not running.
        """
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key}

    def shell_lines(self, *, show_token: bool = False) -> str:
        """Return the lines that set the two variables in a shell.

        Unless `show_token` is set, the second line reads the token from its file, so that a saved
        notebook does not contain it. Raises RuntimeError if the server is not running.
        """
        token = self.api_key if show_token else f'"$(cat {_shell_path(self.token_file)})"'
        return f"export OPENAI_BASE_URL={self.base_url}\nexport OPENAI_API_KEY={token}"

    def _running(self) -> LocalServer:
        if self._listener is None:
            raise RuntimeError("the server is not running; call start()")
        return self._listener

    def _listen(self) -> LocalServer:
        from ..local_server import LocalServer

        port = DEFAULT_PORT if self._wanted_port is None else self._wanted_port
        try:
            return LocalServer(port, "arche-server", _IDLE_SECONDS)
        except OSError as error:
            if self._wanted_port is None:
                return LocalServer(0, "arche-server", _IDLE_SECONDS)
            raise ConfigurationError(f"port {port} cannot be used: {error.strerror}") from None


def _shell_path(path: Path) -> str:
    """Quote a path for a shell; `~` replaces the home folder, which contains the user's name."""
    if path.is_relative_to(home_folder()):
        return f"~/{shlex.quote(path.relative_to(home_folder()).as_posix())}"
    return shlex.quote(str(path))


def _origin(address: object) -> str:
    origin = str(address).strip().lower().removesuffix("/")
    if not _ORIGIN.fullmatch(origin):
        raise InvalidRequest(
            f"allow-origin: {address!r} is not the origin of a web page, such as "
            "https://app.example.org or http://localhost:3000"
        )
    return origin


# --- the file with the token, which only its user can read


def _kept_token(path: Path) -> str:
    """Return the token in a file that the user names; a missing file gets a new token."""
    if not os.path.lexists(path):
        return _create_token(path)
    try:
        # Without O_NONBLOCK, opening a named pipe waits for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_FILE) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigurationError(f"the token file {path}: {error.strerror}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"other users can open the token file {path}: chmod 600 {path}")
    token = content.decode("ascii", "replace").strip()
    if len(token) < _FEWEST_CHARACTERS or any(not "!" <= sign <= "~" for sign in token):
        raise ConfigurationError(
            f"the token file {path} must hold one word of {_FEWEST_CHARACTERS} characters or more; "
            "delete it to get a new token"
        )
    return token


def _forget_token(path: Path, token: str) -> None:
    """Delete the file, unless another server has written its own token there meanwhile."""
    with suppress(OSError):
        if path.read_bytes().strip() == token.encode():
            path.unlink()


def _create_token(path: Path) -> str:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Fails if anything is there, so that it cannot follow another user's link.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{token}\n".encode())
        except BaseException:
            path.unlink()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"the server's token cannot be written to {path}: {error.strerror}"
        ) from None
    return token
