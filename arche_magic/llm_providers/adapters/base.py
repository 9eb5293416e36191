"""What all adapters do alike: one call, its rules, and one boundary for whatever goes wrong."""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import attrgetter
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from ..bounded import apart
from ..characters import Characters, whole_characters
from ..errors import AttemptFailed, Remedy
from ..reasoning import without_reasoning
from ..redaction import LONGEST_MESSAGE, quotes, redacted, shortened
from ..tracebacks import NoLocals, without_locals
from ..types import Completion, Key, Observation, Period, Request, Timeouts, Usage
from .failures import error_fields, event_status, is_code, label, said, without_capability
from .formats import Format, formats_of
from .http import Call, HttpClient, transport_failure
from .limits import parse_date, served_at
from .logs import clean_logs
from .told_delay import told_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


logger = logging.getLogger("arche_magic.adapters")
_MOST_REPORTED = 100
# `org-…/proj_…`, `org_…`, `projects/123`; a sentence is no name.
_ACCOUNT = re.compile(r"[\w.:@/-]{1,200}", re.ASCII)
_PASSING = (Remedy.WAIT_FOR_LIMIT, Remedy.RETRY_LATER)
_reported: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Part:
    """What one object of an SDK holds of a reply.

    `finish_reason` is `stop`, `length`, `content_filter` or `error`, see `finish_kind`; `reason` is
    the provider's own word for it.
    """

    text: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    reason: str = ""


