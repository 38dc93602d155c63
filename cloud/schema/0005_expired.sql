-- What retention took out, so that the ledger tells it from what was lost: `expired` for rows of telemetry, otherwise the
-- reason that a loss record or a dead letter gave and that was taken out itself. Ranges of one reason do not touch.
CREATE TABLE expired (
    fleet text NOT NULL,
    pack text NOT NULL,
    boot bigint NOT NULL,
    seq_from bigint NOT NULL,
    seq_to bigint NOT NULL CHECK (seq_to >= seq_from),
    why text NOT NULL,
    stored timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pack, boot, seq_from, why, fleet)
);
CREATE INDEX expired_stored ON expired (stored);

-- Dead rows are cleared away by the share of the table, which for the history is a lot: begin with 2 %.
ALTER TABLE telemetry SET (autovacuum_vacuum_scale_factor = 0.02);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'voltflow_reader') THEN
        GRANT SELECT ON expired TO voltflow_reader;
    END IF;
END
$$;
