-- What the continuous ledger needs, and times that may be unknown. Adding a column and allowing null change the
-- catalog only, however big the tables are.

-- Null: the gateway did not know what time it was.
ALTER TABLE telemetry ALTER COLUMN received DROP NOT NULL;
ALTER TABLE dead_letter ALTER COLUMN received DROP NOT NULL;
-- How far the device's clock is ahead of the gateway's; null where that cannot be told.
ALTER TABLE telemetry ADD COLUMN skew_ms bigint;

-- What became of a letter (`cloud-bridge dead`); null: nothing yet.
ALTER TABLE dead_letter ADD COLUMN replayed timestamptz;
ALTER TABLE dead_letter ADD COLUMN dropped timestamptz;

-- The continuous check reads what is new by the time it was stored. These tables are small beside `telemetry`.
CREATE INDEX dead_letter_stored ON dead_letter (stored);
CREATE INDEX loss_stored ON loss (stored);
CREATE INDEX pack_boot_stored ON pack_boot (stored);

-- The same for `telemetry`, where rows lie in the order in which they were stored: BRIN. And the late messages, which
-- are few: a partial index. Both cost an insert nearly nothing, but making them reads the whole table and writes wait
-- meanwhile, so on a big one it is the operator's choice when: nothing but speed depends on them.
DO $$
DECLARE
    rows_about double precision;
BEGIN
    SELECT coalesce(sum(greatest(reltuples, 0)), 0) INTO rows_about FROM pg_class
    WHERE oid = 'telemetry'::regclass
        OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'telemetry'::regclass);
    IF rows_about < 2e7 THEN
        CREATE INDEX telemetry_stored ON telemetry USING brin (stored) WITH (autosummarize = on);
        CREATE INDEX telemetry_late ON telemetry (ts, pack, boot, fleet) WHERE late;
    ELSE
        RAISE WARNING 'telemetry has about % rows: two indexes of the ledger are not made now; see "Is anything missing?" in docs/fleet-operator.md', rows_about::bigint;
    END IF;
END
$$;

-- The ledger reads the unique index alone where the visibility map allows it, so the map is kept fresh.
ALTER TABLE telemetry SET (autovacuum_vacuum_insert_scale_factor = 0.02);
