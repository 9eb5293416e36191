"""`%llm_keys`: the list of keys, keys for one session, and checks without cost."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_kernel import Kernel, kernel_environment

from arche_magic.sandbox import Sandbox

NAMES = ["groq_key_1", "groq_key_2", "mistral_key_1", "google_key_1", "openai_key_1"]


@pytest.fixture
def service() -> Iterator[Sandbox]:
    """A sandbox with three Groq keys; the kernel has the first two."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def third_key(kernel: Kernel, service: Sandbox) -> Iterator[str]:
    kernel.use(service)
    kernel.run("del os.environ['GROQ_API_KEY_3']")
    kernel.run("get_ipython().history_manager.reset()")
    yield service.environment()["GROQ_API_KEY_3"]
    kernel.run("from arche_magic.llm_providers.config import keys; keys._added = ()")


def everything(cell) -> str:
    return str(cell.messages)


def test_keys_are_shown_with_their_source(kernel: Kernel, service: Sandbox) -> None:
    """Labels, fingerprints, sources and states; for a file, with the variable."""
    variables = service.environment()
    kernel.use(service)
    text = variables["GROQ_API_KEY_2"]
    path = kernel.folder / ".env"
    path.write_text(f"GROQ_API_KEY_7={text}\n")
    kernel.run("del os.environ['GROQ_API_KEY_2'], os.environ['GROQ_API_KEY_3']")
    try:
        cell = kernel.run("frame = %llm_keys")
        assert cell.status == "ok", cell.error
        shown = cell.data()[0].splitlines()
        assert shown[0].split() == ["key", "fingerprint", "account", "from", "state"]
        assert [line.split()[0] for line in shown[1:]] == NAMES
        assert "GROQ_API_KEY_1 in the environment" in shown[1]
        assert f"GROQ_API_KEY_7 in {path}" in shown[2]
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
        assert fingerprint in shown[2]
        assert kernel.value("list(frame.columns)") == [
            "provider", "key", "fingerprint", "account", "source", "open", "since", "reason",
            "private",
        ]  # fmt: skip
        assert kernel.value("frame['open'].all().item()") is True
        for secret in variables.values():
            if not secret.startswith("http"):
                assert secret not in everything(cell)
    finally:
        path.unlink()


def test_a_key_that_is_switched_off_is_not_shown_as_open(kernel: Kernel, third_key: str) -> None:
    """In the list, and beside the outcome of its check."""
    kernel.run(
        "from arche_magic.llm_providers.config import Choices, use_choices\n"
        "use_choices(Choices(off=frozenset({'groq_key_2'})))"
    )
    try:
        first, second = kernel.run("frame = %llm_keys").data()[0].splitlines()[1:3]
        checked = kernel.run("%llm_keys check groq_key_2").data()[0]
    finally:
        kernel.run("use_choices(Choices())")
    assert first.endswith("open")
    assert second.endswith("switched off in this session")
    assert kernel.value("frame['key'][~frame['open']].tolist()") == ["groq_key_2"]
    assert re.search(r"works, \d+ models; switched off in this session", checked)


def test_without_any_key_the_first_steps_are_shown(kernel: Kernel) -> None:
    """`%llm_keys` in a new installation says what to do, and the cell succeeds."""
    cell = kernel.run("%llm_keys")
    assert cell.status == "ok"
    assert "GROQ_API_KEY" in cell.printed
    assert "%llm_keys add groq" in cell.printed


