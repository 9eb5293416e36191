"""A ledger in Redis, shared by machines: Redis is up, down, back, and back with no data."""

from __future__ import annotations

import json
import math
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine_parts import (
    NOON,
    LedgerServer,
    a_route,
    ask,
    custom_configuration,
    failed,
    held,
    opens_in,
    proven,
    served,
    set_by_user,
    used,
)

from arche_magic.llm_providers import IntelligentLLMOrchestrator
from arche_magic.llm_providers.attempt_log import attempt_log
from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.provider_failure import Remedy
from arche_magic.llm_providers.quota.budget import Expected, SpendingBounds
from arche_magic.llm_providers.quota.opening import RouteState
from arche_magic.llm_providers.quota_tracker import (
    Hold,
    QuotaTracker,
    Settlement,
    get_quota_tracker,
)
from arche_magic.llm_providers.storage import LedgerWarning, open_storage
from arche_magic.llm_providers.storage.redis import RedisStorage
from arche_magic.llm_providers.types import Limit, Observation, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = set_by_user(Limit("requests", "day", 100, "calendar"))


@pytest.fixture
def lasting_server(tmp_path: Path) -> Iterator[LedgerServer]:
    """A Redis server that keeps its data when it restarts."""
    with LedgerServer(tmp_path / "redis", keeps=True) as server:
        yield server


def tracker_on(server: LedgerServer, *limits: Limit) -> QuotaTracker:
    """A ledger as another machine would open it."""
    return QuotaTracker(server.storage(), custom_configuration(limits or [DAY], clock=server.clock))


def call(tracker: QuotaTracker, times: int = 1, key: int = 1) -> None:
    for _ in range(times):
        served(tracker, a_route(tracker.configuration, key))


def count(tracker: QuotaTracker, limit: str = "requests_per_day") -> float:
    return float(used(tracker, limit=limit))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait in real seconds, because Redis is tried again about once a second."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.05)


def wait_until_back(server: LedgerServer, *trackers: QuotaTracker) -> None:
    """Wait until each ledger has written to the running Redis."""
    for tracker in trackers:
        wait_until(lambda tracker=tracker: not tracker.storage.trouble)  # type: ignore[misc]
    assert server.client().dbsize()


# --- sharing


def test_a_second_process_sees_a_change_at_its_next_call(redis_server: LedgerServer) -> None:
    """Amounts that one process used are not available to the other."""
    one, two = (tracker_on(redis_server, replace(DAY, amount=1)) for _ in range(2))
    assert opens_in(two, a_route(two.configuration)) == 0
    call(one)
    assert count(two) == 1
    assert isinstance(two.hold(a_route(two.configuration), ask()), RouteState)


