"""How good the predictions are, against the simplest thing one could do instead, from the history."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from grafana.boards import panels as p
from grafana.boards.board import board, row
from grafana.boards.sources import (
    FLEET,
    Query,
    SqlAnnotation,
    prom,
    prom_now,
    sql,
    sql_series,
    sql_variable,
)

POINTS = 100
"""Times that a panel looks at: with the packs of the sample the look-ups in the index, however long the history is."""

SAMPLE = "SELECT fleet, pack FROM pack WHERE fleet IN (${fleet:sqlstring}) ORDER BY md5(pack) LIMIT ${sample}"
STEP = "$__interval_ms * interval '1 millisecond'"

# Pairs of prediction and what was measured 10 minutes later, a few of each pack and step; `before` is what was measured
# when the prediction was made: saying that nothing will change is the baseline.
PAIRS = f"""
    WITH chosen AS ({SAMPLE}), grid AS (
        SELECT generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz, {STEP}) AS time
    ), pairs AS (
        SELECT grid.time, found.predicted, found.actual, made.before
        FROM chosen CROSS JOIN grid CROSS JOIN LATERAL (
            SELECT (joined->'temperature'->>'predicted')::float8 AS predicted, (joined->'temperature'->>'actual')::float8 AS actual,
                timestamptz 'epoch' + (joined->'temperature'->>'made_ms')::bigint * interval '1 millisecond' AS made
            FROM telemetry AS t WHERE t.pack = chosen.pack AND t.fleet = chosen.fleet AND t.joined IS NOT NULL
                AND t.ts >= grid.time AND t.ts < grid.time + {STEP} ORDER BY t.ts LIMIT 5
        ) AS found CROSS JOIN LATERAL (
            SELECT cell_temp_max_c AS before FROM telemetry AS t
            WHERE t.pack = chosen.pack AND t.fleet = chosen.fleet AND t.ts = found.made LIMIT 1
        ) AS made
    )
"""
RMSE = "sqrt(avg((predicted - actual) ^ 2))"
BASELINE_RMSE = "sqrt(avg((before - actual) ^ 2))"
SKILL = f"100 * (1 - {RMSE} / nullif({BASELINE_RMSE}, 0))"

# What a charge session measured beside what was predicted at its end and what the BMS says.
SESSIONS = """
    WITH measured AS (
        SELECT ts, fleet, pack, 100 * (session->>'capacity_est_ah')::float8 / capacity_rated_ah AS actual,
            soh_predicted_pct AS predicted, soh_bms_pct AS bms
        FROM telemetry WHERE fleet IN (${fleet:sqlstring}) AND $__timeFilter(ts) AND session IS NOT NULL AND soh_predicted_pct IS NOT NULL
            AND session->>'capacity_est_ah' IS NOT NULL
            AND (session->>'soc_end_pct')::float8 - (session->>'soc_start_pct')::float8 >= 50
    )
"""

# A day's first probability of each pack of the sample, and whether a critical alert came within the 7 days after it (the one
# that the prediction itself raises does not count). Only days whose 7 days are over can be judged.
JUDGED = f"""
    WITH chosen AS ({SAMPLE}), days AS (
        SELECT generate_series($__timeFrom()::timestamptz, least($__timeTo()::timestamptz, now()) - interval '7 days',
            interval '1 day') AS day
    ), judged AS (
        SELECT found.pct, EXISTS (
            SELECT FROM alert AS a WHERE a.pack = chosen.pack AND a.fleet = chosen.fleet AND a.severity = 'critical'
                AND a.code <> 'failure_likely' AND a.state = 'raised' AND a.ts > found.ts AND a.ts <= found.ts + interval '7 days'
        ) AS failed
        FROM chosen CROSS JOIN days CROSS JOIN LATERAL (
            SELECT t.ts, t.failure_predicted_pct AS pct FROM telemetry AS t
            WHERE t.pack = chosen.pack AND t.fleet = chosen.fleet AND t.ts >= day AND t.ts < day + interval '1 day'
                AND t.failure_predicted_pct IS NOT NULL ORDER BY t.ts LIMIT 1
        ) AS found
    )
"""

# The packs whose BMS says 80 % or less: what was predicted of their cycles day by day, and what came of it.
ENDED = """
    WITH ended AS (
        SELECT fleet, pack FROM pack_now WHERE fleet IN (${fleet:sqlstring}) AND soh_bms_pct <= 80 ORDER BY md5(pack) LIMIT ${sample}
    ), seen AS (
        SELECT ended.fleet, ended.pack, found.*
        FROM ended CROSS JOIN generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz, interval '1 day') AS day
        CROSS JOIN LATERAL (
            SELECT t.ts, t.efc, t.soh_bms_pct, t.rul_predicted_efc AS predicted, t.rul_low_efc AS low, t.rul_high_efc AS high
            FROM telemetry AS t WHERE t.pack = ended.pack AND t.fleet = ended.fleet AND t.ts >= day
                AND t.ts < day + interval '1 day' AND t.rul_predicted_efc IS NOT NULL ORDER BY t.ts LIMIT 1
        ) AS found
    ), ends AS (
        SELECT fleet, pack, min(efc) AS efc FROM seen WHERE soh_bms_pct <= 80 GROUP BY fleet, pack
    ), known AS (
        SELECT seen.ts, predicted, low, high, ends.efc - seen.efc AS actual
        FROM seen JOIN ends USING (fleet, pack) WHERE seen.efc <= ends.efc
    )
"""

# When a model's hash was first seen in the sample within the time that is shown, looked at every 6 hours. Health and
# remaining life are in few rows, which have indexes of their own.
_NEWEST = """
            (SELECT t.ts, t.models FROM telemetry AS t WHERE t.pack = chosen.pack AND t.fleet = chosen.fleet
                AND t.ts >= at AND t.ts < at + interval '6 hours' AND {column} IS NOT NULL ORDER BY t.ts LIMIT 1)"""
_EACH = " UNION ALL ".join(
    _NEWEST.format(column=f"t.{name}") for name in ("models", "soh_predicted_pct", "rul_predicted_efc")
)
NEW_MODELS = f"""
    WITH chosen AS ({SAMPLE}), seen AS (
        SELECT m.key AS model, m.value AS hash, min(found.ts) AS first
        FROM chosen CROSS JOIN generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz, interval '6 hours') AS at
        CROSS JOIN LATERAL ({_EACH}
        ) AS found CROSS JOIN LATERAL jsonb_each_text(found.models) AS m
        GROUP BY m.key, m.value
    )
