"""Keys, order, models and limits from the environment, `.env` and `arche_magic.toml`."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from dotenv.main import DotEnv

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import (
    Configuration,
    env_file,
    load_configuration,
    use_configuration,
)
from arche_magic.llm_providers.config.env_file import ConfigurationWarning, read_env_file
from arche_magic.llm_providers.errors import ConfigurationError
from arche_magic.llm_providers.options import build_request
from arche_magic.llm_providers.quota_tracker import get_quota_tracker
from arche_magic.llm_providers.types import Key, Timeouts

OURS = ("GROQ_", "MISTRAL_", "GOOGLE_", "GEMINI_", "OPENAI_", "ARCHE_")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the environment variables and the settings file of this machine."""
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user-settings"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "user-settings"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


Load = Callable[..., Configuration]


@pytest.fixture
def load(project: Path) -> Load:
    """Write a `.env` and an `arche_magic.toml`, and read them."""

    def write_and_load(env: str | bytes = "", toml: str = "") -> Configuration:
        content = env if isinstance(env, bytes) else env.encode()
        if content:
            (project / ".env").write_bytes(content)
        if toml:
            (project / "arche_magic.toml").write_text(toml, encoding="utf-8")
        return load_configuration(directory=project)

    return write_and_load


def keys_of(configuration: Configuration, provider: str = "groq") -> list[str]:
    return [key.secret() for key in configuration.keys if key.provider == provider]


# --- .env


@pytest.mark.parametrize(
    "env",
    [
        "GROQ_API_KEY=gsk_one\n",
        "GROQ_API_KEY=gsk_one",
        'GROQ_API_KEY="gsk_one"\n',
        "GROQ_API_KEY='gsk_one'\n",
        "GROQ_API_KEY = gsk_one \n",
        "  export GROQ_API_KEY=gsk_one\n",
        'GROQ_API_KEY=" gsk_one "\n',
        "GROQ_API_KEY=\"'gsk_one'\"\n",
        "GROQ_API_KEY=\u201cgsk_one\u201d\n",
        'GROQ_API_KEY=gsk_one"\n',
        'GROQ_API_KEY="gsk_one\n',
        "GROQ_API_KEY='gsk_one\n",
        "\ufeffGROQ_API_KEY=gsk_one\n",
        "# keys\r\n\r\nGROQ_API_KEY=gsk_one\r\nOTHER=1\r\n",
        "GROQ_API_KEY=gsk_one # the team's\n",
    ],
)
def test_a_key_is_read_however_the_line_is_written(load: Load, env: str) -> None:
    """Quotes, spaces, `export`, a byte order mark and Windows line endings make no difference."""
    assert keys_of(load(env)) == ["gsk_one"]


@pytest.mark.parametrize(
    "env",
    [
        'GROQ_API_KEY="gsk_one\nMISTRAL_API_KEY=m_one\nGROQ_API_KEY_2="gsk_two\nOPENAI_API_KEY=o\n',
        'GROQ_API_KEY="gsk_one\nMISTRAL_API_KEY=m_one"\nGROQ_API_KEY_2=gsk_two\nOPENAI_API_KEY=o\n',
        'GROQ_API_KEY="gsk_one\nMISTRAL_API_KEY="m_one"\nGROQ_API_KEY_2=gsk_two\nOPENAI_API_KEY=o',
    ],
)
def test_an_unclosed_quote_does_not_affect_other_lines(load: Load, env: str) -> None:
    """A missing quote must not hide the keys below it."""
    configuration = load(env)
    assert keys_of(configuration) == ["gsk_one", "gsk_two"]
    assert keys_of(configuration, "mistral") == ["m_one"]
    assert keys_of(configuration, "openai") == ["o"]


