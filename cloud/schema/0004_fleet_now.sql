-- What a fleet operator looks at: each pack as it is now, with points of worry, and who may look. Views cost nothing
-- until they are asked. This file may be run again by psql, for instance by a role that may make roles.

-- Health and remaining life are predicted at the end of charge sessions only, failure once a minute, so the newest one lies
-- some way from the newest row, and where there is no model there is none. Few rows have them: these indexes are small and
-- cost an insert nearly nothing. Making them reads the whole table and writes wait meanwhile, so on a big one it is the
-- operator's choice when; without them `pack_now` is slow.
DO $$
DECLARE
    rows_about double precision;
BEGIN
    SELECT coalesce(sum(greatest(reltuples, 0)), 0) INTO rows_about FROM pg_class
    WHERE oid = 'telemetry'::regclass
        OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'telemetry'::regclass);
    IF rows_about < 2e7 THEN
        CREATE INDEX IF NOT EXISTS telemetry_soh ON telemetry (pack, ts, fleet) WHERE soh_predicted_pct IS NOT NULL;
        CREATE INDEX IF NOT EXISTS telemetry_rul ON telemetry (pack, ts, fleet) WHERE rul_predicted_efc IS NOT NULL;
        CREATE INDEX IF NOT EXISTS telemetry_failure ON telemetry (pack, ts, fleet) WHERE failure_predicted_pct IS NOT NULL;
    ELSE
        RAISE WARNING 'telemetry has about % rows: three indexes of the fleet''s views are not made now; see docs/grafana.md', rows_about::bigint;
    END IF;
END
$$;

-- The newest message of each alert: one row for a pack and code that ever alerted, however long the history of alerts is.
-- A trigger keeps it, whoever inserts; in the order of the keys, so that bridges that insert at once do not deadlock.
CREATE TABLE IF NOT EXISTS alert_now (
    fleet text NOT NULL,
    pack text NOT NULL,
    code text NOT NULL,
    boot bigint NOT NULL,
    seq bigint NOT NULL,
    state text NOT NULL,
    severity text NOT NULL,
    since timestamptz NOT NULL,
    ts timestamptz NOT NULL,
    stored timestamptz NOT NULL,
    value double precision,
    limit_value double precision,
    unit text,
    text text NOT NULL,
    PRIMARY KEY (pack, code, fleet)
);

CREATE OR REPLACE FUNCTION keep_alert_now() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO alert_now AS known
        (fleet, pack, code, boot, seq, state, severity, since, ts, stored, value, limit_value, unit, text)
    SELECT DISTINCT ON (pack, code, fleet)
        fleet, pack, code, boot, seq, state, severity, since, ts, stored, value, limit_value, unit, text
    FROM arrived ORDER BY pack, code, fleet, ts DESC, boot DESC, seq DESC
    ON CONFLICT (pack, code, fleet) DO UPDATE SET
        boot = excluded.boot, seq = excluded.seq, state = excluded.state, severity = excluded.severity,
        since = excluded.since, ts = excluded.ts, stored = excluded.stored, value = excluded.value,
        limit_value = excluded.limit_value, unit = excluded.unit, text = excluded.text
    WHERE (excluded.ts, excluded.boot, excluded.seq) > (known.ts, known.boot, known.seq);
    RETURN NULL;
END
$$;

-- First the trigger, then those that are there: none is passed over between the two.
CREATE OR REPLACE TRIGGER alert_now AFTER INSERT ON alert REFERENCING NEW TABLE AS arrived
    FOR EACH STATEMENT EXECUTE FUNCTION keep_alert_now();
INSERT INTO alert_now (fleet, pack, code, boot, seq, state, severity, since, ts, stored, value, limit_value, unit, text)
SELECT DISTINCT ON (pack, code, fleet)
    fleet, pack, code, boot, seq, state, severity, since, ts, stored, value, limit_value, unit, text
FROM alert ORDER BY pack, code, fleet, ts DESC, boot DESC, seq DESC
ON CONFLICT DO NOTHING;

-- The alerts that stand: of each code the newest message of the pack, where it raised the alert.
CREATE OR REPLACE VIEW alert_open AS
SELECT fleet, pack, code, state, severity, since, ts, stored, value, limit_value, unit, text
FROM alert_now WHERE state = 'raised';

-- The newest row of each pack that has told of itself, and its newest predictions: a few look-ups in indexes for each,
-- however long the history is. The points are those of the gateway (edge/bands.py): alerts, bands, silence for the 20 minutes
-- that are its default, nothing known. But that somebody has seen to an alert only the gateway knows, where it counts a tenth then.
CREATE OR REPLACE VIEW pack_now AS
SELECT seen.*,
    coalesce(alerts.critical, 0) AS alerts_critical,
    coalesce(alerts.warning, 0) AS alerts_warning,
    coalesce(alerts.info, 0) AS alerts_info,
    alerts.texts AS alerts_text,
    coalesce(1000 * alerts.critical + 300 * alerts.warning + 10 * alerts.info, 0)
        + CASE WHEN cell_temp_max_c > 60 THEN 200 WHEN cell_temp_max_c > 40 THEN 40 ELSE 0 END
        + CASE WHEN soh_predicted_pct < 75 THEN 200 WHEN soh_predicted_pct < 85 THEN 40 ELSE 0 END
        + CASE WHEN rul_predicted_efc < 100 THEN 200 WHEN rul_predicted_efc < 500 THEN 40 ELSE 0 END
        + CASE WHEN failure_predicted_pct > 60 THEN 200 WHEN failure_predicted_pct > 30 THEN 40 ELSE 0 END
        + coalesce(trunc(failure_predicted_pct), 0)
        + CASE WHEN num_nonnulls(soc_pct, cell_temp_max_c, soh_predicted_pct, rul_predicted_efc, failure_predicted_pct) = 0
            THEN 39 ELSE 0 END
        + CASE WHEN silent THEN 100 ELSE 0 END AS worry
FROM (
    SELECT p.fleet, p.pack, p.online, p.chemistry, p.firmware, p.capacity_rated_ah,
        t.gateway, t.flow_rev, t.ts, t.stored,
        coalesce(t.stored < now() - interval '20 minutes', true) AS silent,
        t.vehicle_state, t.charging_state, t.soc_pct, t.soh_bms_pct, t.pack_voltage_v, t.pack_current_a,
        t.cell_temp_max_c, t.temperature_predicted_c,
        1000 * (t.cell_voltage_max_v - t.cell_voltage_min_v) AS spread_mv,
        t.insulation_kohm, t.efc, soh.soh_predicted_pct, soh.ts AS soh_ts, rul.rul_predicted_efc, rul.ts AS rul_ts,
        failure.failure_predicted_pct, t.models
    FROM pack AS p LEFT JOIN LATERAL (
        SELECT * FROM telemetry WHERE telemetry.pack = p.pack AND telemetry.fleet = p.fleet
        ORDER BY telemetry.ts DESC LIMIT 1
    ) AS t ON true LEFT JOIN LATERAL (
        SELECT n.ts, n.soh_predicted_pct FROM telemetry AS n
        WHERE n.pack = p.pack AND n.fleet = p.fleet AND n.soh_predicted_pct IS NOT NULL ORDER BY n.ts DESC LIMIT 1
    ) AS soh ON true LEFT JOIN LATERAL (
        SELECT n.ts, n.rul_predicted_efc FROM telemetry AS n
        WHERE n.pack = p.pack AND n.fleet = p.fleet AND n.rul_predicted_efc IS NOT NULL ORDER BY n.ts DESC LIMIT 1
    ) AS rul ON true LEFT JOIN LATERAL (
        SELECT n.failure_predicted_pct FROM telemetry AS n
        WHERE n.pack = p.pack AND n.fleet = p.fleet AND n.ts > t.ts - interval '1 hour' AND n.failure_predicted_pct IS NOT NULL
        ORDER BY n.ts DESC LIMIT 1
    ) AS failure ON true
) AS seen
LEFT JOIN (
    SELECT fleet, pack,
        count(*) FILTER (WHERE severity = 'critical') AS critical,
        count(*) FILTER (WHERE severity = 'warning') AS warning,
        count(*) FILTER (WHERE severity = 'info') AS info,
        string_agg(text, '; ' ORDER BY severity, code) AS texts
    FROM alert_open GROUP BY fleet, pack
) AS alerts USING (fleet, pack);

-- Who may only look, at everything but the bytes of messages nobody could read. A role without login: give it to the one
-- that Grafana logs in with. Roles belong to the whole server, so another database may have made it at this moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'voltflow_reader') THEN
        CREATE ROLE voltflow_reader NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE WARNING 'no role voltflow_reader: this role may not make one; see docs/grafana.md';
END
$$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'voltflow_reader') THEN
        GRANT SELECT ON telemetry, alert, alert_now, loss, pack, pack_boot, alert_open, pack_now TO voltflow_reader;
        GRANT SELECT (id, fleet, gateway, node, error, topic, truncated, size_bytes, sha256, received, stored, pack,
            boot, seq, replayed, dropped) ON dead_letter TO voltflow_reader;
    END IF;
END
$$;
