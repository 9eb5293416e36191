"""`arche_magic.embed`: many texts, one model; each vector is kept when it arrives."""

from __future__ import annotations

import _thread
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from embedding_server import Embedded, EmbeddingServer, vector_of
from provider_parts import Clock, FastClock, Start

import arche_magic
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import (
    get_configuration,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.errors import (
    InvalidRequest,
    LLMProviderError,
    NoRouteAvailable,
    NotKept,
)
from arche_magic.llm_providers.quota_tracker import get_quota_tracker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Refusal = tuple[int, dict[str, str], Any]


def numbered(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def refuse(reason: Callable[[Embedded], bool], message: str) -> Callable[[Embedded], Any]:
    """Answer 400 to requests that have a reason to be refused."""

    def refusal(request: Embedded) -> Refusal | None:
        body = {"message": message, "type": "invalid_request_error"}
        return (400, {}, body) if reason(request) else None

    return refusal


def kept_vectors() -> int:
    """How many vectors are on disk."""
    path = get_configuration().replies
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])
    return 0


def expected(texts: list[str]) -> np.ndarray[Any, Any]:
    return np.array([vector_of(text) for text in texts], dtype=np.float32)


def test_a_list_gives_an_array_in_its_order(server: EmbeddingServer) -> None:
    vectors = arche_magic.embed(numbered(5))
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, expected(numbered(5)))


def test_a_series_gives_a_frame_with_its_index(server: EmbeddingServer) -> None:
    """The index is shuffled and has a label twice."""
    texts = pd.Series(["c", "a", "b"], index=[9, 2, 2], name="review")
    frame = arche_magic.embed(texts)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == [9, 2, 2]
    assert np.array_equal(frame.to_numpy(), expected(["c", "a", "b"]))
    assert texts.tolist() == ["c", "a", "b"]


