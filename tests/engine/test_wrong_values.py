"""An invalid value in a ledger loses at most that entry, and never makes a request fail."""

from __future__ import annotations

import json
import math
import warnings
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from engine_parts import (
    NOON,
    RPM,
    TPM,
    Clock,
    LedgerServer,
    a_route,
    ask,
    custom_configuration,
    failed,
    held,
    served,
)

from arche_magic.llm_providers.config import Configuration
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.quota.codec import mend
from arche_magic.llm_providers.quota.merging import merge_documents
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota.standings import usage_summary
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement, older_documents
from arche_magic.llm_providers.request import Request
from arche_magic.llm_providers.storage import JsonFileStorage, LedgerWarning, MemoryStorage
from arche_magic.llm_providers.types import Budget, Limit, Observation, Usage
from arche_magic.notebook.frames import quota_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRONG: dict[str, Any] = {
    "null": None,
    "a string": "wrong",
    "a list": [1],
    "a mapping": {"wrong": 1},
    "negative": -5,
    "huge": 10**400,
    "large": 1e300,
    "nan": math.nan,
    "true": True,
    "half a character": "\ud800",
}
ABSENT = object()
LIMITS = [
    replace(RPM, amount=30),
    TPM,
    Limit("requests", "day", 100, "calendar", "America/Los_Angeles"),
    Limit("tokens", "hour", 10_000, "rolling"),
]
YEAR_9999 = 253_402_300_799
ZONES = [("day", "UTC"), ("hour", "Nowhere/At_All"), ("minute", "\ud800"), ("month", "../x")]
Place = tuple[Any, ...]
# Every value is read at every place; using the ledger is tried at a tenth of the places.
STEP = 10


def configured(clock: Clock) -> Configuration:
    return custom_configuration(LIMITS, keys=4, clock=clock)


def tracker_of(path: Path, now: float = NOON) -> QuotaTracker:
    return QuotaTracker(JsonFileStorage(path, older_documents, mend), configured(Clock(now)))


def fill(tracker: QuotaTracker) -> None:
    """Use, learn, close and hold until a document has every possible field."""
    one, two, three, four = (a_route(tracker.configuration, key) for key in range(1, 5))
    seen = [
        Observation("requests_per_day", 100, 90, 3600.0, "header"),
        Observation("tokens_per_minute", 900, 700, 12.0, "header"),
        Observation("requests_per_minute", 25, None, None, "error", inferred=True),
    ]
    served(tracker, one, observations=seen, account="org_1")
    served(tracker, two, observations=seen)
    served(tracker, two, account="org_1")
    held(tracker, two)
    failed(tracker, two, Remedy.ASK_DIFFERENTLY, lacks="images")
    failed(tracker, three, Remedy.WAIT_FOR_LIMIT, retry_after=30.0, limit="requests_per_day")
    failed(tracker, a_route(tracker.configuration, 3, "model-b"), Remedy.TOP_UP_ACCOUNT)
    failed(tracker, four, Remedy.REPLACE_KEY)
    failed(tracker, a_route(tracker.configuration, 2, "model-b"), Remedy.CHANGE_MODEL)
    failed(tracker, one, Remedy.RETRY_LATER)
    tracker.set_limits("groq_key_1", requests_per_day=50)
    tracker.set_limits("groq", tokens_per_day={"amount": 5000, "window": "calendar"})


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A realistic ledger file with its copy."""
    path = tmp_path / "ledger.json"
    fill(tracker_of(path))
    return path


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """The paths of all nodes and leaves."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for name, entry in entries:
        if isinstance(entry, dict | list):
            yield from places(entry, (*path, name))
        else:
            yield (*path, name)


def replaced(content: Any, path: Place, value: Any) -> Any:
    """The content with another value at one place."""
    changed = deepcopy(content)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    if value is ABSENT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def use(tracker: QuotaTracker) -> None:
    """Everything that requests and displays do with a ledger."""
    now = tracker.configuration.clock.time()
    rows = tracker.standings()
    json.dumps(usage_summary(rows, now), default=str)
    # Building a frame takes longer than everything else.
    if any(
        row.opens_at > YEAR_9999 or row.resets_at > YEAR_9999 or row.amount > 1e9 for row in rows
    ):
        quota_frame(rows, {}, now)
    tracker.shared_keys()
    tracker.budget()
    for key in tracker.configuration.keys:
        tracker.closure(key)
        tracker.account(key)
    for route in tracker.configuration.routes():
        tracker.state(route, ask(), now)
        tracker.estimate(route, ask())
        hold = tracker.hold(route, ask())
        if isinstance(hold, RouteState):
            continue
        assert isinstance(hold, Hold)
        tracker.settle(
            Settlement(hold, Usage(5, 5), [Observation("requests_per_day", 100, 80, 9.0, "header")])
        )


