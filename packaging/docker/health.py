"""The health checks of our containers, with nothing but Python's own library; the exit status says it, the output why.

health.py http://127.0.0.1:5002/api/health /run/secrets/agent_api_token    it answers with a status below 400
health.py --connected 8883                                                 a connection to that port is up
"""

import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 5
ESTABLISHED = "01"  # include/net/tcp_states.h


def main(arguments: list[str]) -> int:
    """0 where all is well."""
    if arguments[0] == "--connected":
        return connected(int(arguments[1]))
    headers = {"Authorization": f"Bearer {Path(arguments[1]).read_text().strip()}"} if arguments[1:] else {}
    request = urllib.request.Request(arguments[0], headers=headers)  # noqa: S310 - the address is our own
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return said(0, f"{answer.status}")
    except OSError as error:  # HTTPError is one
        return said(1, str(error))


def connected(port: int) -> int:
    """Whether this container has a connection to the port, as the kernel tells it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        for row in rows:
            remote, state = row.split()[2:4]
            if state == ESTABLISHED and int(remote.rpartition(":")[2], 16) == port:
                return said(0, f"connected to port {port}")
    return said(1, f"no connection to port {port}")


def said(status: int, text: str) -> int:
    """The status, with the text printed for `docker inspect`."""
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