def test_other_kinds_of_columns_are_accepted(server: EmbeddingServer) -> None:
    polars = pytest.importorskip("polars")
    wanted = expected(["a", "b"])
    for texts in (
        ("a", "b"),
        np.array(["a", "b"]),
        pd.Index(["a", "b"]),
        polars.Series(["a", "b"]),
    ):
        assert np.array_equal(arche_magic.embed(texts), wanted)
    frame = arche_magic.embed(pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"]))
    assert list(frame.index) == ["x", "y"]


def test_rows_without_a_text_are_nan_and_not_sent(server: EmbeddingServer) -> None:
    texts = pd.Series(["a", None, float("nan"), pd.NA, "  ", "b"], dtype=object)
    frame = arche_magic.embed(texts)
    assert frame.isna().all(axis=1).tolist() == [False, True, True, True, True, False]
    assert server.texts == ["a", "b"]


def test_without_any_text_nothing_is_sent(server: EmbeddingServer) -> None:
    """The vectors have the model's own length, or the one that was asked for."""
    assert arche_magic.embed([]).shape == (0, 1024)
    assert arche_magic.embed([None, ""]).shape == (2, 1024)
    assert arche_magic.embed([], "google", dimensions=256).shape == (0, 256)
    assert not server.received


def test_equal_texts_are_sent_once(server: EmbeddingServer) -> None:
    vectors = arche_magic.embed(["a", "b", "a", "a"])
    assert np.array_equal(vectors, expected(["a", "b", "a", "a"]))
    assert server.texts == ["a", "b"]


def test_texts_are_sent_in_batches_that_the_model_takes(server: EmbeddingServer) -> None:
    """Mistral takes 512 texts, or 16,384 tokens, in one batch."""
    vectors = arche_magic.embed(numbered(1300))
    assert np.array_equal(vectors, expected(numbered(1300)))
    assert sorted(len(request.texts) for request in server.received) == [276, 512, 512]
    server.received.clear()
    arche_magic.embed([f"{number} " + "many words " * 1000 for number in range(12)])
    # About 2,750 tokens each.
    assert sorted(len(request.texts) for request in server.received) == [2, 5, 5]


def test_a_batch_uses_only_part_of_a_small_limit(server: EmbeddingServer) -> None:
    """Google counts each text as a request, and allows a hundred a minute."""
    arche_magic.embed(numbered(60), "google", reserve=0.0)
    assert sorted(len(request.texts) for request in server.received) == [10, 25, 25]


def test_kept_vectors_are_not_requested_again(server: EmbeddingServer) -> None:
    arche_magic.embed(["a", "b"])
    vectors = arche_magic.embed(["b", "c", "a"])
    assert np.array_equal(vectors, expected(["b", "c", "a"]))
    assert server.texts == ["a", "b", "c"]
    # Another model, another length, and on request.
    arche_magic.embed(["a"], "google")
    arche_magic.embed(["a"], "google", dimensions=np.int64(4))
    arche_magic.embed(["a"], fresh=True)
    assert server.texts == ["a", "b", "c", "a", "a", "a"]


def test_vectors_of_another_length_are_an_error_and_not_kept(server: EmbeddingServer) -> None:
    """A model may have changed, and the message says how to get all vectors from the new one."""
    arche_magic.embed(["a"])
    server.spoil = lambda vectors: [vector[:4] for vector in vectors]
    for _ in range(2):
        wanted = r"no vectors for text 1: .* length 4, but others have 8; fresh=True requests all"
        with pytest.raises(LLMProviderError, match=wanted):
            arche_magic.embed(["a", "b"])
    assert server.texts == ["a", "b", "b"]
    assert arche_magic.embed(["a", "b"], fresh=True).shape == (2, 4)


def test_without_sending_only_kept_vectors_are_returned(server: EmbeddingServer) -> None:
    arche_magic.embed(["a"])
    use_configuration(replace(get_configuration(), replay="only"))
    assert np.array_equal(arche_magic.embed(["a"], fresh=True), expected(["a"]))
    with pytest.raises(NotKept):
        arche_magic.embed(["a", "b"])
    assert server.texts == ["a"]


def test_after_a_failure_the_same_call_requests_the_rest(server: EmbeddingServer) -> None:
    texts = numbered(1300)
    arche_magic.embed(texts[:200])
    server.spent("mistral-1", "mistral-2")
    wanted = (
        r"no vectors for texts 200, 201, 202, 203, 204 and 1,095 more: .*opens in 60 min.*"
        "; other models were not asked. 200 of 1,300 texts are done"
    )
    with pytest.raises(NoRouteAvailable, match=wanted) as caught:
        arche_magic.embed(texts, patience=1)
    assert caught.value.next_available_at is not None
    server.refusal = EmbeddingServer.refusal
    get_quota_tracker().reopen("mistral_key_2")
    server.received.clear()
    assert np.array_equal(arche_magic.embed(texts), expected(texts))
    assert sorted(server.texts) == sorted(texts[200:])


@pytest.mark.parametrize(
    ("message", "kind", "told"),
    [
        ("'dimensions': bad input", InvalidRequest, {"option": "dimensions"}),
        ("bad input: the prompt is too long", NoRouteAvailable, {"too_large": True}),
    ],
)
def test_a_refused_text_is_found_and_the_others_are_kept(
    server: EmbeddingServer, message: str, kind: type[Exception], told: dict[str, Any]
) -> None:
    texts = numbered(40)
    server.refusal = refuse(lambda request: "text 17" in request.texts, message)
    with pytest.raises(kind, match=r"no vectors for text 17: .*bad input") as caught:
        arche_magic.embed(texts)
    assert told.items() <= vars(caught.value).items()
    server.refusal = EmbeddingServer.refusal
    sent = len(server.received)
    assert np.array_equal(arche_magic.embed(texts), expected(texts))
    assert "text 16" not in [t for r in server.received[sent:] for t in r.texts]


def test_a_batch_that_is_too_large_is_sent_in_parts(server: EmbeddingServer) -> None:
    """A text can have more tokens than its length suggests."""
    server.refusal = refuse(
        lambda request: len(request.texts) > 3, "Too many tokens overall, split into more batches."
    )
    assert np.array_equal(arche_magic.embed(numbered(9)), expected(numbered(9)))


def test_it_waits_for_the_model_instead_of_using_another(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    clock = Clock()
    keys = {"mistral": 1, "google": 1}
    configuration = load_configuration(server.environment(keys), tmp_path)
    use_configuration(replace(configuration, clock=clock))
    opens = clock.now + 300
    body = {"message": "Requests rate limit exceeded", "type": "rate_limited"}
    server.refusal = lambda r: (429, {"retry-after": "300"}, body) if clock.now < opens else None
    assert np.array_equal(arche_magic.embed(["a"]), expected(["a"]))
    assert clock.now >= opens
    assert {request.wire for request in server.received} == {"mistral"}


def test_the_limits_of_the_service_are_not_exceeded(start: Start) -> None:
    """Google counts each text, and allows a hundred a minute per key; nothing is refused."""
    sandbox = start({"google": 1}, clock=FastClock(60))
    texts = numbered(220)
    vectors = arche_magic.embed(texts, reserve=0.0)
    assert vectors.shape == (220, 3072)
    assert not np.isnan(vectors).any()
    assert sum(len(request.body["requests"]) for request in sandbox.requests) == 220
    recorded = attempt_log(get_configuration().store).session()
    assert {attempt.outcome for attempt in recorded} <= {"served", "skipped"}


def test_patience_bounds_the_wait(server: EmbeddingServer, tmp_path: Path) -> None:
    clock = Clock()
    configuration = load_configuration(server.environment({"mistral": 1}), tmp_path)
    use_configuration(replace(configuration, clock=clock))
    server.spent("mistral-1")
    with pytest.raises(NoRouteAvailable, match="opens in 60 min"):
        arche_magic.embed(["a"], patience=600)
    assert clock.slept <= 600


def test_an_interrupt_keeps_the_vectors_that_have_arrived(server: EmbeddingServer) -> None:
    """The interrupt comes while the second batch is running."""
    texts, go_on = numbered(700), threading.Event()

    def refusal(request: Embedded) -> Refusal | None:
        if "text 699" in request.texts:
            deadline = time.monotonic() + 10
            while not kept_vectors() and time.monotonic() < deadline:
                time.sleep(0.01)
            _thread.interrupt_main()
            go_on.wait(5)
        return None

    server.refusal = refusal
    with pytest.raises(KeyboardInterrupt):
        arche_magic.embed(texts)
    server.refusal = EmbeddingServer.refusal
    go_on.set()
    server.received.clear()
    assert np.array_equal(arche_magic.embed(texts), expected(texts))
    assert "text 0" not in server.texts


def test_no_money_is_spent_without_permission(server: EmbeddingServer) -> None:
    with pytest.raises(InvalidRequest, match=r"openai costs money.*allow_paid=True"):
        arche_magic.embed(["a"], "openai")
    assert not server.received
    assert len(arche_magic.embed(["a"], "openai", allow_paid=True)) == 1


@pytest.mark.parametrize(
    ("texts", "options", "problem"),
    [
        ("one", {}, r"a single text; write embed\(\[text\]\)"),
        (7, {}, "texts is of type int"),
        ({"a": "b"}, {}, "texts is of type dict"),
        ({"a", "b"}, {}, "texts is of type set"),
        (np.array("a"), {}, r"a single value; write embed\(\[text\]\)"),
        (["a"], {"model": 5}, "model is 5; it must be the name of a model"),
        (["a", 3], {}, "value 1 is of type int"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), {}, "has 2 columns"),
        (["a", "long " * 10_000], {}, "text 1 is too long: 50,000 characters.*takes 8,192"),
        (["a"], {"dimensions": 0}, "dimensions is 0"),
        (["a"], {"patience": "long"}, "patience is 'long'"),
        (["a"], {"reserve": 2}, "reserve is 2"),
        (["a"], {"fresh": "no"}, "fresh is 'no'; it must be True or False"),
        (["a"], {"allow_paid": "no"}, "allow_paid is 'no'; it must be True or False"),
        (["a"], {"llm": 5}, "llm is 5; it must come from get_llm_provider"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    server: EmbeddingServer, texts: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        arche_magic.embed(texts, **options)
    assert not server.received


def test_the_progress_is_shown_in_one_line(
    server: EmbeddingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arche_magic.embed(["a", "b", "a"], progress=True)
    assert "3 of 3 texts" in capsys.readouterr().err


def test_the_file_of_vectors_contains_no_texts(server: EmbeddingServer) -> None:
    arche_magic.embed(["a very private text"])
    path = get_configuration().replies
    assert path.exists()
    assert b"private" not in path.read_bytes()
