"""See the package."""

from __future__ import annotations

import argparse
import sys

from grafana.boards import FOLDER, all_boards, stale


def main() -> int:
    """0, or 1 with `--check` where a file is not up to date."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m grafana.boards", description="Writes grafana/dashboards/*.json."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a file is not up to date"
    )
    arguments = parser.parse_args()
    boards = all_boards()
    found = stale(boards)
    if arguments.check:
        for name in found:
            print(f"{FOLDER / name} is not up to date: python -m grafana.boards", file=sys.stderr)
        return int(bool(found))
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path not in boards:
            path.unlink()
    for path, content in boards.items():
        path.write_text(content, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
