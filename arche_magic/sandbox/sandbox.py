"""The sandbox's public class: start, stop, cause failures, read what happened."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from typing import TYPE_CHECKING, Self

from .accounts import DEFAULT_KEYS, Accounts
from .failures import TEMPORARY_KINDS, Failure, Failures
from .models import PROVIDERS
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..local_server import LocalServer
    from .types import ReceivedRequest

_BASES = {
    "groq": ("GROQ_BASE_URL", "/groq"),
    "mistral": ("MISTRAL_BASE_URL", "/mistral"),
    "google": ("GOOGLE_GEMINI_BASE_URL", "/google"),
    "openai": ("OPENAI_BASE_URL", "/openai/v1"),
}
_IDLE_SECONDS = 600  # clients that pause between requests keep their connections


class SandboxNotInstalled(ImportError):
    """The packages that the sandbox's server needs are not installed."""


class Sandbox:
    """Groq, Mistral, Gemini and OpenAI on 127.0.0.1, with their limits, headers and failures.

    Use it as a context manager, or call `start` and `stop`. The official SDKs reach it with the
    base URLs and keys of `environment()`. Its models also call tools and make embeddings.

    `keys`: the number of keys per provider, or their texts. `{"groq": 2}` means no keys for the
    other providers.
    `limits`: overrides the published limits by provider ("groq"), by model
    ("groq/openai/gpt-oss-20b") and by key label ("groq_key_2"), which takes precedence. None
    removes a limit, and 0 removes the model from the plan. A name is like "tokens_per_minute".
    `left`: by provider or key label, what is left of a limit at the start, for every model.
    `accounts`: the account name by key label. Keys of one account share every limit.
    `windows`: how a provider's limits reset: "bucket", "rolling", "calendar" (clock minutes and
    Pacific days) or "fixed" (from the first request on). The default is the provider's own rule.
    `seed`: decides replies and random failures. `clock`: epoch seconds, real time by default;
    `time_scale` makes it run faster. `latency` and `seconds_per_chunk` are in real seconds.
    `reply`: a function of the model and the messages that writes the replies instead.

    Raises ValueError for an unknown provider, model, key label, limit or kind of window, and for a
    number that is out of range.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, int | Sequence[str]] | None = None,
        limits: Mapping[str, Mapping[str, int | None]] | None = None,
        left: Mapping[str, Mapping[str, int]] | None = None,
        accounts: Mapping[str, str] | None = None,
        windows: Mapping[str, str] | None = None,
        seed: int = 0,
        time_scale: float = 1.0,
        clock: Callable[[], float] | None = None,
        latency: float = 0.0,
        seconds_per_chunk: float = 0.0,
        port: int = 0,
        reply: Callable[[str, list[dict[str, str]]], str] | None = None,
    ) -> None:
        if not 0 < time_scale < math.inf:
            raise ValueError(f"time_scale must be greater than 0, not {time_scale}")
        for name, seconds in (("latency", latency), ("seconds_per_chunk", seconds_per_chunk)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, not {seconds}")
        if not 0 <= port <= 65_535:
            raise ValueError(f"port must be 0 to 65,535, not {port}")
        self.latency = latency
        self.seconds_per_chunk = seconds_per_chunk
        self._clock = clock or time.time
        self.time_scale = time_scale
        self._origin = self._clock()
        self._port = port
        self._server: LocalServer | None = None
        known = Accounts(
            keys=DEFAULT_KEYS if keys is None else keys,
            limits=limits or {},
            left=left or {},
            accounts=accounts or {},
            windows=windows or {},
            now=self.clock(),
        )
        targets = frozenset(PROVIDERS) | {key.label for key in known.keys}
        self.service = Service(
            accounts=known,
            failures=Failures(targets=targets, seed=seed),
            clock=self.clock,
            seed=seed,
            custom=reply,
        )

    def start(self) -> Self:
        """Open the port and start serving. Does nothing if the sandbox is already running.

        Raises SandboxNotInstalled without uvicorn and starlette, OSError if the port is taken or
        too many files are open.
        """
        if self._server is None:
            try:
                from ..local_server import LocalServer
                from .app import application
            except ImportError as error:
                raise SandboxNotInstalled(
                    "the sandbox needs starlette and uvicorn: pip install 'arche_magic[sandbox]'"
                ) from error
            self._server = LocalServer(self._port, "arche-sandbox", _IDLE_SECONDS)
            try:
                self._server.serve(application(self))
            except OSError:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Close the port and every open connection. Does nothing if the sandbox is not running."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the port is open."""
        return self._server is not None

    @property
    def url(self) -> str:
        """The address of the running server, like "http://127.0.0.1:40123".

        Raises RuntimeError if it is not running.
        """
        if self._server is None:
            raise RuntimeError("the sandbox is not running; call start()")
        return self._server.url

    def environment(self) -> dict[str, str]:
        """The variables that point SDKs and arche_magic here. Raises RuntimeError if stopped."""
        variables = {key.variable: key.text for key in self.service.accounts.keys}
        providers = {key.provider for key in self.service.accounts.keys}
        for provider, (name, path) in _BASES.items():
            if provider in providers:
                variables[name] = self.url + path
        return variables

    def clock(self) -> float:
        """Epoch seconds on the sandbox's clock."""
        return self._origin + (self._clock() - self._origin) * self.time_scale

    def fail(
        self,
        target: str,
        kind: str,
        times: int | None = 1,
        after: int = 0,
        to: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Make the next requests of a target fail.

        `target`: a provider, a key label, or "*". `kind`: see `FAILURE_KINDS`. `times`: how many
        requests fail; None for all. `after`: how many requests of the target succeed first.
        `to`: the target of a "redirect". `seconds`: an outage of this length on the sandbox's
        clock; all requests during it fail, whatever `times` says. Raises ValueError for an
        unknown target or kind.
        """
        until = math.inf
        if seconds is not None:
            times, until = None, self.clock() + seconds
        with self.service.lock:
            self.service.failures.add(Failure(target, (kind,), times, after, to, until))

    def fail_randomly(
        self, share: float = 0.25, kinds: Sequence[str] | None = None, target: str = "*"
    ) -> None:
        """Make a share (0 to 1) of the requests fail. The seed decides which.

        `kinds` defaults to temporary ones that do not take long. Raises ValueError.
        """
        chosen = tuple(kinds) if kinds else TEMPORARY_KINDS
        with self.service.lock:
            self.service.failures.add(Failure(target, chosen, share=share))

    def clear_failures(self) -> None:
        """Forget all requested failures."""
        with self.service.lock:
            self.service.failures.clear()

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """The last 100,000 requests for completions or embeddings, oldest first."""
        with self.service.lock:
            return tuple(self.service.received)

    def usage(self) -> dict[str, dict[str, dict[str, int]]]:
        """The server's own count, {key label: {model: {...}}}.

        "requests" were admitted and charged, with their "input_tokens" and "output_tokens";
        "refused" got a 413 or 429. "failed" got another error or a spoiled reply.
        """
        with self.service.lock:
            return deepcopy(self.service.accounts.counts)

    def quota(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """{account: {model: {limit name: {"limit", "used"}}}} of all models used so far."""
        with self.service.lock:
            return self.service.accounts.quota(self.clock())

    def reset(self) -> None:
        """Reset counts, failures, limits and received requests."""
        self.service.restart()
