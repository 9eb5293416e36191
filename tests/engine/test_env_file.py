"""`.env` and the environment: how lines, references and named pipes are read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from config_parts import Load, keys_of
from dotenv.main import DotEnv

from arche_magic.llm_providers.config import (
    env_file,
    load_configuration,
)
from arche_magic.llm_providers.config.env_file import ConfigurationWarning, read_env_file
from arche_magic.llm_providers.errors import ConfigurationError

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
    """Values come from the environment first, then from earlier lines."""
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