class SdkAdapter(ABC):
    """An adapter around one client of one SDK; see `Adapter` for its contract."""

    _used: str
    """The attribute of the SDK's client that makes the calls."""

    # From a reply's JSON to what the SDK gets of it, where it may not have all.
    _keep: Callable[[Any], Any] | None = None

    # Whether a structured reply can be streamed too; if not, it comes in one piece.
    _streams_json = True

    def __init__(
        self,
        key: Key,
        base_url: str,
        periods: Mapping[str, Period] | None = None,
        token_limit: str = "",
    ) -> None:
        self.account: str | None = None
        self.served_at: float | None = None
        self._key, self._base_url, self._periods = key, base_url, periods
        self._token_limit_name = token_limit
        self._formats = formats_of(key.provider, base_url)
        self._http = HttpClient(base_url, key, self._keep)
        self._sdk: Any = None
        self._building = threading.Lock()

    @abstractmethod
    def _build(self) -> Any:
        """Build the SDK's client on `self._http.client`, its retries off, the key stood in for."""

    @abstractmethod
    def _send(
        self, sdk: Any, request: Request, model: str, stream: bool, form: Format | None
    ) -> Iterable[Part | None]:
        """Make the call and give its parts; None for an object that holds no part of a reply.

        `form` is how the request asks for JSON, None if it does not.
        """

    @abstractmethod
    def _list(self, sdk: Any) -> Iterable[str]:
        """Ask for the list of models, in one request, and give their names."""

    @abstractmethod
    def _classify(
        self, call: Call, status: int, fields: Mapping[str, Any], model: str
    ) -> AttemptFailed:
        """What a refusal, or an error event in a stream, means."""

    def _observe(self, call: Call) -> tuple[Observation, ...]:
        """What the response headers say about limits."""
        return ()

    def _account(self, call: Call, fields: Mapping[str, Any]) -> str | None:
        """The account that the answer names, if it does."""
        return None

    def complete(
        self, request: Request, model: str, *, stream: bool, timeouts: Timeouts
    ) -> Iterator[Completion]:
        """One call to the provider; see `Adapter.complete`."""
        received: list[Part] = []
        characters = Characters()
        failure: BaseException
        stream = stream and (self._streams_json or request.schema is None)
        with NoLocals(), self._http.call(timeouts, stream) as call:
            try:
                self._check_key()
                told, call.asked = self._formats.asking(request, model)
                parts = self._send(self._client(), told, model, stream, call.asked.form)
                yield from self._completions(parts, call, request, stream, received, characters)
                return
            except KeyboardInterrupt as stop:
                # An SDK may hold on to it, and so to a socket that was about to connect.
                clear_frames(stop.__traceback__)
                failure = KeyboardInterrupt()
            # An SDK that reads whatever a server, a proxy or a cut connection sent may raise
            # anything (KeyError, pydantic's and json's errors, its own), and the loop has to go on
            # to the next route.
            except Exception as error:  # noqa: BLE001
                if stream and _is_whole(received):
                    # Only what comes after the end of the reply is missing.
                    ending = _usage(received), _finish_reason(received)
                    yield Completion(characters.rest(), *ending)
                    return
                if call.stopped or _comes_from_an_interrupt(error):
                    failure = KeyboardInterrupt()
                else:
                    failure = self._explained(error, call, request, model, received)
        # Not while it is handled, so that nothing hangs on to it: the text of the cause may quote
        # the key, and the frames it went through may hold it.
        raise failure

    @without_locals
    def models(self, timeout: float) -> tuple[str, ...]:
        """The models the key may ask for; see `Adapter.models`."""
        failure: BaseException
        with self._http.call(Timeouts(answer=timeout, total=timeout), stream=False) as call:
            try:
                self._check_key()
                names = tuple(self._list(self._client()))
                self._note_account(call, {})
                # They are shown and completed; a server may put there what it likes.
                secret = self._key.secret()
                return tuple(n for n in names if n.isprintable() and not quotes(n, secret))
            except KeyboardInterrupt:
                failure = KeyboardInterrupt()
            # As in `complete`.
            except Exception as error:  # noqa: BLE001
                if _comes_from_an_interrupt(error):
                    failure = KeyboardInterrupt()
                else:
                    failure = self._explained(error, call, None, "", [])
        raise failure

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _check_key(self) -> None:
        if not _fits_a_header(self._key.secret()):
            message = "the key holds a character that no key has"
            raise AttemptFailed(message, Remedy.REPLACE_KEY)

    def _client(self) -> Any:
        with self._building:
            if self._sdk is None:
                self._sdk = apart(self._built)
            return self._sdk

    def _built(self) -> Any:
        sdk = self._build()
        # Parts of an SDK are imported only when they are first used.
        attrgetter(self._used)(sdk)
        clean_logs()
        return sdk

    def _completions(
        self,
        parts: Iterable[Part | None],
        call: Call,
        request: Request,
        stream: bool,
        received: list[Part],
        characters: Characters,
    ) -> Iterator[Completion]:
        observations: tuple[Observation, ...] | None = None
        objects = 0
        for objects, part in enumerate(parts, start=1):  # noqa: B007
            if observations is None:
                observations = self._observe(call)
                self._note_account(call, {})
            if part is not None:
                received.append(part)
                if stream and part.text:
                    call.hear(text=True)
                    text = characters.take(part.text)
                    paused_at = time.monotonic()
                    yield Completion(text, observations=observations)
                    # Whatever the reader did with the piece, the provider was not slow.
                    call.add_time(time.monotonic() - paused_at)
                    observations = ()
        if not received:
            early = stream and not objects
            if early and not _is_page(call):
                raise AttemptFailed("the stream ended early", Remedy.RETRY_LATER)
            raise _malformed(call)
        finish_reason = _checked_finish(received, request, stream or objects > 1)
        text = characters.rest() if stream else _text(received)
        yield Completion(text, _usage(received), finish_reason, observations or ())

    def _explained(
        self,
        error: Exception,
        call: Call,
        request: Request | None,
        model: str,
        received: list[Part],
    ) -> AttemptFailed:
        fields: Mapping[str, Any] = {}
        if isinstance(error, AttemptFailed):
            failure = error
        elif call.refused and call.status is not None:
            fields = error_fields(call.body)
            failure = self._refused(call, call.status, fields, request, model)
            named = {observation.name for observation in failure.observations}
            seen = tuple(o for o in self._observe(call) if o.name not in named)
            failure.observations = (*failure.observations, *seen)
            if failure.remedy is Remedy.WAIT_FOR_LIMIT and failure.limit is None:
                failure.limit = next((o.name for o in seen if o.remaining == 0), None)
            if failure.remedy in (Remedy.RETRY_LATER, Remedy.CHANGE_PROMPT):
                # The request was counted, for all we know, but nothing was made of it.
                failure.usage = Usage()
        elif broken := transport_failure(error, call):
            failure = broken
        elif call.status is None:
            message = f"the request could not be sent ({type(error).__name__}: {error})"
            failure = AttemptFailed(message, Remedy.FIX_REQUEST)
        else:
            # google-genai keeps an error event in `details`, the others in `body`.
            fields = error_fields(getattr(error, "details", None) or getattr(error, "body", None))
            status = event_status(fields)
            if any(said(fields, name) for name in ("message", "code", "type", "detail")):
                failure = self._refused(call, status or 500, fields, request, model)
                failure.unknown = failure.unknown or status is None
            else:
                failure = _malformed(call)
            if received and failure.remedy in (Remedy.FIX_REQUEST, Remedy.ASK_DIFFERENTLY):
                # The request was good enough to begin an answer.
                failure.remedy = Remedy.RETRY_LATER
        _take_told_delay(failure, call, fields)
        self._note_account(call, fields)
        failure.begun = call.status == 200
        failure.text = failure.text or _text(received)
        if _finish_reason(received) or not call.stream:
            failure.usage = failure.usage or _usage(received)
        else:
            # Gemini counts with every chunk, and goes on after the last one that came.
            failure.at_least = _usage(received)
        failure.args = (redacted(failure.summary, self._key.secret()),)
        room = LONGEST_MESSAGE - len(failure.summary) - len(": ")
        failure.said = shortened(redacted(failure.said, self._key.secret()), room)
        failure.__cause__ = failure.__context__ = None
        if failure.unknown:
            self._report(failure, call, fields)
        return failure.with_traceback(None)

    def _refused(
        self,
        call: Call,
        status: int,
        fields: Mapping[str, Any],
        request: Request | None,
        model: str,
    ) -> AttemptFailed:
        """What a refusal means, with what it says of the format and of the model's abilities."""
        failure = self._classify(call, status, fields, model)
        if request is None:
            return failure
        failure = without_capability(failure, request)
        # Some servers fail where they cannot compile a schema.
        may_be_format = failure.remedy is Remedy.FIX_REQUEST or status in (500, 501)
        if failure.lacks or not may_be_format:
            return failure
        what = label(status, fields)
        plainer = self._formats.refused(model, call.asked, status, failure.said, what)
        if plainer is None and failure.remedy is Remedy.FIX_REQUEST and not failure.names_option:
            plainer = self._formats.suspected(model, call.asked, what)
        return plainer or failure

    def _note_account(self, call: Call, fields: Mapping[str, Any]) -> None:
        self.served_at = parse_date(call.headers.get("date"))
        account = self._account(call, fields)
        # It goes into the ledger, and a server may put there what it likes: the prompt, or the key.
        is_name = account is not None and _ACCOUNT.fullmatch(account) is not None
        if account and is_name and not quotes(account, self._key.secret()):
            self.account = account

    def _report(self, failure: AttemptFailed, call: Call, fields: Mapping[str, Any]) -> None:
        """Log an answer that no rule fits, once per kind, so that a rule can be made for it."""
        kind = (self._key.provider, failure.summary)
        if kind in _reported or len(_reported) >= _MOST_REPORTED:
            return
        _reported.add(kind)
        quoted = said(fields, "message") or said(fields, "detail") or str(call.body or "")
        logger.warning(
            "%s: %s, taken for passing trouble: %s",
            self._key.provider, failure.summary, redacted(quoted, self._key.secret()),
        )  # fmt: skip


