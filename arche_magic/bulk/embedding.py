"""Vectors of many texts from one model, in batches, each saved when it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

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
from arche_magic.llm_providers.errors import InvalidRequest, LLMProviderError
from arche_magic.llm_providers.reply_cache.replay import vector_addresses
from arche_magic.llm_providers.reply_cache.store import reply_store
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.text.characters import whole_characters
from arche_magic.prompts import as_pandas

from .batch_calls import BatchCalls, TextsFailed, VectorsOfTexts
from .bounds import Patience, at_most
from .progress import Counts, LineBar
from .rows import Row

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

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
    job = _Embedding(
        values, llm or get_llm_provider(), model, dimensions, at_most("patience", patience), fresh
    )
    options = {"reserve": reserve, "private": private, "tag": tag}
    matrix = job.run(allow_paid, progress, options)
    if index is None:
        return matrix
    import pandas as pd

    return pd.DataFrame(matrix, index=index)


class _Embedding:
    """One call of `embed`.

    Args:
        values: the texts, some of them missing.
        llm: what asks.
        model, dimensions: as for `embed`.
        patience: seconds; inf for no bound.
        fresh: whether kept vectors are asked for again.
    """

    def __init__(
        self, values: Sequence[Any], llm: IntelligentLLMOrchestrator, model: str | None,
        dimensions: int | None, patience: float, fresh: bool,
    ) -> None:  # fmt: skip
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
        self._patience = Patience(patience, self._clock.time)
        self._address = vector_addresses(self._provider, self._model, dimensions)
        self._store = reply_store(configuration.replies)
        self._matrix: np.ndarray[Any, Any] | None = None

    def run(
        self, allow_paid: bool, progress: bool, options: Mapping[str, Any]
    ) -> np.ndarray[Any, Any]:
        """The vectors, one row per value; for what it raises see `embed`."""
        self._count(self._missing, resumed=True)
        missing = self._take_kept()
        bar = LineBar(self._counts.progress, self._clock.time) if progress else nullcontext()
        with bar:
            if missing:
                sample = self._request(missing[:1], options)
                self._check_cost(sample, allow_paid)
                routes, tracker = self._llm.routes(sample), self._llm.quota_tracker
                self._ask(in_batches(missing, sample, routes, tracker), options)
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

    def _request(self, texts: Sequence[str], options: Mapping[str, Any]) -> Request:
        return embedding_request(
            texts,
            self._configuration,
            self._provider,
            self._model,
            dimensions=self._dimensions,
            patience=min(self._patience.left, _LONGEST_WAIT_IN_ENGINE),
            **options,
        )

    def _check_cost(self, sample: Request, allow_paid: bool) -> None:
        if not allow_paid and all(route.paid for route in self._llm.routes(sample)):
            raise InvalidRequest(
                f"{self._provider} costs money; embed uses it only with allow_paid=True"
            )

    def _ask(self, batches: Iterable[Sequence[str]], options: Mapping[str, Any]) -> None:
        """Request the vectors of all batches, and take them when they arrive."""

        def keep(vectors: VectorsOfTexts) -> None:
            by_address = {self._address(text): vector for text, vector in vectors.items()}
            self._store.keep_vectors(by_address, self._clock.time())

        calls = BatchCalls(
            self._llm, partial(self._request, options=options), keep, self._counts, self._patience
        )
        try:
            for found in calls.run(batches):
                self._take(found)
        except TextsFailed as failed:
            explained = self._explained(failed)
        else:
            return
        # Outside of the handler, so that a traceback shows this error alone.
        raise explained

    def _take(self, vectors: VectorsOfTexts, *, resumed: bool = False) -> None:
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

    def _explained(self, failed: TextsFailed) -> BaseException:
        """The error for some texts, with their positions and what to do next."""
        error, texts = failed.error, failed.texts
        if not isinstance(error, LLMProviderError) or not texts:
            return error
        places = sorted(self._places[text][0] for text in texts)
        shown = ", ".join(map(str, places[:_PLACES_IN_A_MESSAGE]))
        more = len(places) - _PLACES_IN_A_MESSAGE
        which = f"{'text' if len(places) == 1 else 'texts'} {shown}"
        which += f" and {more:,} more" if more > 0 else ""
        done = self._counts.progress().done
        return type(error)(
            f"no vectors for {which}: {error}. {done:,} of {self._total:,} texts are done; "
            "run the same call again for the others",
            attempts=error.attempts,
            next_available_at=error.next_available_at,
        )


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if value is None:
        return True
    import pandas as pd

    return pd.isna(value) is True


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
