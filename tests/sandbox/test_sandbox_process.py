"""Starting and stopping a sandbox, also in its own process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import groq
import httpx
import pytest

from arche_magic.sandbox import Sandbox
from arche_magic.sandbox.__main__ import main

GROQ = "openai/gpt-oss-120b"


def port_of(url):
    return int(url.rpartition(":")[2])


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_stop_the_sandbox():
    """The child has the object and the socket, but the sandbox belongs to its parent."""
    with Sandbox() as sandbox:
        child = os.fork()
        if child == 0:
            sandbox.stop()
            os._exit(int(sandbox.running))
        assert os.waitpid(child, 0)[1] == 0
        assert httpx.get(f"{sandbox.url}/_sandbox/clock").status_code == 200


def test_import_loads_no_server():
    """Importing the package is cheap: no server, no asyncio, no SDK before a sandbox starts."""
    code = (
        "import sys, arche_magic.sandbox as s; s.Sandbox(); "
        "print([m for m in ('uvicorn', 'starlette', 'asyncio', 'openai', 'groq', 'pandas')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_missing_packages_are_named():
    """Without uvicorn, starting says what to install."""
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from arche_magic.sandbox import Sandbox\n"
        "try:\n    Sandbox().start()\nexcept ImportError as error:\n    print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'arche_magic[sandbox]'" in result.stdout


def test_start_and_stop_can_be_repeated():
    """Both are idempotent, a stopped sandbox can start again, and its state survives."""
    others = set(threading.enumerate())
    sandbox = Sandbox()
    assert sandbox.start() is sandbox
    port = port_of(sandbox.url)
    assert sandbox.start().running
    assert port_of(sandbox.url) == port
    sandbox.stop()
    sandbox.stop()
    assert not sandbox.running
    assert not is_open(port)
    with pytest.raises(RuntimeError, match="not running"):
        sandbox.environment()
    with sandbox:
        assert is_open(port_of(sandbox.url))
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if thread.name == "arche-sandbox"]


def test_a_taken_port_is_an_os_error(start):
    """Asking for a port in use fails immediately, and leaves the sandbox stopped."""
    second = Sandbox(port=port_of(start().url))
    with pytest.raises(OSError, match="in use"):
        second.start()
    assert not second.running


def test_stop_is_quick_with_open_streams(start, connect, capfd):
    """Streams and stalled requests are broken off, within a second and without output."""
    sandbox = start(seconds_per_chunk=5)
    port = port_of(sandbox.url)
    stream = connect(sandbox, "openai").stream()
    next(iter(stream))
    sandbox.fail("groq", "stall")
    client = connect(sandbox, "groq")
    errors = []

    def wait_for_nothing():
        try:
            client.ask()
        except groq.APIError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_for_nothing)
    waiting.start()
    while not [r for r in sandbox.requests if r.failure == "stall"]:
        time.sleep(0.001)
    began = time.perf_counter()
    sandbox.stop()
    assert time.perf_counter() - began < 5
    waiting.join(10)
    assert len(errors) == 1
    assert not is_open(port)
    assert capfd.readouterr().err == ""


def test_environment_numbers_keys_only_where_there_are_several(start):
    """A single key has the plain name; keys look like the provider's and say sandbox."""
    sandbox = start(keys={"groq": 2, "google": 1})
    names = sandbox.environment()
    assert list(names) == [
        "GROQ_API_KEY_1",
        "GROQ_API_KEY_2",
        "GOOGLE_API_KEY",
        "GROQ_BASE_URL",
        "GOOGLE_GEMINI_BASE_URL",
    ]
    assert names["GROQ_API_KEY_2"].startswith("gsk_sandbox_2")
    keys = [value for name, value in names.items() if "KEY" in name]
    assert all(len(key) >= 24 and "sandbox" in key for key in keys)
    assert names["GROQ_BASE_URL"] == f"{sandbox.url}/groq"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", sandbox.url)


def test_chunks_can_be_paced(start, connect):
    """`seconds_per_chunk` spreads a stream over real time."""
    client = connect(start(seconds_per_chunk=0.01, latency=0.05), "openai")
    began = time.perf_counter()
    reply = client.read(client.stream())
    assert time.perf_counter() - began >= 0.05 + 0.01 * len(reply.pieces)


