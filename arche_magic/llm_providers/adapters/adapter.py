"""The base class of all adapters: makes a call, and explains its failure."""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from traceback import clear_frames
from typing import Any

from ..bounded import uninterrupted
from ..provider_failure import AttemptFailed, ProviderFailure, Remedy
from ..request import Request
from ..secrets import LONGEST_MESSAGE, hiding_locals, quotes, redacted, without_locals
from ..text.wording import shortened
from ..types import Completion, Key, Observation, Period, Timeouts, Usage
from .bodies import error_fields, event_status, field_text, is_page
from .failures import (
    Refusal,
    Words,
    about_request,
    by_word,
    delay_of,
    transport_failure,
    with_observations,
    words,
)
from .formats import Format, formats_of
from .http import Call, HttpClient, clean_logs
from .limits import header_observations, parse_date
from .replies import Part, Received, read_vectors, stream_ended_early

logger = logging.getLogger("arche_magic.adapters")
_MOST_REPORTED = 100
# `org-…/proj_…`, `org_…`, `projects/123`; a sentence is not a name.
_ACCOUNT = re.compile(r"[\w.:@/-]{1,200}", re.ASCII)
_reported: set[tuple[str, str]] = set()


class Adapter(ABC):
    """Makes the calls of one key through one client of its provider's SDK; threads can share it.

    Attributes:
        account: the account that the provider's last answer named (organization, project), or None.
        served_at: the time of the last answer by the server's own clock (epoch seconds), or None.
    """

    # Reduces a reply's JSON to the part that the SDK may read; None passes on all of it.
    _keep: Callable[[Any], Any] | None = None
    # False if the service cannot stream a reply that must fit a schema.
    _streams_json = True
    # What refusals mean, by their `code` or `type`.
    _words: Words = words()
    # The periods of the headers for `requests` and `tokens`, unless the settings have others.
    _header_periods: Mapping[str, Period] = {}

    def __init__(
        self, key: Key, base_url: str, periods: Mapping[str, Period] | None, token_limit: str
    ) -> None:
        self.account: str | None = None
        self._date: str | None = None
        self._key, self._base_url = key, base_url
        self._periods = {**self._header_periods, **(periods or {})}
        self._token_limit_name = token_limit
        self._formats = formats_of(key.provider, base_url)
        self._http = HttpClient(base_url, key, self._keep)
        self._sdk: Any = None
        self._building = threading.Lock()

    @abstractmethod
    def _build(self) -> Any:
        """Build the SDK's client on `self._http.open()`, with retries off and `STAND_IN` as key."""

    @abstractmethod
    def _send(
        self, sdk: Any, request: Request, model: str, stream: bool, form: Format | None
    ) -> Iterable[Part | None]:
        """Make the call and yield its parts; None for an object without a part of a reply.

        `form` is how the request asks for JSON, or None.
        """

    @abstractmethod
    def _embed(self, sdk: Any, request: Request, model: str) -> tuple[Sequence[Any], Usage | None]:
        """Request vectors, in a form that `read_vectors` accepts; returns them and the usage."""

    def _list(self, sdk: Any) -> Iterable[str]:
        """Request the list of models once, and return their names."""
        return [model.id for model in sdk.models.list().data or ()]

    @abstractmethod
    def _classify(self, refusal: Refusal) -> ProviderFailure:
        """Classify a refusal, or an error event in a stream, by more than its `code` and `type`."""

    def _observe(self, call: Call) -> tuple[Observation, ...]:
        """Read the limits in the response headers."""
        return header_observations(call.headers, self._periods)

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        """The account that the answer names, or None."""
        return None

    def complete(
        self, request: Request, model: str, *, stream: bool, timeouts: Timeouts
    ) -> Iterator[Completion]:
        """Call the provider once; the call is sent when the first piece is requested.

        Without streaming, this yields one Completion. With streaming, it yields one per piece of
        text, and a last one without text. The last one has `usage` (None if the provider gave no
        count) and `finish_reason`. The first one has what the response headers say about limits.
        Closing the iterator drops the connection immediately.
        `timeouts.total` limits the whole call, from the moment it is sent.

        Raises:
            AttemptFailed: for every failure.
            KeyboardInterrupt: the user stopped it.
        """
        received = Received()
        failure: BaseException
        stream = stream and not request.needs_choices
        stream = stream and (self._streams_json or not request.wants_json)
        with hiding_locals(), self._http.call(timeouts, stream) as call:
            try:
                adapted, call.asked = self._formats.asking(request, model)
                if request.inputs:
                    yield self._embedded(call, request, model)
                    return
                parts = self._send(self._client(), adapted, model, stream, call.asked.form)
                yield from self._completions(call.steps(parts), call, request, stream, received)
                return
            except KeyboardInterrupt as stop:
                # An SDK may keep a reference to the error, and so to a socket that was about to
                # connect.
                clear_frames(stop.__traceback__)
                failure = KeyboardInterrupt()
            # Broad, because an SDK may raise anything (KeyError, errors of pydantic or json, its
            # own) when it reads unexpected data from a server or a proxy, and the request must
            # continue on the next route.
            except Exception as error:  # noqa: BLE001
                if stream and received.is_whole:
                    # Only what follows the end of the reply is missing.
                    yield _last(received, request, received.rest(), stream)
                    return
                failure = self._raised(error, call, request, received)
        # Raised after the handler, so that nothing refers to the cause: its text may quote the
        # key, and the frames it went through may hold the key.
        raise failure

    @property
    def served_at(self) -> float | None:
        """Epoch seconds by the server's clock when it last answered, or None."""
        return parse_date(self._date)

    @without_locals
    def models(self, timeout: float) -> tuple[str, ...]:
        """The names of the models that the key may use; costs no quota.

        `timeout` is in seconds.

        Raises:
            AttemptFailed: for every failure.
            KeyboardInterrupt: the user stopped it.
        """
        failure: BaseException
        with self._http.call(Timeouts(answer=timeout, total=timeout), stream=False) as call:
            try:
                sdk = self._client()
                with call.interrupts:
                    names = tuple(self._list(sdk))
                self._note_account(call, {})
                # Names are shown and completed, and a server may send any text as a name.
                secret = self._key.secret()
                return tuple(n for n in names if n.isprintable() and not quotes(n, secret))
            except KeyboardInterrupt:
                failure = KeyboardInterrupt()
            # Broad, because the SDK reads a server's list as it reads a reply: see `complete`.
            except Exception as error:  # noqa: BLE001
                failure = self._raised(error, call, None, Received())
        raise failure

    def close(self) -> None:
        """Close the connections; the adapter cannot be used afterwards."""
        self._http.close()

    def _client(self) -> Any:
        secret = self._key.secret()
        # Other characters cannot be in a header.
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            summary = "the key contains a space or another character that no key can have"
            raise AttemptFailed(ProviderFailure(summary, Remedy.REPLACE_KEY))
        with self._building:
            if self._sdk is None:
                self._sdk = uninterrupted(self._built)
            return self._sdk

    def _built(self) -> Any:
        sdk = self._build()
        clean_logs()
        return sdk

    def _completions(
        self,
        parts: Iterable[Part | None],
        call: Call,
        request: Request,
        stream: bool,
        received: Received,
    ) -> Iterator[Completion]:
        observations: tuple[Observation, ...] | None = None
        for part in parts:
            if observations is None:
                observations = self._observe(call)
                self._note_account(call, {})
            if part is not None:
                received.parts.append(part)
                if stream and (part.text or part.call_pieces or part.tool_calls):
                    call.hear(text=True)
                if stream and part.text:
                    text = received.whole(part.text)
                    paused_at = time.monotonic()
                    yield Completion(text, observations=observations)
                    # The time that the caller spends on a piece is not the provider's.
                    call.add_time(time.monotonic() - paused_at)
                    observations = ()
        if not received:
            early = stream and observations is None and not call.is_html
            raise stream_ended_early() if early else _malformed(call)
        text = received.rest() if stream else received.text
        last = _last(received, request, text, stream)
        yield replace(last, observations=observations or ())

    def _embedded(self, call: Call, request: Request, model: str) -> Completion:
        sdk = self._client()
        with call.interrupts:
            values, usage = self._embed(sdk, request, model)
        observations = self._observe(call)
        self._note_account(call, {})
        try:
            vectors = read_vectors(values, len(request.inputs))
        except ValueError:
            raise _malformed(call) from None
        length = len(vectors[0])
        if request.dimensions not in (None, length):
            summary = f"{model} returns vectors of length {length:,}, not {request.dimensions:,}"
            raise AttemptFailed(ProviderFailure(summary, Remedy.FIX_REQUEST, usage=usage))
        return Completion("", usage, "stop", observations, vectors=vectors)

    def _raised(
        self, error: Exception, call: Call, request: Request | None, received: Received
    ) -> BaseException:
        """The exception to raise instead of an error: KeyboardInterrupt or AttemptFailed."""
        if call.stopped:
            return KeyboardInterrupt()
        failure, fields = self._explained(error, call, request, received)
        self._note_account(call, fields)
        if failure.unknown:
            self._report(failure, call, fields)
        return AttemptFailed(failure)

    def _explained(
        self, error: Exception, call: Call, request: Request | None, received: Received
    ) -> tuple[ProviderFailure, Mapping[str, Any]]:
        """Why a call failed, and the fields of the body that says so."""
        fields: Mapping[str, Any] = {}
        if isinstance(error, AttemptFailed):
            failure = error.failure
        elif call.refused and call.status is not None:
            fields = error_fields(call.body)
            failure = self._refused(Refusal(call, call.status, fields), request)
            failure = with_observations(failure, self._observe(call))
        elif broken := transport_failure(error, call):
            failure = broken
        elif call.status is None:
            # What an SDK says may quote the prompt, and summaries are stored.
            summary = f"the request could not be sent ({type(error).__name__})"
            failure = ProviderFailure(summary, Remedy.FIX_REQUEST, str(error), sent=call.sent)
        else:
            # google-genai keeps an error event in `details`, the others in `body`.
            body = getattr(error, "details", None) or getattr(error, "body", None)
            fields = error_fields({"error": body} if isinstance(body, str) else body)
            status = event_status(fields)
            names = ("message", "code", "type", "detail")
            if not is_page(body) and any(field_text(fields, name) for name in names):
                failure = self._refused(Refusal(call, status or 500, fields), request)
                failure = replace(failure, unknown=failure.unknown or status is None)
            else:
                failure = _malformed(call).failure
            if received and failure.remedy in (Remedy.FIX_REQUEST, Remedy.ASK_DIFFERENTLY):
                # The request was valid, because an answer began.
                failure = replace(failure, remedy=Remedy.RETRY_LATER)
        # Gemini counts with every chunk, and may have continued after the last one that arrived.
        is_final = not call.stream or received.finish_reason is not None
        secret = self._key.secret()
        summary = redacted(failure.summary, secret)
        room = LONGEST_MESSAGE - len(summary) - len(": ")
        failure = replace(
            failure,
            summary=summary,
            said=shortened(redacted(failure.said, secret), room),
            retry_after=delay_of(failure, call, fields),
            text=failure.text or received.text,
            usage=failure.usage or received.usage if is_final else failure.usage,
            at_least=None if is_final else received.usage,
        )
        return failure, fields

    def _refused(self, refusal: Refusal, request: Request | None) -> ProviderFailure:
        """Classify a refusal, and learn formats and capabilities of the model from it."""
        failure = by_word(self._words, refusal) or self._classify(refusal)
        if request is None:
            return failure
        failure = about_request(failure, request)
        # Some servers answer 500 or 501 to a schema that they cannot compile.
        may_be_format = failure.remedy is Remedy.FIX_REQUEST or refusal.status in (500, 501)
        if failure.lacks or not may_be_format:
            return failure
        asked, label = refusal.call.asked, refusal.label
        plainer = self._formats.refused(asked, refusal.status, failure.said, label)
        if plainer is None and failure.remedy is Remedy.FIX_REQUEST and not failure.names_option:
            plainer = self._formats.suspected(asked, label)
        return plainer or failure

    def _note_account(self, call: Call, fields: Mapping[str, Any]) -> None:
        self._date = call.headers.get("date")
        account = self._account(call, fields)
        if not account or account == self.account:
            return
        # The name is stored in the ledger, and a server may send any text as a name: the prompt, or
        # the key.
        if _ACCOUNT.fullmatch(account) and not quotes(account, self._key.secret()):
            self.account = account

    def _report(self, failure: ProviderFailure, call: Call, fields: Mapping[str, Any]) -> None:
        """Log an answer that no rule fits, once per kind, so that a rule can be added."""
        kind = (self._key.provider, failure.summary)
        if kind in _reported or len(_reported) >= _MOST_REPORTED:
            return
        _reported.add(kind)
        named = field_text(fields, "message") or field_text(fields, "detail")
        quoted = named or str(call.body or "")
        logger.warning(
            "%s: %s, treated as a temporary failure: %s",
            self._key.provider, failure.summary, redacted(quoted, self._key.secret()),
        )  # fmt: skip


def _last(received: Received, request: Request, text: str, stream: bool) -> Completion:
    """The last completion of a call: its last text, and everything that came with the reply."""
    ending = received.usage, received.checked_finish(request, stream)
    choices = received.choices if request.needs_choices else ()
    return Completion(text, *ending, tool_calls=received.tool_calls, choices=choices)


def _malformed(call: Call) -> AttemptFailed:
    """A 200 without a reply, from the service or from a page that answers instead."""
    if call.is_html:
        summary = "a web page came instead of a reply"
        return AttemptFailed(ProviderFailure(summary, Remedy.CHECK_ADDRESS))
    return AttemptFailed(ProviderFailure("malformed reply", Remedy.RETRY_LATER))