WORK = """
import faulthandler, sys, threading, time
sys.path.insert(0, sys.argv[2])
faulthandler.dump_traceback_later(120)
import redis
from engine_parts import Clock, a_route, ask, custom_configuration, set_by_user
from arche_magic.llm_providers.quota.merging import merge_documents
from arche_magic.llm_providers.quota_tracker import Hold, QuotaTracker, Settlement
from arche_magic.llm_providers.storage.redis import RedisStorage
from arche_magic.llm_providers.types import Limit, Usage

truth = redis.Redis.from_url(sys.argv[1])
limits = [Limit("requests", "day", 150, "calendar"), Limit("tokens", "day", 100_000, "calendar")]
configuration = custom_configuration(list(map(set_by_user, limits)), clock=Clock())
merge = lambda *given: merge_documents(*given, configuration.clock.now)
tracker = QuotaTracker(RedisStorage(sys.argv[1], merge), configuration)
route = a_route(configuration)

def work():
    while True:
        hold = tracker.hold(route, ask())
        if isinstance(hold, Hold):
            truth.incr("server counted")
            tracker.settle(Settlement(hold, Usage(7, 3)))
        elif hold.on_trial or "reserved" in hold.reason:
            time.sleep(0.01)
        else:
            return

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_processes_and_threads_never_exceed_a_limit(redis_server: LedgerServer) -> None:
    """Eight processes with four threads each get exactly the limit, and count each call once."""
    command = [sys.executable, "-c", WORK, redis_server.url, str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(8)]
    try:
        assert [process.wait(150) for process in processes] == [0] * 8
    finally:
        # Without Redis, they would count in memory and never end.
        for process in processes:
            process.kill()
    assert redis_server.client().get("server counted") == b"150"
    tokens = Limit("tokens", "day", 100_000, "calendar")
    tracker = tracker_on(redis_server, replace(DAY, amount=150), tokens)
    assert count(tracker) == 150
    assert count(tracker, "tokens_per_day") == 1500


def test_no_change_is_lost_however_many_others_made_meanwhile(redis_server: LedgerServer) -> None:
    """This happens during a long call on one machine, between its hold and its settlement."""
    one, other = redis_server.storage(), redis_server.storage()

    def add(document: dict[str, int]) -> None:
        document["count"] = document.get("count", 0) + 1

    for _ in range(5):
        one.update("groq", add)
    for _ in range(50):
        other.update("groq", add)
    one.update("groq", add)
    assert redis_server.storage().read("groq") == {"count": 56}


class LosesOneAnswer(socketserver.ThreadingTCPServer):
    """A proxy of a Redis server that drops the answer to the next change, after `meanwhile()`."""

    daemon_threads = True

    def __init__(self, server: LedgerServer) -> None:
        self.port = server.port
        self.meanwhile: Callable[[], object] | None = None
        super().__init__(("127.0.0.1", 0), Connection)
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"


class Connection(socketserver.BaseRequestHandler):
    """Passes commands on, one at a time, as the client sends them."""

    server: LosesOneAnswer

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as redis_server:
            while command := self.request.recv(1_000_000):
                redis_server.sendall(command)
                answer = redis_server.recv(1_000_000)
                if self.server.meanwhile and b"EVALSHA" in command:
                    meanwhile, self.server.meanwhile = self.server.meanwhile, None
                    meanwhile()
                    return
                self.request.sendall(answer)


@pytest.fixture
def proxy(redis_server: LedgerServer) -> Iterator[LosesOneAnswer]:
    with LosesOneAnswer(redis_server) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        yield proxy
        proxy.shutdown()


def test_a_hold_whose_answer_is_lost_is_made_once(
    redis_server: LedgerServer, proxy: LosesOneAnswer
) -> None:
    """The change is repeated, on what another machine has written since."""
    theirs = tracker_on(redis_server)
    configuration = custom_configuration([DAY], clock=redis_server.clock)
    ours = proven(QuotaTracker(redis_server.storage(proxy.url), configuration))
    proxy.meanwhile = lambda: call(theirs)
    hold = held(ours, a_route(configuration))
    assert proxy.meanwhile is None
    assert count(ours) == 2
    ours.settle(Settlement(hold, Usage(5, 5)))
    assert count(ours) == count(theirs) == 2


def test_a_share_of_a_job_whose_answer_is_lost_is_held_once(
    redis_server: LedgerServer, proxy: LosesOneAnswer
) -> None:
    """The bound is not used up by a hold that nobody settles."""
    theirs, ours = (
        SpendingBounds(redis_server.storage(url), max_tokens=125, job="reviews")
        for url in (redis_server.url, proxy.url)
    )
    request = Expected("model", Usage(10, 20), 10.0, 20, math.inf, 1.0, lambda usage: None)

    def call(bounds: SpendingBounds) -> None:
        hold = bounds.hold(request, NOON, NOON + 90)
        assert isinstance(hold, str), hold
        bounds.settle(hold, Usage(10, 20), None, NOON)

    call(ours)
    proxy.meanwhile = partial(call, theirs)
    call(ours)
    assert proxy.meanwhile is None
    # 90 of 125 tokens are spent.
    assert ours.states(NOON)(request) is None


# --- Redis goes down and comes back


def test_if_redis_is_down_at_the_start_calls_continue_with_one_warning(
    redis_server: LedgerServer,
) -> None:
    """Counts from this time are added for all machines when Redis is back."""
    redis_server.stop()
    with pytest.warns(LedgerWarning, match="counting in memory") as caught:
        tracker = tracker_on(redis_server, replace(DAY, amount=4))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(tracker, 3)
    assert count(tracker) == 3
    redis_server.start()
    wait_until_back(redis_server, tracker)
    other = tracker_on(redis_server, replace(DAY, amount=4))
    assert count(other) == 3
    call(other)
    assert isinstance(tracker.hold(a_route(tracker.configuration), ask()), RouteState)


def test_calls_of_two_machines_while_redis_was_down_are_added(lasting_server: LedgerServer) -> None:
    """Each machine adds its counts to those in Redis."""
    one, two = tracker_on(lasting_server), tracker_on(lasting_server)
    call(one, 2)
    call(two, 3)
    lasting_server.stop()
    for tracker, calls in ((one, 4), (two, 5)):
        with pytest.warns(LedgerWarning, match="until it is back") as caught:
            call(tracker, calls)
        assert len(caught) == 1
    lasting_server.start()
    wait_until_back(lasting_server, one, two)
    assert [count(tracker) for tracker in (one, two, tracker_on(lasting_server))] == [14] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(one)
    assert count(two) == 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_does_not_add_the_counts_of_its_parent(
    lasting_server: LedgerServer,
) -> None:
    """If it was forked while Redis was down."""
    tracker = tracker_on(lasting_server)
    call(tracker, 2)
    lasting_server.stop()
    with pytest.warns(LedgerWarning):
        call(tracker, 3)
    child = os.fork()
    if not child:
        try:
            call(tracker)
            wait_until(lambda: not tracker.storage.trouble)
        finally:
            os._exit(bool(tracker.storage.trouble))
    lasting_server.start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until_back(lasting_server, tracker)
    assert count(tracker_on(lasting_server)) == 6


def test_counts_are_restored_to_a_redis_that_comes_back_empty(redis_server: LedgerServer) -> None:
    """Earlier counts, and those made meanwhile, are restored by the machine that has them."""
    one, two = tracker_on(redis_server), tracker_on(redis_server)
    call(one, 2)
    # The second machine has a later state than the first, which has been idle since.
    call(two, 3)
    redis_server.stop()
    for tracker, calls in ((one, 4), (two, 5)):
        with pytest.warns(LedgerWarning):
            call(tracker, calls)
    redis_server.start()
    wait_until_back(redis_server, one, two)
    assert [count(tracker) for tracker in (one, two, tracker_on(redis_server))] == [14] * 3
    redis_server.empty()
    call(two)
    assert count(one) == 15


@pytest.mark.parametrize("newcomer", [False, True])
@pytest.mark.parametrize("first", ["who saw less", "who saw more"])
def test_counts_are_restored_to_a_redis_that_lost_its_data_between_two_calls(
    redis_server: LedgerServer, newcomer: bool, first: str
) -> None:
    """No machine was told, and one without any counts may have been the first to write."""
    one, two = tracker_on(redis_server), tracker_on(redis_server)
    call(one, 2)
    call(two, 3)
    redis_server.empty()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if newcomer:
            call(tracker_on(redis_server), 4)
        call(one if first == "who saw less" else two)
        assert count(one if first == "who saw more" else two) == (10 if newcomer else 6)
        assert count(one) == (10 if newcomer else 6)


def test_calls_in_progress_when_redis_goes_down_are_settled_once(
    lasting_server: LedgerServer,
) -> None:
    """A hold from before is settled in memory, and one from meanwhile is settled in Redis."""
    tracker = proven(tracker_on(lasting_server))
    route = a_route(tracker.configuration)
    before = [held(tracker, route) for _ in range(2)]
    lasting_server.stop()
    with pytest.warns(LedgerWarning):
        tracker.settle(Settlement(before[0], Usage(5, 5)))
    meanwhile = held(tracker, route)
    lasting_server.start()
    wait_until_back(lasting_server, tracker)
    other = tracker_on(lasting_server, replace(DAY, amount=4))
    # One is settled; two are in progress.
    assert count(other) == 3
    spare = held(other, route)
    assert isinstance(other.hold(route, ask()), RouteState)
    tracker.settle(Settlement(meanwhile, Usage(5, 5)))
    tracker.settle(Settlement(before[1], Usage(5, 5)))
    other.settle(Settlement(spare, Usage(5, 5)))
    lasting_server.clock.now += 3600
    assert count(other) == 4


def test_a_redis_that_comes_back_during_a_change_waits_for_its_end(
    redis_server: LedgerServer,
) -> None:
    """Reads within the change do not start to merge a state that lacks the change."""
    storage = redis_server.storage()
    redis_server.stop()
    with pytest.warns(LedgerWarning):
        storage.read("accounts of groq")
    named = {"a fingerprint": {"account": "org_1", "evidence": "header", "at": NOON}}

    def slow_change(document: dict[str, object]) -> None:
        redis_server.start()
        time.sleep(1.2)
        storage.read("groq")
        document["accounts"] = named

    storage.update("accounts of groq", slow_change)
    wait_until(lambda: bool(storage.read("groq") or redis_server.client().dbsize()))
    assert redis_server.storage().read("accounts of groq") == {"accounts": named}


def test_limits_and_closures_found_while_redis_was_down_are_shared(
    lasting_server: LedgerServer,
) -> None:
    """The other machines see them when Redis is back."""
    tracker = tracker_on(lasting_server)
    call(tracker)
    lasting_server.stop()
    route = a_route(tracker.configuration)
    lasting_server.clock.now += 1
    with pytest.warns(LedgerWarning):
        served(tracker, route, observations=[Observation("requests_per_day", 50, 10)])
    failed(tracker, route, Remedy.WAIT_FOR_LIMIT, retry_after=42)
    lasting_server.start()
    wait_until_back(lasting_server, tracker)
    other = tracker_on(lasting_server)
    row = other.get_usage_summary("groq")["groq"]["groq_key_1"]["requests_per_day"]
    assert (row["limit"], row["used"], row["evidence"]) == (50, 40, "header")
    assert opens_in(other, route) == 42


def test_an_account_found_while_redis_was_down_is_kept(
    lasting_server: LedgerServer,
) -> None:
    """Nothing that either key used is lost."""
    one, two = tracker_on(lasting_server), tracker_on(lasting_server)
    call(one, 2, key=1)
    call(two, 3, key=2)
    lasting_server.stop()
    with pytest.warns(LedgerWarning):
        served(one, a_route(one.configuration, 1), account="org_1")
    served(one, a_route(one.configuration, 2), account="org_1")
    with pytest.warns(LedgerWarning):
        call(two, 1, key=2)
    lasting_server.start()
    wait_until(lambda: one.shared_keys() == two.shared_keys() == {"groq_key_2": "groq_key_1"})
    assert tracker_on(lasting_server).shared_keys() == {"groq_key_2": "groq_key_1"}
    wait_until(lambda: count(one) == count(two) == count(tracker_on(lasting_server)))
    assert count(one) >= 8


def test_counts_reach_the_account_after_another_machine_moved_the_key(
    lasting_server: LedgerServer,
) -> None:
    """A machine that comes back late adds to the document that was moved meanwhile."""
    one, two = tracker_on(lasting_server), tracker_on(lasting_server)
    call(two, 3, key=2)
    lasting_server.stop()
    with pytest.warns(LedgerWarning):
        call(two, 2, key=2)
    lasting_server.start()
    # The first machine made no call meanwhile, so it has not noticed.
    for key in (1, 2):
        served(one, a_route(one.configuration, key), account="org_1")
    assert count(one) == 5
    wait_until(lambda: count(two) == 7)
    assert count(tracker_on(lasting_server)) == 7


# --- the URL


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2/x@host:99/0",
        "redis://:hunter2@localhost:abc",
        "redis://:hunter2@localhost:99999999",
        "redis://:hunter2@localhost?colour=red",
        "redis://:hunter2@localhost?socket_timeout=soon",
        "unix://:hunter2@/tmp/socket?colour=red",
    ],
)
def test_an_invalid_redis_url_is_refused_without_its_password(url: str) -> None:
    """The message shows a valid example."""
    with pytest.raises(ValueError, match="redis://localhost") as caught:
        open_storage(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_user_without_a_password_is_named_to_redis(redis_server: LedgerServer) -> None:
    """Another user's password would otherwise be asked for."""
    redis_server.client().execute_command("ACL", "SETUSER", "ada", "on", "nopass", "~*", "+@all")
    redis_server.client().config_set("requirepass", "of the default user")
    storage = redis_server.storage(redis_server.url.replace("127.0.0.1", "ada@127.0.0.1"))
    storage.update("groq", lambda document: document.update(is_there=True))
    assert (storage.refusal, storage.read("groq")) == ("", {"is_there": True})