def test_an_added_key_is_hidden_and_used(kernel: Kernel, service: Sandbox, third_key: str) -> None:
    """The prompt hides the typed text; the key answers prompts and is not visible anywhere."""
    cell, questions = kernel.run_and_type("%llm_keys add groq", third_key)
    assert cell.status == "ok", cell.error
    assert [question["password"] for question in questions] == [True]
    assert "groq_key_3 is used until this session ends" in cell.printed
    service.fail("groq_key_1", "unauthorized", times=None)
    service.fail("groq_key_2", "unauthorized", times=None)
    kernel.run("%llm -q -p groq -o answer hi")
    assert kernel.value("str(answer.key)") == "groq_key_3"
    kernel.run("from arche_magic import get_llm_provider")
    assert kernel.value("get_llm_provider('groq').generate('hi').key") == "groq_key_3"
    shown = kernel.run("%llm_keys").data()[0].splitlines()
    assert shown[3].split()[0] == "groq_key_3"
    assert "this session" in shown[3]
    assert "closed since" in shown[1]
    assert "groq · key 3" in kernel.run("%llm_quota groq").data()[0]
    history = kernel.value("[line for _, _, line in get_ipython().history_manager.get_range()]")
    assert not any(third_key in line for line in history)
    for shown_cell in (cell, kernel.run("%llm_keys"), kernel.run("print(repr(answer))")):
        assert third_key not in everything(shown_cell)


def test_labels_stay_when_keys_are_added_and_removed(
    kernel: Kernel, service: Sandbox, third_key: str
) -> None:
    """An added key keeps its label whatever the environment gets, and is removed by label."""
    kernel.run_and_type("%llm_keys add groq", third_key)
    kernel.run("os.environ['GROQ_API_KEY_9'] = 'gsk_made_up_and_refused'")
    kernel.run("frame = %llm_keys")
    labels = "dict(zip(frame['key'], frame['source']))"
    found = kernel.value(labels)
    assert found["groq_key_3"] == "this session"
    assert found["groq_key_4"] == "GROQ_API_KEY_9 in the environment"
    assert "is no longer used" in kernel.run("%llm_keys remove groq_key_3").printed
    kernel.run("frame = %llm_keys")
    assert kernel.value(labels)["groq_key_3"] == "GROQ_API_KEY_9 in the environment"


@pytest.mark.parametrize(
    ("line", "typed", "said"),
    [
        ("add grok", "x", "unknown provider 'grok'; did you mean 'groq'?"),
        ("add groq", "", "no key was given"),
        ("add groq", "two words", "that is not a key"),
        ("add groq gsk_typed_on_the_line", "x", "which then asks for the key"),
        ("add gsk_typed_on_the_line", "x", "which then asks for the key"),
        ("check gsk_typed_on_the_line", "x", "that is not the label of a key; there are groq_key_"),
        ("remove gsk_typed_on_the_line", "x", "that is not the label of a key"),
        ("remove groq_key_1", "x", "not added for this session; remove it from GROQ_API_KEY_1 in"),
        ("remove groq_key_8", "x", "no key is called 'groq_key_8'; there are groq_key_1, "),
        ("check groq_key_8", "x", "no key is called 'groq_key_8'"),
        (
            "gsk_typed_on_the_line",
            "x",
            "usage: %llm_keys, or %llm_keys add PROVIDER, remove KEY, or check [KEY]",
        ),
        ("add groq", None, "a key cannot be typed here; put GROQ_API_KEY into"),
    ],
)
def test_an_invalid_command_is_an_error_in_one_line_without_keys(
    kernel: Kernel, third_key: str, line: str, typed: str | None, said: str
) -> None:
    """The text, which may be a key, is not repeated."""
    cell, _ = kernel.run_and_type(f"%llm_keys {line}", typed)
    assert cell.status == "error"
    assert said in cell.message
    assert "gsk_typed" not in cell.message
    assert "\n" not in cell.message


def test_a_key_in_use_is_not_added_again(kernel: Kernel, service: Sandbox, third_key: str) -> None:
    """The message has the key's label."""
    text = service.environment()["GROQ_API_KEY_2"]
    cell, _ = kernel.run_and_type("%llm_keys add groq", f' "{text}" ')
    assert "already in use: groq_key_2, from GROQ_API_KEY_2 in the environment" in cell.message


def test_keys_cannot_be_added_while_the_sandbox_runs(kernel: Kernel) -> None:
    """`%llm_keys add` does not ask for a key."""
    kernel.run("%llm_sandbox")
    cell, questions = kernel.run_and_type("%llm_keys add groq", "gsk_made_up")
    assert "%llm_sandbox stop" in cell.message
    assert questions == []


