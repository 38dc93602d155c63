"""One gateway or bridge: what goes through, how fast, what waits, what it costs the machine, what runs on it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from grafana.boards import panels as p
from grafana.boards.board import board, row
from grafana.boards.sources import prom, prom_now, prom_table, prom_variable

ME = 'instance="$instance"'
OF_ME = f"{{{ME}}}"


def make() -> build.Dashboard:
    """The board."""
    made = board("gateway", "Gateway", "One gateway (or bridge): flow, spool, machine, versions.", refresh="10s", since="now-1h",
                 variables=[prom_variable("instance", "Gateway", "label_values(voltflow_info, instance)")])  # fmt: skip
    return _versions(_machine(_spool(_flow(_figures(made)))))


def _figures(made: build.Dashboard) -> build.Dashboard:
    return (
        made.with_panel(p.number("Answers", prom_now(f"up{OF_ME}"), steps=p.ONE_IS_GOOD, words={"0": "no", "1": "yes"}, size=(3, 4)))
        .with_panel(p.number("Health", prom_now(f'voltflow_health_status{{{ME},status="ok"}}'), steps=p.ONE_IS_GOOD,
                             words={"0": "see reasons", "1": "ok"}, size=(3, 4), about="What `/api/health` says; a bridge has none."))
        .with_panel(p.number("Connected", prom_now(f"min(voltflow_mqtt_connected{OF_ME})"), steps=p.ONE_IS_GOOD,
                             words={"0": "no", "1": "yes"}, size=(3, 4), about="To every broker of its flow."))
        .with_panel(p.number("Packs", prom_now(f"sum(battery_fleet_packs{OF_ME})"), size=(3, 4), about="That it knows."))
        .with_panel(p.number("Packs without series", prom_now(f"voltflow_packs_without_series{OF_ME}"), size=(3, 4),
                             about="Beyond `metrics_max_packs`; they are in the fleet's sums and in the history."))
        .with_panel(p.number("Newest message", prom_now(f"voltflow_newest_message_age_seconds{OF_ME}"), unit=p.SECONDS, decimals=0,
                             steps=((None, "green"), (60, "orange"), (300, "red")), size=(3, 4), about="Age of the newest telemetry of any pack."))
        .with_panel(p.number("Stalls", prom_now(f"voltflow_stalls_total{OF_ME}"), steps=p.FEW_ARE_BEARABLE, size=(3, 4),
                             about="Nodes or batches that the watchdog reported since the start."))
        .with_panel(p.number("Up for", prom_now(f"time() - process_start_time_seconds{OF_ME}"), unit=p.SECONDS, size=(3, 4)))
    )  # fmt: skip


def _flow(made: build.Dashboard) -> build.Dashboard:
    per_message = (
        f"sum by (node) (rate(voltflow_node_seconds_total{OF_ME}[$__rate_interval])) /"
        f' (sum by (node) (rate(voltflow_messages_total{{{ME},direction="in"}}[$__rate_interval])) > 0)'
    )
    wire = f'sum by (node) (rate(voltflow_messages_total{{{ME},direction="in"}}[$__rate_interval]))'
    return (
        made.with_row(row("Flow"))
        .with_panel(p.lines("Throughput", prom(f"sum by (event) (rate(voltflow_mqtt_messages_total{OF_ME}[$__rate_interval]))", "{{event}}"),
                            unit="mps", low=0, about="Messages a second at the brokers of the flow."))
        .with_panel(p.lines("Latency", prom(f"voltflow_oldest_batch_seconds{OF_ME}", "oldest batch under way"), unit=p.SECONDS, low=0,
                            about="Age of the oldest batch that is not yet safe: what a message waits at most now. From device to row: board Ledger."))
        .with_panel(p.lines("Wires", prom(wire, "{{node}}"), unit="mps", low=0, about="Messages a second into each node."))
        .with_panel(p.lines("Time a message takes in each node", prom(per_message, "{{node}}"), unit=p.SECONDS, low=0,
                            about="For a sink with waiting for its far side."))
        .with_panel(p.lines("Failures, drops, dead letters a minute",
                            prom(f"sum by (node) (rate(voltflow_node_failures_total{OF_ME}[$__rate_interval])) * 60 > 0", "failed: {{node}}"),
                            prom(f"sum by (reason) (rate(voltflow_dropped_total{OF_ME}[$__rate_interval])) * 60", "dropped: {{reason}}"),
                            prom(f"sum by (node) (rate(voltflow_dead_letters_total{OF_ME}[$__rate_interval])) * 60", "letters: {{node}}"), low=0))
        .with_panel(p.lines("Batches", prom(f"rate(voltflow_batches_total{OF_ME}[$__rate_interval])", "a second"),
                            prom(f"voltflow_batches_in_flight{OF_ME}", "not yet safe"), low=0,
                            about="The more messages come, the bigger the batches."))
    )  # fmt: skip


def _spool(made: build.Dashboard) -> build.Dashboard:
    return (
        made.with_row(row("Spool and far sides"))
        .with_panel(p.lines("Spool: messages", prom(f"sum by (node, class) (voltflow_spool_messages{OF_ME})", "{{node}} {{class}}"),
                            low=0, size=(8, 8), about="Messages that wait on disk for a far side."))
        .with_panel(p.lines("Spool: fill", prom(f"100 * voltflow_spool_bytes{OF_ME} / voltflow_spool_limit_bytes{OF_ME}", "{{node}}"),
                            unit=p.PERCENT, low=0, high=100, marks=((None, "green"), (70, "orange"), (90, "red")), size=(8, 8),
                            about="Of its quota; beyond it telemetry is thinned, then dropped, oldest first."))
        .with_panel(p.lines("Spool: what happened", prom(
            f'sum by (event) (rate(voltflow_spool_events_total{{{ME},event=~"appended|delivered|thinned|damaged|torn"}}[$__rate_interval]))', "{{event}}"),
            unit="mps", low=0, size=(8, 8)))
        .with_panel(p.timeline("Far sides", prom(f"min by (node) (voltflow_sink_up{OF_ME})", "{{node}}"),
                               words={"0": "away", "1": "there"}, colors={"0": "red", "1": "green"}))
        .with_panel(p.lines("Waiting", prom(f"sum by (node) (voltflow_sink_waiting_messages{OF_ME})", "sink {{node}}"),
                            prom(f"sum by (where) (voltflow_held_messages{OF_ME})", "held: {{where}}"), low=0,
                            about="At sinks, and in nodes that hold messages for later."))
    )  # fmt: skip


def _machine(made: build.Dashboard) -> build.Dashboard:
    disk = f"100 * (1 - voltflow_disk_free_bytes{OF_ME} / voltflow_disk_bytes{OF_ME})"
    return (
        made.with_row(row("Machine"))
        .with_panel(p.lines("Memory", prom(f"process_resident_memory_bytes{OF_ME}", "resident"), unit=p.BYTES, low=0, size=(6, 8)))
        .with_panel(p.lines("Processor", prom(f"100 * rate(process_cpu_seconds_total{OF_ME}[$__rate_interval])", "of one core"),
                            unit=p.PERCENT, low=0, size=(6, 8)))
        .with_panel(p.lines("Disk writes", prom(f"rate(voltflow_disk_written_bytes_total{OF_ME}[$__rate_interval])", "this process"),
                            prom(f"rate(voltflow_state_bytes_total{OF_ME}[$__rate_interval])", "state of twins and flow"),
                            unit="Bps", low=0, size=(6, 8), about="As the kernel counts them: what an SD card has to bear. A bridge does not count its own."))
        .with_panel(p.lines("Disk", prom(disk, "full"), unit=p.PERCENT, low=0, high=100, size=(6, 8),
                            marks=((None, "green"), (80, "orange"), (95, "red")), about="The disk of `state_dir`."))
        .with_panel(p.lines("Clocks of the devices", prom(f"voltflow_device_skew_seconds{OF_ME}", "{{of}}"), unit=p.SECONDS, size=(12, 8),
                            about="How far they are ahead of the gateway's."))
        .with_panel(p.lines("State on disk", prom(f"voltflow_state_age_seconds{OF_ME}", "age"),
                            prom(f"voltflow_state_period_seconds{OF_ME}", "period"), unit=p.SECONDS, low=0, size=(12, 8),
                            about="A crash now would lose what is newer; after it a hole is marked, never invented."))
    )  # fmt: skip


def _versions(made: build.Dashboard) -> build.Dashboard:
    shared = {"Time": "", "Value": "", "__name__": "", "job": ""}
    return (
        made.with_row(row("Versions and rollout"))
        .with_panel(p.rows("Versions of all", prom_table("voltflow_info"), size=(12, 8),
                           renamed={"gateway": "gateway", "version": "version", "flow_revision": "flow", "instance": "instance", **shared},
                           about="Every gateway and bridge, so that the one left behind shows."))
        .with_panel(p.rows("Models of all gateways", prom_table("count by (model, hash) (voltflow_model_info)"), size=(6, 8),
                           renamed={"model": "model", "hash": "hash", "Value": "gateways", "Time": ""},
                           about="Two hashes of a model are a rollout under way."))
        .with_panel(p.rows("Models here", prom_table(f"voltflow_model_info{OF_ME}"), size=(6, 8),
                           renamed={"model": "model", "hash": "hash", "instance": "", **shared}))
        .with_panel(p.lines("Deploys and restarts", prom(f"increase(voltflow_deploys_total{OF_ME}[$__rate_interval])", "deploys"),
                            prom(f"changes(process_start_time_seconds{OF_ME}[$__rate_interval])", "restarts"),
                            prom(f"sum(increase(voltflow_mqtt_reconnects_total{OF_ME}[$__rate_interval]))", "lost connections"), low=0))
        .with_panel(p.lines("Reasons of health", prom(f"voltflow_health_reasons{OF_ME} > 0", "{{code}}"), low=0,
                            about="What is not as it should be, by the codes of `/api/health`. No line: all is well."))
    )  # fmt: skip
