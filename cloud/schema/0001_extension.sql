-- TimescaleDB where the server has it and the role may switch it on; without it the same tables are plain ones.
-- A transaction of its own: its functions are used by the next file.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR feature_not_supported OR object_not_in_prerequisite_state
        OR config_file_error THEN
        RAISE WARNING 'timescaledb is there but could not be switched on (%): plain tables are used', SQLERRM;
END
$$;