def test_an_invalid_line_is_named_without_its_text(project: Path) -> None:
    """The warning names file and line. The line may contain a key, so it is not shown."""
    (project / ".env").write_text("A=1\n\ngsk_secret oops\nGROQ_API_KEY=gsk_one\n")
    with pytest.warns(ConfigurationWarning) as caught:
        variables = read_env_file(project / ".env").variables
    assert variables["GROQ_API_KEY"] == "gsk_one"
    (warning,) = caught
    assert "line 3" in str(warning.message)
    assert str(project / ".env") in str(warning.message)
    assert "gsk_secret" not in str(warning.message)


def test_a_valid_file_gives_no_warning(load: Load) -> None:
    """Comments and blank lines are allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("# a comment\n\nGROQ_API_KEY=gsk_one\n\nOTHER=\n")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", [".env", "arche_magic.toml"])
def test_the_byte_order_mark_decides_the_encoding(project: Path, encoding: str, name: str) -> None:
    """PowerShell and old editors save files as UTF-16."""
    text = {".env": "GROQ_API_KEY=gsk_one # é\n", "arche_magic.toml": "patience = 7 # é\n"}[name]
    (project / name).write_bytes(text.encode(encoding))
    configuration = load_configuration(directory=project)
    assert keys_of(configuration) == (["gsk_one"] if name == ".env" else [])
    assert configuration.patience == (30 if name == ".env" else 7)


def test_a_line_in_another_encoding_does_not_affect_other_lines(load: Load, project: Path) -> None:
    """In a comment it does not matter. A value is not used, and its line is named."""
    env = "# clé\nGROQ_API_KEY=gsk_one\nMISTRAL_API_KEY=clé\n".encode("latin-1")
    with pytest.warns(ConfigurationWarning) as caught:
        configuration = load(env)
    assert keys_of(configuration) == ["gsk_one"]
    assert keys_of(configuration, "mistral") == []
    (warned,) = [str(warning.message) for warning in caught]
    assert warned.startswith(f"line 3 of {project / '.env'} was skipped: not NAME")


@pytest.mark.parametrize(
    "content",
    [
        "GROQ_API_KEY=gsk_file\n".encode("utf-16-le"),
        b"\xff\xfeG",
        b"\x00\x01\x02",
    ],
)
def test_an_unreadable_file_does_not_hide_the_environment(
    load: Load, project: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """One warning names the file, and the keys in the environment are used."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk_one")
    with pytest.warns(ConfigurationWarning, match=r"\.env cannot be read and was skipped"):
        configuration = load(content)
    assert keys_of(configuration) == ["gsk_one"]


# --- references in .env


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ("TOKEN=abc\nGROQ_API_KEY=${TOKEN}\n", "abc"),
        ("TOKEN=abc\nGROQ_API_KEY='${TOKEN}'\n", "abc"),
        ('TOKEN=abc\nexport GROQ_API_KEY="gsk_${TOKEN}_x"\n', "gsk_abc_x"),
        ("GROQ_API_KEY=${SECRET_TOKEN}\n", "from-the-environment"),
        ("SECRET_TOKEN=file\nGROQ_API_KEY=${SECRET_TOKEN}\n", "from-the-environment"),
        ("GROQ_API_KEY=${NOTHING:-else}\n", "else"),
        ("TOKEN=abc\nGROQ_API_KEY=${TOKEN:-else}\n", "abc"),
        ("GROQ_API_KEY=abc\nGROQ_API_KEY=${GROQ_API_KEY}d\n", "abcd"),
        ("A=abc\nB=${A}\nGROQ_API_KEY=${B}\n", "abc"),
        ("GROQ_API_KEY=a$TOKEN\n", "a$TOKEN"),
    ],
)
def test_references_are_expanded_as_python_dotenv_does(
    load: Load, project: Path, monkeypatch: pytest.MonkeyPatch, env: str, key: str
) -> None:
    """From the environment first, then from earlier lines."""
    monkeypatch.setenv("SECRET_TOKEN", "from-the-environment")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keys_of(load(env)) == [key]
    assert dotenv_as_loaded(project / ".env")["GROQ_API_KEY"] == key


