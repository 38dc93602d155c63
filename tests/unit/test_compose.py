"""docker-compose.yml and the files that it mounts: valid for the programs that read them, safe, and true to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cloud.bridge import BridgeSettings
from edge.settings import AgentSettings
from sim_device.options import Settings as SimSettings
from tests.compose import COMPOSE, PROFILES, complaint, config, services, tool, written
from tests.servers import REPOSITORY
from voltflow import __version__
from voltflow.cli import main
from voltflow.setting import settings_of

CONTAINERS = REPOSITORY / "packaging" / "docker"
SETTINGS = {"AGENT": AgentSettings, "BRIDGE": BridgeSettings, "SIM": SimSettings}
SERVICES = sorted(written()["services"])
WRITES_TO_ITS_ROOT = {"redpanda"}
"""Its start writes its configuration."""

FOREIGN = {
    "mosquitto": {"XDG_CONFIG_HOME"},  # mosquitto_sub(1), options
    "timescale": {
        "POSTGRES_USER", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS", "TIMESCALEDB_TELEMETRY", "TS_TUNE_MEMORY",
        "TS_TUNE_NUM_CPUS",
    },
    "influxdb": {
        *(f"DOCKER_INFLUXDB_INIT_{name}" for name in ("MODE", "USERNAME", "PASSWORD_FILE", "ADMIN_TOKEN_FILE", "ORG", "BUCKET",
                                                      "RETENTION")),
        "INFLUXD_REPORTING_DISABLED",
    },
    "minio": {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD_FILE", "MINIO_BROWSER", "MINIO_UPDATE"},
}  # fmt: skip
"""Variables of other programs, from their documentation."""


# -- the files as their programs see them -----------------------------------------------------------------------------


def test_the_profiles_have_what_they_are_to_have() -> None:
    by_profile = {name: set(config(name)["services"]) for name in PROFILES}
    assert by_profile["edge"] == {"mosquitto", "agent", "simulator"}
    assert by_profile["edge"] | by_profile["cloud"] == by_profile["full"] == set(SERVICES)
    assert by_profile["edge"] & by_profile["cloud"] == set()
    assert {
        "bridge",
        "timescale",
        "redpanda",
        "minio",
        "mlflow",
        "prometheus",
        "alertmanager",
        "grafana",
        "influxdb",
    } < by_profile["cloud"]


def test_the_compose_file_fits_the_specification() -> None:
    assert complaint(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)) == ""


def test_the_specification_refuses_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchek:", 1))
    assert "healthchek" in complaint(
        tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(wrong)
    )


def test_scripts_are_good_shell() -> None:
    script = CONTAINERS / "database-roles.sh"
    assert complaint("sh", "-n", str(script)) == ""
    # What is not executable the image reads into its own shell, which `set -u` would change.
    assert script.stat().st_mode & 0o111 == 0o111


# -- every service ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_little_power_and_bounds(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name not in WRITES_TO_ITS_ROOT)
    assert service["restart"] == "unless-stopped"
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert group.isdecimal()
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert int(limits["memory"]) >= 256 * 2**20
    assert limits["pids"] > 0
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_has_a_health_check_and_time_to_end(name: str) -> None:
    service = services()[name]
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert re.search(r"\d+\.\d+|RELEASE\.\d{4}-", tag), service["image"]
    kind, *command = service["healthcheck"]["test"]
    assert kind in ("CMD", "CMD-SHELL")
    assert command
    assert {"interval", "timeout", "start_period"} <= set(service["healthcheck"])
    assert service["stop_grace_period"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only_and_the_program_listens_there(name: str) -> None:
    service = services()[name]
    values = {value for variable, value in (service.get("environment") or {}).items() if "PORT" in variable}
    fixed = {"mosquitto": {"8883"}, "cloud-mosquitto": {"8883"}, "prometheus": {"9090"}, "grafana": {"3000"},
             "alertmanager": {"9093"}}  # fmt: skip
    for port in service.get("ports") or ():
        assert port["host_ip"] == "127.0.0.1"
        assert str(port["target"]) in values | fixed.get(name, set())
    if service.get("ports"):
        internal = {network for network, about in config("full")["networks"].items() if about.get("internal")}
        assert set(service["networks"]) - internal, "an internal network publishes no port"


def test_published_ports_are_different_ones() -> None:
    published = [port["published"] for service in services().values() for port in service.get("ports") or ()]
    assert len(published) == len(set(published))


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_secret_comes_from_a_file_that_is_mounted(name: str) -> None:
    service = services()[name]
    mounted = {str(Path("/run/secrets", secret["target"])) for secret in service.get("secrets") or ()}
    environment = service.get("environment") or {}
    for variable, value in environment.items():
        if re.search(r"PASSWORD|TOKEN|SECRET|_KEY", variable):
            assert variable.endswith("_FILE"), f"{variable} would show in `docker inspect`"
            assert value.startswith("/run/secrets/")
    texts = [*environment.values(), *(service.get("command") or ()), *service["healthcheck"]["test"]]
    for mount in service.get("volumes") or ():
        if mount["type"] == "bind":
            source = Path(mount["source"])
            files = source.rglob("*.y*ml") if source.is_dir() else [source]
            texts += [file.read_text() for file in files]
    named = {path for text in texts for path in re.findall(r"/run/secrets/[\w.]+", text)}
    assert named <= mounted
    unused = {path for path in mounted if path not in named}
    assert unused <= USED_OTHERWISE.get(name, set())


USED_OTHERWISE = {
    # the options of the health check name the authority; mosquitto_sub finds them by XDG_CONFIG_HOME
    "mosquitto": {"/run/secrets/mosquitto_sub", "/run/secrets/ca.crt"},
    "cloud-mosquitto": {"/run/secrets/mosquitto_sub", "/run/secrets/ca.crt"},
    # database-roles.sh puts the names together
    "timescale": {f"/run/secrets/{user}_database_password" for user in ("bridge", "grafana", "mlflow")},
}


def test_the_secrets_are_those_that_are_made(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    main(["secrets", "--folder", str(folder)])
    files = {Path(secret["file"]) for secret in config("full", {"SECRETS": str(folder)})["secrets"].values()}
    assert {file for file in files if not file.is_file()} == set()
    declared, used = set(written()["secrets"]), set()
    for service in written()["services"].values():
        used |= {s if isinstance(s, str) else s["source"] for s in service.get("secrets", ())}
    assert declared == used
    made = {path for path in folder.rglob("*") if path.is_file()}
    kept_from_containers = {
        folder / name for name in ("ca.key", "edge_health_password", "cloud_health_password")
    }
    assert made - files == kept_from_containers


def test_nobody_has_a_login_that_is_known() -> None:
    text = COMPOSE.read_text()
    assert not re.search(
        r"(?i)(password|token|user|secret|key)\w*:\s*[\"']?(admin|password|minioadmin|changeme|secret)\b",
        text,
    )
    users = {value for service in services().values() for variable, value in (service.get("environment") or {}).items()
             if re.search(r"ADMIN_USER$|INIT_USERNAME$|ROOT_USER$", variable)}  # fmt: skip
    assert users == {"operator", "voltflow"}
    grafana = services()["grafana"]["environment"]
    assert grafana["GF_SECURITY_SECRET_KEY__FILE"], "Grafana's own key is in its source code"
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


def test_git_and_images_do_not_get_the_secrets() -> None:
    for name in ("secrets/influx_token", ".env"):
        assert complaint("git", "check-ignore", "-q", name) == ""
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert ignored[0] == "*", "only what is named comes into a build"
    assert "!secrets" not in ignored


# -- true to the code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_one_that_the_program_knows(name: str) -> None:
    for variable, value in (services()[name].get("environment") or {}).items():
        if match := re.fullmatch(r"VOLTFLOW_(AGENT|BRIDGE|SIM)_(\w+)", variable):
            items = {item.name: item for item in settings_of(SETTINGS[match[1]])}
            setting = match[2].lower()
            secret = items.get(setting.removesuffix("_file"))
            assert setting in items or (secret is not None and secret.secret), variable
        elif variable.startswith(("MLFLOW_", "AWS_")):
            assert variable in (CONTAINERS / "mlflow_server.py").read_text() or _mlflow_knows(variable), (
                variable
            )
        elif variable.startswith("GF_"):
            assert re.fullmatch(r"GF_[A-Z]+_[A-Z_]+?(__FILE)?", variable), variable
        else:
            assert variable in FOREIGN[name.removeprefix("cloud-")], f"{variable} = {value}"


def _mlflow_knows(variable: str) -> bool:
    import mlflow.environment_variables

    aws = {"AWS_SHARED_CREDENTIALS_FILE", "AWS_DEFAULT_REGION"}  # boto3's guide, configuration
    return hasattr(mlflow.environment_variables, variable) or variable in aws


def test_prometheus_tells_the_alertmanager_what_is_critical_and_that_by_gateway() -> None:
    folder = REPOSITORY / "grafana" / "prometheus"
    alerting = yaml.safe_load((folder / "prometheus.yml").read_text())["alerting"]["alertmanagers"]
    assert [
        target for one in alerting for static in one["static_configs"] for target in static["targets"]
    ] == ["alertmanager:9093"]
    assert set(services()["alertmanager"]["networks"]) <= set(services()["prometheus"]["networks"])
    found = yaml.safe_load((folder / "alertmanager.yml").read_text())
    assert found["route"]["group_by"] == ["job", "instance"]
    (critical,) = found["route"]["routes"]
    assert critical["matchers"] == ['severity="critical"']
    named = {found["route"]["receiver"], critical["receiver"]}
    assert named == {receiver["name"] for receiver in found["receivers"]}
    (inhibit,) = found["inhibit_rules"]
    assert "instance" in inhibit["equal"]
    assert 'severity="warning"' in inhibit["target_matchers"]


def test_what_the_bridge_calls_its_bucket_is_what_influxdb_makes() -> None:
    environment = services()["influxdb"]["environment"]
    assert environment["DOCKER_INFLUXDB_INIT_ORG"] == BridgeSettings().influx_org
    assert environment["DOCKER_INFLUXDB_INIT_BUCKET"] == BridgeSettings().influx_bucket


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    for mount in services()[name].get("volumes") or ():
        if mount["type"] == "bind":
            assert Path(mount["source"]).exists(), mount["source"]
            assert mount["read_only"]
        else:
            assert mount["source"] in written()["volumes"]


def test_each_volume_is_of_one_service() -> None:
    used = [mount["source"] for service in services().values() for mount in service.get("volumes") or ()
            if mount["type"] == "volume"]  # fmt: skip
    assert sorted(used) == sorted(written()["volumes"])


def test_what_asks_for_no_login_is_not_opened_with_the_pages() -> None:
    found = config("full", {"BIND_PAGES": "0.0.0.0"})["services"]
    opened = {
        name
        for name, service in found.items()
        for port in service.get("ports") or ()
        if port["host_ip"] == "0.0.0.0"
    }
    assert opened == {"agent", "grafana"}
    unguarded = config("full", {"BIND_UNGUARDED": "192.0.2.1"})["services"]
    for name in ("mlflow", "prometheus", "alertmanager"):
        assert [port["host_ip"] for port in unguarded[name]["ports"]] == ["192.0.2.1"]


def test_the_example_has_every_variable_with_its_default() -> None:
    example = dict(
        line.split("=", 1) for line in (REPOSITORY / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )  # fmt: skip
    text = re.sub(
        r"(:-)\$\{\w+:-([^}]*)\}", r"\1\2", COMPOSE.read_text()
    )  # a default that is a variable with a default
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    follows = {"UPLINK_CA"}  # its default is a file in the folder that SECRETS names
    assert example == {name: default for name, default in used.items() if name not in follows}
    assert all(f"#{name}=" in (REPOSITORY / ".env.example").read_text() for name in follows)
    assert example["VOLTFLOW_VERSION"] == __version__
    assert not re.findall(r"\$\{\w+\}", COMPOSE.read_text()), "a variable without a default"


def test_the_example_with_secrets_elsewhere_names_files_that_are_there(tmp_path: Path) -> None:
    """`cp .env.example .env`, and another SECRETS in it."""
    folder = tmp_path / "secrets"
    main(["secrets", "--folder", str(folder)])
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    found = config("full", {**example, "SECRETS": str(folder)})
    assert [about["file"] for about in found["secrets"].values() if not Path(about["file"]).is_file()] == []


def _options(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found.setdefault(name, []).append(value)
    return found


def test_the_brokers_have_the_limits_of_every_other() -> None:
    ours, theirs = (
        _options(REPOSITORY / "mosquitto" / name) for name in ("mosquitto.conf", "containers.conf")
    )
    differ = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    assert differ == {"listener", "allow_anonymous", "persistence_location", "certfile", "keyfile", "tls_version",
                      "password_file", "acl_file"}  # fmt: skip
    assert theirs["allow_anonymous"] == ["false"]
