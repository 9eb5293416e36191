"""A project's files cannot send the user's keys elsewhere, and their effects are reported."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from echo_server import echo_server
from leaks import PLANTED, keys_of

from arche_magic.llm_providers import get_llm_provider
from arche_magic.llm_providers.config import Configuration, load_configuration, use_configuration
from arche_magic.llm_providers.config.env_file import ConfigurationWarning
from arche_magic.llm_providers.errors import ConfigurationError

ELSEWHERE = "https://gateway.example/v1"
LOOK_ALIKES = [
    "http://api.groq.com",  # unencrypted
    "https://api.groq.com.example",
    "https://api.groq.com:8443",
    "https://example/api.groq.com",
    "https://127.0.0.1.example",
    "http://0.0.0.0:8000",
    "http://2130706434",
    "https://localhost.example",
    "http://models.localhost:8000",  # The resolver decides where this leads.
]
NO_ADDRESSES = [
    "api.groq.com",
    "https://",
    "ftp://127.0.0.1",
    "https://user:password@127.0.0.1",
    "https://127.0.0.1@gateway.example",
    "https://127.0.0.1\\@gateway.example",
    "https://gateway.example#@127.0.0.1",
    "https://gateway.example?x=127.0.0.1",
    "https://\u0430pi.groq.com",  # a Cyrillic letter
    "https://127.0.0.1:99999",
]


@pytest.fixture
def folder(tmp_path: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cloned project. The user's keys are in the environment."""
    monkeypatch.setenv("GROQ_API_KEY", PLANTED["groq_key_1"])
    project = tmp_path / "cloned"
    project.mkdir()
    return project


Load = Callable[[], tuple[Configuration, list[str]]]


@pytest.fixture
def load(folder: Path) -> Load:
    """Load the configuration, and return it with the warnings."""

    def read() -> tuple[Configuration, list[str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            configuration = load_configuration(directory=folder)
        assert all(w.category is ConfigurationWarning for w in caught), caught
        return configuration, [str(w.message) for w in caught]

    return read


def refusal(load: Load) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- base URLs


@pytest.mark.parametrize("address", [ELSEWHERE, *LOOK_ALIKES])
def test_an_env_file_cannot_send_a_key_elsewhere(folder: Path, load: Load, address: str) -> None:
    """The error names the file, the line, and what to write where."""
    (folder / ".env").write_text(f"GROQ_BASE_URL={address}\n")
    message = refusal(load)
    assert message.startswith(f"GROQ_BASE_URL in {folder / '.env'} would send prompts and keys")
    assert re.match(r"https?://[^/]*", address)[0] in message
    assert "trust_base_urls" in message


def test_following_the_error_message_solves_it(
    folder: Path, load: Load, own_settings: Path
) -> None:
    """The suggested line allows the address, which is announced once."""
    (folder / ".env").write_text(f"GROQ_BASE_URL={ELSEWHERE}\n")
    message = refusal(load)
    line, place = re.search(
        r'write (trust_base_urls = \["\S+"\]) .* into (\S+) or', message
    ).groups()
    assert Path(place) == own_settings
    own_settings.write_text(line)
    configuration, messages = load()
    assert configuration.providers["groq"].url == ELSEWHERE
    assert messages == [
        (
            f"prompts and keys for Groq are sent to https://gateway.example "
            f"(GROQ_BASE_URL in {folder / '.env'})"
        )
    ]
    assert load()[1] == []
    own_settings.write_text("trust_base_urls = true")
    assert load()[0].providers["groq"].url == ELSEWHERE
    own_settings.write_text('trust_base_urls = ["https://another.example"]')
    assert "would send" in refusal(load)


def test_a_project_cannot_trust_itself(folder: Path, load: Load, own_settings: Path) -> None:
    """Its own settings file cannot allow any address."""
    (folder / "arche_magic.toml").write_text("trust_base_urls = true")
    assert str(own_settings) in refusal(load)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", "a number"),
        ('"https://gateway.example"', "text"),
        ('["gateway.example"]', "a list with a wrong entry"),
    ],
)
def test_an_invalid_trust_setting_is_an_error(
    load: Load, own_settings: Path, value: str, kind: str
) -> None:
    """The message says what kind of value it is, but not the value, which may be a key."""
    own_settings.write_text(f"trust_base_urls = {value}")
    said = f"{own_settings}: trust_base_urls is {kind}; it must be true, or a list of addresses"
    assert refusal(load).startswith(said)


