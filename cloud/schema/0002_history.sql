-- The history: one row for each message, everything that belongs to it beside it. Times: `ts` is the device's clock,
-- `sent`, `received` and `stored` are wall clocks of device, gateway and database.

-- The unique index has two jobs. Its key makes redelivery harmless: a message is (fleet, pack, boot, seq), and `ts` is
-- part of the message, so the same message always gives the same key. `ts` has to be in it because a hypertable's
-- unique index must contain the time column. Two messages with one (fleet, pack, boot, seq) and different times are a
-- fault of the device: both rows are kept and `voltflow ledger verify` shows them as duplicates. The order of
-- the columns serves what people ask most, one pack over a span of time, so that no second index is paid for at
-- each insert. The fleet is in the key because a pack's name is unique within its fleet only.
CREATE TABLE telemetry (
    fleet text NOT NULL,
    pack text NOT NULL,
    boot bigint NOT NULL,
    seq bigint NOT NULL,
    ts timestamptz NOT NULL,
    sent timestamptz,
    received timestamptz NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    gateway text NOT NULL,
    flow_rev text NOT NULL,
    late boolean NOT NULL,
    replay boolean NOT NULL,
    chemistry text,
    capacity_rated_ah double precision,
    -- what the battery management system reports; null: missing, or impossible and then named in `invalid`
    vehicle_state text,
    charging_state text,
    soh_basis text,
    contactor text,
    speed_kmh double precision,
    odometer_km double precision,
    pack_voltage_v double precision,
    pack_current_a double precision,
    soc_pct double precision,
    soh_bms_pct double precision,
    cell_voltage_min_v double precision,
    cell_voltage_max_v double precision,
    cell_voltage_avg_v double precision,
    cell_voltage_min_id integer,
    cell_voltage_max_id integer,
    cell_temp_min_c double precision,
    cell_temp_max_c double precision,
    cell_temp_avg_c double precision,
    coolant_inlet_c double precision,
    coolant_outlet_c double precision,
    ambient_c double precision,
    insulation_kohm double precision,
    limit_charge_kw double precision,
    limit_discharge_kw double precision,
    charge_throughput_ah double precision,
    discharge_throughput_ah double precision,
    efc double precision,
    balancing_cells integer,
    alarm_level smallint,
    dtc text[],      -- null: none
    invalid text[],  -- names of fields that were impossible; null: none
    stale_s double precision,
    -- what the twin makes of it
    twin_soc_pct double precision,
    twin_soc_sigma_pct double precision,
    twin_resistance_mohm double precision,
    twin_voltage_residual_mv double precision,
    twin_soc_residual_pct double precision,
    session jsonb,   -- the charge session that this message ended
    -- predictions: null where there is none, and then `reasons` says why; `made` is the device's time of making
    soh_predicted_pct double precision,
    soh_low_pct double precision,
    soh_high_pct double precision,
    soh_made timestamptz,
    temperature_predicted_c double precision,
    temperature_low_c double precision,
    temperature_high_c double precision,
    temperature_made timestamptz,
    temperature_target timestamptz,
    rul_predicted_efc double precision,
    rul_low_efc double precision,
    rul_high_efc double precision,
    rul_made timestamptz,
    failure_predicted_pct double precision,
    failure_low_pct double precision,
    failure_high_pct double precision,
    failure_made timestamptz,
    models jsonb,    -- {"soh": first 12 hex digits of the model's SHA-256, ...}
    reasons jsonb,   -- {"rul": "why there is no value", ...}
    predictions_other jsonb,  -- predictions of models, or in units, that have no columns yet: nothing is thrown away
    joined jsonb,    -- predictions made earlier beside what was then measured
    UNIQUE (pack, ts, boot, seq, fleet)
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        PERFORM create_hypertable('telemetry', by_range('ts', INTERVAL '1 day'), create_default_indexes => false);
    END IF;
END
$$;

-- What arrived last, over all packs, and retention by time: a BRIN index costs an insert nearly nothing.
CREATE INDEX telemetry_ts ON telemetry USING brin (ts);

CREATE TABLE alert (
    fleet text NOT NULL,
    pack text NOT NULL,
    boot bigint NOT NULL,
    seq bigint NOT NULL,
    code text NOT NULL,
    state text NOT NULL,
    severity text NOT NULL,
    since timestamptz NOT NULL,
    ts timestamptz NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    value double precision,
    limit_value double precision,
    unit text,
    text text NOT NULL,
    PRIMARY KEY (pack, boot, seq, code, state, fleet)
);
CREATE INDEX alert_ts ON alert (ts);

-- A letter is stored once: `id` is random and made with it, so redelivery of the letter is told from another letter
-- about the same bytes. A message that the gateway gets again, because it was not acknowledged, makes a new letter: the
-- second index tells those that have the key of a reading. Without a key such a message may leave two letters.
CREATE TABLE dead_letter (
    id text NOT NULL,
    fleet text NOT NULL,
    gateway text NOT NULL,
    node text NOT NULL,
    error text NOT NULL,
    topic text NOT NULL,
    payload bytea NOT NULL,
    truncated boolean NOT NULL,
    size_bytes bigint NOT NULL,
    sha256 text NOT NULL,
    received timestamptz NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    pack text,
    boot bigint,
    seq bigint,
    PRIMARY KEY (id, sha256)
);
CREATE UNIQUE INDEX dead_letter_once ON dead_letter (pack, boot, seq, fleet, gateway, node, sha256)
    WHERE seq IS NOT NULL;
CREATE INDEX dead_letter_received ON dead_letter (received);

-- What a gateway dropped on purpose: the ledger explains holes with it.
CREATE TABLE loss (
    fleet text NOT NULL,
    pack text NOT NULL,
    boot bigint NOT NULL,
    seq_from bigint NOT NULL,
    seq_to bigint NOT NULL CHECK (seq_to >= seq_from),
    reason text NOT NULL,
    gateway text NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pack, boot, seq_from, seq_to, reason, fleet)
);

-- The last known nameplate and whether the pack is online.
CREATE TABLE pack (
    fleet text NOT NULL,
    pack text NOT NULL,
    online boolean NOT NULL,
    boot bigint,
    chemistry text,
    cells_series integer,
    cells_parallel integer,
    capacity_rated_ah double precision,
    firmware text,
    state_ts timestamptz,
    stored timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pack, fleet)
);

-- How many messages a device says it published in a boot (its farewell): the ledger finds a lost tail with it.
CREATE TABLE pack_boot (
    fleet text NOT NULL,
    pack text NOT NULL,
    boot bigint NOT NULL,
    published bigint NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pack, boot, fleet)
);