def dotenv_as_loaded(path: Path) -> dict[str, str | None]:
    """The variables that `load_dotenv` would set."""
    return DotEnv(path, override=False, encoding="utf-8").dict()


@pytest.mark.parametrize(
    "value",
    ["${NOTHING}", "gsk_${NOTHING}", "${NOTHING-x}", "${NOTHING:?x}", "${NOTHING", "$NOTHING",
     "$(op read op://vault/key)", "${}", "`op read x`", "op://vault/item/key", "${NO:-${OTHER}}"],
)  # fmt: skip
def test_an_unresolved_reference_is_never_sent(load: Load, project: Path, value: str) -> None:
    """The line is named, and the other keys are used."""
    with pytest.warns(ConfigurationWarning) as caught:
        configuration = load(f"MISTRAL_API_KEY=m\nGROQ_API_KEY={value}\n")
    assert keys_of(configuration) == []
    assert keys_of(configuration, "mistral") == ["m"]
    (warned,) = [str(warning.message) for warning in caught]
    why = "it refers to a variable that is not set"
    if "${" not in value:
        why = "it is a reference, and only ${NAME} is expanded"
    assert warned == f"line 2 of {project / '.env'} was skipped: {why}"


@pytest.mark.parametrize("name", ["GROQ_BASE_URL", "ARCHE_QUOTA_STORE", "ARCHE_REPLIES"])
def test_an_unresolved_address_sends_no_prompt_to_the_service(load: Load, name: str) -> None:
    """Without its address, a prompt for the user's own server would go to the public service."""
    with pytest.raises(ConfigurationError, match=rf"line 1 of .*\.env: {name} refers to"):
        load(f"{name}=${{NOTHING}}\nGROQ_API_KEY=one\n")


# --- named pipes instead of .env