def test_a_check_opens_and_closes_keys_without_using_quota(
    kernel: Kernel, service: Sandbox, third_key: str
) -> None:
    """It requests each key's models; a rejected key is closed, and opened when it is accepted."""
    kernel.run("os.environ['MISTRAL_API_KEY'] = 'made-up-and-unknown'")
    service.fail("openai", "server_error")
    cell = kernel.run("frame = %llm_keys check")
    assert cell.status == "ok", cell.error
    lines = {line.split()[0]: line for line in cell.data()[0].splitlines()[1:]}
    assert list(lines) == NAMES
    assert "works, " in lines["groq_key_1"]
    assert "works, " in lines["google_key_1"]
    assert "key refused (401" in lines["mistral_key_1"]
    assert "could not be checked: server error (500" in lines["openai_key_1"]
    assert kernel.value("frame['works'].isna().tolist()") == [False] * 4 + [True]
    assert kernel.value("'openai/gpt-oss-120b' in frame['models'][0]") is True
    assert service.requests == ()
    kernel.run("frame = %llm_keys")
    assert kernel.value("frame['key'][~frame['open']].tolist()") == ["mistral_key_1"]

    service.fail("groq_key_2", "unauthorized")
    assert "key refused" in kernel.run("%llm_keys check groq_key_2").data()[0]
    kernel.run("frame = %llm_keys")
    assert kernel.value("frame.set_index('key')['open']['groq_key_2'].item()") is False
    assert "works" in kernel.run("%llm_keys check groq_key_2").data()[0]
    kernel.run("frame = %llm_keys")
    assert kernel.value("frame.set_index('key')['open']['groq_key_2'].item()") is True


COLAB = """
import sys
sys.path.insert(0, sys.argv[1])
import google.colab  # a kernel of Colab has it from the start
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "arche_magic")
shell.run_cell("%llm_keys")
shell.run_cell("%llm -q -p groq hello")
from google.colab import userdata
asked = list(userdata.asked)
shell.run_cell("%llm -q -p groq hello again")
print(asked == userdata.asked, sorted(set(asked)))
"""
USERDATA = """
asked = []
class SecretNotFoundError(Exception): pass
class NotebookAccessError(Exception): pass
def get(name):
    asked.append(name)
    if name == "OPENAI_API_KEY":
        raise NotebookAccessError(name)
    if name not in secrets:
        raise SecretNotFoundError(name)
    return secrets[name]
"""


def test_colab_secrets_are_used_as_keys(tmp_path: Path, service: Sandbox) -> None:
    """Secrets with the names of our variables are read once, and named as the source."""
    package = tmp_path / "colab" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    variables = service.environment()
    secrets = {"GROQ_API_KEY": variables["GROQ_API_KEY_1"]} | {
        name: variables[name] for name in ("GROQ_API_KEY_2", "MISTRAL_API_KEY")
    }
    (package / "userdata.py").write_text(f"secrets = {secrets!r}\n{USERDATA}")
    environment = kernel_environment(
        tmp_path, **{name: url for name, url in variables.items() if name.endswith("URL")}
    )
    environment["GOOGLE_API_KEY"] = variables["GOOGLE_API_KEY"]
    # Compiled, the module and its keys would be left on the disk.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", COLAB, str(tmp_path / "colab")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    sources = {line.split()[0]: line for line in lines if "_key_" in line}
    assert "GROQ_API_KEY in Colab's secrets" in sources["groq_key_1"]
    assert "GROQ_API_KEY_2 in Colab's secrets" in sources["groq_key_2"]
    assert "MISTRAL_API_KEY in Colab's secrets" in sources["mistral_key_1"]
    assert "GOOGLE_API_KEY in the environment" in sources["google_key_1"]
    assert "openai_key_1" not in sources
    assert lines[-1].startswith("True ")
    assert "GOOGLE_API_KEY" not in lines[-1]
    assert not any(secret in done.stdout + done.stderr for secret in secrets.values())
    assert {request.key for request in service.requests} == {"groq_key_1", "groq_key_2"}
