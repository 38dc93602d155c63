"""The agent's settings: what the uplink is when it is named, when it is not, and when only half of it is said."""

from __future__ import annotations

import msgspec
import pytest

from edge.settings import AgentSettings
from voltflow.settings import SettingsError, load


def _settings(**given: str) -> AgentSettings:
    environ = {f"VOLTFLOW_AGENT_{name.upper()}": value for name, value in given.items()}
    return load(AgentSettings, "agent", environ=environ).values


def test_without_an_uplink_everything_goes_to_the_devices_broker() -> None:
    settings = _settings(
        broker_host="192.0.2.7", broker_port="1884", broker_user="depot", broker_password="s", broker_tls="true",
        broker_ca="ca.pem", broker_cert="cert.pem", broker_key="key.pem",
    )  # fmt: skip
    filled = msgspec.structs.asdict(settings.with_uplink())
    for name in ("host", "port", "user", "password", "tls", "ca", "cert", "key"):
        assert filled[f"uplink_{name}"] == filled[f"broker_{name}"], name


@pytest.mark.parametrize(
    ("given", "port"), [({}, 1883), ({"uplink_tls": "true"}, 8883), ({"uplink_port": "9", "uplink_tls": "true"}, 9)]
)  # fmt: skip
def test_an_uplink_takes_nothing_over_from_the_devices_broker(given: dict[str, str], port: int) -> None:
    filled = _settings(
        uplink_host="mqtt.example.org", broker_port="1884", broker_user="depot", broker_password="s", **given
    ).with_uplink()
    assert (filled.uplink_host, filled.uplink_port) == ("mqtt.example.org", port)
    assert (filled.uplink_user, filled.uplink_password) == ("", "")


@pytest.mark.parametrize("name", ["port", "user", "password", "tls", "ca", "cert", "key"])
def test_an_uplink_without_its_host_is_refused(name: str) -> None:
    value = {"port": "8883", "tls": "true"}.get(name, "x")
    with pytest.raises(SettingsError, match=f"uplink_{name} set without uplink_host"):
        _settings(**{f"uplink_{name}": value})
