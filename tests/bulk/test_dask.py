"""A Dask DataFrame in one process: lazy, typed, with Dask's own progress bar and shared bounds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import arche_magic
from arche_magic.bulk import JobStopped
from arche_magic.llm_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from arche_magic.sandbox import Sandbox

dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")
diagnostics = pytest.importorskip("dask.diagnostics")
TEMPLATE = "How long is this? {{text}}"


def test_nothing_is_asked_before_it_is_computed(sandbox: Sandbox) -> None:
    """Columns and types come from the schema, so later steps can be added, and parts computed."""
    frame = pd.DataFrame({"text": [f"text {n}" for n in range(12)]})
    data = dd.from_pandas(frame, npartitions=4)
    lazy = arche_magic.map(data, TEMPLATE, schema="mood good|bad, score int", pack=1)
    words = lazy[lazy["mood"] == "good"].assign(twice=lazy["score"] * 2)[["mood", "twice"]]
    assert words.dtypes.to_dict() == {"mood": lazy.dtypes["mood"], "twice": pd.Int64Dtype()}
    assert lazy.divisions == data.divisions
    assert not sandbox.requests
    assert len(lazy.partitions[0].compute(scheduler="threads")) == 3
    assert len(sandbox.requests) == 3
    bar = io.StringIO()
    with diagnostics.ProgressBar(out=bar, dt=0.01):
        result = lazy.compute(scheduler="threads")
    assert "100% Completed" in bar.getvalue()
    assert len(sandbox.requests) == 12
    assert result.dtypes.to_dict() == lazy.dtypes.to_dict()
    assert result["score"].notna().all()


@pytest.mark.parametrize(("name", "template"), [("text", None), (0, "How long is this? {{0}}")])
def test_a_series_is_asked_as_in_pandas(
    sandbox: Sandbox, name: str | int, template: str | None
) -> None:
    """Its texts are the prompts, or the column that its name says."""
    data = pd.Series(["One", "Two"], name=name)
    lazy = arche_magic.map(dd.from_pandas(data, npartitions=2), template)
    result, expected = lazy.compute(scheduler="threads"), arche_magic.map(data, template)
    assert list(result) == list(expected)
    assert result["reply"].tolist() == expected["reply"].tolist()
    assert len(sandbox.requests) == 2


def test_a_lazy_frame_is_only_for_map(sandbox: Sandbox) -> None:
    """Otherwise, the message says how to compute it; a client of its own cannot be named."""
    data = dd.from_pandas(pd.DataFrame({"text": ["One"]}), npartitions=1)
    for ask in (arche_magic.imap, arche_magic.plan):
        with pytest.raises(InvalidRequest, match=r"a dask\w*\.DataFrame; pass data\.compute\(\)"):
            ask(data, TEMPLATE)
    with pytest.raises(InvalidRequest, match="client= does not accept a Dask frame"):
        arche_magic.map(data, TEMPLATE, client=object())
    assert not sandbox.requests


def test_partitions_share_the_bounds(sandbox: Sandbox) -> None:
    """The bounds are neither split nor exceeded: one partition may use all of them."""
    texts = ["long " * 300 + str(n) for n in range(4)] + [f"text {n}" for n in range(12)]
    data = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=4)
    options = {"pack": 1, "max_tokens": 50}
    whole = arche_magic.map(data, TEMPLATE, fresh=True, **options).compute(scheduler="threads")
    parts = [int(whole["tokens"].iloc[at : at + 4].sum()) for at in range(0, 16, 4)]
    assert parts[0] > sum(parts) / 2
    again = arche_magic.map(
        data, TEMPLATE, fresh=True, max_tokens_total=sum(parts) + 1000, **options
    ).compute(scheduler="threads")
    assert again["error"].isna().all()
    before = len(sandbox.requests)
    with pytest.raises(JobStopped, match="max_tokens_total"):
        arche_magic.map(
            data, TEMPLATE, fresh=True, max_tokens_total=sum(parts) // 2, **options
        ).compute(scheduler="threads")
    assert len(sandbox.requests) - before < 16