def a_tenth_of(every: Iterator[Place], what: str) -> list[Place]:
    """Every tenth place, different for each invalid value, so that all places are covered."""
    return list(every)[list(WRONG).index(what) % STEP :: STEP]


def shown(path: Place) -> str:
    return ".".join(map(str, path))


def leaves(content: Any) -> dict[Place, Any]:
    """Every value of a document, by its path."""
    found = {}
    for path in places(content):
        value = content
        for name in path:
            value = value[name]
        if not isinstance(value, dict | list):
            found[path] = value
    return found


@pytest.mark.parametrize("what", [*WRONG, "absent"])
def test_an_invalid_value_loses_only_its_entry(ledger: Path, what: str) -> None:
    """At any place in a ledger, all other values stay the same."""
    for name, document in json.loads(ledger.read_bytes())["documents"].items():
        whole, found = mend(name, document)
        assert found == []
        for path in places(document):
            mended, found = mend(name, replaced(document, path, WRONG.get(what, ABSENT)))
            assert mend(name, mended) == (mended, []), f"{name}: {shown(path)}"
            kept, entry = leaves(mended), path[:-1] or path
            others = {
                place: leaf for place, leaf in leaves(whole).items() if place[: len(entry)] != entry
            }
            assert kept.items() >= others.items(), f"{name}: {shown(path)}, found {found}"


@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_value_raises_no_error(ledger: Path, what: str) -> None:
    """Whatever and wherever it is, in a ledger without a copy, the other values are used."""
    content = json.loads(ledger.read_bytes())
    for name in ("copy", "backup"):
        ledger.with_name(f"{ledger.name}.{name}").unlink()
    for number, path in enumerate(a_tenth_of(places(content), what)):
        changed = ledger.with_name(f"{number}.json")
        changed.write_text(json.dumps(replaced(content, path, WRONG[what])))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Now, and after all holds and closures have ended.
                use(tracker_of(changed, NOON + number % 2 * 100_000))
        except Exception as error:
            raise AssertionError(f"{shown(path)} is {what}") from error


def test_a_missing_value_raises_no_error(ledger: Path) -> None:
    """A value with another name, or a number that Python cannot read, raises none either."""
    content = json.loads(ledger.read_bytes())
    for name in ("copy", "backup"):
        ledger.with_name(f"{ledger.name}.{name}").unlink()
    named = [path for path in places(content) if len(path) > 2 and isinstance(path[-1], str)]
    for number, path in enumerate(named[::6]):
        *outer, name = path
        inner = content
        for step in outer:
            inner = inner[step]
        left = {other: value for other, value in inner.items() if other != name}
        ways = (left, left | {"\ud800": inner[name]}, inner | {name: 123454321})
        text = json.dumps(replaced(content, tuple(outer), ways[number % 3]))
        changed = ledger.with_name(f"{number}.json")
        changed.write_text(text.replace("123454321", "1" + 5000 * "0"))
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                use(tracker_of(changed))
        except Exception as error:
            raise AssertionError(f"{shown(path)}, way {number % 3}") from error
        assert not any("a new ledger starts" in str(one.message) for one in caught), shown(path)


