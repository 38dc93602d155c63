"""Settings: the order of the layers, the exact words of each refusal, secrets, help, and explain's round trip."""

from __future__ import annotations

import argparse
import importlib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from tests.servers import REPOSITORY
from voltflow import settings
from voltflow.options import Parser
from voltflow.settings import Loaded, Secret, SettingsError, add_arguments, explain, load

Port = Annotated[int, Meta(ge=1, le=65535, description="port of the REST API")]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field of each kind."""

    api_port: Port = 5002
    speedup: Annotated[float, Meta(ge=0, description="device seconds per second, 100 % = 1")] = 1.0
    seed: int | None = None
    live: Annotated[bool, Meta(description="show the live view")] = True
    name: Annotated[str, Meta(min_length=1, max_length=8, pattern="^[a-z]*$")] = "gw"
    protocol: Literal["mqtt5", "mqtt311"] = "mqtt5"
    state: Annotated[Path, Meta(description="folder of the state")] = Path(".voltflow")
    topics: tuple[str, ...] = ("a", "b")
    password: Annotated[Secret, Meta(description="password at the broker")] = ""
    token: Annotated[Secret | None, Meta(description="token of the database")] = None


@pytest.fixture(autouse=True)
def _no_default_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILES", ())


def read(argv: str = "", environ: dict[str, str] | None = None, file: Path | None = None) -> Loaded[Settings]:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings)
    options = [*argv.split(), *(["--config", str(file)] if file else [])]
    return load(Settings, "agent", parser.parse_args(options), environ or {})


def toml(folder: Path, text: str) -> Path:
    file = folder / "voltflow.toml"
    file.write_text(text)
    return file


def test_load_without_any_source_gives_the_defaults() -> None:
    loaded = read()
    assert loaded.values == Settings()
    assert set(loaded.origins.values()) == {"default"}


def test_load_each_layer_overrules_the_one_before(tmp_path: Path) -> None:
    file = toml(tmp_path, '[agent]\napi_port = 1\nspeedup = 2\nname = "file"\n')
    loaded = read("--api-port 3", {"VOLTFLOW_AGENT_API_PORT": "2", "VOLTFLOW_AGENT_SPEEDUP": "4"}, file)
    assert (loaded.values.api_port, loaded.values.speedup, loaded.values.name) == (3, 4.0, "file")
    assert loaded.origins["api_port"] == "--api-port"
    assert loaded.origins["speedup"] == "VOLTFLOW_AGENT_SPEEDUP"
    assert loaded.origins["name"] == f"{file} [agent]"
    assert loaded.origins["live"] == "default"


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("--no-live", "live", False),
        ("--live", "live", True),
        ("--seed 7", "seed", 7),
        ("--seed=", "seed", None),
        ("--topics x/#,y", "topics", ("x/#", "y")),
        ("--topics=", "topics", ()),
        ("--state /var/lib/voltflow", "state", Path("/var/lib/voltflow")),
        ("--protocol mqtt311", "protocol", "mqtt311"),
        ("--speedup inf", "speedup", math.inf),
    ],
)
def test_load_reads_options_in_their_type(argv: str, name: str, value: Any) -> None:
    assert getattr(read(argv).values, name) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "--api-port 0",
            "api_port = '0' is not allowed, it must be a whole number 1 … 65535 (from --api-port)",
        ),
        (
            "--api-port x",
            "api_port = 'x' is not allowed, it must be a whole number 1 … 65535 (from --api-port)",
        ),
        ("--speedup -1", "speedup = '-1' is not allowed, it must be a number ≥ 0 (from --speedup)"),
        ("--speedup nan", "speedup = 'nan' is not allowed, it must be a number ≥ 0 (from --speedup)"),
        ("--seed 1.5", "seed = '1.5' is not allowed, it must be a whole number or empty (from --seed)"),
        (
            "--protocol udp",
            "protocol = 'udp' is not allowed, it must be one of mqtt311, mqtt5 (from --protocol)",
        ),
        (
            "--name A",
            "name = 'A' is not allowed, it must be a text that matches ^[a-z]*$ of 1 to 8 characters (from --name)",
        ),
    ],
)
def test_load_refusal_names_setting_value_allowed_and_source(argv: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(argv)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        pytest.param(
            {"VOLTFLOW_AGENT_API_PROT": "1"},
            "unknown setting VOLTFLOW_AGENT_API_PROT (from VOLTFLOW_AGENT_API_PROT):"
            " did you mean VOLTFLOW_AGENT_API_PORT?",
            id="misspelt",
        ),
        pytest.param(
            {"VOLTFLOW_AGENT_LIVE": "maybe"},
            "live = 'maybe' is not allowed, it must be true or false (from VOLTFLOW_AGENT_LIVE)",
            id="no bool",
        ),
        pytest.param(
            {"VOLTFLOW_CONFIG": "/nowhere.toml"},
            "configuration file '/nowhere.toml' is not there (from VOLTFLOW_CONFIG)",
            id="no file",
        ),
        pytest.param(
            {"VOLTFLOW_AGENT_PASSWORD": "x", "VOLTFLOW_AGENT_PASSWORD_FILE": "y"},
            "password and password_file are both set (from VOLTFLOW_AGENT_PASSWORD_FILE): leave one out",
            id="two secrets",
        ),
        pytest.param(
            {"VOLTFLOW_AGENT_TOKEN_FILE": "/nowhere"},
            "VOLTFLOW_AGENT_TOKEN_FILE must name a file that holds the secret, and what it names cannot be read:"
            " No such file or directory (from VOLTFLOW_AGENT_TOKEN_FILE)",
            id="no secret file",
        ),
        pytest.param(
            {"VOLTFLOW_AGENT_TOKEN_FILE": "hunter2\0"},
            "VOLTFLOW_AGENT_TOKEN_FILE must name a file that holds the secret, and what it names cannot be read:"
            " it is not a file of text in UTF-8 (from VOLTFLOW_AGENT_TOKEN_FILE)",
            id="no name of a file",
        ),
    ],
)
def test_load_environment_that_is_wrong(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read("", environ)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            '[agent]\napi_port = "80"',
            "api_port = '80' is not allowed, it must be a whole number",
            id="text for number",
        ),
        pytest.param(
            "[agent]\nprot = 1", "unknown setting prot (from FILE [agent]): did you mean", id="unknown key"
        ),
        pytest.param(
            "[agnet]\nx = 1", "unknown table agnet (from FILE): did you mean agent?", id="unknown table"
        ),
        pytest.param(
            "api_port = 1", "api_port stands outside a table (from FILE): put it below [agent]", id="no table"
        ),
        pytest.param("[agent\n", "configuration file 'FILE' cannot be read: ", id="no TOML"),
    ],
)
def test_load_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read(file=file)
    assert str(caught.value).startswith(message.replace("FILE", str(file)))


def test_load_ignores_the_tables_and_variables_of_other_programs(tmp_path: Path) -> None:
    file = toml(tmp_path, "[bridge]\nanything = 1\n")
    assert read("", {"VOLTFLOW_BRIDGE_ANYTHING": "1"}, file).values == Settings()


def test_load_reads_the_first_default_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        settings, "DEFAULT_FILES", (tmp_path / "nowhere", toml(tmp_path, "[agent]\napi_port = 9"))
    )
    assert read().values.api_port == 9


def test_load_secret_comes_from_a_file_on_every_layer(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret \n")
    file = toml(tmp_path, f"[agent]\npassword_file = '{secret}'")
    by_option = read(f"--token-file {secret}", {}, file)
    by_variable = read("", {"VOLTFLOW_AGENT_TOKEN_FILE": str(secret)})
    assert (by_option.values.password, by_option.values.token, by_variable.values.token) == ("s3cret ",) * 3
    assert by_option.origins["token"] == f"{secret}, named by --token-file from --token-file"


def test_load_secret_of_the_wrong_type_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^password = \*\*\* is not allowed, it must be a text \(from "):
        read(file=toml(tmp_path, "[agent]\npassword = 12345"))


def test_add_arguments_takes_no_secret_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Any user of the machine can read another's command line."""
    parser = Parser()
    commands = parser.add_subparsers(metavar="COMMAND")
    add_arguments(commands.add_parser("run"), Settings)
    for words in (
        ["run", "--password", "hunter2"], ["run", "--password=hunter2"], ["--password", "hunter2", "run"], ["hunter2", "--password"],
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        said = capsys.readouterr().err
        assert "--password: secrets cannot be options" in said
        assert "use --password-file, password_file in the configuration file" in said
        assert "VOLTFLOW_…_PASSWORD" in said
        assert "hunter2" not in said


@pytest.mark.parametrize("option", ["--passwor", "--passwor=hunter2", "--passwords", "--pass"])
def test_an_option_that_is_nearly_a_secret_is_not_taken_for_one_and_its_value_not_shown(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    parser = Parser()
    add_arguments(parser, Settings)
    with pytest.raises(SystemExit):
        parser.parse_args([option, "hunter2"])
    said = capsys.readouterr().err
    assert f"unrecognized arguments: {option.partition('=')[0]}\n" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("cloud.cli", ["check", "--database", "postgresql://u:hunter2@h/d"]),
        ("cloud.cli", ["dead", "list", "--database=postgresql://u:hunter2@h/d"]),
        ("cloud.cli", ["backup", "--database", "postgresql://u:hunter2@h/d"]),
        ("edge.cli", ["check", "--broker-password", "hunter2"]),
        ("edge.cli", ["config", "--api-token", "hunter2"]),
        ("edge.cli", ["run", "--api_token", "hunter2"]),
        ("sim_device.cli", ["run", "--password", "hunter2"]),
        ("voltflow.cli", ["demo", "--broker-password", "hunter2"]),
        ("voltflow.cli", ["doctor", "--set", "database=postgresql://u:hunter2@h/d"]),
        ("voltflow.cli", ["support-bundle", "bridge", "--set", "database=postgresql://u:hunter2@h/d"]),
        ("voltflow.cli", ["support-bundle", "--set", "postgresql://u:hunter2@h/d"]),
    ],
)
def test_no_program_of_the_house_repeats_a_secret_of_its_command_line(
    capsys: pytest.CaptureFixture[str], program: str, words: list[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(program).main(words)
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "secrets cannot be options" in said or "NAME=VALUE" in said


def test_add_arguments_help_has_range_choices_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings)
    text = " ".join(parser.format_help().split())
    assert "--api-port N port of the REST API; a whole number 1 … 65535; default 5002" in text
    assert "one of mqtt311, mqtt5" in text
    assert "100 % = 1" in text


def test_load_rule_between_settings_names_the_table() -> None:
    class Band(msgspec.Struct, frozen=True, kw_only=True):
        low: int = 1
        high: int = 2

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not be above high")

    with pytest.raises(SettingsError, match=r"^\[agent\] low must not be above high$"):
        load(Band, "agent", environ={"VOLTFLOW_AGENT_LOW": "3"})


def test_load_setting_without_default_must_be_given() -> None:
    class Needed(msgspec.Struct, frozen=True, kw_only=True):
        out: Annotated[Path, Meta(description="folder to write to")]

    with pytest.raises(SettingsError) as caught:
        load(Needed, "sim", environ={})
    assert str(caught.value) == (
        "out is not set: folder to write to; set it as VOLTFLOW_SIM_OUT or in the table [sim]"
    )


def test_declaration_with_a_default_out_of_range_is_refused() -> None:
    class Wrong(msgspec.Struct, frozen=True, kw_only=True):
        api_port: Port = 0

    with pytest.raises(TypeError, match=r"api_port = 0 is not allowed, .* \(from its default\)"):
        load(Wrong, "agent", environ={})


def test_declaration_of_a_type_that_no_text_can_be_is_refused() -> None:
    class Wrong(msgspec.Struct, frozen=True, kw_only=True):
        table: dict[str, int] = {}

    with pytest.raises(TypeError, match="a setting cannot be of type"):
        load(Wrong, "agent", environ={})


def test_explain_shows_value_origin_and_help_but_no_secret() -> None:
    text = explain(read("--api-port 80", {"VOLTFLOW_AGENT_PASSWORD": "s3cret"}))
    assert (
        "# port of the REST API; a whole number 1 … 65535; default 5002\napi_port = 80  # from: --api-port"
        in text
    )
    assert "# password = ***  # from: VOLTFLOW_AGENT_PASSWORD" in text
    assert "s3cret" not in text


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    api_port=st.integers(1, 65535),
    speedup=st.floats(0),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    live=st.booleans(),
    protocol=st.sampled_from(["mqtt5", "mqtt311"]),
    state=TEXT.map(lambda text: Path(text.replace("\0", ""))),
    topics=st.lists(TEXT).map(tuple),
)
def test_explain_is_a_file_that_load_reads_back(
    tmp_path_factory: pytest.TempPathFactory, **given_values: Any
) -> None:
    """What `config` prints can be saved and used: nothing is lost on the way, whatever the characters."""
    values = Settings(**given_values)
    file = tmp_path_factory.getbasetemp() / "explained.toml"
    file.write_bytes(
        explain(Loaded(values, dict.fromkeys(values.__struct_fields__, "default"), "agent")).encode()
    )
    assert read(file=file).values == values


def test_no_parser_of_the_house_takes_abbreviations() -> None:
    """A parser is a `Parser`, or says it itself."""
    folders = ("voltflow", "edge", "cloud", "sim_device", "grafana", "bench", "tests/chaos", "packaging")
    makers = [
        f"{path}: {match[0]}"
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
        if "node_modules" not in path.parts
        for match in re.finditer(
            r"= argparse\.ArgumentParser\((?!\s*allow_abbrev=False)[^\n]*", path.read_text("utf-8")
        )
    ]
    assert makers == []
