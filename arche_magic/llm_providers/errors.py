"""Errors that reach the user: `LLMProviderError` and its subclasses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict, Unpack

from .secrets import without_key_like
from .text.wording import without_long_values

if TYPE_CHECKING:
    from .reply import Attempt


class Details(TypedDict, total=False):
    """The arguments of every error; see `LLMProviderError`."""

    attempts: Sequence[Attempt]
    next_available_at: datetime | None


class LLMProviderError(Exception):
    """The root of all errors: a request that ended without a reply.

    A key in the message, such as one in place of an option's value, is replaced. Long values are
    shortened.

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
    ) -> None:
        message = without_key_like(message)
        # What servers said is short already, and `to_store` must find it unchanged.
        super().__init__(message if attempts else without_long_values(message))
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.next_available_at = next_available_at

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

    def __init__(self, message: str, *, option: str = "", **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.option = option


class NoRouteAvailable(LLMProviderError):
    """Every route is closed or failed; the message says when the routes open.

    Attributes:
        too_large: the request is larger than every route can take.
        timed_out: the timeout of the request has passed.
    """

    def __init__(
        self,
        message: str,
        *,
        too_large: bool = False,
        timed_out: bool = False,
        **details: Unpack[Details],
    ) -> None:
        super().__init__(message, **details)
        self.too_large: bool = too_large
        self.timed_out: bool = timed_out


class NotKept(LLMProviderError):
    """Only kept replies may be used, and there is none for this request; nothing was sent."""


class ContentFiltered(LLMProviderError):
    """The provider filtered the prompt or the reply; `partial` is the text that arrived."""

    def __init__(self, message: str, *, partial: str = "", **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.partial = partial


class SchemaMismatch(LLMProviderError):
    """Two replies did not fit the schema; `text` is the last one as it arrived."""

    def __init__(self, message: str, *, text: str = "", **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.text = text

    def ended(self, why: str, **details: Unpack[Details]) -> SchemaMismatch:
        """Return this error with the reason why the request ends with it."""
        message = f"{self} ({why}; the text is in the error's .text)"
        return SchemaMismatch(message, text=self.text, **details)


class IncompleteReply(LLMProviderError):
    """A reply ended before it was complete; `partial` is the text that arrived.

    The stream broke off, or the model used all its tokens for reasoning.
    """

    def __init__(self, message: str, *, partial: str = "", **details: Unpack[Details]) -> None:
        super().__init__(message, **details)
        self.partial = partial
