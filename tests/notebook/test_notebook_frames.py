"""Frames have the same columns and types when empty, without values, and with rows.

No kernel is needed, so that these tests can run alone with the oldest pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import arche_magic
from arche_magic.llm_providers.attempt_log import Spent
from arche_magic.llm_providers.catalog import published_providers
from arche_magic.llm_providers.doctor import Finding, KeyCheck
from arche_magic.llm_providers.quota_tracker import Closure
from arche_magic.llm_providers.reply import Attempt
from arche_magic.llm_providers.request import Message
from arche_magic.llm_providers.types import Key, RouteId, Standing
from arche_magic.notebook.catalog_tables import models_frame
from arche_magic.notebook.chat import Chat, Chats, Turn, chats_frame
from arche_magic.notebook.compare import ReplyColumn, _frame
from arche_magic.notebook.findings import findings_frame
from arche_magic.notebook.frames import attempts_frame, quota_frame
from arche_magic.notebook.keys import checks_frame, keys_frame
from arche_magic.notebook.stats import sums_frame
from arche_magic.notebook.why import Reason, why_frame

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
KEY = Key.of("groq", "groq_key_1", "made-up-key")
STANDING = Standing(
    "groq", "groq_key_1", "a", "m", "requests_per_day", 10, 3, NOW, NOW + 5, "header", NOW
)
CLOSED = replace(STANDING, opens_at=float("inf"), resets_at=float("inf"), closed_by="key refused")
ATTEMPT = Attempt("groq", "groq_key_1", "m", "served", at=NOW, input_tokens=3, output_tokens=4)
BARE = replace(ATTEMPT, first_token_s=None, cost_usd=None, error=None)
REASON = Reason(RouteId("groq", "groq_key_1", "m"), "answered", 0.5, NOW, "why", "change")
GROQ = published_providers()["groq"]
LIMITS = [limit.name for limit in GROQ.published_limits(GROQ.models[0])]


TURN = Turn(Message("user", "hi"), "Hello", "groq", "m", 3, NOW)

FRAMES: dict[str, tuple[Callable[..., pd.DataFrame], Any, Any]] = {
    "quota": (lambda *rows: quota_frame(rows, {(): Spent()}, NOW), STANDING, CLOSED),
    "attempts": (lambda *rows: attempts_frame(rows), ATTEMPT, BARE),
    "keys": (
        lambda *rows: keys_frame(rows),
        (KEY, "org", Closure("refused", NOW, None), ()),
        (KEY, None, None, ()),
    ),
    "checks": (
        lambda *rows: checks_frame(rows),
        KeyCheck(KEY, True, ("m",), "no answer"),
        KeyCheck(KEY, None, (), ""),
    ),
    "findings": (
        lambda *rows: findings_frame(rows),
        Finding("ok", "clock", "right", "nothing"),
        Finding("ok", "clock", "right", ""),
    ),
    "models": (
        lambda *rows: models_frame(rows),
        (GROQ, GROQ.models[0]),
        (GROQ, "made-up"),
    ),
    "why": (
        lambda *rows: why_frame(rows),
        REASON,
        replace(REASON, headroom=None, opens_at=None),
    ),
    "compare": (
        lambda *rows: _frame(rows),
        ReplyColumn("groq/m", "groq", "m", text="Yes", state="interrupted"),
        ReplyColumn("groq"),
    ),
    "chats": (
        lambda *rows: chats_frame(Chats(enumerate(rows))),
        Chat("a", "Be brief.", [TURN]),
        Chat("a", None, [TURN]),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_the_same_types_whatever_it_contains(name: str) -> None:
    """It is empty, or has one row, only missing values, or both."""
    build, whole, missing = FRAMES[name]
    full = build(whole)
    expected = full.dtypes.to_dict()
    if name == "models":
        assert list(build()) == [column for column in full if column not in LIMITS]
        for name_of_limit in LIMITS:
            del expected[name_of_limit]
    else:
        assert list(build()) == list(full)
    for rows in ((), (missing,), (missing, missing), (whole, missing), (missing, whole)):
        frame = build(*rows)
        assert len(frame) == len(rows)
        assert {column: frame[column].dtype for column in expected} == expected
        frame.to_csv()


def test_missing_values_are_missing() -> None:
    """They are neither a word nor a zero, even before pandas 3."""
    assert quota_frame([CLOSED], {}, NOW).loc[0, ["opens_at", "resets_at"]].isna().all()
    assert keys_frame([(KEY, None, None, ())]).loc[0, ["account", "since", "reason"]].isna().all()
    assert why_frame([replace(REASON, opens_at=None)])["opens_at"].isna().all()
    assert models_frame([FRAMES["models"][2]])["context"].isna().all()
    attempts = attempts_frame([BARE.to_dict() | {"session": None}])
    assert attempts.loc[0, ["session", "first_token_s", "cost_usd"]].isna().all()
    assert attempts.loc[0, "error"] == ""


@pytest.mark.parametrize("by", ["provider", "model", "day", "notebook", "tag"])
@pytest.mark.parametrize("attempts", [[], [ATTEMPT], [BARE], [replace(BARE, outcome="skipped")]])
def test_sums_have_the_same_types_whatever_they_contain(by: str, attempts: list[Attempt]) -> None:
    """There may be no attempt, one, one without a price, or unsent ones."""
    sums = sums_frame(attempts_frame(attempts), by)
    names = [
        "requests", "served", "failed", "input_tokens", "output_tokens", "cost_usd", "unpriced",
    ]  # fmt: skip
    assert list(sums) == [by, *names]
    assert [str(sums[name].dtype) for name in names] == ["int64"] * 5 + ["float64", "int64"]
    assert sums[by].dtype == sums_frame(attempts_frame([ATTEMPT]), by)[by].dtype


def test_an_empty_frame_of_attempts_survives_files(tmp_path: Path) -> None:
    """The code is that of the page about frames."""
    attempts = attempts_frame([])
    attempts.to_csv(tmp_path / "calls.csv", index=False)
    texts = {"error": str, "notebook": str, "tag": str}
    back = pd.read_csv(tmp_path / "calls.csv", parse_dates=["at"], dtype=texts)
    assert back.empty
    assert list(back) == list(attempts)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_without_time_zones_can_be_written_to_excel(name: str, tmp_path: Path) -> None:
    """`frame(…, naive=True)` has the same times in UTC. A frame without times does not change."""
    pytest.importorskip("openpyxl")
    build, whole, missing = FRAMES[name]
    for rows in ((), (missing,), (whole, missing)):
        data = build(*rows)
        plain = arche_magic.frame(data, naive=True)
        plain.to_excel(tmp_path / "out.xlsx", index=False)
        back = pd.read_excel(tmp_path / "out.xlsx")
        assert list(back) == list(data)
        zoned = [column for column in data if isinstance(data[column].dtype, pd.DatetimeTZDtype)]
        for column in zoned if rows else ():
            assert plain[column].dt.tz_localize("UTC").equals(data[column])
            shown = pd.to_datetime(back[column]).dt.as_unit("ms").dt.tz_localize("UTC")
            assert shown.equals(data[column])
        assert plain.dtypes.drop(zoned).equals(data.dtypes.drop(zoned))


def test_times_in_an_index_and_in_objects_become_naive() -> None:
    """They are converted to UTC. Naive times and the original frame do not change."""
    aware = datetime(2026, 11, 29, 9, 30, tzinfo=timezone(timedelta(hours=1)))
    naive = datetime(2026, 11, 29)
    times = pd.DatetimeIndex([aware] * 4, name="seen")
    data = pd.DataFrame({"at": [aware, naive, None, "now"]}, index=times, dtype=object)
    data.attrs["kept"] = True
    plain = arche_magic.frame(data, naive=True)
    utc = datetime(2026, 11, 29, 8, 30)
    assert plain["at"].tolist() == [utc, naive, None, "now"]
    assert plain.index.tolist() == [utc] * 4
    assert plain.index.name == "seen"
    assert plain.attrs == {"kept": True}
    assert data["at"].tolist() == [aware, naive, None, "now"]
    assert arche_magic.frame(data).equals(data)
