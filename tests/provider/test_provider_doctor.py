"""The doctor: what it finds in a configuration, and what it advises."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from env_file import write_env_file
from loopback import Handler, serving
from provider_parts import Clock, Start, asked

from arche_magic.llm_providers import get_llm_provider, get_quota_tracker
from arche_magic.llm_providers.config import (
    Choices,
    SystemClock,
    get_configuration,
    load_configuration,
    use_choices,
    use_configuration,
)
from arche_magic.llm_providers.doctor import Finding, examine
from arche_magic.llm_providers.doctor.local_checks import SDKS
from arche_magic.llm_providers.storage import LedgerWarning
from arche_magic.sandbox import Sandbox


def about(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.about == name]


def only(findings: list[Finding], name: str) -> Finding:
    (found,) = about(findings, name)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose `.env` has the keys of a running sandbox; only its owner can read it."""
    return tmp_path


@pytest.fixture
def sandbox_of_project(project: Path) -> Iterator[Sandbox]:
    """It has two Groq keys and one OpenAI key."""
    with Sandbox(keys={"groq": 2, "openai": 1}) as sandbox:
        write_env_file(project, sandbox).chmod(0o600)
        yield sandbox


def test_a_correct_configuration_has_no_problems(
    sandbox_of_project: Sandbox, project: Path
) -> None:
    """Files, addresses, keys, models, clock, ledger and packages are listed; no quota is used."""
    findings = examine()
    assert {finding.state for finding in findings} == {"ok"}, findings
    assert str(project / ".env") in only(findings, ".env").found
    assert "or the folders above it" in only(findings, "arche_magic.toml").found
    assert only(findings, "groq").found.startswith(f"{sandbox_of_project.url}/groq (GROQ_BASE_URL")
    key = only(findings, "groq_key_2")
    assert key.found == f"works, from GROQ_API_KEY_2 in {project / '.env'}"
    assert only(findings, "openai models").found.startswith("gpt-4.1-mini, among the ")
    assert "within" in only(findings, "clock").found
    assert "llm_quota_tracker.json" in only(findings, "ledger").found
    assert all(name in only(findings, "packages").found for name in SDKS)
    assert "mistral (MISTRAL_API_KEY), google" in only(findings, "keys").found
    assert sandbox_of_project.requests == ()


def test_variables_that_no_provider_reads_are_listed(
    sandbox_of_project: Sandbox, project: Path
) -> None:
    """A misspelled one with the right name; keys of other programs are only mentioned."""
    env_file = project / ".env"
    names = ("MISTRAL_APIKEY", "ANTHROPIC_API_KEY", "MY_NAME", "CEREBRAS_API_KEY", "GROQ_API_KEY_7")
    env_file.write_text(env_file.read_text() + "".join(f"{name}=secret-{name}\n" for name in names))
    findings = [finding for finding in about(examine(), ".env") if "not used" in finding.found]
    assert [(f.state, f.found, f.advice) for f in findings] == [
        (state, f"{name} of {env_file} is not used: no provider reads it", advice)
        for state, name, advice in (
            ("look", "MISTRAL_APIKEY", "rename it to MISTRAL_API_KEY"),
            ("ok", "ANTHROPIC_API_KEY", ""),
        )
    ]
    assert "secret-" not in str(findings)


def test_unusable_lines_of_env_are_listed(sandbox_of_project: Sandbox, project: Path) -> None:
    """They are listed by number with the reason. The text is not shown, because it may be a key."""
    env_file = project / ".env"
    sound = env_file.read_text()
    first = len(sound.splitlines()) + 1
    env_file.write_bytes(
        sound.encode() + b"gsk_not-a-line\nA=1\nB=caf\xe9\nMISTRAL_API_KEY=${MY_TOKEN}\n"
    )
    findings = about(examine(), ".env")
    assert {finding.state for finding in findings} == {"look"}
    assert [finding.found for finding in findings] == [
        f"lines {first}, {first + 2} of {env_file} cannot be used: not NAME=value in UTF-8",
        f"line {first + 3} of {env_file} cannot be used: it refers to a variable that is not set",
    ]
    assert "gsk_not" not in str(findings)
    assert "MY_TOKEN" not in str(findings)