def test_the_ledger_continues_from_its_copy(ledger: Path) -> None:
    """Nothing is lost if the copy is complete.

    A warning says what was wrong, and the file is kept.
    """
    content = json.loads(ledger.read_bytes())
    before = tracker_of(ledger).get_usage_summary()
    copy = ledger.with_name(f"{ledger.name}.copy").read_bytes()
    for number, path in enumerate(list(places(content))[::4]):
        what = ("a list", "huge")[number % 2]
        changed = ledger.with_name(f"{number}.json")
        changed.write_text(json.dumps(replaced(content, path, WRONG[what])))
        changed.with_name(f"{changed.name}.copy").write_bytes(copy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tracker = tracker_of(changed)
            assert tracker.get_usage_summary() == before, f"{shown(path)} is {what}"


def test_an_invalid_value_is_reported_and_the_file_kept(ledger: Path) -> None:
    """The first reader reports it once. Then the file is correct again."""
    content = json.loads(ledger.read_bytes())
    path = next(place for place in places(content) if place[-1] == "amount")
    text = json.dumps(replaced(content, path, "many"))
    for had_copy in (True, False):
        ledger.write_text(text)
        if not had_copy:
            ledger.with_name(f"{ledger.name}.copy").unlink()
        then = "counting continues from its copy" if had_copy else "counting continues without them"
        tracker = None
        with pytest.warns(LedgerWarning, match="limits.*.amount") as caught:
            tracker = tracker_of(ledger)
        assert len(caught) == 1
        assert "has a wrong value" in str(caught[0].message)
        assert then in str(caught[0].message)
        assert tracker.storage.findings == [f"has a wrong value ({'.'.join(path[1:])}); {then}"]
        kept = str(caught[0].message).rpartition(" ")[2]
        assert ledger.with_name(kept).read_text() == text
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tracker_of(ledger).storage.findings == []


def test_values_that_libraries_cannot_handle_are_dropped() -> None:
    """They are unknown time zones, numbers too large for a float, an account moved to itself."""
    limit = {"amount": 5, "window": "calendar", "evidence": "header", "evidence_at": 1.0}
    zones = {f"requests_per_{period}": limit | {"time_zone": zone} for period, zone in ZONES}
    charged = {"m": {"charged": [3, 10**400, 1.0]}, "n": {"charged": [1, 2, 3]}}
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        (
            {"version": 3, "models": {"m": {"limits": zones}}},
            [f"a:b.models.m.limits.requests_per_{period}.time_zone" for period, _ in ZONES[1:]],
        ),
        (
            {"version": 2, "models": charged},
            [f"a:b.models.m.charged.{metric}" for metric in ("tokens", "input_tokens")],
        ),
        ({"version": 3, "moved": {"to": "a:b", "content": {}}}, ["a:b.moved.to"]),
        # A lone surrogate, in a name whose entry is invalid too.
        (
            {"version": 3, "models": {"\ud800": {"holds": 1}, "m": {}}},
            ["a:b.models.\ufffd\ufffd\ufffd"],
        ),
    ]
    for document, paths in wrong:
        mended, found = mend("a:b", document)
        assert found == paths
        assert mend("a:b", mended) == (mended, [])
    assert list(mend("a:b", wrong[0][0])[0]["models"]["m"]["limits"]) == ["requests_per_day"]
    older = {"limit_type": "tokens_per_day", "used_value": 10**400, "reset_time": "2026-11-30"}
    assert older_documents({"groq": {"groq_key_1_tokens_per_day": older}}) is None


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7])
def test_git_conflict_markers_lose_nothing(ledger: Path, where: float) -> None:
    """If two branches committed the ledger, the copy is used."""
    before = tracker_of(ledger).get_usage_summary()
    lines = ledger.read_text().splitlines()
    at = int(where * len(lines))
    ours = ["<<<<<<< HEAD", lines[at], "=======", lines[at], ">>>>>>> other"]
    ledger.write_text("\n".join([*lines[:at], *ours, *lines[at + 1 :], ""]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert tracker_of(ledger).get_usage_summary() == before


def test_invalid_values_in_budgets_and_jobs_raise_no_error(tmp_path: Path) -> None:
    """The same applies to what paid routes may cost, and to the bounds of a job."""
    path = tmp_path / "ledger.json"

    def tracker() -> QuotaTracker:
        free = custom_configuration(name="openai", models=("gpt-4.1-mini",), keys=1, clock=Clock())
        openai = replace(free.providers["openai"], paid=True)
        budget = Budget(per_day=5.0, per_month=50.0)
        paid = replace(free, providers={"openai": openai}, budget=budget)
        found = QuotaTracker(JsonFileStorage(path, older_documents, mend), paid)
        found.job = found.job_bounds(5.0, 10_000.0, "a job")
        return found

    ledger = tracker()
    (route,) = ledger.configuration.routes()
    served(ledger, route)
    held(ledger, route)
    content = json.loads(path.read_bytes())
    del content["documents"][f"openai:{ledger.configuration.keys[0].account}"]
    assert set(content["documents"]) == {"budget of all providers", "bounds of jobs"}
    for what, value in WRONG.items():
        for place in a_tenth_of(places(content), what):
            path.write_text(json.dumps(replaced(content, place, value)))
            path.with_name(f"{path.name}.copy").unlink(missing_ok=True)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    use(tracker())
            except Exception as error:
                raise AssertionError(f"{shown(place)} is {what}") from error


@pytest.mark.parametrize("what", ["null", "a string", "a list"])
def test_an_invalid_value_in_redis_raises_no_error(redis_server: LedgerServer, what: str) -> None:
    """A process that starts with it continues with the other values."""
    from arche_magic.llm_providers.storage.redis import RedisStorage

    def tracker(now: float = NOON) -> QuotaTracker:
        def merge(*given: Any) -> None:
            merge_documents(*given, now)

        return QuotaTracker(RedisStorage(redis_server.url, merge, mend), configured(Clock(now)))

    fill(tracker())
    client = redis_server.client()
    kept = {name: client.get(name) for name in client.scan_iter()}
    for name, text in kept.items():
        content = json.loads(text)
        wrong = {
            shown(path): json.dumps(replaced(content, path, WRONG[what])).encode()
            for path in a_tenth_of(places(content), what)
        }
        # Half a character, within a text and instead of it.
        cut = {"a half": text[:-9] + b"\xff" + text[-9:], "all": b"\xff"}
        for place, value in (wrong | cut).items():
            client.mset(kept)
            client.set(name, value)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    use(tracker())
            except Exception as error:
                raise AssertionError(f"{name.decode()}: {place} is {what}") from error


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b'{"lineage": "\xff"}'])
def test_a_key_of_redis_without_a_document_is_replaced(
    redis_server: LedgerServer, content: bytes
) -> None:
    """An empty text, and bytes that are not text."""
    for method in ("read", "update"):
        redis_server.client().set("arche_magic:groq", content)
        storage = redis_server.storage()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if method == "read":
                assert storage.read("groq") == {}
            storage.update("groq", lambda document: document.update(is_there=True))
        assert redis_server.storage().read("groq") == {"is_there": True}