def serve_pipe(path: Path, content: bytes) -> threading.Thread:
    """Pass the content to the next reader, as a password manager does."""

    def write() -> None:
        with path.open("wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_named_pipe_is_read_once(project: Path) -> None:
    """It passes its content to each reader once, and may ask the user each time."""
    os.mkfifo(project / ".env", 0o600)
    writer = serve_pipe(project / ".env", b"GROQ_API_KEY=gsk_one\nA=" + b"a" * 100_000 + b"\n")
    for _ in range(3):
        assert keys_of(load_configuration(directory=project)) == ["gsk_one"]
    writer.join()


SERVE_PIPE = """
import sys
text = sys.stdin.buffer.read()
while True:
    pipe = open(sys.argv[1], "wb", buffering=0)
    try:
        pipe.write(text)
    except BrokenPipeError:
        pass
    pipe.close()
"""
READ_PIPE = """
import sys
from pathlib import Path
from arche_magic.llm_providers.config.env_file import read_env_file
print(*sorted((str(n), str(v)) for n, v in read_env_file(Path(sys.argv[1]), {}).variables.items()))
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize("padding", [10, 200_000])
def test_kernels_that_read_a_pipe_at_once_get_all_of_its_content(
    project: Path, padding: int
) -> None:
    """The writer opens the pipe again for each reader, as fast as it can."""
    os.mkfifo(project / ".env", 0o600)
    content = "# keys\nGROQ_API_KEY=gsk_one\nA=" + "a" * padding + "\nMISTRAL_API_KEY=m\n"
    writer = subprocess.Popen(
        [sys.executable, "-c", SERVE_PIPE, str(project / ".env")], stdin=subprocess.PIPE, text=True
    )
    assert writer.stdin
    writer.stdin.write(content)
    writer.stdin.close()
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READ_PIPE, str(project / ".env")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for reader in readers:
            out, _ = reader.communicate(timeout=60)
            assert out == (
                f"('A', '{'a' * padding}') ('GROQ_API_KEY', 'gsk_one') ('MISTRAL_API_KEY', 'm')\n"
            )
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_without_a_writer_does_not_block(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is skipped with a warning, and tried again only after a while."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk_one")
    monkeypatch.setattr(env_file, "_NO_WRITER_SECONDS", 0.1)
    os.mkfifo(project / ".env")
    with pytest.warns(ConfigurationWarning, match="no program writes to it"):
        assert keys_of(load_configuration(directory=project)) == ["gsk_one"]
    monkeypatch.setattr(env_file, "_NO_WRITER_SECONDS", 60.0)
    assert keys_of(load_configuration(directory=project)) == ["gsk_one"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_incomplete_content_of_a_pipe_is_not_used(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line may be part of a key."""
    monkeypatch.setattr(env_file, "_WRITER_SECONDS", 0.2)
    os.mkfifo(project / ".env")
    both_ends = os.open(project / ".env", os.O_RDWR)
    os.write(both_ends, b"GROQ_API_KEY=gsk_o")
    try:
        with pytest.warns(ConfigurationWarning, match="does not finish writing"):
            assert keys_of(load_configuration(directory=project)) == []
    finally:
        os.close(both_ends)


def test_keys_are_labelled_in_the_order_of_their_numbers(load: Load) -> None:
    """The variable without a number comes first; gaps, blanks and duplicates are skipped."""
    configuration = load(
        "GROQ_API_KEY_10=ten\nGROQ_API_KEY_2=two\nGROQ_API_KEY=plain\n"
        "GROQ_API_KEY_3=\nGROQ_API_KEY_4=plain\nGROQ_API_KEY_5='  '\nGROQ_API_KEY_X=no\n"
    )
    labelled = {key.label: key.secret() for key in configuration.keys}
    assert labelled == {"groq_key_1": "plain", "groq_key_2": "two", "groq_key_3": "ten"}


def test_gemini_api_key_is_the_same_as_google_api_key(load: Load) -> None:
    """Google uses both names."""
    configuration = load("GEMINI_API_KEY_2=second\nGEMINI_API_KEY=g\nGOOGLE_API_KEY=first\n")
    assert keys_of(configuration, "google") == ["first", "g", "second"]
    assert [key.label for key in configuration.keys] == [f"google_key_{n}" for n in (1, 2, 3)]


def test_the_environment_takes_precedence_over_the_file(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables exported in the shell are used, and nothing is written to the environment."""
    monkeypatch.setenv("GROQ_API_KEY", '"exported"')
    assert keys_of(load("GROQ_API_KEY=file\nMISTRAL_API_KEY=m\n")) == ["exported"]
    assert "MISTRAL_API_KEY" not in os.environ


def test_the_nearest_env_file_upward_is_read(project: Path) -> None:
    """The file in the notebook's folder is found before that of the project."""
    inner = project / "notebooks" / "deep"
    inner.mkdir(parents=True)
    (project / ".env").write_text("GROQ_API_KEY=outer\n")
    assert keys_of(load_configuration(directory=inner)) == ["outer"]
    (project / "notebooks" / ".env").write_text("GROQ_API_KEY=inner\n")
    assert keys_of(load_configuration(directory=inner)) == ["inner"]


def test_base_urls_come_from_their_variables(load: Load) -> None:
    """Each provider has its own variable."""
    configuration = load(
        "GROQ_BASE_URL=http://127.0.0.1:1\nMISTRAL_BASE_URL=http://127.0.0.1:2\n"
        "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:3\nOPENAI_BASE_URL=http://127.0.0.1:4\n"
    )
    ports = {name: entry.base_url for name, entry in configuration.providers.items()}
    assert ports == {
        "groq": "http://127.0.0.1:1",
        "mistral": "http://127.0.0.1:2",
        "google": "http://127.0.0.1:3",
        "openai": "http://127.0.0.1:4",
    }
    assert load_configuration({}).providers["groq"].base_url is None


def test_variables_passed_as_an_argument_replace_all_files(project: Path) -> None:
    """With an explicit environment, no file is read."""
    (project / ".env").write_text("GROQ_API_KEY=file\n")
    (project / "arche_magic.toml").write_text("patience = 1\n")
    configuration = load_configuration({"MISTRAL_API_KEY": "m"}, project)
    assert [key.label for key in configuration.keys] == ["mistral_key_1"]
    assert configuration.patience == 30


# --- location of the ledger


def test_the_ledger_is_stored_beside_the_env_file_with_the_keys(project: Path) -> None:
    """All notebooks of a project share one ledger, whatever their folder."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text("GROQ_API_KEY=one\n")
    expected = project.resolve() / "outputs" / "llm_quota_tracker.json"
    assert Path(load_configuration(directory=inner).store) == expected


def test_an_env_file_without_keys_does_not_move_the_ledger(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the keys come from the shell, the ledger stays in the working directory."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text("DATABASE=x\nGROQ_API_KEY=\n")
    monkeypatch.setenv("GROQ_API_KEY", "one")
    expected = inner / "outputs" / "llm_quota_tracker.json"
    assert Path(load_configuration(directory=inner).store) == expected


@pytest.mark.parametrize("store", ["memory://shared", "/somewhere/ledger.json"])
def test_the_store_variable_takes_precedence(
    load: Load, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """A path or a URL in the environment is used unchanged."""
    monkeypatch.setenv("ARCHE_QUOTA_STORE", store)
    assert load("GROQ_API_KEY=one\n").store == store


def test_the_store_may_be_in_the_home_folder(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is expanded as in a shell."""
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "~/ledger.json")
    assert load().store == str(Path.home() / "ledger.json")


@pytest.mark.parametrize("path", ["$HOME/a.json", "${HOME}/a.json", r"%USERPROFILE%\a.json"])
@pytest.mark.parametrize("variable", ["ARCHE_QUOTA_STORE", "ARCHE_REPLIES"])
def test_a_path_with_a_variable_creates_no_folder_of_its_name(
    load: Load, monkeypatch: pytest.MonkeyPatch, variable: str, path: str
) -> None:
    """A kernel's settings and Docker files set variables as they are written, without a shell."""
    monkeypatch.setenv(variable, path)
    with pytest.raises(ConfigurationError, match=f"{variable}.*only a shell would expand"):
        load()


@pytest.mark.parametrize("store", ["ledger.json", "./data/../ledger.json", "{project}/ledger.json"])
def test_a_path_in_an_env_file_is_relative_to_that_file(project: Path, store: str) -> None:
    """All notebooks of a project share the ledger, whatever their folder."""
    inner = project / "notebooks"
    inner.mkdir()
    (project / ".env").write_text(f"ARCHE_QUOTA_STORE={store.format(project=project)}\n")
    found = load_configuration(directory=inner).store
    assert os.path.normpath(found) == str(project / "ledger.json")


def test_an_unknown_kind_of_store_is_refused(load: Load) -> None:
    """The message names the variable."""
    with pytest.raises(ConfigurationError, match=r"ARCHE_QUOTA_STORE.*ftp"):
        get_quota_tracker(load("ARCHE_QUOTA_STORE=ftp://host/ledger\n"))


# --- arche_magic.toml


def test_the_settings_file_sets_order_patience_models_and_default(load: Load) -> None:
    """Providers missing from the order follow in the default order."""
    configuration = load(
        toml="""
        default_provider = "mistral"
        order = ["google", "groq"]
        patience = 5
        [providers.groq]
        models = ["openai/gpt-oss-20b", "brand-new-model"]
        paid = true
        """
    )
    assert list(configuration.providers) == ["google", "groq", "mistral", "openai"]
    assert configuration.default_provider == "mistral"
    assert configuration.patience == 5
    assert configuration.providers["groq"].models == ("openai/gpt-oss-20b", "brand-new-model")
    assert configuration.providers["groq"].paid
    assert configuration.resolve_model("brand-new-model") == {"groq": ["brand-new-model"]}


def test_an_alias_is_replaced_by_its_model(load: Load) -> None:
    """It may have the name of another model, and is replaced before the request is hashed."""
    configuration = load(
        toml="""
        [aliases]
        fast = "groq/openai/gpt-oss-20b"
        "gpt-4o" = "gemini-3.5-flash-lite"
        """
    )
    assert configuration.resolve_model("fast") == {"groq": ["openai/gpt-oss-20b"]}
    assert configuration.resolve_model("gpt-4o") == {"google": ["gemini-3.5-flash-lite"]}
    assert build_request("Hi", configuration, model="fast").model == "groq/openai/gpt-oss-20b"
    with pytest.raises(ConfigurationError, match="is a model of groq, not of mistral"):
        configuration.resolve_model("fast", "mistral")
    with pytest.raises(ConfigurationError, match="did you mean 'fast'"):
        configuration.resolve_model("fastt")


@pytest.mark.parametrize(
    ("alias", "says"),
    [
        ('fast = "gorq/llama"', "[aliases]: fast: unknown model 'gorq/llama'"),
        ('fast = "gpt-oss-20c"', "did you mean 'openai/gpt-oss-20b'?"),
        ('fast = ""', "[aliases]: fast"),
        ("fast = 5", "[aliases]: fast is 5; it must be the name of a model"),
        ('groq = "gpt-oss-20b"', "[aliases]: 'groq' is taken; choose another name"),
        ('auto = "gpt-oss-20b"', "[aliases]: 'auto' is taken; choose another name"),
        ('a = "gpt-oss-20b"\nb = "a"', "[aliases]: b is 'a', an alias; write the model's name"),
    ],
)
def test_an_invalid_alias_is_refused(load: Load, alias: str, says: str) -> None:
    """The message names the file, the alias and the valid values."""
    with pytest.raises(ConfigurationError) as caught:
        load(toml=f"[aliases]\n{alias}")
    assert "arche_magic.toml: " in str(caught.value)
    assert says in str(caught.value)


def test_the_settings_file_sets_timeouts(load: Load) -> None:
    """Timeouts that are not set keep their defaults."""
    assert load().timeouts == Timeouts()
    timeouts = load(toml="[timeouts]\nfirst_token = 5\ntotal = 90.5").timeouts
    assert timeouts == Timeouts(first_token=5.0, total=90.5)


def test_limits_can_be_set_per_provider_model_and_key(load: Load) -> None:
    """A narrower scope overrides a wider one, limit by limit, with the evidence `configured`."""
    configuration = load(
        "GROQ_API_KEY=one\nGROQ_API_KEY_2=two\n",
        """
        [limits.groq]
        requests_per_minute = 20
        requests_per_day = 500
        [limits."groq/openai/gpt-oss-120b"]
        requests_per_minute = 10
        [limits.groq_key_2]
        requests_per_minute = 5
        tokens_per_hour = 99
        """,
    )

    def limits(label: str) -> dict[str, float]:
        route = next(r for r in configuration.routes() if r.key.label == label)
        return {limit.name: limit.amount for limit in configuration.default_limits(route)}

    assert limits("groq_key_1") == {
        "requests_per_minute": 10,
        "requests_per_day": 500,
        "tokens_per_minute": 8000,
        "tokens_per_day": 200_000,
    }
    assert limits("groq_key_2")["requests_per_minute"] == 5
    assert limits("groq_key_2")["tokens_per_hour"] == 99
    route = configuration.routes()[0]
    evidence = {limit.name: limit.evidence for limit in configuration.default_limits(route)}
    assert evidence["requests_per_day"] == "configured"
    assert evidence["tokens_per_day"] == "published"


def test_keys_can_be_assigned_to_one_account(load: Load) -> None:
    """Keys with the same name share an account; all other keys have their own."""
    configuration = load(
        "GROQ_API_KEY=one\nGROQ_API_KEY_2=two\nGROQ_API_KEY_3=three\n",
        '[accounts]\ngroq_key_1 = "team"\ngroq_key_2 = "team"\n',
    )
    one, two, three = (key.account for key in configuration.keys)
    assert one == two == "team"
    assert three not in (one, two)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("ordre = []", "did you mean 'order'"),
        ('order = ["grok"]', "did you mean 'groq'"),
        ('order = "groq"', "list of provider names"),
        ("patience = -1", "patience"),
        ("patience = true", "patience"),
        (f"patience = {10**400}", "patience is 1000"),
        (f"[timeouts]\nconnect = {10**400}", "connect is 1000"),
        (f"[budget]\nper_day = {10**400}", "per_day is 1000"),
        ("patience = " + 2000 * "[" + 2000 * "]", "its values are nested too deeply"),
        ("default_provider = 3", "default_provider"),
        ("default_provider = 'grok'", "default_provider: unknown provider 'grok'; did you mean"),
        ("[timeouts]\ntotall = 3", "did you mean 'total'"),
        ("[timeouts]\nsilence = 0", "silence is 0; it must be a number of seconds greater than 0"),
        ("[timeouts]\nsilence = inf", "silence is inf"),
        ("[timeouts]\nconnect = true", "connect is True"),
        ("timeouts = 3", "must be a table"),
        ("[providers.grok]\nmodels = ['x']", "did you mean 'groq'"),
        ("[providers]\ngroq = 3", "must be a table"),
        ("[providers.groq]\nmodel = 'x'", "unknown setting 'model'"),
        ("[providers.groq]\nmodels = 'x'", "list of model names"),
        ("[providers.groq]\nmodels = ['']", "list of model names"),
        ("limits = 3", "must be a table"),
        ("[limits]\ngroq = 3", "must be a table"),
        ("[limits.grok]\nrequests_per_minute = 1", "a key's label"),
        ("[limits.groq]\nrequests_per_fortnight = 1", "is not a limit"),
        ("[limits.groq]\nrequests_per_minute = 'many'", "must be a number"),
        ("[limits.groq]\nrequests_per_minute = -1", "must be a number"),
        ("[limits.groq]\nwindow = 'open'", "bucket, calendar or rolling"),
        ("[limits.groq]\ntime_zone = 'Mars/Olympus'\nrequests_per_day = 1", "time_zone"),
        ("[limits.groq_key_x]\nrequests_per_minute = 1", "a key's label"),
        ("[accounts]\ngrok_key_1 = 'team'", "key label"),
        ("[accounts]\ngroq_key_0 = 'team'", "key label"),
        ("[accounts]\ngroq_key_1 = ['team']", "groq_key_1 is ['team']; it must be a name"),
        ("[accounts]\ngroq_key_1 = ' '", "it must be a name"),
        ("order = [", "cannot be read"),
    ],
)
def test_an_invalid_setting_is_an_error_that_names_the_file(
    load: Load, project: Path, toml: str, words: str
) -> None:
    """The message names the file, the setting and its valid values."""
    with pytest.raises(ConfigurationError) as caught:
        load(toml=toml)
    assert words in str(caught.value)
    assert str(project / "arche_magic.toml") in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_users_own_settings_apply_if_a_project_has_none(project: Path, tmp_path: Path) -> None:
    """The nearest file is used."""
    folder = tmp_path / "user-settings" / "arche_magic"
    folder.mkdir(parents=True)
    (folder / "arche_magic.toml").write_text("patience = 7\n")
    assert load_configuration(directory=project).patience == 7
    (project / "arche_magic.toml").write_text("patience = 8\n")
    assert load_configuration(directory=project).patience == 8