def test_an_unreadable_env_file_hides_no_keys(
    sandbox_of_project: Sandbox, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is reported as wrong, and the keys in the environment are checked."""
    for name, value in sandbox_of_project.environment().items():
        monkeypatch.setenv(name, value)
    (project / ".env").write_bytes(b"\0\0")
    findings = examine()
    finding = only(findings, ".env")
    assert finding.state == "wrong"
    assert finding.found.startswith(f"{project / '.env'} cannot be read")
    assert only(findings, "groq_key_1").state == "ok"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_skipped_files_are_mentioned(sandbox_of_project: Sandbox, project: Path) -> None:
    """A link that leads elsewhere, with the `.env` that is used instead; a named pipe."""
    inner = project / "inner"
    inner.mkdir()
    (inner / ".env").symlink_to("../.env")
    os.chdir(inner)
    link, file = about(examine(), ".env")
    assert (link.state, file.state) == ("look", "ok")
    assert link.found.startswith(
        f"{inner / '.env'} is a link to {project / '.env'}, outside its folder"
    )
    content = (project / ".env").read_bytes()
    (project / ".env").unlink()
    os.mkfifo(project / ".env", 0o600)
    writer = threading.Thread(target=lambda: (project / ".env").write_bytes(content))
    writer.start()
    findings = examine()
    writer.join()
    assert about(findings, ".env")[1].found.endswith("a named pipe, read once per process")
    assert only(findings, "groq_key_1").state == "ok"


def test_sending_asks_each_model_once(sandbox_of_project: Sandbox) -> None:
    """It is counted like any prompt; a model that does not answer is named with the reason."""
    Path("arche_magic.toml").write_text(
        '[providers.groq]\nmodels = ["openai/gpt-oss-20b", "no-such-model"]\n'
    )
    findings = examine(send=True)
    answered = only(findings, "groq · key 1 · gpt-oss-20b")
    assert answered.state == "ok"
    assert "answered in" in answered.found
    assert "USD" not in answered.found
    assert "USD" in only(findings, "openai · key 1 · gpt-4.1-mini").found
    silent = only(findings, "groq · key 1 · no-such-model")
    assert silent.state == "wrong"
    assert "model" in silent.found
    assert "(404" in silent.found
    assert asked(sandbox_of_project).count("openai") == 1
    summary = get_quota_tracker().get_usage_summary("openai")["openai"]["openai_key_1"]
    assert summary["requests_per_day"]["used"] > 0


@pytest.mark.parametrize(
    ("failure", "state"), [("rate_limit_day", "look"), ("server_error", "wrong")]
)
def test_sending_tells_a_limit_from_a_failure(project: Path, failure: str, state: str) -> None:
    """It is not wrong to have used a limit up."""
    with Sandbox(keys={"groq": 1}) as sandbox:
        write_env_file(project, sandbox)
        sandbox.fail("groq", failure, times=None)
        finding = only(examine(send=True), "groq · key 1 · gpt-oss-120b")
    assert (finding.state, finding.found[:9]) == (state, "no answer")


def test_sending_uses_no_key_that_is_switched_off(sandbox_of_project: Sandbox) -> None:
    """The next key of the provider is used; what is switched off is named."""
    use_choices(Choices(off=frozenset({"groq_key_1", "openai/gpt-4.1-mini"})))
    try:
        findings = examine(send=True)
    finally:
        use_choices(Choices())
    assert only(findings, "groq · key 2 · gpt-oss-120b").state == "ok"
    key, model = only(findings, "groq_key_1"), only(findings, "openai models")
    assert (key.state, model.state) == ("look", "look")
    assert key.found.startswith("works, but is switched off in this session; from GROQ_API_KEY")
    assert model.found == "gpt-4.1-mini is switched off in this session"


def test_a_rejected_key_is_closed_and_must_be_replaced(sandbox_of_project: Sandbox) -> None:
    """The page with the keys is named. When the key works, it is opened again."""
    sandbox_of_project.fail("groq_key_1", "unauthorized")
    finding = only(examine(), "groq_key_1")
    assert finding.state == "wrong"
    assert "key refused (401" in finding.found
    assert finding.advice == "replace it: https://console.groq.com/keys"
    assert get_llm_provider("groq").generate("Hello").key == "groq_key_2"
    assert only(examine(), "groq_key_1").state == "ok"


def test_an_account_without_credit_is_named(sandbox_of_project: Sandbox) -> None:
    """The key is accepted, but its account is closed."""
    sandbox_of_project.fail("openai", "no_credit")
    with pytest.raises(Exception, match="no credit"):
        get_llm_provider("openai").generate("Hello", patience=0)
    finding = only(examine(), "openai_key_1")
    assert finding.state == "look"
    assert "no credit left" in finding.found
    assert "quota reset openai_key_1" in finding.advice


def test_keys_of_one_account_are_mentioned(project: Path, sandbox_of_project: Sandbox) -> None:
    """The second one adds no quota."""
    Path("arche_magic.toml").write_text('[accounts]\ngroq_key_1 = "team"\ngroq_key_2 = "team"\n')
    finding = only(examine(), "groq_key_2")
    assert finding.state == "look"
    assert "shares its account with groq_key_1" in finding.found


def test_a_missing_model_is_reported_with_the_closest_name(sandbox_of_project: Sandbox) -> None:
    """The doctor finds it before a prompt fails."""
    Path("arche_magic.toml").write_text('[providers.groq]\nmodels = ["openai/gpt-oss-120"]\n')
    finding = only(examine(), "groq models")
    assert finding.state == "look"
    assert finding.advice == "did you mean 'openai/gpt-oss-120b'?"


def test_a_server_that_is_not_running_is_reported() -> None:
    """A server on this machine has probably not been started."""
    gone = Sandbox(keys={"openai": ["any"]}).start()
    address = f"{gone.url}/openai/v1"
    gone.stop()
    Path("arche_magic.toml").write_text(
        f'[providers.ollama]\nbase_url = "{address}"\nmodels = ["m"]\n'
    )
    finding = only(examine(), "ollama_key_1")
    assert finding.state == "look"
    assert "no connection" in finding.found
    assert finding.advice == f"is the server running at {address}?"


def test_a_local_server_that_requires_a_key_is_reported_with_its_variable() -> None:
    """Most local servers require no key."""
    with Sandbox(keys={"openai": ["the-key-it-asks-for"]}) as sandbox:
        Path("arche_magic.toml").write_text(
            f'[providers.vllm]\nbase_url = "{sandbox.url}/openai/v1"\nmodels = ["m"]\n'
        )
        finding = only(examine(), "vllm_key_1")
    assert finding.state == "wrong"
    assert finding.advice == "the server asks for a key: put it into VLLM_API_KEY"


class PublicList(Handler):
    """A service that lists its models for any key, and refuses wrong keys with a prompt."""

    def do_GET(self) -> None:
        self.answer(200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')

    def do_POST(self) -> None:
        self.body()
        self.answer(401, b'{"error": {"message": "Wrong key", "code": 401}}')


@pytest.mark.skipif(sys.platform == "win32", reason="0.0.0.0 is not this machine there")
def test_a_list_of_models_for_any_key_proves_nothing(
    own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was refused stays closed."""
    monkeypatch.setenv("MINE_API_KEY", "wrong-key-of-mine")
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(PublicList) as url:
        address = url.replace("127.0.0.1", "0.0.0.0")  # not a loopback address
        own_settings.write_text(f'[providers.mine]\nbase_url = "{address}"\nmodels = ["m"]\n')
        finding = only(examine(), "mine_key_1")
        assert finding.state == "look"
        assert "lists its models for any key" in finding.found
        assert "--send" in finding.advice
        with pytest.raises(Exception, match="key refused"):
            get_llm_provider("mine").generate("Hello", patience=0)
        examine()
        (key,) = get_configuration().keys
        assert get_quota_tracker().closure(key) is not None


def test_a_configured_service_without_a_key_is_reported() -> None:
    """Its table in the settings shows that the user wants to use it; a free one is named too."""
    Path("arche_magic.toml").write_text(
        'order = ["deepseek", "groq"]\n[providers.deepseek]\nmodels = ["deepseek-flash"]\n'
    )
    findings = examine()
    assert only(findings, "deepseek").advice.startswith("put one into DEEPSEEK_API_KEY")
    assert only(findings, "keys").state == "wrong"
    advice = "set GROQ_API_KEY in the environment or in .env; free: https://console.groq.com/keys"
    assert only(findings, "keys").advice == advice


@pytest.mark.parametrize(("ahead", "words"), [(3600.0, "ahead of"), (-3600.0, "behind")])
def test_a_wrong_clock_is_found_from_response_dates(start: Start, ahead: float, words: str) -> None:
    """Services date their responses."""

    class Wrong(SystemClock):
        def time(self) -> float:
            return super().time() + ahead

    start(keys={"groq": 1}, settings={"clock": Wrong()})
    finding = only(examine(), "clock")
    assert finding.state == "wrong"
    assert finding.found.startswith(("60 min", "61 min"))
    assert words in finding.found


def test_a_ledger_that_cannot_be_stored_is_wrong(
    sandbox_of_project: Sandbox, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """There is a file with the name of its folder."""
    (project / "file").write_text("")
    monkeypatch.setenv("ARCHE_QUOTA_STORE", str(project / "file" / "ledger.json"))
    with pytest.warns(UserWarning, match="cannot be written"):
        finding = only(examine(), "ledger")
    assert finding.state == "wrong"
    assert "counting in memory" in finding.found
    assert "ARCHE_QUOTA_STORE" in finding.advice


def test_a_ledger_that_was_kept_aside_is_reported(
    sandbox_of_project: Sandbox, project: Path
) -> None:
    """It may contain counts that the user misses."""
    store = project / "outputs" / "llm_quota_tracker.json"
    store.parent.mkdir()
    store.write_text("no ledger at all")
    with pytest.warns(UserWarning, match="damaged"):
        examine()
    found = about(examine(), "ledger")
    assert [finding.state for finding in found] == ["wrong", "ok", "look"]
    assert "is damaged; a new ledger starts" in found[0].found
    assert ".damaged-" in found[2].found


def test_a_file_that_others_can_read_is_reported_with_a_command(
    sandbox_of_project: Sandbox, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported only if other users can reach it; the folders of tests are closed to them."""
    (project / ".env").chmod(0o644)
    assert only(examine(), ".env").state == "ok"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder).resolve() / ".env"
        path.write_text((project / ".env").read_text())
        path.chmod(0o644)
        monkeypatch.chdir(folder)
        with pytest.warns(UserWarning, match="other users"):
            finding = only(examine(), ".env")
        monkeypatch.chdir(project)
    assert finding.state == "look"
    assert finding.advice == f"chmod 600 {path}"


def test_invalid_settings_are_reported() -> None:
    """They are a finding, not an error; everything else is still checked."""
    Path("arche_magic.toml").write_text("[providers.grok]\nmodels = ['x']")
    findings = examine()
    assert findings[-1].state == "wrong"
    assert "did you mean 'groq'" in findings[-1].found
    assert about(findings, "arche_magic.toml") == []
    assert only(findings, "packages")


def test_a_configuration_in_code_is_mentioned(start: Start, clock: Clock) -> None:
    """Files are then ignored."""
    start(keys={"groq": 1})
    findings = examine()
    assert "set by the program" in only(findings, "settings").found
    assert about(findings, ".env") == []


def test_kept_replies_are_not_used_by_the_doctor(
    sandbox_of_project: Sandbox, project: Path
) -> None:
    """It tests whether the model itself answers."""
    use_configuration(replace(load_configuration(directory=project), replay="keep"))
    examine(send=True)
    examine(send=True)
    assert asked(sandbox_of_project).count("openai") == 2


@pytest.mark.parametrize("name", ["llm_quota_tracker", "tracker[1]"])
def test_an_invalid_value_in_the_ledger_is_reported(
    sandbox_of_project: Sandbox, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The consequence is stated. Another process reports at least the file that was kept aside."""
    store = project / f"{name}.json"
    monkeypatch.setenv("ARCHE_QUOTA_STORE", str(store))
    get_llm_provider("groq").generate("Hello")
    store.write_text(re.sub(r'"charged":\{[^}]*\}', '"charged":"much"', store.read_text()))
    assert '"charged":"much"' in store.read_text()
    with pytest.warns(LedgerWarning, match="has a wrong value"):
        examine()
    findings = {finding.state: finding.found for finding in about(examine(), "ledger")}
    assert findings.keys() == {"ok", "look", "wrong"}
    assert "charged); counting continues from its copy" in findings["wrong"]
    assert f"is kept as {name}.wrong-" in findings["look"]
    assert '"charged":"much"' not in store.read_text()