def counted(input_tokens: Any, *output_tokens: Any) -> Usage | None:
    """The provider's own count, or None if it gave no figures; -1 for what is not a count."""
    counted_input, *counts = map(as_count, (input_tokens, *output_tokens))
    counted_output = -1 if -1 in counts else sum(counts)
    return Usage(counted_input, counted_output) if counted_input or counted_output else None


def as_count(figure: Any) -> int:
    """A figure as a whole number: 0 for none at all, -1 for what is not a count."""
    if figure is None:
        return 0
    if isinstance(figure, float) and figure.is_integer():
        figure = int(figure)
    is_count = isinstance(figure, int) and not isinstance(figure, bool) and figure >= 0
    return int(figure) if is_count else -1


def _is_page(call: Call) -> bool:
    return call.headers.get("content-type", "").startswith("text/html")


def _malformed(call: Call) -> AttemptFailed:
    """A 200 without a reply: from the service itself, or from what answers in its place."""
    if _is_page(call):
        message = "a web page came in place of a reply"
        return AttemptFailed(message, Remedy.CHECK_ADDRESS)
    return AttemptFailed("malformed reply", Remedy.RETRY_LATER)


def _comes_from_an_interrupt(error: BaseException) -> bool:
    """Whether an interrupt was turned into an error on its way, as by a class that was being made.

    Python 3.11 wraps whatever `__set_name__` raises in a RuntimeError; pydantic makes classes, and
    wraps what a serializer raises, while a request is written.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


def _fits_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _text(received: list[Part]) -> str:
    return whole_characters("".join(part.text for part in received))


def _usage(received: list[Part]) -> Usage | None:
    return next((part.usage for part in reversed(received) if part.usage), None)


def _finish_reason(received: list[Part]) -> str | None:
    return next((part.finish_reason for part in reversed(received) if part.finish_reason), None)


def _is_whole(received: list[Part]) -> bool:
    """Whether a stream has come to its end, with an answer, and said so."""
    after = (part for part in reversed(received) if part.finish_reason or part.text)
    last = next(after, None)
    return (
        last is not None
        and last.finish_reason in ("stop", "length")
        and bool(without_reasoning(_text(received)).strip())
        and not any(part.refusal for part in received)
    )


def _take_told_delay(failure: AttemptFailed, call: Call, fields: Mapping[str, Any]) -> None:
    """Take the delay from the text of a refusal whose headers and fields name none."""
    if failure.retry_after is not None or failure.remedy not in _PASSING:
        return
    # Gemini names seconds for a limit per day, too, which stays shut until midnight.
    if (failure.limit or "").endswith(("_per_day", "_per_month")):
        return
    said_in = call.body if call.refused else fields
    failure.retry_after = told_delay(str(said_in), served_at(call.headers, time.time()))


def _checked_finish(received: list[Part], request: Request, stream: bool) -> str:
    """`stop` or `length`; raises AttemptFailed if what was received is no answer."""
    finish_reason = _finish_reason(received)
    reason = next((part.reason for part in reversed(received) if part.reason), "")
    reason = "" if reason.casefold() == finish_reason else reason
    named = f" ({reason})" if is_code(reason) else ""
    words = "" if named else reason
    refusal = "".join(part.refusal for part in received)
    if refusal:
        raise AttemptFailed("the model refused to answer", Remedy.CHANGE_PROMPT, text=refusal)
    if finish_reason == "content_filter":
        raise AttemptFailed(
            f"the provider filtered the reply{named}", Remedy.CHANGE_PROMPT, said=words
        )
    if finish_reason is None and stream:
        raise AttemptFailed("the stream ended early", Remedy.RETRY_LATER)
    if finish_reason == "error":
        raise AttemptFailed(
            f"the reply ended without an answer{named}", Remedy.RETRY_LATER, said=words
        )
    text = _text(received)
    if finish_reason == "length" and not without_reasoning(text).strip():
        raise AttemptFailed(_all_reasoning(received, request), Remedy.RAISE_MAX_TOKENS)
    # A model that is held to JSON may put all of it between its tags; the schema's reader looks.
    answer = text if request.schema else without_reasoning(text)
    if not answer.strip():
        what = "the reply ended without an answer" if reason else "an empty reply"
        raise AttemptFailed(f"{what}{named}", Remedy.RETRY_LATER, said=words)
    return finish_reason or "stop"


def _all_reasoning(received: list[Part], request: Request) -> str:
    usage = _usage(received)
    tokens = (usage.output_tokens if usage else 0) or request.max_tokens
    spent = f"all {tokens:,} tokens" if tokens else "all its tokens"
    return f"the model used {spent} for reasoning; raise --max-tokens (max_tokens in Python)"
