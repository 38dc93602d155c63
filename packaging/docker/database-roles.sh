#!/bin/sh
# Roles and databases of the containers. The image runs it when the database is made; run it again after
# `voltflow secrets --renew`, it sets the passwords of roles that are there:
#     docker compose exec timescale sh /docker-entrypoint-initdb.d/900-roles.sh
# Needs POSTGRES_USER, or else PGUSER, who is a superuser.
set -eu
secrets="${SECRETS_FOLDER:-/run/secrets}"
superuser="${POSTGRES_USER:-${PGUSER:-postgres}}"

# Variables of psql instead of the shell's: psql quotes them. The passwords come in by its input, not its command line.
sql() {
    psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$superuser" --dbname "$1"
}

role() { # NAME
    printf "\\set name %s\n\\set password %s\n" "$1" "$(cat "$secrets/$1_database_password")"
    cat <<'SQL'
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SQL
}

database() { # NAME OWNER
    printf "\\set name %s\n\\set owner %s\n" "$1" "$2"
    cat <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
ALTER DATABASE :"name" OWNER TO :"owner";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

{
    role bridge
    role mlflow
    role grafana
    database voltflow bridge
    database mlflow mlflow
    # What may be looked at, cloud/schema says; its migration gives the rights, but may make no roles here.
    cat <<'SQL'
SELECT 'CREATE ROLE voltflow_reader NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'voltflow_reader') \gexec
GRANT voltflow_reader TO grafana;
GRANT CONNECT ON DATABASE voltflow TO grafana;
SQL
} | sql postgres

# The extension belongs to a superuser; the bridge, which owns the tables, finds it there.
sql voltflow <<'SQL'
SELECT 'CREATE EXTENSION IF NOT EXISTS timescaledb'
    WHERE EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') \gexec
ALTER SCHEMA public OWNER TO bridge;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
SQL
