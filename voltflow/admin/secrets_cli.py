"""`voltflow secrets`: passwords, tokens, rights and certificates for the containers of docker-compose.yml."""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path
from typing import Any, Final

from voltflow.admin.certificates import ends
from voltflow.admin.secret_files import AUTHORITY, BROKERS, DEVICES, GATEWAYS, TOKENS, SecretFolder

SOON_DAYS: Final = 30
NAMES: Final = (*TOKENS, AUTHORITY, *BROKERS)
EXAMPLES: Final = """\
examples:
  voltflow secrets                                   make what is missing in ./secrets
  voltflow secrets --host depot-3.example.org        the brokers' certificates are for this name too
  voltflow secrets --device demo/SIM000001           a password for a battery management system, and its rights
  voltflow secrets --renew influx_token ca           make these anew
  voltflow secrets --renew                           make all anew

docs/containers.md says which program is told how after a renewal.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "secrets", help="make passwords and certificates for the containers", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make the secrets of docker-compose.yml. What is there stays as it is.",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("secrets"), help="where to (default: ./secrets)")
    parser.add_argument(
        "--gateway", action="append", default=[], metavar="NAME", help="a gateway; default: gateway-1"
    )
    parser.add_argument(
        "--device", action="append", default=[], metavar="FLEET/PACK", help="a device at the gateway's broker"
    )
    parser.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="a name or address of the brokers, as clients know it"
    )  # fmt: skip
    parser.add_argument(
        "--renew", nargs="*", metavar="NAME", help="make these anew, or all; gateways and devices as gateways/NAME"
    )  # fmt: skip
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run `voltflow secrets`; raises OSError and ValueError."""
    renew: list[str] | None = args.renew
    if unknown := [
        n for n in renew or [] if n not in NAMES and not n.startswith((f"{GATEWAYS}/", f"{DEVICES}/"))
    ]:
        raise ValueError(
            f"--renew {' '.join(unknown)}: there is no such secret; there are: {', '.join(NAMES)}"
        )

    def is_renewed(name: str) -> bool:
        return renew is not None and (not renew or name in renew)

    folder = SecretFolder(args.folder, is_renewed)
    gateways = args.gateway or ([] if _has_gateways(args.folder) else ["gateway-1"])
    folder.fill(gateways, args.device, args.host)
    for name in folder.made:
        print(f"made  {folder.path / name}{_purpose(name)}")
    print(f"{folder.path}: {len(folder.made)} made, {len(folder.kept)} kept as they were")
    _warn(folder.path)
    return 0


def _has_gateways(path: Path) -> bool:
    folder = path / GATEWAYS
    return folder.is_dir() and any(folder.iterdir())


def _purpose(name: str) -> str:
    return f"  ({TOKENS[name]})" if name in TOKENS else ""


def _warn(path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    for name in (AUTHORITY, *BROKERS):
        last = ends((path / f"{name}.crt").read_bytes())
        if (left := (last - now).days) < SOON_DAYS:
            print(f"{path / f'{name}.crt'} ends in {left} days ({last:%Y-%m-%d}): --renew {name}")
