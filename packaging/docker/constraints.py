"""Writes constraints.txt anew: what pip chooses now for each of our images. Asks the package index; installs nothing.

python packaging/docker/constraints.py
"""

import configparser
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = "3.13"
PROCESSORS = ("x86_64", "aarch64")
HEAD = """\
# The versions that our images have: what pip chooses for Python 3.13 on linux/amd64 and linux/arm64, where each comes as a
# wheel. Made by packaging/docker/constraints.py.
"""


def wanted() -> list[str]:
    """What the images install, as one set, so that a version fits all of them."""
    setup = configparser.ConfigParser()
    setup.read(HERE.parents[1] / "setup.cfg")
    extras = setup["options.extras_require"]
    texts = [setup["options"]["install_requires"], extras["edge"], extras["cloud"], extras["sim"]]
    lines = [line.partition("#")[0].strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line] + ["mlflow", "psycopg2-binary", "boto3"]


def chosen(processor: str) -> dict[str, str]:
    """What pip would install on a processor, wheels only; raises CalledProcessError where one is missing."""
    tags = [f"manylinux_2_{minor}_{processor}" for minor in range(36, 16, -1)]  # glibc of Debian 12 and older
    platforms = [part for tag in (*tags, f"manylinux2014_{processor}") for part in ("--platform", tag)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-",
                   "--target", folder, "--only-binary=:all:", "--python-version", PYTHON, *platforms, *wanted()]  # fmt: skip
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    found = (item["metadata"] for item in report["install"])
    return {item["name"].lower().replace("_", "-").replace(".", "-"): item["version"] for item in found}


def main() -> None:
    """Write the file."""
    first, *others = (chosen(processor) for processor in PROCESSORS)
    for other in others:
        if differ := {name for name in first | other if first.get(name) != other.get(name)}:
            sys.exit(f"the processors get different packages: {', '.join(sorted(differ))}")
    lines = [f"{name}=={version}\n" for name, version in sorted(first.items())]
    (HERE / "constraints.txt").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