# --- choosing a provider


def test_the_provider_variable_sets_the_default(load: Load) -> None:
    """`ARCHE_LLM_PROVIDER` takes precedence over the settings file."""
    configuration = load("ARCHE_LLM_PROVIDER=groq\n", 'default_provider = "mistral"\n')
    assert configuration.default_provider == "groq"
    use_configuration(configuration)
    try:
        assert get_llm_provider().providers == ("groq",)
        assert get_llm_provider("Intelligent").providers == tuple(configuration.providers)
        with pytest.raises(ConfigurationError, match="did you mean 'mistral'"):
            get_llm_provider("mistrall")
    finally:
        use_configuration(None)


def test_an_unknown_provider_is_an_error_with_the_closest_name() -> None:
    """The message also lists all providers."""
    with pytest.raises(ConfigurationError, match=r"did you mean 'google'\?"):
        load_configuration({}).provider("gogle")


# --- choosing a model


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        ("gpt-4.1-mini", None, {"openai": ["gpt-4.1-mini"]}),
        ("mistral/mistral-large-latest", None, {"mistral": ["mistral-large-latest"]}),
        ("mistral/not-in-the-catalog", None, {"mistral": ["not-in-the-catalog"]}),
        ("groq/openai/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-oss-120b", "groq", {"groq": ["openai/gpt-oss-120b"]}),
        ("openai/gpt-4.1", None, {"openai": ["gpt-4.1"]}),
        ("openai/gpt-4.1", "openai", {"openai": ["gpt-4.1"]}),
        ("gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("gpt-oss-120b", "groq", {"groq": ["openai/gpt-oss-120b"]}),
        ("groq/gpt-oss-120b", None, {"groq": ["openai/gpt-oss-120b"]}),
        ("brand-new", "groq", {"groq": ["brand-new"]}),
        ("vendor/brand-new", "groq", {"groq": ["vendor/brand-new"]}),
        (None, "groq", {"groq": ["openai/gpt-oss-120b"]}),
    ],
)
def test_a_model_finds_its_provider(
    model: str | None, provider: str | None, expected: dict[str, list[str]]
) -> None:
    """A bare name, a short name or `provider/model` finds the provider that has the model."""
    assert load_configuration({}).resolve_model(model, provider) == expected


