"""Processes without a home folder, without a working directory, or with a closed home folder."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from provider_parts import Start, run_script
from test_provider_disks import like_everybody

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import load_configuration, use_configuration
from arche_magic.llm_providers.errors import ConfigurationError, InvalidRequest
from arche_magic.llm_providers.files import expanded

if TYPE_CHECKING:
    from pathlib import Path

    from arche_magic.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="homes of another kind")

USE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    # Of pandas 2.2.
    warnings.filterwarnings("ignore", r"\\s*Pyarrow will become", DeprecationWarning)
    import arche_magic
    from arche_magic.llm_providers import get_llm_provider
    from arche_magic.llm_providers.doctor import examine
    from arche_magic.llm_providers.quota_tracker import get_quota_tracker
    provider = get_llm_provider("mistral")
    replies = [provider.generate("Hello", keep=True), "".join(provider.stream("Hello"))]
    replies += arche_magic.map(["Hello", "Hello again"]).reply.tolist()
    used = get_quota_tracker().get_usage_summary()["mistral"]["mistral_key_1"]
    findings = [[f.state, f.about, f.found] for f in examine()]
print(json.dumps({
    "replies": len(list(filter(None, replies))),
    "used": used["requests_per_minute"]["used"],
    "findings": findings,
    "warned": [str(warning.message) for warning in caught],
}))
"""
NO_PASSWD_ENTRY = """
import os, pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
os.environ.pop("HOME", None)
"""
NO_FOLDER = """
import os
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
"""


@pytest.mark.parametrize(
    "trouble", ["no home", "an empty home", "no folder for a home", "a closed home", "no folder"]
)
def test_everything_works_without_a_settings_folder(
    start: Start, tmp_path: Path, trouble: str
) -> None:
    """Requests, jobs, the ledger and the doctor; a message names what is ignored."""
    if trouble == "no folder" and (3, 13) <= sys.version_info < (3, 13, 3):
        pytest.skip("imports fail in such a folder (github.com/python/cpython/pull/130934)")
    sandbox = start(keys={"mistral": 1})
    home = tmp_path / "home"
    home.mkdir(mode=0o000 if trouble == "a closed home" else 0o700)
    variables = {**sandbox.environment(), "HOME": str(home), "XDG_CONFIG_HOME": ""}
    before = {"no home": NO_PASSWD_ENTRY, "no folder": NO_FOLDER}.get(trouble, "")
    if trouble == "an empty home":
        variables["HOME"] = ""
    if trouble == "no folder for a home":
        variables["HOME"] = os.devnull
    command = like_everybody() if trouble == "a closed home" else ()
    out, err = run_script(before + USE, tmp_path, variables, command)
    home.chmod(0o700)
    assert err == ""
    seen = json.loads(out)
    assert seen["replies"] == 4
    assert seen["used"] >= 3
    wrong = [finding for finding in seen["findings"] if finding[0] != "ok"]
    warned = " ".join(seen["warned"])
    if trouble == "no folder":
        assert [about for _, about, _ in wrong] == ["files"]
        assert "the working directory is gone; the ledger is kept in memory" in warned
    elif trouble == "a closed home":
        own = home / ".config" / "arche_magic" / "arche_magic.toml"
        assert wrong == [["look", "arche_magic.toml", f"{own} cannot be read (Permission denied)"]]
        assert (
            warned == f"your own settings {own} cannot be read and are ignored (Permission denied)"
        )
    else:
        assert (wrong, warned) == ([], "")


def test_an_unreadable_env_file_hides_no_keys_of_the_environment(
    start: Start, tmp_path: Path
) -> None:
    """One line says that it was skipped."""
    variables = start(keys={"mistral": 1}).environment()
    env_file = tmp_path / ".env"
    env_file.write_text("GROQ_API_KEY=made-up")
    env_file.chmod(0o000)
    out, err = run_script(USE, tmp_path, variables, like_everybody())
    seen = json.loads(out)
    assert (seen["replies"], err) == (4, "")
    assert seen["warned"] == [f"{env_file} cannot be read and was skipped: Permission denied"]
    wrong = [about for state, about, _ in seen["findings"] if state != "ok"]
    assert wrong == [".env"]


def test_a_provider_works_after_its_folder_was_deleted(start: Start, tmp_path: Path) -> None:
    """A notebook's folder may be deleted or replaced under a running kernel."""
    code = """
import os
from arche_magic.llm_providers import get_llm_provider
os.mkdir("gone")
os.chdir("gone")
provider = get_llm_provider("mistral")
print(bool(provider.generate("Hello")))
import shutil
shutil.rmtree("../gone")
print(bool(provider.generate("Hello again")), bool(get_llm_provider().generate("Hello")))
"""
    out, _ = run_script(code, tmp_path, start(keys={"mistral": 1}).environment())
    assert out.split() == ["True"] * 3


def test_attempts_stay_beside_their_ledger_after_a_change_of_folder(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable names a relative path; a new provider finds it in the new folder."""
    use_configuration(None)
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "ledger.json")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.chdir(one)
    provider = get_llm_provider("groq")
    provider.generate("Hello")
    monkeypatch.chdir(two)
    provider.generate("Hello")
    get_llm_provider("groq").generate("Hello")
    for folder, count in ((one, 2), (two, 1)):
        assert (folder / "ledger.json").exists()
        assert len((folder / "llm_calls.jsonl").read_text().splitlines()) == count


def test_a_path_with_a_tilde_needs_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in one line, wherever it was set."""
    with pytest.raises(InvalidRequest, match="the home folder for ~ is unknown"):
        expanded("~nobody-of-this-name/in.csv")
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "~nobody-of-this-name/ledger.json")
    with pytest.raises(ConfigurationError, match=r"^ARCHE_QUOTA_STORE in the .*: ~nobody-of-"):
        load_configuration(directory=tmp_path)
