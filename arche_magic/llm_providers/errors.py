"""Errors, and what helps after each of them.

`LLMProviderError` and its subclasses reach the user. A `ProviderFailure` stays inside the engine:
an adapter makes it, `AttemptFailed` carries it, and its `remedy` decides when the route reopens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

from .characters import without_controls

if TYPE_CHECKING:
    from .reply import Attempt
    from .types import Observation, Usage


class LLMProviderError(Exception):
    """A request that ended without a reply.

    Attributes:
        attempts: every route that was considered, in order, and the outcome of each.
        next_available_at: when the first route opens again (aware, UTC), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[Attempt] = (),
        next_available_at: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.next_available_at = next_available_at

    def to_store(self) -> str:
        """The message without the servers' own words, which may quote the prompt."""
        message = str(self)
        for attempt in self.attempts:
            if attempt.said:
                message = message.replace(f": {attempt.said}", "")
        return message

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback: one line, and the cell still fails."""
        return [without_controls(f"{type(self).__name__}: {self}")]


class ConfigurationError(LLMProviderError):
    """Keys, files, options or network settings are missing or wrong; the message says what to set.

    Network settings are the variables for proxies and certificates.
    """


class NoKeys(ConfigurationError):
    """No API key is configured for what was asked."""


class InvalidRequest(LLMProviderError, ValueError):
    """The request is wrong (a parameter, an empty prompt), or every route refused it."""


class NoRouteAvailable(LLMProviderError):
    """Every route is closed or failed; the message says when the routes open."""


class NotKept(LLMProviderError):
    """Only kept replies may be used, and none answers this request; nothing was sent."""


class ContentFiltered(LLMProviderError):
    """The provider filtered the prompt or the reply; `partial` is the text that arrived."""

    partial: str = ""


class SchemaMismatch(LLMProviderError):
    """Two replies did not fit the schema; `text` is the last one as it arrived."""

    text: str = ""

    def ended(
        self, why: str, attempts: Sequence[Attempt], next_available_at: datetime | None = None
    ) -> SchemaMismatch:
        """This error with the reason why the request ends with it."""
        error = SchemaMismatch(
            f"{self} ({why}; the text is in the error's .text)",
            attempts=attempts,
            next_available_at=next_available_at,
        )
        error.text = self.text
        return error


class IncompleteReply(LLMProviderError):
    """A reply ended before it was complete; `partial` is the text that arrived.

    Its stream broke off, or the model used all its tokens for reasoning.
    """

    partial: str = ""


class Remedy(Enum):
    """What helps after a failed attempt; it decides what is closed, and for how long."""

    WAIT_FOR_LIMIT = "wait until the limit has room again"
    TOP_UP_ACCOUNT = "add credit or raise the spend limit of the account"
    CHANGE_PLAN = "the account's plan does not include the model"
    REPLACE_KEY = "replace the key"
    CHANGE_MODEL = "ask for another model"
    RETRY_LATER = "the provider has trouble; it is tried again shortly"
    SHORTEN_PROMPT = "shorten the prompt or use a model with a larger window"
    FIX_REQUEST = "change the request"
    CHANGE_PROMPT = "the provider filtered the prompt or its reply"
    RAISE_MAX_TOKENS = "the model reasoned until its reply was cut; raise max_tokens"
    ASK_DIFFERENTLY = "the same model is asked again, in a form that it has not refused"
    CHECK_ADDRESS = "check the base URL and the network: the address does not serve this place"
    CHECK_SETUP = "check the proxy and certificate settings of this machine"


@dataclass(frozen=True)
class ProviderFailure:
    """Why one attempt failed.

    `str()` of it is the summary, and after a colon the server's own words.

    Attributes:
        summary: what happened, in our words.
        remedy: what helps.
        said: the server's own words; untrusted, shown to the user and never stored.
        retry_after: seconds until the provider takes requests again, as it said, or None.
        limit: name of the limit that was hit (`tokens_per_day`), or None.
        observations: limits and remaining amounts that came with the refusal.
        usage: what the attempt spent nevertheless, or None if unknown.
        usage_is_known: False where `usage` is our estimate.
        at_least: what the provider had counted when a stream broke off, or None.
        text: what had arrived before the failure.
        sent: whether the request can have reached the provider, and so counts there.
        unknown: True if no rule fits the answer; it is treated as temporary trouble.
        lacks: the capability that the model lacks (`images`), if that is why, or "".
        names_option: whether the refusal names the option that it is about.
    """

    summary: str
    remedy: Remedy
    said: str = ""
    retry_after: float | None = None
    limit: str | None = None
    observations: tuple[Observation, ...] = ()
    usage: Usage | None = None
    usage_is_known: bool = True
    at_least: Usage | None = None
    text: str = ""
    sent: bool = True
    unknown: bool = False
    lacks: str = ""
    names_option: bool = False

    def __str__(self) -> str:
        return f"{self.summary}: {self.said}" if self.said else self.summary


NOT_SENT = ProviderFailure("nothing was sent", Remedy.FIX_REQUEST, sent=False)
"""Why a hold is given back."""


class AttemptFailed(Exception):
    """One route did not answer; `failure` says why. Adapters raise it, and nothing else."""

    def __init__(self, failure: ProviderFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure
