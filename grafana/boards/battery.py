"""One pack: the eleven panels that users of the seed know, then the same pack from the history."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from grafana.boards import panels as p
from grafana.boards.board import board, row
from grafana.boards.sources import (
    FLEET,
    SqlAnnotation,
    prom,
    prom_now,
    sql,
    sql_series,
    sql_variable,
)

PACK = '{fleet="$fleet", pack="$pack"}'
ONE = "pack = ${pack:sqlstring} AND fleet = ${fleet:sqlstring}"
LIVE = "Live from the gateway; a gateway gives series of their own to its most worrying packs only, and the rows below have every pack."

# The first row of each day: as many look-ups in the index as there are days, however many rows a day has.
DAYS = f"""
    WITH span AS (
        SELECT min(ts) AS first, max(ts) AS last FROM telemetry WHERE {ONE}
    ), days AS (
        SELECT d.ts, d.efc, d.soh_bms_pct FROM span, generate_series(first, last, interval '1 day') AS day
        CROSS JOIN LATERAL (
            SELECT ts, efc, soh_bms_pct FROM telemetry
            WHERE {ONE} AND ts >= day AND ts < day + interval '1 day' ORDER BY ts LIMIT 1
        ) AS d
    )
"""

STEP = "$__interval_ms * interval '1 millisecond'"
# Health and remaining life are in few rows, which have indexes of their own.
_LOOKS = " UNION ALL ".join(
    f"(SELECT models FROM telemetry WHERE {ONE} AND ts >= at AND ts < at + {STEP} AND {column} IS NOT NULL ORDER BY ts LIMIT 5)"
    for column in ("models", "soh_predicted_pct", "rul_predicted_efc")
)


def make() -> build.Dashboard:
    """The board."""
    packs = "SELECT pack FROM pack WHERE fleet = ${fleet:sqlstring} ORDER BY pack"
    variables = [sql_variable("fleet", "Fleet", FLEET), sql_variable("pack", "Pack", packs)]
    made = board("battery", "Battery", "One pack: what is measured, what is predicted, and how well.",
                 refresh="5s", since="now-1h", variables=variables)  # fmt: skip
    made = made.annotation(
        SqlAnnotation(
            "Alerts",
            f"""
            SELECT ts AS time, severity || ', ' || state || ': ' || text AS text, code || ',' || severity AS tags
            FROM alert WHERE {ONE} AND $__timeFilter(ts) ORDER BY ts DESC LIMIT 500
            """,
            "red",
        )
    )
    return _history(_people(_measured(made)))


def _measured(made: build.Dashboard) -> build.Dashboard:
    """Health, charge and temperature."""
    return (
        made.with_panel(
            p.lines("SoH actual and predicted", prom(f"battery_soh_actual{PACK}", "actual"),
                    prom(f"battery_soh_predicted{PACK}", "predicted"), unit=p.PERCENT,
                    about=f"Actual is what the last charge session over half the capacity measured. {LIVE}")
        )
        .with_panel(p.dial("SoH", prom_now(f"battery_soh_predicted{PACK} or battery_soh_actual{PACK}"), steps=p.SOH_STEPS,
                           about="Predicted, else measured: above 85 % good, 70 to 85 % fair, below poor."))
        .with_panel(p.dial("SoC", prom_now(f"battery_soc_actual{PACK}"), steps=p.SOC_STEPS,
                           about="As the BMS reports it: above 50 % good, 20 to 50 % fair, below low."))
        .with_panel(
            p.lines("Temperature actual and predicted", prom(f"battery_temp_actual{PACK}", "actual"),
                    prom(f"battery_temp_predicted{PACK}", "predicted for 10 minutes later"), unit=p.CELSIUS,
                    marks=p.TEMPERATURE_STEPS, about=f"The hottest cell; marks at 40 and 60 °C. {LIVE}")
        )
        .with_panel(
            p.lines(
                "RUL actual and predicted",
                prom(f"battery_rul_predicted{PACK}", "predicted"),
                prom(f"battery_rul_predicted_low{PACK}", "low end of its 80 % interval"),
                prom(f"battery_rul_predicted_high{PACK}", "high end"),
                sql_series(f"""{DAYS}, ending AS (
                    SELECT efc FROM days WHERE soh_bms_pct <= 80 AND efc IS NOT NULL ORDER BY ts LIMIT 1
                )
                SELECT days.ts AS time, ending.efc - days.efc AS actual FROM days, ending
                WHERE days.efc <= ending.efc AND $__timeFilter(days.ts) ORDER BY days.ts"""),
                unit=p.CYCLES, about="Equivalent full cycles until 80 % of the capacity. The actual is known in hindsight only: it is there "
                "for a pack whose BMS reports 80 % or less, day by day from the history.",
            )
        )
    )  # fmt: skip


def _people(made: build.Dashboard) -> build.Dashboard:
    """Power, failure, how good the predictions are, what runs."""
    return (
        made.with_panel(
            p.lines("Voltage, current, power", prom(f"battery_voltage{PACK}", "voltage, V"),
                    prom(f"battery_current{PACK}", "current, A"), prom(f"battery_power{PACK} / 1000", "power, kW"),
                    about=f"Current and power are positive into the battery. {LIVE}")
        )
        .with_panel(p.dial("Failure probability", prom_now(f"battery_failure_predicted{PACK}"), steps=p.FAILURE_STEPS,
                           about="A critical fault in the next 7 days: below 30 % low, 30 to 60 % raised, above high."))
        .with_panel(p.number("Prediction accuracy", prom_now("avg by (metric) (prediction_accuracy)", "{{metric}}"),
                             unit=p.PERCENT, decimals=1, size=(6, 8), steps=p.ACCURACY_STEPS,
                             about="100 % less the relative error, mean over the packs whose actual value is known by now."))
        .with_panel(p.number("Total predictions", prom("sum by (model) (predictions_total)", "{{model}}"), size=(8, 6), spark=True,
                             about="Made since the gateways started, without those that had no answer."))
        .with_panel(
            p.number(
                "Retraining events", prom_now("sum(model_training_total)", "trained on gateways"),
                sql(f"""SELECT count(DISTINCT (m.key, m.value)) AS "different models in use"
                    FROM generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz, {STEP}) AS at
                    CROSS JOIN LATERAL ({_LOOKS}) AS found CROSS JOIN LATERAL jsonb_each_text(found.models) AS m"""),
                size=(8, 6), about="A gateway trains nothing (always 0). What the cloud trained arrives as a model of another hash. Different models that "
                "answered for this pack in the time shown: four is one of each kind and no retraining, each one more is a retrained one.",
            )
        )
        .with_panel(
            p.number(
                "System health", prom_now('min(up{job=~"agent|bridge"})', "programs"),
                prom_now("min(voltflow_mqtt_connected)", "brokers"), prom_now("min(voltflow_sink_up)", "sinks"),
                prom_now("1 - max(voltflow_spool_blocked)", "spools"), size=(8, 6), steps=p.ONE_IS_GOOD,
                words={"0": "trouble", "1": "fine"},
                about="Of all gateways and bridges: every program answers, is connected, its far sides take what it sends, no spool is blocked.",
            )
        )
    )  # fmt: skip


def _history(made: build.Dashboard) -> build.Dashboard:
    """From TimescaleDB: every pack, at the device's time."""
    grouped = f"FROM telemetry WHERE {ONE} AND $__timeFilter(ts) GROUP BY 1 ORDER BY 1"
    bucket = "$__timeGroup(ts, $__interval) AS time"
    return (
        made.with_row(row("From the history, by the device's clock"))
        .with_panel(p.lines("Charge and health", sql_series(f"""
            SELECT {bucket}, avg(soc_pct) AS "SoC, BMS", avg(twin_soc_pct) AS "SoC, twin", avg(soh_bms_pct) AS "SoH, BMS",
                avg(soh_predicted_pct) AS "SoH, predicted" {grouped}"""), unit=p.PERCENT, low=0, high=100,
            about="The twin's own estimate beside what the BMS reports."))
        .with_panel(p.lines("Temperatures", sql_series(f"""
            SELECT {bucket}, max(cell_temp_max_c) AS "hottest cell", min(cell_temp_min_c) AS "coldest cell",
                avg(temperature_predicted_c) AS "predicted" {grouped}"""),
            unit=p.CELSIUS, marks=p.TEMPERATURE_STEPS, about="The prediction stands at the time it was made, for 10 minutes later."))
        .with_panel(p.lines("Voltage, current", sql_series(f"""
            SELECT {bucket}, avg(pack_voltage_v) AS "voltage, V", avg(pack_current_a) AS "current, A" {grouped}""")))
        .with_panel(p.lines("Cell spread", sql_series(f"""
            SELECT {bucket}, max(1000 * (cell_voltage_max_v - cell_voltage_min_v)) AS "spread" {grouped}"""),
            unit="suffix: mV", low=0, marks=((None, "green"), (150, "red")), size=(6, 8), about="Highest less lowest cell voltage."))
        .with_panel(p.lines("Insulation", sql_series(f"""
            SELECT {bucket}, avg(1000 * insulation_kohm / nullif(pack_voltage_v, 0)) AS "insulation" {grouped}"""),
            unit="suffix: Ω/V", low=0, marks=((None, "red"), (100, "green")), size=(6, 8), about="For each volt of the pack; ISO 6469-3 asks for 100 Ω/V."))
        .with_panel(p.rows("Charge sessions", sql(f"""
            SELECT to_timestamp((session->>'end_ms')::float8 / 1000) AS "end", (session->>'soc_start_pct')::float8 AS "from",
                (session->>'soc_end_pct')::float8 AS "to", (session->>'charge_ah')::float8 AS "charge",
                100 * (session->>'capacity_est_ah')::float8 / capacity_rated_ah AS "measured SoH", soh_predicted_pct AS "predicted SoH"
            FROM telemetry WHERE {ONE} AND $__timeFilter(ts) AND session IS NOT NULL
                AND soh_predicted_pct IS NOT NULL ORDER BY ts DESC LIMIT 100"""), size=(12, 8),
            columns={"from": p.Column(p.PERCENT, decimals=0), "to": p.Column(p.PERCENT, decimals=0),
                     "charge": p.Column("amph", decimals=1), "measured SoH": p.Column(p.PERCENT, p.SOH_STEPS, 1),
                     "predicted SoH": p.Column(p.PERCENT, p.SOH_STEPS, 1)}))
        .with_panel(p.rows("Alerts", sql(f"""
            SELECT ts AS "time", severity, state, text, value, limit_value AS "limit", unit FROM alert
            WHERE {ONE} AND $__timeFilter(ts) ORDER BY ts DESC LIMIT 100"""), size=(12, 8),
            columns={"unit": p.ALERT_UNIT}))
    )  # fmt: skip