@pytest.mark.parametrize(
    ("model", "provider", "words"),
    [
        ("gpt-4.1-mini", "groq", "is a model of openai, not of groq"),
        ("openai/gpt-oss-120b", "openai", "is a model of groq, not of openai"),
        ("mistral/mistral-small-latest", "groq", "is a model of mistral, not of groq"),
        ("gpt-4.1-mni", None, "did you mean 'gpt-4.1-mini'"),
        ("nobody-knows-it", None, "write provider/model"),
        ("gpt-4.1-mini", "opnai", "did you mean 'openai'"),
    ],
)
def test_a_model_that_no_provider_has_is_refused(
    model: str, provider: str | None, words: str
) -> None:
    """No name is sent to a provider that is known not to have it."""
    with pytest.raises(ConfigurationError) as caught:
        load_configuration({}).resolve_model(model, provider)
    assert words in str(caught.value)


# --- secrets


def test_nothing_printed_or_pickled_shows_a_key() -> None:
    """`repr`, `str`, `format` and tracebacks show the label; pickling and copying are refused."""
    key = Key.of("groq", "groq_key_1", "gsk_very_secret")
    configuration = load_configuration({"GROQ_API_KEY": "gsk_very_secret"})
    for shown in (key, configuration, configuration.routes(), vars(key)):
        assert "gsk_very" not in f"{shown!r} {shown!s}"
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(key)
    assert "gsk_very" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(TypeError):
        copy.deepcopy(key)
    assert key.secret() == "gsk_very_secret"


@pytest.mark.parametrize("model", ["gpt-oss-120b", "openai/gpt-oss-120b", "gemini-3.8-flash"])
def test_a_model_is_not_sent_to_a_provider_without_it(model: str) -> None:
    """Neither by its full name nor by its short one."""
    with pytest.raises(ConfigurationError, match="not of mistral"):
        load_configuration({}).resolve_model(model, "mistral")