def test_the_password_is_in_no_message(redis_server: LedgerServer) -> None:
    """Here, Redis is down. tests/secrets has the case that Redis refuses the password."""
    url = redis_server.url.replace("redis://", "redis://hunter1:hunter2@")
    redis_server.stop()
    configuration = load_configuration({"ARCHE_QUOTA_STORE": url, "GROQ_API_KEY": "made-up"})
    with pytest.warns(LedgerWarning, match="counting in memory") as caught:
        tracker = get_quota_tracker(configuration)
    assert isinstance(tracker.hold(configuration.routes()[0], ask()), Hold)
    (message,) = (str(warning.message) for warning in caught)
    assert "hunter" not in f"{message} {tracker.storage!r} {configuration!r} {vars(tracker)}"


# --- Redis answers and refuses


def wrong_password(server: LedgerServer) -> None:
    server.client().config_set("requirepass", "something else")


def read_only_replica(server: LedgerServer) -> None:
    server.client().replicaof("127.0.0.1", 1)


def full_memory(server: LedgerServer) -> None:
    server.client().config_set("maxmemory", 1)


def user_without_rights(server: LedgerServer) -> None:
    server.client().execute_command("ACL", "SETUSER", "default", "resetkeys", "~other:*")


REFUSING = {
    wrong_password: "does not accept the user name or the password",
    read_only_replica: "is a read-only replica",
    full_memory: "memory is full",
    user_without_rights: "may not read and write the keys",
}


