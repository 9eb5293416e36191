"""Vectors of many texts from one model, in batches, each saved when it arrives."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

from arche_magic.llm_providers import IntelligentLLMOrchestrator, get_llm_provider
from arche_magic.llm_providers.bounded import library
from arche_magic.llm_providers.embeddings import (
    about_model,
    check_dimensions,
    check_text,
    choose_model,
    embedding_request,
    in_batches,
)
from arche_magic.llm_providers.errors import (
    ContentFiltered,
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
)
from arche_magic.llm_providers.reply import Waiting
from arche_magic.llm_providers.reply_cache.replay import vector_addresses
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.prompts import as_pandas

from .bounds import Patience, at_most
from .columns import plain
from .progress import Counts, LineBar
from .rows import Row

if TYPE_CHECKING:
    from array import array

    import numpy as np
    import pandas as pd

_Vectors: TypeAlias = "Mapping[str, array[float]]"

_THREADS = 8
_NAP_SECONDS, _SHORTEST_NAP_SECONDS = 0.5, 0.05
# How often a batch is sent if the provider has temporary failures.
_TRIES = 5
_LONGEST_WAIT_IN_ENGINE = 120.0
_LOOKED_UP_AT_ONCE = 1000
_PLACES_IN_A_MESSAGE = 5


def embed(
    texts: Any,
    model: str | None = None,
    *,
    dimensions: int | None = None,
    progress: bool = False,
    patience: float | None = None,
    allow_paid: bool = False,
    fresh: bool = False,
    reserve: float = 0.1,
    private: bool | None = None,
    tag: str | None = None,
    llm: IntelligentLLMOrchestrator | None = None,
) -> np.ndarray[Any, Any] | pd.DataFrame:
    """Return the vectors of texts, one row per text, all from one model.

    `embed(reviews["text"])`. Each text is sent once, in batches that fit the model and its limits.
    All keys of the model are used, but no other model. Each vector is saved when it arrives
    (`outputs/llm_replies.sqlite`): after an interrupt or an error, the same call requests only the
    missing ones.

    Args:
        texts: a Series, a frame with one column, a list, an array, or a column of polars or
            pyarrow. Missing and blank texts are not sent; their rows are NaN.
        model: an embedding model, `provider/model`, or a provider. Default: the first provider with
            an embedding model and a key, free ones first.
        dimensions: the length of the vectors, for models with several lengths; by default the
            model's own.
        progress: show the progress in one line on stderr.
        patience: seconds to wait in total while no route is open; None waits without a limit.
        allow_paid: also use routes that cost money.
        fresh: request every text again, and replace stored vectors.
        reserve: the share of each limit (0 to 1) that is left for other requests.
        private: use only routes that are marked in `[private]`.
        tag: a name for its attempts, for `%llm_stats --by tag`.
        llm: the provider object to use; by default that of the configuration.

    Returns:
        An array of shape (texts, dimensions) in float32, in the order of the texts. For a Series or
        a frame, a DataFrame with its index and the columns 0, 1, 2, … If no text has a vector, the
        length is the model's own if it is known, otherwise 0.

    Raises:
        InvalidRequest: the data or an option is invalid, a text is too long, or there are only paid
            routes; nothing was sent. Or the model refused a text, which the message names.
        ConfigurationError: no key, or an unknown model.
        NoRouteAvailable: no route opens within the patience; the message says what opens when.
        NotKept: replay is set to only, and some vectors are not kept.
    """
    index, values = _values(texts)
    options = {"reserve": reserve, "private": private, "tag": tag}
    longest = at_most("patience", patience)
    job = _Embedding(values, llm or get_llm_provider(), model, dimensions, longest, fresh, options)
    matrix = job.run(allow_paid, progress)
    if index is None:
        return matrix
    import pandas as pd

    return pd.DataFrame(matrix, index=index)


class _TextsFailed(Exception):
    """A batch has no vectors; its arguments are the reason and the texts."""


class _Ended(Exception):
    """The call has ended, so this thread ends too."""


class _Embedding:
    """One call of `embed`. Its threads each ask for a batch of texts at a time.

    Args:
        values: the texts, some of them missing.
        llm: what asks.
        model, dimensions: as for `embed`.
        patience: seconds; inf for no bound.
        fresh: whether kept vectors are asked for again.
        options: further options of each request.
    """

    def __init__(
        self,
        values: Sequence[Any],
        llm: IntelligentLLMOrchestrator,
        model: str | None,
        dimensions: int | None,
        patience: float,
        fresh: bool,
        options: Mapping[str, Any],
    ) -> None:
        configuration = llm.configuration
        self._llm, self._configuration, self._clock = llm, configuration, configuration.clock
        self._provider, self._model = choose_model(configuration, model, among=llm.providers)
        self._dimensions, self._fresh = dimensions, fresh and configuration.replay != "only"
        self._about = about_model(configuration, self._provider, self._model)
        check_dimensions(dimensions, self._model, self._about)
        # Positions by text: each text is asked for once.
        self._places: dict[str, list[int]] = {}
        self._missing: list[int] = []
        for place, value in enumerate(values):
            if _is_missing(value):
                self._missing.append(place)
                continue
            check_text(value, place, self._model, self._about)
            self._places.setdefault(whole_characters(value), []).append(place)
        self._total = len(values)
        self._counts = Counts(self._total, self._clock.time, "text")
        self._patience, self._options = Patience(patience, self._clock.time), options
        self._address = vector_addresses(self._provider, self._model, dimensions)
        self._store = reply_store(configuration.replies)
        self._matrix: np.ndarray[Any, Any] | None = None
        # The threads share it: `next` of a list's iterator is a single step.
        self._batches: Iterator[Sequence[str]] = iter(())
        self._ended = threading.Event()
        # What came: vectors, an error, or None when a thread ends.
        self._out: queue.SimpleQueue[_Vectors | BaseException | None] = queue.SimpleQueue()

    def run(self, allow_paid: bool, progress: bool) -> np.ndarray[Any, Any]:
        """The vectors, one row per value; for what it raises see `embed`."""
        self._count(self._missing, resumed=True)
        missing = self._take_kept()
        bar = LineBar(self._counts.progress, self._clock.time) if progress else nullcontext()
        with bar:
            if missing:
                sample = self._request(missing[:1])
                routes = self._llm.routes(sample)
                if not allow_paid and all(route.paid for route in routes):
                    raise InvalidRequest(
                        f"{self._provider} costs money; embed uses it only with allow_paid=True"
                    )
                self._ask_all(in_batches(missing, sample, routes, self._llm.quota_tracker))
        return self._filled(self._dimensions or self._about.dimensions)

    def _take_kept(self) -> list[str]:
        """Read the stored vectors; returns the other texts."""
        texts = list(self._places)
        if self._fresh:
            return texts
        missing: list[str] = []
        for start in range(0, len(texts), _LOOKED_UP_AT_ONCE):
            part = {self._address(text): text for text in texts[start : start + _LOOKED_UP_AT_ONCE]}
            found = self._store.vectors(part)
            self._take({part[address]: vector for address, vector in found.items()}, resumed=True)
            missing += [text for address, text in part.items() if address not in found]
        return missing

    def _request(self, texts: Sequence[str]) -> Request:
        return embedding_request(
            texts,
            self._configuration,
            self._provider,
            self._model,
            dimensions=self._dimensions,
            patience=min(self._patience.left, _LONGEST_WAIT_IN_ENGINE),
            **self._options,
        )

    def _ask_all(self, batches: Iterable[Sequence[str]]) -> None:
        """Ask for all batches, and take the vectors as they arrive.

        After a failure no further calls are sent; it is raised when those under way have ended. If
        the user interrupts, these continue: their vectors are kept when they arrive.
        """
        batches = list(batches)
        self._batches, running = iter(batches), min(_THREADS, len(batches))
        for _ in range(running):
            threading.Thread(target=self._work, name="arche-embed", daemon=True).start()
        failures: list[BaseException] = []
        try:
            while running:
                try:
                    # An interrupt does not reach an endless wait on every system.
                    item = self._out.get(timeout=_NAP_SECONDS)
                except queue.Empty:
                    continue
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    failures.append(item)
                else:
                    self._take(item)
        finally:
            self._ended.set()
        if failures and isinstance(failures[0], _TextsFailed):
            raise self._explained(*failures[0].args)
        if failures:
            raise failures[0]

    def _work(self) -> None:
        """Ask for batches until none is left; one of the threads."""
        try:
            while (batch := next(self._batches, None)) and not self._ended.is_set():
                self._ask(batch)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            self._ended.set()
            self._out.put(error)
        finally:
            self._out.put(None)

    def _ask(self, texts: Sequence[str]) -> None:
        """Request the vectors of some texts; if the texts are refused, halve the batch."""
        failed = 0
        while not self._ended.is_set():
            request = self._request(texts)
            try:
                reply = self._llm.ask(request, self._note_wait)
            except LLMProviderError as error:
                self._counts.spend(error.attempts)
                failed += any(attempt.outcome == "failed" for attempt in error.attempts)
                if len(texts) > 1 and self._is_about_texts(error):
                    half = len(texts) // 2
                    self._ask(texts[:half])
                    self._ask(texts[half:])
                    return
                if failed >= _TRIES or not self._wait(error, request):
                    raise _TextsFailed(error, texts) from None
            else:
                self._counts.spend(reply.attempts)
                found = dict(zip(texts, reply.vectors, strict=True))
                by_address = {self._address(text): vector for text, vector in found.items()}
                self._store.keep_vectors(by_address, self._clock.time())
                self._out.put(found)
                return

    def _is_about_texts(self, error: LLMProviderError) -> bool:
        """Whether the refusal is about the texts, so that other texts may be accepted."""
        if isinstance(error, InvalidRequest | ContentFiltered):
            return True
        if not isinstance(error, NoRouteAvailable) or error.next_available_at is not None:
            return False
        short, now = self._request(["?"]), self._clock.time()
        state = self._llm.quota_tracker.state
        opens = (state(route, short, now).opens_at for route in self._llm.routes(short))
        return min(opens, default=math.inf) < math.inf

    def _note_wait(self, waiting: Waiting) -> None:
        if self._ended.is_set():
            raise _Ended
        self._counts.wait(waiting)
        self._patience.wait(min(waiting.seconds, _NAP_SECONDS))

    def _wait(self, error: LLMProviderError, request: Request) -> bool:
        """Wait until the first route opens; False if none does within the patience."""
        if error.next_available_at is None:
            return False
        opens, route = error.next_available_at.timestamp(), self._llm.routes(request)[0]
        while self._patience.left > 0:
            left = max(0.0, opens - self._clock.time())
            if left > self._patience.left:
                return False
            self._note_wait(Waiting(route, left))
            self._clock.sleep(min(max(left, _SHORTEST_NAP_SECONDS), _NAP_SECONDS))
            if left <= _NAP_SECONDS:
                return True
        return False

    def _take(self, vectors: _Vectors, *, resumed: bool = False) -> None:
        """Put the vectors of texts into the rows that have these texts."""
        import numpy as np

        for text, vector in vectors.items():
            matrix, places = self._filled(len(vector)), self._places[text]
            if matrix.shape[1] != len(vector):
                raise LLMProviderError(
                    f"{self._model} returned vectors of length {len(vector):,}, but others have "
                    f"{matrix.shape[1]:,}; fresh=True requests all of them again"
                )
            matrix[places] = np.frombuffer(vector, dtype=np.float32)
            self._count(places[:1], resumed=resumed)
            self._count(places[1:], resumed=True)

    def _filled(self, dimensions: int) -> np.ndarray[Any, Any]:
        """The rows so far, NaN if a vector has not arrived."""
        if self._matrix is None:
            np = library("numpy")
            self._matrix = np.full((self._total, dimensions), np.nan, dtype=np.float32)
        return self._matrix

    def _count(self, places: Iterable[int], *, resumed: bool) -> None:
        rows = [Row(place, place, "", resumed=resumed) for place in places]
        self._counts.finish(rows)
        for row in rows:
            self._counts.hand_out(row)

    def _explained(self, error: LLMProviderError, texts: Sequence[str]) -> LLMProviderError:
        """The error for some texts, with their positions and what to do next."""
        places = sorted(self._places[text][0] for text in texts)
        shown = ", ".join(map(str, places[:_PLACES_IN_A_MESSAGE]))
        more = len(places) - _PLACES_IN_A_MESSAGE
        which = f"{'text' if len(places) == 1 else 'texts'} {shown}"
        which += f" and {more:,} more" if more > 0 else ""
        return type(error)(
            f"no vectors for {which}: {str(error).rstrip(' .')}. "
            f"{self._counts.progress().done:,} of {self._total:,} texts are done; run the same "
            "call again for the others",
            attempts=error.attempts,
            next_available_at=error.next_available_at,
        )


def _is_missing(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else plain(value) is None


def _values(data: Any) -> tuple[pd.Index | None, Sequence[Any]]:
    """The texts, and the index of those of pandas.

    Raises:
        InvalidRequest: the data is not a column of texts.
    """
    if isinstance(data, str | bytes):
        raise InvalidRequest("texts is a single text; write embed([text])")
    pandas = library("pandas")
    has_index = isinstance(data, pandas.Series | pandas.DataFrame)
    data = as_pandas(data)
    if isinstance(data, pandas.DataFrame):
        if data.shape[1] != 1:
            raise InvalidRequest(
                f"the frame has {data.shape[1]} columns; choose one: embed(frame['text'])"
            )
        data = data.iloc[:, 0]
    if isinstance(data, pandas.Series):
        return (data.index if has_index else None), data.tolist()
    if getattr(data, "ndim", 1) == 0:
        raise InvalidRequest("texts is a single value; write embed([text])")
    # The caller does not know the order of a set.
    if isinstance(data, Mapping | AbstractSet) or not isinstance(data, Iterable):
        raise InvalidRequest(
            f"texts is of type {type(data).__name__}; it must be a Series, a list or an array of "
            "texts"
        )
    return None, list(data)
