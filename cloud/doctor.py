"""The bridge as `voltflow doctor` and `voltflow support-bundle` know it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cloud import doctor_stores as stores
from cloud.bridge import BridgeSettings, load_flow
from voltflow import topics
from voltflow.access import address_of, require_token
from voltflow.doctor import broker, certificates, machine
from voltflow.doctor.checks import Check, Finding, ok, problem, skipped, warning
from voltflow.doctor.program import Address, Program, ask, flow_check, local_url
from voltflow.flow.flow import Flow
from voltflow.node import process_env
from voltflow.settings import SettingsError

UNIT = "cloud-bridge"
OWN = ("cloud-bridge", "cloud.cli")
DEMANDS = topics.gateway_down("+")
"""Where requests for what stays missing go."""


def checks(settings: BridgeSettings) -> Iterator[Check]:
    """Cheap ones first, those that wait for a network last."""
    yield machine.clock()
    yield machine.versions("cloud")
    yield Check("folders", "folders and disk", lambda: machine.folder("state_dir", settings.state_dir))
    yield certificates.check(
        certificates.Files(prefix, *(getattr(settings, f"{prefix}_{name}") for name in ("ca", "cert", "key")))
        for prefix in ("mqtt", "kafka")
    )
    yield flow_check(lambda: _flow(settings), "flow")
    yield Check("ports", "ports", lambda: _ports(settings))
    yield from _brokers(settings)
    yield Check("database", "the database", lambda: stores.database(settings), limit_s=40.0)
    yield Check("kafka", "Kafka", lambda: stores.kafka(settings), limit_s=40.0)
    yield Check("influx", "InfluxDB", lambda: stores.influx(settings))
    yield Check("running", "the running bridge", lambda: _running(settings))
    yield machine.unit(UNIT)


def _flow(settings: BridgeSettings) -> tuple[Flow, Mapping[str, str]]:
    return load_flow(settings), process_env(settings.variables())


def _ports(settings: BridgeSettings) -> Iterator[Finding]:
    host, number = settings.metrics_host, settings.metrics_port
    if not number:
        yield skipped("metrics_port = 0: no metrics are served")
        return
    yield from machine.port("metrics_port", host, number, OWN)
    try:
        require_token("metrics", host, address_of(host, number)[1], settings.metrics_token, "metrics_token")
    except SettingsError as error:
        yield problem(str(error), "openssl rand -hex 16 > FILE; chmod 600 FILE; --metrics-token-file FILE")
    except OSError:
        pass  # said above: the host has no address here


def _brokers(settings: BridgeSettings) -> Iterator[Check]:
    publishes = {"letters": [topics.DEAD.filter]}
    if settings.repair_after_s and settings.ledger_period_s and "timescale" in settings.active_sinks:
        publishes["letters"] = [topics.DEAD.filter, DEMANDS]
    try:
        accesses = broker.access_of(*_flow(settings), publishes, subscribes={"heir": [topics.BRIDGES_FILTER]})
    except (OSError, ValueError):
        text = "the flow cannot be read, so what it needs of the broker is not known"
        yield Check("brokers", "brokers", lambda: [skipped(text, "see the flow above")])
        return
    yield from broker.checks(accesses)


def _running(settings: BridgeSettings) -> Iterator[Finding]:
    if not settings.metrics_port:
        yield skipped("metrics_port = 0: it cannot be asked")
        return
    try:
        status, body = ask(_metrics(settings))
    except OSError:
        yield skipped("it does not run here", f"sudo systemctl start {UNIT}, or: cloud-bridge run")
        return
    if status != 200:
        yield warning(f"its metrics answer {status}", "was metrics_token changed without a restart?")
        return
    away = [line.partition('node="')[2].partition('"')[0] for line in body.decode().splitlines()
            if line.startswith("voltflow_sink_up{") and line.endswith(" 0.0")]  # fmt: skip
    for sink in away:
        yield warning(
            f"its sink {sink!r} is away; batches wait", "see database, Kafka, InfluxDB above; its log"
        )
    if not away:
        yield ok("it runs, all its sinks take batches")


def _metrics(settings: BridgeSettings) -> Address:
    return Address(
        local_url(settings.metrics_host, settings.metrics_port, "/metrics"), settings.metrics_token
    )


PROGRAM = Program(
    name="bridge",
    unit=UNIT,
    settings=BridgeSettings,
    checks=checks,
    flow=_flow,
    answers=lambda settings: {"metrics.txt": _metrics(settings)} if settings.metrics_port else {},
    folders=lambda settings: [settings.state_dir],
)