def test_a_closed_stream_is_charged_for_what_was_sent(start, connect):
    """Closing a stream early ends it on the server too."""
    sandbox = start(seconds_per_chunk=0.02)
    client = connect(sandbox, "openai")
    stream = client.stream("[tokens=4000]")
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        (count,) = sandbox.usage()["openai_key_1"].values()
        if count["output_tokens"]:
            break
        time.sleep(0.01)
    assert 0 < count["output_tokens"] < 400


def test_received_requests_contain_the_body_and_no_secret(start, connect):
    """Tests can look at exactly what a client sent."""
    sandbox = start()
    client = connect(sandbox, "groq", 2)
    client.ask("hello", temperature=0.5)
    (request,) = sandbox.requests
    assert (request.provider, request.key, request.account) == ("groq", "groq_key_2", "groq_key_2")
    assert request.body["temperature"] == 0.5
    assert request.body["messages"] == [{"role": "user", "content": "hello"}]
    assert request.headers["authorization"] == "hidden"
    assert client.key not in str(request)


@pytest.fixture
def alone():
    """`python -m arche_magic.sandbox` in a process of its own: its variables and the process."""
    processes = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "arche_magic.sandbox", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        lines = [process.stdout.readline()]
        while "BASE_URL" not in lines[-1] or "OPENAI" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        return process, lines

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_it_runs_by_itself_and_is_controlled_over_http(alone):
    """The command prints export lines, enforces its options, and accepts commands over HTTP."""
    process, lines = alone(
        "--keys", "groq=2", "--seed", "3", "--time-scale", "60",
        "--limit", "groq/openai/gpt-oss-120b.requests_per_day=5",
        "--left", "groq_key_1.requests_per_day=1",
        "--account", "groq_key_1=team",
    )  # fmt: skip
    assert lines[0].startswith("# ")
    names = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines[1:])
    assert "GROQ_API_KEY_2" in names
    assert "GROQ_API_KEY_3" not in names
    base = names["GROQ_BASE_URL"].removesuffix("/groq")

    def ask():
        return httpx.post(
            f"{base}/groq/openai/v1/chat/completions",
            headers={"Authorization": f"Bearer {names['GROQ_API_KEY_1']}"},
            json={"model": GROQ, "messages": [{"role": "user", "content": "hi"}]},
            trust_env=False,
        )

    def control(method, path, **options):
        return httpx.request(method, f"{base}/_sandbox/{path}", trust_env=False, **options)

    first, second = ask(), ask()
    assert (first.status_code, second.status_code) == (200, 429)
    assert "org_sandbox_team" in second.text
    assert control("GET", "usage").json()["groq_key_1"][GROQ]["refused"] == 1
    assert control("GET", "quota").json()["team"][GROQ]["requests_per_day"]["limit"] == 5
    assert control("POST", "reset").json() == {"ok": True}
    wanted = {"target": "groq", "kind": "overloaded", "times": 1, "after": 0}
    assert control("POST", "fail", json=wanted).status_code == 200
    assert ask().status_code == 503
    assert [r["status"] for r in control("GET", "requests").json()] == [503]
    outage = {"target": "*", "kind": "overloaded", "seconds": 3600}
    assert control("POST", "fail", json=outage).status_code == 200
    assert ask().status_code == 503
    assert control("POST", "clear_failures").json() == {"ok": True}
    assert ask().status_code == 200
    always = {"share": 1.0, "kinds": ["server_error"]}
    assert control("POST", "fail_randomly", json=always).status_code == 200
    assert ask().status_code == 500
    assert control("GET", "clock").json()["scale"] == 60.0
    unknown = control("POST", "fail", json={"target": "groq", "kind": "explode"})
    assert unknown.status_code == 400
    assert "known:" in unknown.json()["error"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not is_open(port_of(base))


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for another process on Windows")
def test_ctrl_c_stops_it_without_a_traceback(alone):
    """SIGINT ends the command cleanly."""
    process, _ = alone("--port", "0")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(("arguments", "words"), [
    (["--limit", "groq.requests=5"], "unknown limit 'requests'; known: "),
    (["--limit", "groq=5"], "expected TARGET.LIMIT=NUMBER, got 'groq=5'"),
    (["--limit", "groq.requests_per_day=x"], "groq.requests_per_day must be a whole number, got"),
    (["--left", "groq.requests_per_day=none"], "must be a whole number, got 'none'"),
    (["--keys", "groq=two"], "groq must be a whole number, got 'two'"),
    (["--port", "99999"], "port must be 0 to 65,535, not 99999"),
])  # fmt: skip
def test_wrong_arguments_are_explained(arguments, words, capsys):
    """They are usage errors in one line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