"""


def make() -> build.Dashboard:
    """The board."""
    sample = build.CustomVariable("sample").label("Packs looked at").values("50,200,1000")
    made = board("models", "Model quality", "Predictions beside what came true, and beside a baseline.", refresh="1m", since="now-7d",
                 variables=[sql_variable("fleet", "Fleet", FLEET, several=True)]).with_variable(sample)  # fmt: skip
    made = made.annotation(
        SqlAnnotation(
            "Retrained models",
            f"{NEW_MODELS} SELECT first AS time, model || ' ' || hash AS text, 'model,' || model AS tags FROM seen ORDER BY first",
            "purple",
        )
    )
    return _models(_drift(_calibration(_temperature(_figures(made)))))


def _figures(made: build.Dashboard) -> build.Dashboard:
    skill_steps: p.Steps = ((None, "red"), (0, "orange"), (15, "green"))
    coverage_steps: p.Steps = ((None, "red"), (70, "orange"), (75, "green"), (90, "orange"))
    over_all = "FROM pairs"
    listed = [
        p.number("Temperature: skill", _sampled(f"SELECT {SKILL} {over_all}"), unit=p.PERCENT, decimals=0, steps=skill_steps,
                 about="How much smaller the error is than that of saying nothing will change; below 0 the model does harm."),
        p.number("Temperature: error", _sampled(f"SELECT avg(abs(predicted - actual)) {over_all}"), unit=p.CELSIUS, decimals=2,
                 about="Mean absolute error, 10 minutes ahead."),
        p.number("RUL: in the interval", sql(f"""{ENDED}
            SELECT 100.0 * count(*) FILTER (WHERE actual BETWEEN low AND high) / nullif(count(*), 0) FROM known"""), unit=p.PERCENT,
                 decimals=0, steps=coverage_steps, about="Of packs that reached their end: 80 % should lie in the 80 % interval."),
        p.number("SoH: error", sql(f"{SESSIONS} SELECT avg(abs(predicted - actual)) FROM measured"), unit=p.PERCENT, decimals=1,
                 about="Mean absolute difference to what charge sessions measured, percent points."),
        p.number("SoH: error of the BMS", sql(f"{SESSIONS} SELECT avg(abs(bms - actual)) FROM measured"), unit=p.PERCENT,
                 decimals=1, about="The baseline: what the BMS says of itself."),
        p.number("Prediction accuracy", prom_now("avg by (metric) (prediction_accuracy)", "{{metric}}"), unit=p.PERCENT,
                 decimals=1, steps=p.ACCURACY_STEPS, about="As the gateways count it."),
    ]  # fmt: skip
    for panel in listed:
        made = made.with_panel(panel.max_data_points(POINTS))
    return made


def _sampled(text: str) -> Query:
    return sql(f"{PAIRS} {text}")


def _over_time(text: str) -> Query:
    return sql_series(f"{PAIRS} SELECT time, {text} FROM pairs GROUP BY time ORDER BY time")


def _temperature(made: build.Dashboard) -> build.Dashboard:
    return (
        made.with_panel(p.lines("Skill over time", _over_time(f'{SKILL} AS "skill"'), unit=p.PERCENT, marks=((None, "red"), (0, "green")), joined=True,
                                about="Temperature 10 minutes ahead, against saying that nothing will change (0 %).")
                        .max_data_points(POINTS))
        .with_panel(p.lines("Error against the baseline", _over_time(f'{RMSE} AS "model", {BASELINE_RMSE} AS "nothing changes"'),
                            unit=p.CELSIUS, low=0, about="Root mean square error of the temperature.").max_data_points(POINTS))
        .with_panel(p.lines("Residuals over time", _over_time(
            'percentile_cont(0.1) WITHIN GROUP (ORDER BY predicted - actual) AS "10 %", avg(predicted - actual) AS "mean",'
            ' percentile_cont(0.9) WITHIN GROUP (ORDER BY predicted - actual) AS "90 %"'), unit=p.CELSIUS,
            about="Predicted less measured temperature: a mean away from 0 is a bias.").max_data_points(POINTS))
        .with_panel(p.bars("Residuals", _sampled("""
            SELECT to_char(floor(4 * (predicted - actual)) / 4, 'FM990.00') AS "from", count(*) AS "pairs" FROM pairs
            GROUP BY floor(4 * (predicted - actual)) ORDER BY floor(4 * (predicted - actual))"""), x="from",
            about="Predicted less measured temperature in steps of a quarter of a degree; all pairs of the time that is shown.")
            .max_data_points(POINTS))
    )  # fmt: skip


def _calibration(made: build.Dashboard) -> build.Dashboard:
    return (
        made.with_row(row("Calibration"))
        .with_panel(p.lines("RUL of packs that reached their end", sql_series(f"""{ENDED}
            SELECT date_trunc('day', ts) AS time, avg(predicted) AS "predicted", avg(low) AS "low", avg(high) AS "high", avg(actual) AS "actual"
            FROM known GROUP BY 1 ORDER BY 1"""), unit=p.CYCLES, low=0,
            about="Means over the packs whose BMS says 80 % or less: only of them is it known how many cycles were left."))
        .with_panel(p.bars("Failure: predicted and observed", sql(f"""{JUDGED}
            SELECT concat(10 * floor(pct / 10), '–', 10 * floor(pct / 10) + 10, ' %') AS "predicted band", avg(pct) AS "predicted",
                100.0 * count(*) FILTER (WHERE failed) / count(*) AS "observed", count(*) AS "cases"
            FROM judged GROUP BY floor(pct / 10) ORDER BY floor(pct / 10)"""), x="predicted band", unit=p.PERCENT,
            colors={"predicted": "blue", "observed": "red", "cases": "gray"}, counts="cases",
            about="Of the predictions whose 7 days are over: in each band the mean probability and the share that had a critical alert. "
            "Needs more than 7 days of time shown."))
        .with_panel(p.lines("SoH: predicted less measured", sql_series(f"""{SESSIONS}
            SELECT ts AS time, predicted - actual AS "model", bms - actual AS "BMS" FROM measured ORDER BY ts LIMIT 5000"""),
            unit=p.PERCENT, dots=True, about="A dot for each charge session over half the capacity; the BMS's own value is the baseline."))
        .with_panel(p.rows("SoH: worst misses", sql(f"""{SESSIONS}
            SELECT ts AS "end of session", fleet, pack, actual AS "measured", predicted, predicted - actual AS "difference"
            FROM measured WHERE predicted IS NOT NULL ORDER BY abs(predicted - actual) DESC LIMIT 20"""), size=(12, 8),
            columns={name: p.Column(p.PERCENT, decimals=1) for name in ("measured", "predicted", "difference")}))
    )  # fmt: skip


def _drift(made: build.Dashboard) -> build.Dashboard:
    rows = f"""
        WITH chosen AS ({SAMPLE}), grid AS (
            SELECT generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz, {STEP}) AS time
        ), found AS (
            SELECT grid.time, f.* FROM chosen CROSS JOIN grid CROSS JOIN LATERAL (
                SELECT * FROM telemetry AS t WHERE t.pack = chosen.pack AND t.fleet = chosen.fleet
                    AND t.ts >= grid.time AND t.ts < grid.time + {STEP} ORDER BY t.ts LIMIT 1
            ) AS f
        )"""
    inputs = f"""{rows} SELECT time, avg(cell_temp_max_c) AS "hottest cell, °C", avg(ambient_c) AS "ambient, °C",
        avg(soc_pct) AS "SoC, %", avg(abs(pack_current_a)) AS "current, A" FROM found GROUP BY time ORDER BY time"""
    physics = f"""{rows} SELECT time, avg(twin_voltage_residual_mv) AS "voltage, mV", avg(twin_soc_residual_pct) AS "SoC, %"
        FROM found GROUP BY time ORDER BY time"""
    return (
        made.with_row(row("Drift"))
        .with_panel(p.lines("What the models are fed", sql_series(inputs), size=(8, 8), about="Means over the sample: when these leave what "
                            "the models were trained on, the models have to be looked at.").max_data_points(POINTS))
        .with_panel(p.lines("The twin against the BMS", sql_series(physics), size=(8, 8),
                            about="Mean residuals of the circuit model: an ageing fleet moves them.").max_data_points(POINTS))
        .with_panel(p.lines("Impossible values", prom("sum by (field) (rate(voltflow_invalid_values_total[$__rate_interval])) * 60", "{{field}}"),
                            size=(8, 8), about="Per minute; they are made null, so a model is fed less."))
    )  # fmt: skip


def _models(made: build.Dashboard) -> build.Dashboard:
    return (
        made.with_row(row("Models"))
        .with_panel(p.rows("Models in the fleet", sql("""
            SELECT m.key AS "model", m.value AS "hash", count(*) AS "packs", count(DISTINCT gateway) AS "gateways",
                min(stored) AS "oldest", max(stored) AS "newest"
            FROM pack_now CROSS JOIN LATERAL jsonb_each_text(models) AS m WHERE fleet IN (${fleet:sqlstring})
            GROUP BY 1, 2 ORDER BY 1, 3 DESC"""), size=(12, 8), about="By the newest message of each pack: two hashes of a model are a rollout under way."))
        .with_panel(p.rows("New models", sql(f"""{NEW_MODELS}
            SELECT first AS "first seen", model, hash FROM seen ORDER BY first DESC"""), size=(6, 8), about="In the time that is shown, to 6 hours."))
        .with_panel(p.lines("Error as a multiple of the card's", prom("""
            max by (model) (voltflow_model_error{stat="rmse"})
                / max by (model) (voltflow_model_error_expected{stat="rmse", of="model"})""", "{{model}}"),
            size=(6, 8), low=0, about="As the gateways measure it, beside what the model's card promises: 1 is as promised."))
    )  # fmt: skip
