"""All packs in order of worry, from the history; each leads to its own board."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, table
from grafana_foundation_sdk.builders import dashboard as build

from grafana.boards import panels as p
from grafana.boards.board import board, row
from grafana.boards.sources import FLEET, prom_now, prom_table, sql, sql_variable

CHOSEN = "fleet IN (${fleet:sqlstring})"
TO_PACK = (
    "Open the pack",
    "/d/voltflow-battery?var-fleet=${__data.fields.fleet}&var-pack=${__data.fields.pack}&${__url_time_range}",
)
TO_GATEWAY = (
    "Open the gateway",
    "/d/voltflow-gateway?var-instance=${__data.fields.instance}&${__url_time_range}",
)
PACK = p.Column(link=TO_PACK, width=130)

COLUMNS = {
    "pack": PACK,
    "worry": p.Column(
        p.COUNT, ((None, "green"), (40, "yellow"), (200, "orange"), (1000, "red")), 0, width=80
    ),
    "SoC": p.Column(p.PERCENT, decimals=0, width=70),
    "SoH": p.Column(p.PERCENT, p.SOH_BAND_STEPS, 1, width=80),
    "hottest": p.Column(p.CELSIUS, p.TEMPERATURE_STEPS, 1, width=90),
    "in 10 min": p.Column(p.CELSIUS, p.TEMPERATURE_STEPS, 1, width=90),
    "spread": p.Column("suffix: mV", ((None, "green"), (80, "orange"), (150, "red")), 0, width=90),
    "cycles left": p.Column(p.COUNT, p.RUL_STEPS, 0, width=100),
    "failure": p.Column(p.PERCENT, p.FAILURE_STEPS, 1, width=90),
}


def make() -> build.Dashboard:
    """The board."""
    made = board("fleet", "Fleet", "All packs, the most worrying first. A click on a pack opens its board.", refresh="1m",
                 since="now-24h", variables=[sql_variable("fleet", "Fleet", FLEET, several=True)])  # fmt: skip
    return _details(_worry(_figures(made)))


def _figures(made: build.Dashboard) -> build.Dashboard:
    """One query for all of them: each look at the fleet asks for the newest row of every pack."""
    counted: dict[str, tuple[str, p.Steps]] = {
        "packs": ("true", p.PLAIN), "offline": ("NOT online", p.FEW_ARE_BEARABLE), "silent": ("silent", p.FEW_ARE_BEARABLE),
        "critical": ("alerts_critical > 0", p.NONE_IS_GOOD), "warning": ("alerts_warning > 0", p.FEW_ARE_BEARABLE),
        "too hot": ("cell_temp_max_c > 60", p.NONE_IS_GOOD), "worn": ("soh_predicted_pct < 75", p.FEW_ARE_BEARABLE),
    }  # fmt: skip
    columns = ", ".join(f'count(*) FILTER (WHERE {what}) AS "{name}"' for name, (what, _) in counted.items())
    about = (
        "Offline: the device said so, or its connection broke. Silent: nothing was stored of it for 20 minutes. Critical, warning: an alert "
        "stands. Too hot: a cell over 60 °C. Worn: predicted health below 75 %."
    )
    each = {name: steps for name, (_, steps) in counted.items()}
    made = made.with_panel(p.number("Packs", sql(f"SELECT {columns} FROM pack_now WHERE {CHOSEN}"), size=(21, 4), about=about,
                                    steps=p.FEW_ARE_BEARABLE, each=each))  # fmt: skip
    gateways = prom_now('count(up{job="agent"} == 0) or vector(0)')
    return made.with_panel(p.number("Offline gateways", gateways, size=(3, 4), steps=p.NONE_IS_GOOD,
                                    about="Prometheus cannot reach their metrics."))  # fmt: skip


def _worry(made: build.Dashboard) -> build.Dashboard:
    listed: table.Panel = p.rows(
        "In order of worry",
        sql(f"""
            SELECT fleet, pack, worry, alerts_text AS "alerts", soc_pct AS "SoC", soh_predicted_pct AS "SoH",
                cell_temp_max_c AS "hottest", spread_mv AS "spread", rul_predicted_efc AS "cycles left",
                failure_predicted_pct AS "failure", CASE WHEN NOT online THEN 'offline' WHEN silent THEN 'silent'
                    ELSE coalesce(charging_state, vehicle_state, 'online') END AS "state", gateway, ts AS "device time"
            FROM pack_now WHERE {CHOSEN} ORDER BY worry DESC, fleet, pack LIMIT 10000"""),
        about="Points for alerts (critical 1000, warning 300), poor and fair values (200 and 40), the probability of failure and silence (100); "
        "the same as on the gateway's page, but that an alert somebody has seen to there counts in full here.",
        size=(24, 12), columns=COLUMNS,
    )  # fmt: skip
    return made.with_panel(listed.footer(common.TableFooterOptions().enable_pagination(True)))


def _details(made: build.Dashboard) -> build.Dashboard:
    def top(title: str, columns: str, order: str, about: str) -> table.Panel:
        query = f"SELECT fleet, pack, {columns} FROM pack_now WHERE {CHOSEN} AND {order} IS NOT NULL"
        return p.rows(
            title, sql(f"{query} ORDER BY {order} LIMIT 10"), about=about, size=(8, 9), columns=COLUMNS
        )

    soh = f"""
        SELECT concat(2 * floor(soh / 2), '–', 2 * floor(soh / 2) + 2, ' %') AS "SoH", count(*) FILTER (WHERE soh < 75) AS "poor",
            count(*) FILTER (WHERE soh >= 75 AND soh < 85) AS "fair", count(*) FILTER (WHERE soh >= 85) AS "good"
        FROM (SELECT least(coalesce(soh_predicted_pct, soh_bms_pct), 99.9) AS soh FROM pack_now WHERE {CHOSEN}) AS packs
        WHERE soh IS NOT NULL GROUP BY floor(soh / 2) ORDER BY floor(soh / 2)"""
    colors = {"poor": "red", "fair": "orange", "good": "green"}
    return (
        made.with_panel(p.bars("SoH distribution", sql(soh), x="SoH", colors=colors, size=(12, 8),
                               about="Packs by predicted health, else the BMS's."))
        .with_panel(p.spread("Temperature distribution", sql(f'SELECT cell_temp_max_c AS "hottest cell" FROM pack_now WHERE {CHOSEN}'),
                             unit=p.CELSIUS, bucket=2, about="Packs by their hottest cell."))
        .with_panel(top("Hottest", 'cell_temp_max_c AS "hottest", temperature_predicted_c AS "in 10 min"', "-cell_temp_max_c",
                        "The hottest cell now and as predicted."))
        .with_panel(top("Widest spread", 'spread_mv AS "spread"', "-spread_mv",
                        "Highest less lowest cell voltage: a weak cell or a balancer that does not keep up."))
        .with_panel(top("Nearest end of life", 'rul_predicted_efc AS "cycles left", soh_predicted_pct AS "SoH"', "rul_predicted_efc",
                        "Equivalent full cycles until 80 % of the capacity."))
        .with_row(row("Alerts and absence"))
        .with_panel(p.rows("Alerts that stand", sql(f"""
            SELECT since, severity, fleet, pack, text, value, limit_value AS "limit", unit FROM alert_open WHERE {CHOSEN}
            ORDER BY array_position(ARRAY['critical', 'warning', 'info'], severity), since DESC LIMIT 200"""), size=(12, 9),
            columns={"pack": PACK, "unit": p.ALERT_UNIT}, about="Critical ones first."))
        .with_panel(p.rows("Offline and silent packs", sql(f"""
            SELECT fleet, pack, CASE WHEN online THEN 'silent' ELSE 'offline' END AS "state", gateway, stored AS "last heard"
            FROM pack_now WHERE {CHOSEN} AND (silent OR NOT online) ORDER BY stored DESC NULLS LAST LIMIT 200"""), size=(6, 9),
            columns={"pack": PACK}))
        .with_panel(p.rows("Offline gateways", prom_table('up{job="agent"} == 0'), size=(6, 9),
                           columns={"instance": p.Column(link=TO_GATEWAY)},
                           renamed={"instance": "instance", "Time": "", "Value": "", "__name__": "", "job": ""},
                           about="No rows: all answer."))
        .with_panel(p.rows("Gateways", sql(f"""
            SELECT gateway, count(*) AS "packs", count(*) FILTER (WHERE worry >= 200) AS "worrying",
                count(*) FILTER (WHERE silent) AS "silent", max(cell_temp_max_c) AS "hottest", min(soh_predicted_pct) AS "SoH",
                max(stored) AS "last heard"
            FROM pack_now WHERE {CHOSEN} AND gateway IS NOT NULL GROUP BY gateway ORDER BY 3 DESC, 2 DESC LIMIT 200"""),
            size=(24, 6), columns=COLUMNS, about="Packs by the gateway that heard them last; SoH is the lowest of its packs."))
    )  # fmt: skip
