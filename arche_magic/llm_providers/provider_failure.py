"""Describes why one attempt failed and what helps; used only inside the engine.

An adapter makes a `ProviderFailure`, `AttemptFailed` carries it, and its `remedy` decides when the
route opens again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import Observation, Usage


class Remedy(Enum):
    """The remedy after a failed attempt. It determines what is closed, and for how long."""

    WAIT_FOR_LIMIT = "wait until the limit has room again"
    TOP_UP_ACCOUNT = "add credit or raise the spend limit of the account"
    CHANGE_PLAN = "the account's plan does not include the model"
    REPLACE_KEY = "replace the key"
    CHANGE_MODEL = "ask for another model"
    RETRY_LATER = "the provider has a problem and is tried again shortly"
    SHORTEN_PROMPT = "shorten the prompt or use a model with a larger window"
    FIX_REQUEST = "change the request"
    CHANGE_PROMPT = "the provider filtered the prompt or its reply"
    RAISE_MAX_TOKENS = "the model reasoned until its reply was cut; raise max_tokens"
    ASK_DIFFERENTLY = "the same model is asked again, in a form that it has not refused"
    CHECK_ADDRESS = (
        "check the base URL and the network: the address does not answer requests from here"
    )
    CHECK_SETUP = "check the proxy and certificate settings of this machine"


_ANSWERED_IN_PART = (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT, Remedy.RAISE_MAX_TOKENS)


@dataclass(frozen=True)
class ProviderFailure:
    """Why one attempt failed.

    `str()` of it is the summary, and after a colon the server's own words.

    Attributes:
        summary: what happened, in our words.
        remedy: what helps.
        said: the server's own words; untrusted, shown to the user and never stored.
        retry_after: seconds until the provider accepts requests again, as it stated, or None.
        limit: name of the limit that was hit (`tokens_per_day`), or None.
        observations: limits and remaining amounts that came with the refusal.
        usage: what the attempt spent nevertheless, or None if unknown.
        usage_is_known: False where `usage` is our estimate.
        at_least: what the provider had counted when a stream broke off, or None.
        text: what had arrived before the failure.
        sent: whether the request may have reached the provider, which then counts it.
        unknown: True if no rule fits the answer; it is treated as a temporary failure.
        lacks: the capability that the model lacks, if that is why (`images`, `tools`,
            `embeddings`), or "".
        names_option: whether the refusal names the option that it is about.
        option: that option or field of the request, if the server quotes its name, or "".
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
    option: str = ""

    def __str__(self) -> str:
        return f"{self.summary}: {self.said}" if self.said else self.summary

    @property
    def may_have_answered(self) -> bool:
        """Whether the provider may have generated tokens that it did not report."""
        return self.sent and self.remedy in _ANSWERED_IN_PART


NO_CONNECTION = "no connection"
"""How the summary of a failure begins if an address could not be reached."""

NOT_SENT = ProviderFailure("nothing was sent", Remedy.FIX_REQUEST, sent=False)
"""Passed when an unused hold is returned."""


class AttemptFailed(Exception):
    """A route did not answer; `failure` says why. Adapters raise only this and interrupts."""

    def __init__(self, failure: ProviderFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure
