"""The agent as `voltflow doctor` and `voltflow support-bundle` know it."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edge.agent import flow_files, load_flow
from edge.doctor_models import check as models_check
from edge.settings import AgentSettings
from voltflow import topics
from voltflow.access import address_of, require_token
from voltflow.admin import editor_files
from voltflow.doctor import broker, certificates, machine
from voltflow.doctor.checks import Check, Finding, ok, problem, skipped, warning
from voltflow.doctor.program import Address, Program, ask_json, flow_check, local_url
from voltflow.settings import SettingsError
from voltflow.spool.read import decode_header
from voltflow.state.file import CLEAN_FILE, FILE

UNIT = "edge-agent"
OWN = ("edge-agent", "edge.cli")
"""What the command line of a running agent has in it."""
PUBLISHES = {
    "out": [topics.TWIN.filter, topics.ALERT.filter, topics.LOSS.filter],
    "dead": [topics.DEAD.filter],
    "states": [topics.STATE.filter],
    "requests": [topics.CMD.filter],
}
"""What the nodes of the default flow publish that take the topic from the message."""
HOLDS_FIRST_PERIODS = 10
"""A state written so many times less often than is set loses that much more in a crash: a warning."""


def checks(settings: AgentSettings) -> Iterator[Check]:
    """Cheap ones first, those that wait for a network last."""
    yield machine.clock()
    yield machine.versions("edge", lambda: _files(settings))
    yield Check("folders", "folders and disk", lambda: _folders(settings))
    yield Check("secrets", "files with secrets", lambda: _secret_files(settings))
    yield certificates.check(
        certificates.Files(prefix, *(getattr(settings, f"{prefix}_{name}") for name in ("ca", "cert", "key")))
        for prefix in ("broker", "uplink")
    )
    yield flow_check(lambda: load_flow(settings), "flow")
    yield models_check(settings)
    yield Check("ports", "ports", lambda: _ports(settings))
    yield Check("spool", "the spool", lambda: _spool(settings))
    yield Check("writes", "what is written to the disk", lambda: _writes(settings))
    yield from _brokers(settings)
    yield Check("running", "the running agent", lambda: _running(settings))
    yield machine.unit(UNIT)


def _files(settings: AgentSettings) -> Iterator[Finding]:
    page = importlib.resources.files("edge") / "page"
    missing = [name for name in ("index.html", "app.js") if not (page / name).is_file()]
    if missing:
        yield problem(
            f"the page lacks {', '.join(missing)}", "pip install --force-reinstall 'voltflow[edge]'"
        )
    if not settings.editor:
        yield ok("the flow editor is switched off (editor = false)")
    elif editor_files.installed():
        yield ok(f"the flow editor is installed ({editor_files.VERSION})")
    else:
        yield warning("the flow editor is not installed, /editor shows how to", editor_files.INSTALL_COMMAND)


def _folders(settings: AgentSettings) -> Iterator[Finding]:
    room_mb = settings.spool_max_mb + settings.spool_protected_mb if settings.spool else 0.0
    held_mb = sum(size for _, size in _segments(settings)) / 1e6
    yield from machine.folder("state_dir", settings.state_dir, max(0.0, room_mb - held_mb))
    if settings.files_dir:
        yield from machine.folder("files_dir", settings.files_path)
    if settings.flow:
        yield from machine.folder("flow", settings.flow_path.parent)


def _secret_files(settings: AgentSettings) -> Iterator[Finding]:
    files = flow_files(settings)
    kept = {
        "credential_secret": settings.state_dir / "credential_secret", "users_file": settings.users_path,
        "state_dir": settings.state_dir / "tokens.json", "flow": files.credentials_path,
    }  # fmt: skip
    found = [finding for name, path in kept.items() for finding in certificates.open_to_others(name, path)]
    yield from found
    if not found:
        there = sum(path.exists() for path in kept.values())
        yield ok(f"only their owner may read them ({there} of {len(kept)} are there)")


def _ports(settings: AgentSettings) -> Iterator[Finding]:
    for name in ("api", "metrics"):
        host, number = getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port")
        yield from machine.port(f"{name}_port", host, number, OWN)
        try:
            require_token(name, host, address_of(host, number)[1], settings.api_token, "api_token")
        except SettingsError as error:
            yield problem(str(error), "openssl rand -hex 16 > FILE; chmod 600 FILE; --api-token-file FILE")
        except OSError:
            pass  # said above: the host has no address here


def _segments(settings: AgentSettings) -> Iterator[tuple[Path, int]]:
    for path in sorted((settings.state_dir / "spool").rglob("*.seg")):
        try:
            yield path, path.stat().st_size
        except OSError:
            continue  # delivered meanwhile


def _spool(settings: AgentSettings) -> Iterator[Finding]:
    if not settings.spool:
        yield skipped(
            "spool = false: what the uplink does not take is not acknowledged, and waits in the devices' broker"
        )
        return
    found = list(_segments(settings))
    size_mb, unreadable = sum(size for _, size in found) / 1e6, []
    for path, size in found:
        try:
            with path.open("rb") as file:
                if size and decode_header(file.read(64)) is None:
                    unreadable.append(f"{path.name}: its beginning is damaged")
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(f"{path.name}: {error.strerror}")
    if unreadable:
        yield warning(f"{len(unreadable)} of {len(found)} files are damaged ({'; '.join(unreadable[:3])}); what can be read of "
                      "them is delivered, the rest is declared lost", "a failing card? dmesg | tail; docs/spool.md")  # fmt: skip
    share = size_mb / settings.spool_max_mb
    text = f"{size_mb:,.1f} MB wait in {len(found)} files, {share:.0%} of spool_max_mb"
    if share > 0.8:
        yield warning(f"{text}; beyond it telemetry is thinned", "mend the uplink, or raise spool_max_mb")
    elif not unreadable:
        yield ok(text)


def _writes(settings: AgentSettings) -> Iterator[Finding]:
    sizes = []
    for name in (FILE, CLEAN_FILE):
        path = settings.state_dir / name
        if path.exists():
            sizes.append(path.stat().st_size)
    if not sizes:
        yield skipped("no state has been written yet")
        return
    budget_b = settings.disk_write_budget_mb_per_day * 1e6
    period_s = max(settings.state_period_s, max(sizes) * 86400 / budget_b)
    text = f"a state of {max(sizes) / 1e6:.1f} MB every {period_s:.0f} s, {max(sizes) * 86400 / period_s / 1e6:.0f} MB a day"
    if period_s > HOLDS_FIRST_PERIODS * settings.state_period_s:
        yield warning(
            f"{text}; a crash forgets what is newer",
            "raise disk_write_budget_mb_per_day, if the disk can bear it",
        )
    else:
        yield ok(f"{text} of {settings.disk_write_budget_mb_per_day:,.0f} (disk_write_budget_mb_per_day)")


def _brokers(settings: AgentSettings) -> Iterator[Check]:
    try:
        flow, env = load_flow(settings)
        same = {} if settings.uplink_host else {"uplink": "broker"}
        accesses = broker.access_of(flow, env, PUBLISHES, same)
    except (OSError, ValueError):
        text = "the flow cannot be read, so what it needs of brokers is not known"
        yield Check("brokers", "brokers", lambda: [skipped(text, "see the flow above")])
        return
    yield from broker.checks(accesses)


def _running(settings: AgentSettings) -> Iterator[Finding]:
    health = _address(settings, "/api/health")
    try:
        status, found = ask_json(health)
    except OSError:
        yield skipped("it does not run here", f"sudo systemctl start {UNIT}, or: edge-agent run")
        return
    except ValueError:
        yield problem(
            f"{health.url} answers something else than an agent", "set api_port to a port of the agent's own"
        )
        return
    if status == 401:
        yield warning("it wants another token than these settings have",
                      "was api_token changed without a restart? sudo systemctl restart edge-agent")  # fmt: skip
        return
    gateway = found.get("gateway")
    if gateway != settings.gateway:
        yield warning(f"what runs there is the gateway {gateway!r}, the settings say {settings.gateway!r}",
                      "restart it, or name its settings: --config, --unit")  # fmt: skip
    reasons = found.get("reasons", [])
    say = problem if found.get("status") == "unhealthy" else warning
    for reason in reasons:
        text = f"{reason.get('code')}: {reason.get('message')}"
        yield say(text, reason.get("fix") or 'docs/technician.md, "What is it?", tells what to do')
    if not reasons:
        yield ok(
            f"it says {found.get('status')}: {found.get('packs')} packs, {found.get('messages'):,} messages"
        )


def _address(settings: AgentSettings, path: str) -> Address:
    return Address(local_url(settings.api_host, settings.api_port, path), settings.api_token)


def answers(settings: AgentSettings) -> Mapping[str, Address]:
    """What a support bundle asks a running agent."""
    names = {"health.json": "/api/health", "flow-status.json": "/api/flow", "spool.json": "/api/spool",
             "models.json": "/api/models"}  # fmt: skip
    metrics = local_url(settings.metrics_host, settings.metrics_port, "/metrics")
    return {name: _address(settings, path) for name, path in names.items()} | {
        "metrics.txt": Address(metrics, settings.api_token)
    }


def _secrets(settings: AgentSettings) -> Iterable[str]:
    """What the agent keeps beside its settings: the secret of the credentials, and the credentials."""
    files = flow_files(settings)
    for path in (settings.state_dir / "credential_secret",):
        try:
            yield path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
    for path in (
        files.credentials_path,
        *files.credentials_path.parent.glob(f"{files.credentials_path.name}*"),
    ):
        try:
            credentials = files.opened(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue
        for of_node in credentials.values():
            yield from _texts(of_node)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)


PROGRAM = Program(
    name="agent",
    unit=UNIT,
    settings=AgentSettings,
    checks=checks,
    flow=load_flow,
    answers=answers,
    folders=lambda settings: [settings.state_dir],
    secrets=_secrets,
)
