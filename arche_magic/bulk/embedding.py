"""Vectors of many texts from one model, in batches, each saved when it arrives.

The workers of a job send the batches, one task each: they wait, keep to the limits and try again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext, suppress
from copy import copy
from typing import TYPE_CHECKING, Any, TypeAlias

from arche_magic.llm_providers import IntelligentLLMOrchestrator
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
from arche_magic.llm_providers.reply_cache.replay import vector_addresses
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.prompts import as_pandas

from .progress import Counts, LineBar
from .rows import Row, Task, plain
from .whole_job import WholeJob, checked_flag, orchestrator
from .workers import Workers

if TYPE_CHECKING:
    from array import array

    import numpy as np
    import pandas as pd

_Vectors: TypeAlias = "Mapping[str, array[float]]"

_NAP_SECONDS = 0.1
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
    allow_paid, fresh = checked_flag("allow_paid", allow_paid), checked_flag("fresh", fresh)
    llm = orchestrator(llm)
    whole = WholeJob(llm, patience=patience)
    job = _Embedding(values, llm, model, dimensions, whole, fresh, options)
    matrix = job.run(allow_paid, progress)
    if index is None:
        return matrix
    import pandas as pd

    return pd.DataFrame(matrix, index=index)


class _Embedding:
    """One call of `embed`; some of its texts may be missing."""

    def __init__(
        self,
        values: Sequence[Any],
        llm: IntelligentLLMOrchestrator,
        model: str | None,
        dimensions: int | None,
        whole: WholeJob,
        fresh: bool,
        options: dict[str, Any],
    ) -> None:
        configuration = llm.configuration
        self._llm, self._configuration, self._clock = llm, configuration, configuration.clock
        self._provider, self._model = choose_model(configuration, model, among=llm.providers)
        self._fresh = fresh and configuration.replay != "only"
        self._about = about_model(configuration, self._provider, self._model)
        self._dimensions = check_dimensions(dimensions, self._model, self._about)
        # The positions of each text, which is sent only once.
        self._places: dict[str, list[int]] = {}
        self._missing: list[int] = []
        for place, value in enumerate(values):
            is_blank = isinstance(value, str) and not value.strip()
            if is_blank or plain(value) is None:
                self._missing.append(place)
                continue
            check_text(value, place, self._model, self._about)
            self._places.setdefault(whole_characters(value), []).append(place)
        self._total = len(values)
        self._counts = Counts(self._total, self._clock.time, "text")
        self._options = options | {"patience": whole.patience.left}
        self._address = vector_addresses(self._provider, self._model, self._dimensions)
        self._store = reply_store(configuration.replies)
        self._matrix: np.ndarray[Any, Any] | None = None
        # Texts that have no vector yet, and texts of the batch that failed.
        self._left, self._failed = set(self._places), tuple[str, ...]()
        self._workers = Workers(llm, list(llm.providers), self._counts, whole, pack=1)

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
            vectors = {part[address]: vector for address, vector in found.items()}
            self._check_lengths(vectors)
            self._take(vectors, resumed=True)
            missing += [text for address, text in part.items() if address not in found]
        return missing

    def _request(self, texts: Sequence[str]) -> Request:
        return embedding_request(
            texts,
            self._configuration,
            self._provider,
            self._model,
            dimensions=self._dimensions,
            **self._options,
        )

    def _ask_all(self, batches: Iterable[Sequence[str]]) -> None:
        """Send all batches, and store the vectors as they arrive.

        After a failure no further calls are sent, and the error is raised when the calls in
        progress have ended. After an interrupt, these continue, and their vectors are kept when
        they arrive.
        """
        tasks = [self._task(batch) for batch in batches]
        scheduler = self._workers.scheduler
        scheduler.add(tasks)
        self._workers.start(tasks[0])
        thread = threading.Thread(target=self._collect, name="arche-embed", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                # An interrupt does not reach an endless wait on every system.
                thread.join(_NAP_SECONDS)
        finally:
            scheduler.end()
        if isinstance(scheduler.error, LLMProviderError):
            raise self._explained(scheduler.error)
        if scheduler.error is not None:
            raise scheduler.error
        if scheduler.put_off is not None:
            raise self._explained(scheduler.put_off)

    def _task(self, texts: Sequence[str]) -> Task:
        # No text is in two batches, so the first one identifies the batch.
        return Task(texts[0], self._request(texts), [])

    def _collect(self) -> None:
        """Store the results of workers until all vectors have arrived or the call ends."""
        scheduler = self._workers.scheduler
        try:
            while self._left and not (scheduler.ending.is_set() and scheduler.is_quiet()):
                with suppress(queue.Empty):
                    self._finish(scheduler.to_write.get(timeout=_NAP_SECONDS))
                self._workers.look_after()
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            scheduler.end(error)
        finally:
            self._workers.end()

    def _finish(self, task: Task) -> None:
        """Keep the vectors of a batch; if its texts are refused, send its halves."""
        scheduler, texts = self._workers.scheduler, task.request.inputs
        if task.reply is not None:
            found = dict(zip(texts, task.reply.vectors, strict=True))
            self._check_lengths(found)
            by_address = {self._address(text): vector for text, vector in found.items()}
            self._store.keep_vectors(by_address, self._clock.time())
            self._take(found)
        elif task.error is not None and len(texts) > 1 and _is_about_texts(task.error):
            half = len(texts) // 2
            scheduler.add([self._task(texts[:half]), self._task(texts[half:])])
        elif task.error is not None:
            self._failed = self._failed or texts
            scheduler.end(task.error)
        scheduler.note_written([task])

    def _check_lengths(self, vectors: _Vectors) -> None:
        """Raise an error if vectors differ in length from earlier ones."""
        for vector in vectors.values():
            length = self._filled(len(vector)).shape[1]
            if length != len(vector):
                raise LLMProviderError(
                    f"{self._model} returned vectors of length {len(vector):,}, but others have "
                    f"{length:,}; fresh=True requests all of them again"
                )

    def _take(self, vectors: _Vectors, *, resumed: bool = False) -> None:
        """Put the vectors into the rows with these texts."""
        import numpy as np

        for text, vector in vectors.items():
            self._left.discard(text)
            matrix, places = self._filled(len(vector)), self._places[text]
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
            self._counts.note_taken(row)

    def _explained(self, error: LLMProviderError) -> LLMProviderError:
        """The error, with the positions of the texts without vectors and the next step added."""
        places = sorted(self._places[text][0] for text in self._failed or self._left)
        shown = ", ".join(map(str, places[:_PLACES_IN_A_MESSAGE]))
        more = len(places) - _PLACES_IN_A_MESSAGE
        which = f"{'text' if len(places) == 1 else 'texts'} {shown}"
        which += f" and {more:,} more" if more > 0 else ""
        # A copy keeps the attributes of the error, such as `option`.
        explained = copy(error)
        message = (
            f"no vectors for {which}: {str(error).rstrip(' .')}. "
            f"{self._counts.progress().done:,} of {self._total:,} texts are done; run the same "
            "call again for the others"
        )
        explained.args = (message,)
        return explained


def _is_about_texts(error: LLMProviderError) -> bool:
    """Whether the refusal is about the texts, so that fewer or other texts may be accepted."""
    too_long = isinstance(error, NoRouteAvailable) and error.next_available_at is None
    return too_long or isinstance(error, InvalidRequest | ContentFiltered)


def _values(data: Any) -> tuple[pd.Index | None, Sequence[Any]]:
    """The texts, and the index of those of pandas; raise InvalidRequest for other data."""
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