def test_the_environment_is_trusted(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address in the environment is intended, and overrides the file's."""
    monkeypatch.setenv("GROQ_BASE_URL", ELSEWHERE)
    (folder / ".env").write_text("GROQ_BASE_URL=https://evil.example\n")
    configuration, messages = load()
    assert configuration.providers["groq"].url == ELSEWHERE
    assert messages == []


@pytest.mark.parametrize(
    "address",
    ["https://api.groq.com", "http://127.0.0.1:8000/groq", "http://localhost:1", "http://[::1]:1"],
)
def test_the_providers_own_address_and_this_machine_are_allowed(
    folder: Path, load: Load, address: str
) -> None:
    """These addresses are no risk."""
    (folder / ".env").write_text(f"GROQ_BASE_URL={address}\n")
    configuration, messages = load()
    assert configuration.providers["groq"].url == address
    assert messages == []


def test_an_address_without_a_key_is_allowed(folder: Path, load: Load) -> None:
    """Without a key for the provider, it is no risk."""
    (folder / ".env").write_text(f"MISTRAL_BASE_URL={ELSEWHERE}\n")
    assert load()[1] == []


@pytest.mark.parametrize("address", NO_ADDRESSES)
@pytest.mark.parametrize("where", ["file", "environment"])
def test_an_ambiguous_address_is_refused(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch, address: str, where: str
) -> None:
    """The message does not repeat it, because it may contain a password."""
    if where == "file":
        (folder / ".env").write_text(f"GROQ_BASE_URL={address}\n", encoding="utf-8")
    else:
        monkeypatch.setenv("GROQ_BASE_URL", address)
    message = refusal(load)
    assert "GROQ_BASE_URL" in message
    assert "must be an address such as https://host/path" in message
    assert "password@" not in message


def test_addresses_in_a_settings_file_need_permission_too(
    folder: Path, load: Load, own_settings: Path
) -> None:
    """Those in the user's own file do not."""
    table = f'[providers.groq]\nbase_url = "{ELSEWHERE}"\n'
    (folder / "arche_magic.toml").write_text(table)
    message = refusal(load)
    assert f"[providers.groq] base_url in {folder / 'arche_magic.toml'} would send" in message
    own_settings.write_text("trust_base_urls = true")
    assert len(load()[1]) == 1
    (folder / "arche_magic.toml").unlink()
    own_settings.write_text(table)
    configuration, messages = load()
    assert configuration.providers["groq"].url == ELSEWHERE
    assert messages == []


def test_a_relative_settings_folder_is_ignored(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be inside any working directory."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "arche_magic").mkdir()
    (folder / "arche_magic" / "arche_magic.toml").write_text("trust_base_urls = true")
    (folder / ".env").write_text(f"GROQ_BASE_URL={ELSEWHERE}\n")
    assert "would send" in refusal(load)


def test_a_refused_address_gets_no_request(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other providers are not asked either, so that the user looks at the project."""
    monkeypatch.chdir(folder)
    with echo_server() as elsewhere:
        port = elsewhere.url.rpartition(":")[2]
        (folder / ".env").write_text(f"GROQ_BASE_URL=http://0.0.0.0:{port}\n")
        with pytest.raises(ConfigurationError):
            get_llm_provider().generate("Hello", patience=0)
        assert elsewhere.received == []


# --- keys in settings files, which is a mistake


def test_a_key_in_a_settings_file_is_not_repeated(folder: Path, load: Load) -> None:
    """The error says where keys belong."""
    key = "gsk_" + "MadeUp0987" * 5
    (folder / "arche_magic.toml").write_text(f'GROQ_API_KEY = "{key}"')
    assert refusal(load).endswith("keys go into the environment or into .env")
    (folder / "arche_magic.toml").write_text(f'[providers]\ngroq = "{key}"')
    assert key[4:] not in refusal(load)


# --- location of the ledger


@pytest.mark.parametrize(
    "store", ["redis://ledger.example:6379/0", "rediss://u:secret@ledger.example/0"]
)
def test_a_ledger_elsewhere_is_announced(folder: Path, load: Load, store: str) -> None:
    """Once, with the file that names it and without a password."""
    (folder / ".env").write_text(f"ARCHE_QUOTA_STORE={store}\n")
    (messages,) = load()[1]
    assert messages.startswith("the ledger is stored in ")
    assert messages.endswith(f"(ARCHE_QUOTA_STORE in {folder / '.env'})")
    assert "secret" not in messages
    assert load()[1] == []


@pytest.mark.parametrize(
    "store", ["memory://x", "l.json", "outputs/l.json", "redis://127.0.0.1/0", "redis://localhost"]
)
def test_a_local_ledger_is_not_announced(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """In memory, in the project or on this machine, it is expected."""
    monkeypatch.chdir(folder)
    (folder / ".env").write_text(f"ARCHE_QUOTA_STORE={store}\n")
    assert load()[1] == []
    (folder / ".env").unlink()
    monkeypatch.setenv("ARCHE_QUOTA_STORE", "redis://ledger.example/0")
    assert load()[1] == []


# --- owners and readers of files


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine can read; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder.resolve()
    shutil.rmtree(folder)


posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give a file to another user"
)


@posix
@pytest.mark.parametrize(
    ("mode", "warns"), [(0o644, True), (0o604, True), (0o602, True), (0o600, False), (0o640, False)]
)
def test_a_file_with_keys_that_others_can_read_gives_a_warning(
    open_folder: Path, own_settings: Path, mode: int, warns: bool
) -> None:
    """One warning per file and process names the command. The user's own group is fine."""
    env_file = open_folder / ".env"
    env_file.write_text(f"GROQ_API_KEY={PLANTED['groq_key_1']}\n")
    env_file.chmod(mode)
    expected = (
        f"other users of this machine can read the keys in {env_file}; run: chmod 600 {env_file}"
    )
    for round_ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_configuration(directory=open_folder)
        messages = [str(warning.message) for warning in caught]
        assert messages == ([expected] if warns and round_ == 0 else [])


@posix
def test_unreachable_files_give_no_warning(
    open_folder: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without keys give none either."""
    inner = open_folder / "private"
    inner.mkdir(mode=0o700)
    (inner / ".env").write_text(f"GROQ_API_KEY={PLANTED['groq_key_1']}\n")
    (open_folder / ".env").write_text("EDITOR=vi\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_configuration(directory=inner).keys) == 1
        assert load_configuration(directory=open_folder).keys == ()


@root
@pytest.mark.parametrize("name", [".env", "arche_magic.toml"])
def test_a_file_of_another_user_is_skipped(
    open_folder: Path, own_settings: Path, name: str
) -> None:
    """It may be in /tmp. The warning says so, and the next file upward is used."""
    shared = open_folder / "shared"
    mine = shared / "mine"
    mine.mkdir(parents=True)
    contents = {".env": "GROQ_API_KEY={}\n", "arche_magic.toml": "patience = {}\n"}[name]
    (open_folder / name).write_text(contents.format(7))
    (shared / name).write_text(contents.format(8))
    os.chown(shared / name, 12345, 12345)
    with pytest.warns(ConfigurationWarning, match="belongs to another user and was skipped"):
        configuration = load_configuration(directory=mine)
    assert [key.secret() for key in configuration.keys] == (["7"] if name == ".env" else [])
    assert configuration.patience == (30 if name == ".env" else 7)


@root
def test_a_link_of_another_user_to_an_own_file_is_skipped(
    open_folder: Path, own_settings: Path
) -> None:
    """The user who created the link chose the file."""
    (open_folder / "mine").write_text("GROQ_API_KEY=7\n")
    (open_folder / "sub").mkdir()
    (open_folder / ".env").symlink_to(open_folder / "mine")
    os.chown(open_folder / ".env", 12345, 12345, follow_symlinks=False)
    with pytest.warns(ConfigurationWarning, match="skipped"):
        assert load_configuration(directory=open_folder / "sub").keys == ()


@root
def test_the_owner_of_the_working_folder_is_trusted(open_folder: Path, own_settings: Path) -> None:
    """In a container, the mounted folder often belongs to another user."""
    (open_folder / ".env").write_text("GROQ_API_KEY=7\n")
    os.chown(open_folder / ".env", 12345, 12345)
    os.chown(open_folder, 12345, 12345)
    assert len(load_configuration(directory=open_folder).keys) == 1
    open_folder.chmod(0o777)
    with pytest.warns(ConfigurationWarning, match="skipped"):
        assert load_configuration(directory=open_folder).keys == ()


# --- settings made in code


def test_settings_made_in_code_are_trusted(tmp_path: Path) -> None:
    """They are never refused."""
    keys = {"GROQ_API_KEY": keys_of("groq")[0], "GROQ_BASE_URL": ELSEWHERE}
    configuration = load_configuration(keys, tmp_path)
    use_configuration(configuration)
    assert get_llm_provider("groq").configuration.providers["groq"].url == ELSEWHERE


def test_the_settings_on_the_security_page_exist() -> None:
    """They are accepted as shown."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert set(tomllib.loads(block)) <= {"trust_base_urls", "trust_key_variables"}


# --- services that a project's settings add


def service(folder: Path, name: str, **settings: str) -> None:
    lines = [f'{setting} = "{value}"' for setting, value in settings.items()]
    text = "\n".join([f"[providers.{name}]", 'models = ["m"]', *lines])
    (folder / "arche_magic.toml").write_text(text)


def test_a_service_of_a_project_gets_no_key_without_permission(
    folder: Path, load: Load, own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key is sent, and the message says what to write where."""
    monkeypatch.setenv("HELPER_API_KEY", "a-key-that-stays-here")
    service(folder, "helper", base_url=ELSEWHERE)
    message = refusal(load)
    assert "[providers.helper] base_url in" in message
    assert "needs your permission: write trust_base_urls" in message
    service(folder, "helper", base_url=ELSEWHERE, key_variable="GROQ_API_KEY")
    assert "would send prompts and keys for helper to https://gateway.example" in refusal(load)
    own_settings.write_text('trust_base_urls = ["https://gateway.example"]')
    configuration, messages = load()
    assert configuration.providers["helper"].url == ELSEWHERE
    assert len(messages) == 1


def test_a_known_service_gets_its_own_key_and_no_other(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own address is known. Keys of other providers need permission."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "a-key-of-openrouter")
    service(folder, "openrouter")
    assert load()[1] == []
    service(
        folder, "second", base_url="https://openrouter.ai/api/v1", key_variable="OPENROUTER_API_KEY"
    )
    assert load()[1] == []
    service(folder, "openrouter", key_variable="GROQ_API_KEY")
    assert "[providers.openrouter] key_variable in" in refusal(load)
    service(folder, "openrouter", base_url="https://openrouter.ai.example/api/v1")
    assert "would send" in refusal(load)


SECRET = "AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize("variable", [SECRET, "GITHUB_TOKEN", "PATH", "DATABASE_URL"])
def test_a_project_cannot_send_arbitrary_variables_as_keys(
    folder: Path,
    load: Load,
    own_settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """This includes servers on this machine, unless the user's own settings allow the variable."""
    monkeypatch.setenv(variable, "a-secret-that-stays-here")
    service(folder, "helper", base_url="http://127.0.0.1:8000/v1", key_variable=variable)
    message = refusal(load)
    assert message.startswith(f"[providers.helper] key_variable in {folder / 'arche_magic.toml'}")
    assert "a-secret" not in message
    line, place = re.search(r'write (trust_key_variables = \["\S+"\]) into (\S+)', message).groups()
    assert Path(place) == own_settings
    own_settings.write_text(line)
    configuration, messages = load()
    assert [key.provider for key in configuration.keys] == ["groq", "helper"]
    assert messages == [
        (
            f"{variable} is sent to http://127.0.0.1:8000 "
            f"([providers.helper] base_url in {folder / 'arche_magic.toml'})"
        )
    ]


def test_a_referenced_key_goes_to_its_own_service(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that the project uses does not matter."""
    monkeypatch.setenv("MY_TOKEN", "a-key-of-openrouter")
    (folder / ".env").write_text("OPENROUTER_API_KEY=${MY_TOKEN}\n")
    service(
        folder, "second", base_url="https://openrouter.ai/api/v1", key_variable="OPENROUTER_API_KEY"
    )
    configuration, messages = load()
    assert [key.secret() for key in configuration.keys][1:] == ["a-key-of-openrouter"]
    assert messages == []


def test_a_project_cannot_allow_a_variable(folder: Path, load: Load) -> None:
    """Only the user's own settings can do that."""
    (folder / "arche_magic.toml").write_text(f'trust_key_variables = ["{SECRET}"]')
    assert "trust_key_variables is only allowed in your own settings" in refusal(load)


def test_a_projects_own_key_may_go_to_its_service(folder: Path, load: Load) -> None:
    """It is in the project's `.env`, so nothing of the user is sent."""
    (folder / ".env").write_text("HELPER_API_KEY=a-key-of-the-project\n")
    service(folder, "helper", base_url="http://127.0.0.1:8000/v1")
    assert load()[1] == []


@pytest.mark.parametrize("value", [f"${{{SECRET}}}", f"x${{{SECRET}}}", f"${{{SECRET}:-x}}"])
def test_references_do_not_bypass_these_rules(
    folder: Path, load: Load, own_settings: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """References work only for a key's own service and for allowed addresses."""
    monkeypatch.setenv(SECRET, "a-secret-that-stays-here")
    (folder / ".env").write_text(f"MISTRAL_API_KEY={value}\n")
    assert load()[1] == []
    with (folder / ".env").open("a") as file:
        file.write("MISTRAL_BASE_URL=http://127.0.0.1:8000\n")
    message = refusal(load)
    assert f"MISTRAL_API_KEY in {folder / '.env'} would send {SECRET}" in message
    (folder / ".env").write_text(f"HELPER_API_KEY={value}\nA=1\n")
    service(folder, "helper", base_url="http://127.0.0.1:8000/v1")
    assert f"HELPER_API_KEY in {folder / '.env'} would send {SECRET}" in refusal(load)
    (folder / ".env").write_text(f"A={value}\nHELPER_API_KEY=${{A}}\n")
    assert f"HELPER_API_KEY in {folder / '.env'} would send {SECRET}" in refusal(load)
    own_settings.write_text(f'trust_key_variables = ["{SECRET}"]')
    assert len(load()[0].keys) == 2


@pytest.mark.parametrize(
    "line",
    [
        "GROQ_BASE_URL=http://127.0.0.1:8000/{}",
        "GROQ_BASE_URL=https://api.groq.com/{}",
        "ARCHE_QUOTA_STORE=redis://:{}@ledger.example/0",
        "ARCHE_QUOTA_STORE={}.json",
        "ARCHE_REPLIES={}.sqlite",
    ],
)
def test_an_address_of_a_project_cannot_contain_variables(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """It could reveal any secret."""
    monkeypatch.setenv(SECRET, "a-secret-that-stays-here")
    (folder / ".env").write_text(f"{line.format(f'${{{SECRET}}}')}\n")
    message = refusal(load)
    assert f"in {folder / '.env'} refers to {SECRET} in the environment" in message
    assert "a-secret" not in message


def test_a_refused_service_gets_no_request(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is sent while such a table exists."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HELPER_API_KEY", "a-key-that-stays-here")
    with echo_server() as elsewhere:
        port = elsewhere.url.rpartition(":")[2]
        service(folder, "helper", base_url=f"http://0.0.0.0:{port}/v1")
        with pytest.raises(ConfigurationError):
            get_llm_provider().generate("Hello", patience=0)
        assert elsewhere.received == []


def test_the_users_own_settings_can_add_any_service(
    load: Load, own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are trusted."""
    monkeypatch.setenv("HELPER_API_KEY", "a-key-of-the-helper")
    own_settings.write_text(f'[providers.helper]\nbase_url = "{ELSEWHERE}"\nmodels = ["m"]\n')
    configuration, messages = load()
    assert configuration.providers["helper"].url == ELSEWHERE
    assert messages == []
