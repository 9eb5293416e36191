"""Attempts outlive their session, in a file by month and in the saved notebook."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import arche_magic
from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.attempts import AttemptLog, read_attempts
from arche_magic.llm_providers.errors import InvalidRequest
from arche_magic.llm_providers.reply import Attempt
from arche_magic.sandbox import Sandbox


def attempt(at: datetime, **more: object) -> Attempt:
    route = {"provider": "groq", "key": "groq_key_1", "model": "openai/gpt-oss-120b"}
    return Attempt(**route, outcome="served", at=at.timestamp(), session="s1", **more)  # type: ignore[arg-type]


def test_attempts_of_this_folder_are_loaded_as_a_frame(sandbox_env: Sandbox) -> None:
    """Each attempt of a call is one row, with the columns of `%llm_stats`."""
    get_llm_provider("groq").generate("Say hello.")
    get_llm_provider("mistral").generate("Say hello.")
    frame = arche_magic.load_attempts()
    assert list(frame["provider"]) == ["groq", "mistral"]
    assert list(frame["outcome"]) == ["served", "served"]
    assert str(frame["at"].dt.tz) == "UTC"
    assert (frame["input_tokens"] > 0).all()
    assert frame["session"].nunique() == 1


def test_since_leaves_out_what_is_older(sandbox_env: Sandbox) -> None:
    """A date, a text with or without zone, and nonsense: each has its clear outcome."""
    get_llm_provider("groq").generate("Say hello.")
    now = datetime.now(UTC)
    assert len(arche_magic.load_attempts(since=now - timedelta(hours=1))) == 1
    assert len(arche_magic.load_attempts(since=(now + timedelta(hours=1)).isoformat())) == 0
    assert len(arche_magic.load_attempts(since="2020-01-01")) == 1
    with pytest.raises(InvalidRequest, match="is no time"):
        arche_magic.load_attempts(since="yesterday")


def test_a_new_month_begins_a_new_file(tmp_path: Path) -> None:
    """Last month's lines move to a file of their own, and reading gives all of them in order."""
    path = tmp_path / "llm_calls.jsonl"
    october, november = (datetime(2026, month, 5, tzinfo=UTC) for month in (10, 11))
    AttemptLog(path).append([attempt(october)])
    os.utime(path, (october.timestamp(), october.timestamp()))
    AttemptLog(path).append([attempt(november)])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "llm_calls-2026-10.jsonl",
        "llm_calls.jsonl",
    ]
    assert [a.at for a in read_attempts(path)] == [october.timestamp(), november.timestamp()]


def test_a_cut_or_foreign_line_is_passed_over(tmp_path: Path) -> None:
    """A line that a full disk cut, or that is not ours, costs only itself."""
    path = tmp_path / "llm_calls.jsonl"
    AttemptLog(path).append([attempt(datetime.now(UTC))])
    with path.open("a") as file:
        file.write('{"provider": "groq", "ke\n[1]\nnull\n')
    AttemptLog(path).append([attempt(datetime.now(UTC), error="x")])
    assert [a.error for a in read_attempts(path)] == [None, "x"]


def test_a_frame_goes_through_json_and_csv(sandbox_env: Sandbox, tmp_path: Path) -> None:
    """What was exported is read back with the same figures."""
    get_llm_provider("groq").generate("Say hello.")
    frame = arche_magic.load_attempts()
    frame.to_csv(tmp_path / "calls.csv", index=False)
    frame.to_json(tmp_path / "calls.json", orient="records", date_format="iso")
    for back in (pd.read_csv(tmp_path / "calls.csv"), pd.read_json(tmp_path / "calls.json")):
        assert list(back["output_tokens"]) == list(frame["output_tokens"])


def test_a_saved_notebook_gives_its_attempts_back(tmp_path: Path) -> None:
    """The metadata of the outputs is enough; cells without any are passed over."""
    kept = attempt(datetime.now(UTC), input_tokens=7).to_dict()
    cells = [
        {"cell_type": "markdown", "source": "x"},
        {"outputs": [{"metadata": {"arche_magic": {"attempts": [kept]}}}, {"text": "plain"}]},
    ]
    (tmp_path / "saved.ipynb").write_text(json.dumps({"cells": cells}))
    frame = arche_magic.attempts_from_notebook(tmp_path / "saved.ipynb")
    assert list(frame["input_tokens"]) == [7]
    with pytest.raises(InvalidRequest, match="no notebook"):
        arche_magic.attempts_from_notebook(tmp_path / "missing.ipynb")