def test_a_document_of_redis_that_was_changed_by_hand_can_be_changed(
    redis_server: LedgerServer,
) -> None:
    """Tools sort the names, so that the revision comes last."""
    redis_server.storage().update("groq", lambda document: document.update(count=1))
    client = redis_server.client()
    content = json.loads(client.get("arche_magic:groq"))
    client.set("arche_magic:groq", json.dumps(content, sort_keys=True))
    redis_server.storage().update("groq", lambda document: document.update(count=2))
    assert redis_server.storage().read("groq") == {"count": 2}


def test_a_table_of_closed_routes_has_no_opening_times() -> None:
    """All keys are rejected: no row has a time at which it opens."""
    configuration = custom_configuration([RPM], keys=1)
    tracker = QuotaTracker(MemoryStorage(), configuration)
    failed(tracker, a_route(configuration), Remedy.REPLACE_KEY)
    rows = [row for row in tracker.standings() if row.limit == RPM.name]
    assert quota_frame(rows, {}, NOON)["opens_at"].isna().all()


@pytest.mark.parametrize("amount", [1e300, 10**400, math.inf], ids=["1e300", "10**400", "inf"])
def test_an_absurd_limit_is_not_learned(ledger: Path, amount: float) -> None:
    """A header that states it changes nothing."""
    tracker = tracker_of(ledger, NOON + 100_000)
    route = a_route(tracker.configuration, 2)
    seen = [Observation("requests_per_day", amount, None, None, "header")]
    served(tracker, route, observations=seen)
    (row,) = [
        row
        for row in tracker.standings()
        if (row.key, row.model, row.limit) == ("groq_key_2", "model-a", "requests_per_day")
    ]
    assert row.amount == 100


@pytest.mark.parametrize("request_", [ask(max_tokens=2**62), replace(ask(), extra={"n": 2**62})])
def test_the_hold_of_an_absurd_request_can_be_read(tmp_path: Path, request_: Request) -> None:
    """Another process sees that it takes the whole limit, and nothing wrong in the file."""
    path, later = tmp_path / "ledger.json", NOON + 4 * 3600
    served(tracker_of(path), a_route(tracker_of(path).configuration))
    tracker = tracker_of(path, later)
    route = a_route(tracker.configuration)
    tracker.job = tracker.job_bounds(1.0, math.inf, "a job")
    held(tracker, route, request_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = tracker_of(path, later).standings()
    (row,) = [r for r in rows if r.route == route.id and r.limit == TPM.name]
    assert row.remaining == 0
