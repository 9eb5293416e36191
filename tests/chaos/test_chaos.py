"""The short form of chaos.py, in every test run; `make chaos` runs the long one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from chaos import KEYS, SHARE, Providers, clean_and_under_fire, growth, outage, providers, soak

PROMPTS = 300


def test_nothing_is_lost_or_doubled_under_fire() -> None:
    """A quarter of the calls fail, in every way; replies are complete and counts are right."""
    clean, fire = clean_and_under_fire(PROMPTS)
    assert clean.complaints == []
    assert not clean.failures
    assert fire.complaints == []
    assert clean.replies == fire.replies == PROMPTS
    # Each kind must appear among the attempts' errors. A stall appears as a timeout.
    assert len(fire.failures) >= 9, fire.failures
    assert sum(fire.failures.values()) > PROMPTS * SHARE / 3


def test_requests_wait_until_an_outage_of_all_providers_ends() -> None:
    """After 20 s without any provider, all prompts are answered, with few extra calls."""
    result, tries = outage(20.0, scale=10.0)
    assert result.complaints == []
    assert result.replies == 32
    # One try per provider after each wait, which doubles. The first calls come together.
    assert 4 <= len(tries) <= 60
    assert max(tries) <= 21


KERNEL = """
import json, sys
sys.path[:0] = {path!r}
from chaos import ENDLESS, LONG_TIMEOUTS, Path, Providers, configured, run
variables, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
server = Providers(variables, seed=7)
result = run(server, configured(server, folder, LONG_TIMEOUTS), 12, threads=6)
assert not result.complaints, result.complaints
print(result.replies)
"""


def test_several_kernels_share_the_tries_of_an_outage(tmp_path: Path) -> None:
    """Three kernels with six threads each make hardly more calls than one."""
    here = Path(__file__).parent
    code = KERNEL.format(path=[str(here), str(here.parents[1])])
    # Not faster, because a call that tests a provider blocks others for at most ten seconds.
    with providers(3.0) as server:
        server.tell("fail", target="*", kind="overloaded", times=None)
        command = [sys.executable, "-c", code, json.dumps(server.variables), str(tmp_path)]
        kernels = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        # The outage lasts until the waits have doubled a few times.
        while not (tries := moments(server)) or tries[-1] - tries[0] < 30:
            assert all(kernel.poll() is None for kernel in kernels)
            time.sleep(0.05)
        server.tell("clear_failures")
        for kernel in kernels:
            out, err = kernel.communicate(timeout=120)
            assert out == "12\n", err
        assert len(server.get("requests")) - len(moments(server)) == 36
        tries = moments(server)
        by_provider = {name: moments(server, name) for name in KEYS}
    assert len(tries) <= 60
    for name, asked in by_provider.items():
        # All threads that are calling when the outage starts meet it together.
        late = [moment for moment in asked if moment > asked[0] + 10]
        bursts = [sum(start <= moment < start + 2 for moment in late) for start in late]
        # One try, not one for each of the eighteen threads.
        assert max(bursts, default=0) <= 3, (name, [round(m - tries[0], 1) for m in asked])


def moments(server: Providers, provider: str = "") -> list[float]:
    """The times when requests met the outage of one or all providers, on the sandbox's clock."""
    return [
        request["at"]
        for request in server.get("requests")
        if request["status"] == 503 and provider in ("", request["provider"])
    ]


def test_the_process_does_not_grow() -> None:
    """Files, threads and memory do not grow after warming up, although calls fail."""
    _, complaints, footprints = soak(2.0, lambda line: None, prompts_per_round=25, fewest_rounds=6)
    assert complaints == []
    assert growth(footprints) == []
