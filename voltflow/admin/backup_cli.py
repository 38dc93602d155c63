"""`voltflow backup` and `voltflow restore`: a gateway in one file, and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from voltflow.admin.backup import Places, write
from voltflow.admin.restoring import restore
from voltflow.settings import DEFAULT_FILES, peek

_STATE_DIR: Final = ".voltflow/agent"
_SETTINGS: Final = (
    "state_dir",
    "flow",
    "users_file",
    "files_dir",
    "gateway",
    "credential_secret",
    "credential_secret_file",
)
BACKUP_EXAMPLES: Final = """\
examples:
  voltflow backup --out depot-3.backup                 everything; the gateway must be stopped
  voltflow backup --out depot-3.backup --live          while it runs: without the messages that wait in spool and nodes
  sudo voltflow backup --config /etc/voltflow/voltflow.toml --state-dir /var/lib/voltflow --out depot-3.backup
  voltflow backup --out flow.backup --live --without-credentials      to give to somebody

In it: twins and contexts, spool, held messages, the flow with its credentials, users, the files of nodes, the settings file.
Not in it: models of your own (models_dir), certificates, secrets in the environment or in files that settings name.
"""
RESTORE_EXAMPLES: Final = """\
examples:
  voltflow restore depot-3.backup
  sudo voltflow restore depot-3.backup --config /etc/voltflow/voltflow.toml --state-dir /var/lib/voltflow

The gateway must be stopped. What is there is kept: that of the state folder in its .before-TIME, files elsewhere beside the
new ones as NAME.before-TIME. A settings file that is there stays; the one of the backup is put beside it.
"""


def add_parser(commands: Any) -> None:
    """Add both to the commands of `voltflow`."""
    backup = commands.add_parser(
        "backup", help="put a gateway into one file", epilog=BACKUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    backup.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to make; readable by you only"
    )
    backup.add_argument(
        "--live", action="store_true", help="also where the gateway runs, then without waiting messages"
    )
    backup.add_argument(
        "--without-credentials",
        action="store_true",
        help="leave out credentials, users and the settings file",
    )
    backup.set_defaults(run=_backup)
    back = commands.add_parser(
        "restore", help="put a gateway's backup back", epilog=RESTORE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    back.add_argument(
        "file", type=Path, metavar="FILE", help="what `voltflow backup` made; - for standard input"
    )
    back.set_defaults(run=_restore)
    for parser in (backup, back):
        parser.add_argument(
            "--config", metavar="FILE", help="TOML file with the settings (default: ./voltflow.toml)"
        )
        parser.add_argument(
            "--state-dir", type=Path, metavar="FOLDER", help="the gateway's; default: of the settings"
        )


def _said(args: argparse.Namespace) -> tuple[dict[str, str], Places]:
    said = peek("agent", _SETTINGS, args.config)
    named = {name: Path(said[key]) for name, key in (("flow", "flow"), ("users", "users_file"), ("files", "files_dir"))
             if key in said}  # fmt: skip
    settings = (
        Path(args.config) if args.config else next((path for path in DEFAULT_FILES if path.is_file()), None)
    )
    return said, Places(args.state_dir or Path(said.get("state_dir", _STATE_DIR)), settings=settings, **named)


def _backup(args: argparse.Namespace) -> int:
    said, places = _said(args)
    manifest = write(
        places,
        args.out,
        gateway=said.get("gateway", ""),
        live=args.live,
        credentials=not args.without_credentials,
    )
    size_mb = sum(entry.size_bytes for entry in manifest.files) / 1e6
    print(f"{args.out}: {len(manifest.files)} files, {size_mb:,.1f} MB of {places.state}")
    if manifest.live:
        print("the gateway runs: messages that wait in its spool and nodes are not in it")
    if manifest.credentials:
        print(
            f"SECRETS are in it: passwords and keys of the flow, users. Keep {args.out} where only you can read it."
        )
    if manifest.credentials and {"credential_secret", "credential_secret_file"} & said.keys():
        print(
            "not in it: the setting credential_secret, without which the flow's credentials cannot be read",
            file=sys.stderr,
        )
    return 0


def _restore(args: argparse.Namespace) -> int:
    _, places = _said(args)
    manifest, done = restore(args.file, places)
    print(
        f"backup of {manifest.made:%Y-%m-%d %H:%M:%S} UTC{f', gateway {manifest.gateway}' if manifest.gateway else ''}"
    )
    for text in done:
        print(text)
    if not manifest.credentials:
        print("without credentials and users: add users with `voltflow users`, enter passwords in the editor")
    print("the next start goes on from there as after a crash: predictions over the hole say `warming`")
    return 0