def test_a_database_that_does_not_exist_is_named(redis_server: LedgerServer) -> None:
    """By default, there are 16."""
    url = f"{redis_server.url.removesuffix('/0')}/99"
    configuration = load_configuration({"ARCHE_QUOTA_STORE": url, "GROQ_API_KEY": "made-up"})
    with pytest.raises(ConfigurationError, match="it has no database of the number in the URL"):
        IntelligentLLMOrchestrator(configuration=configuration)


@pytest.mark.parametrize("spoil", REFUSING)
def test_no_request_starts_if_redis_refuses_changes(
    redis_server: LedgerServer, spoil: Callable[[LedgerServer], None]
) -> None:
    """Counting alone could exceed a limit unnoticed, so it must be allowed explicitly."""
    spoil(redis_server)
    variables = {"ARCHE_QUOTA_STORE": redis_server.url, "GROQ_API_KEY": "made-up"}
    configuration = load_configuration(variables)
    with pytest.raises(ConfigurationError, match=REFUSING[spoil]) as caught:
        IntelligentLLMOrchestrator(configuration=configuration)
    assert 'on_store_failure = "count-alone"' in str(caught.value)
    alone = replace(configuration, on_store_failure="count-alone")
    with pytest.warns(LedgerWarning, match=REFUSING[spoil]):
        provider = IntelligentLLMOrchestrator(configuration=alone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(provider.quota_tracker.hold(alone.routes()[0], ask()), Hold)


def test_a_setting_decides_what_happens_if_redis_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default requests are refused; an unknown value is an error."""
    monkeypatch.chdir(tmp_path)
    assert load_configuration().on_store_failure == "refuse"
    for value in ("refuse", "count-alone"):
        (tmp_path / "arche_magic.toml").write_text(f'on_store_failure = "{value}"\n')
        assert load_configuration().on_store_failure == value
    (tmp_path / "arche_magic.toml").write_text('on_store_failure = "ignore"\n')
    with pytest.raises(ConfigurationError, match="it can be refuse or count-alone"):
        load_configuration()


def test_no_count_is_lost_when_redis_begins_to_refuse(redis_server: LedgerServer) -> None:
    """A reply in progress is counted here, nothing more is sent, and the counts are added later."""
    tracker = proven(tracker_on(redis_server))
    route = a_route(tracker.configuration)
    under_way = held(tracker, route)
    full_memory(redis_server)
    with pytest.raises(ConfigurationError, match="memory is full"):
        tracker.hold(route, ask())
    tracker.settle(Settlement(under_way, Usage(5, 5)))
    with pytest.raises(ConfigurationError, match="memory is full"):
        tracker.hold(route, ask())
    assert "memory is full" in tracker.storage.trouble
    redis_server.client().config_set("maxmemory", 0)
    wait_until_back(redis_server, tracker)
    assert count(tracker_on(redis_server)) == 1
    call(tracker)
    assert count(tracker_on(redis_server)) == 2


HANG = """
import os, signal, sys, time, warnings
from arche_magic.llm_providers.config import load_configuration
from arche_magic.llm_providers.quota_tracker import Settlement, get_quota_tracker
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.types import Usage
warnings.simplefilter("ignore")
url, server, after = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
configuration = load_configuration({"ARCHE_QUOTA_STORE": url, "GROQ_API_KEY": "made-up"})
tracker, route = get_quota_tracker(configuration), configuration.routes()[0]
request = build_request("Hello", configuration)
def call():
    tracker.settle(Settlement(tracker.hold(route, request), Usage(5, 5)))
call()
os.kill(server, signal.SIGSTOP)
for _ in range(10):
    call()
os.kill(server, signal.SIGCONT)
time.sleep(after)
"""


@pytest.mark.parametrize("after", [0.0, 2.0])
def test_counts_made_while_redis_hung_are_added_when_the_process_ends(
    redis_server: LedgerServer, after: float
) -> None:
    """As soon as Redis answers, or at the end of the process."""
    pid = str(redis_server.process.pid)
    command = [sys.executable, "-c", HANG, redis_server.url, pid, str(after)]
    subprocess.run(command, check=True, timeout=60)
    (name,) = redis_server.client().keys("arche_magic:groq:*")
    document = json.loads(redis_server.client().get(name))["document"]
    (entry,) = document["models"].values()
    assert entry["charged"]["requests"] == 11


def test_a_process_waits_two_seconds_for_redis_at_its_end(redis_server: LedgerServer) -> None:
    """If Redis stays away, these counts are lost to other machines, and the process ends."""
    code = HANG.replace("os.kill(server, signal.SIGCONT)", "os.kill(server, signal.SIGKILL)")
    command = [sys.executable, "-c", code, redis_server.url, str(redis_server.process.pid), "0"]
    began = time.monotonic()
    subprocess.run(command, check=True, timeout=60)
    assert time.monotonic() - began < 15


def test_a_missing_redis_package_is_named() -> None:
    """The message says what to install."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from arche_magic.llm_providers.config import load_configuration\n"
        "from arche_magic.llm_providers.errors import ConfigurationError\n"
        "from arche_magic.llm_providers.quota_tracker import get_quota_tracker\n"
        "try:\n"
        "    get_quota_tracker(load_configuration({'ARCHE_QUOTA_STORE': 'redis://:pw@host'}))\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'arche_magic[redis]'" in done.stdout
    assert "pw" not in done.stdout


def test_the_store_variable_selects_redis(
    redis_server: LedgerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts are still stored in a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    variables = {"ARCHE_QUOTA_STORE": redis_server.url, "GROQ_API_KEY": "made-up"}
    configuration = load_configuration(variables)
    tracker = get_quota_tracker(configuration)
    assert isinstance(tracker.storage, RedisStorage)
    assert get_quota_tracker(configuration).storage is tracker.storage
    hold = tracker.hold(configuration.routes()[0], ask())
    assert isinstance(hold, Hold)
    assert redis_server.client().keys() == [f"arche_magic:{hold.document}".encode()]
    assert attempt_log(redis_server.url).path == tmp_path / "outputs" / "llm_calls.jsonl"
