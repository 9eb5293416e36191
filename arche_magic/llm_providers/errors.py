"""Errors that reach the user: `LLMProviderError` and its subclasses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .secrets import without_key_like
from .text.wording import without_long_values

if TYPE_CHECKING:
    from .reply import Attempt


class LLMProviderError(Exception):
    """The root of all errors: a request that ended without a reply.

    A key in the message, such as one in place of an option's value, is replaced. Long values are
    shortened. The attributes of a subclass, and their defaults, are stated in its body.

    Attributes:
        attempts: every route that was considered, in order, with its outcome.
        next_available_at: when the first route opens again (aware, UTC), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[Attempt] = (),
        next_available_at: datetime | None = None,
        **own: Any,
    ) -> None:
        if unknown := [name for name in own if not hasattr(type(self), name)]:
            raise TypeError(f"{type(self).__name__} has no attribute {unknown[0]!r}")
        message = without_key_like(message)
        # What servers said is short already, and `to_store` must find it unchanged.
        super().__init__(message if attempts else without_long_values(message))
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.next_available_at = next_available_at
        vars(self).update(own)

    def to_store(self) -> str:
        """Return the message without the servers' own words, which may quote the prompt."""
        message = str(self)
        # Lists of reasons omit full stops. Longer texts are replaced first, because they may begin
        # like shorter ones.
        said = {attempt.said.rstrip(" .") for attempt in self.attempts}
        for text in sorted(filter(None, said), key=len, reverse=True):
            message = message.replace(f": {text}", "")
        return message

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback: one line, and the cell still fails."""
        from .text.characters import without_controls

        return [without_controls(f"{type(self).__name__}: {self}")]


class ConfigurationError(LLMProviderError):
    """Keys, files, options or network settings are missing or wrong; the message says what to set.

    Network settings are the variables for proxies and certificates.
    """


class NoKeys(ConfigurationError):
    """No API key is configured for the request."""


class InvalidRequest(LLMProviderError, ValueError):
    """The request is invalid (a parameter, an empty prompt), or every route refused it.

    `option` is the option or field that is wrong, such as `temperature`; "" if it is not known.
    """

    option: str = ""


class NoRouteAvailable(LLMProviderError):
    """Every route is closed or failed; the message says when the routes open.

    Attributes:
        too_large: the request is larger than every route can take.
        timed_out: the timeout of the request has passed.
    """

    too_large: bool = False
    timed_out: bool = False


class NotKept(LLMProviderError):
    """Only kept replies may be used, and there is none for this request; nothing was sent."""


class ContentFiltered(LLMProviderError):
    """The provider filtered the prompt or the reply; `partial` is the text that arrived."""

    partial: str = ""


class SchemaMismatch(LLMProviderError):
    """Two replies did not fit the schema; `text` is the last one as it arrived."""

    text: str = ""

    def ended(self, why: str, **details: Any) -> SchemaMismatch:
        """Return this error with the reason why the request ends with it."""
        message = f"{self} ({why}; the text is in the error's .text)"
        return SchemaMismatch(message, text=self.text, **details)


class IncompleteReply(LLMProviderError):
    """A reply ended before it was complete; `partial` is the text that arrived.

    The stream broke off, or the model used all its tokens for reasoning.
    """

    partial: str = ""
