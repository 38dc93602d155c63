"""docker-compose.yml and the Dockerfile as what reads them sees them; no engine is asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.servers import REPOSITORY

COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "packaging" / "docker" / "Dockerfile"
PROFILES = ("edge", "cloud", "full")


def config(profile: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file as Docker Compose understands it, nothing from this machine's `.env`; raises AssertionError with what it says."""
    command = [tool("docker-compose"), "--env-file", os.devnull, "--file", str(COMPOSE), "--profile", profile]
    known = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environment or {})}
    done = subprocess.run(
        [*command, "config", "--format", "json"], env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass
class Stage:
    """What a target of the Dockerfile says; what it takes from the stage before it included."""

    base: str
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    ports: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    label: str = ""


@cache
def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = re.findall(r"(\S+) AS (\S+)$", rest)[0]
            parent = found.get(base, Stage(base))
            stage = found[name] = Stage(
                base,
                dict(parent.env),
                copies=dict(parent.copies),
                workdir=parent.workdir,
                label=parent.label,
            )
        else:
            _read(stage, word, rest)
    return found


def _read(stage: Stage, word: str, rest: str) -> None:
    if word in ("ENTRYPOINT", "CMD"):
        setattr(stage, word.lower(), json.loads(rest))
    elif word in ("USER", "WORKDIR"):
        setattr(stage, word.lower(), rest)
    elif word in ("EXPOSE", "VOLUME"):
        setattr(stage, {"EXPOSE": "ports", "VOLUME": "volumes"}[word], rest.split())
    elif word == "ENV":
        stage.env |= dict(part.split("=", 1) for part in shlex.split(rest))
    elif word == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2])
    elif word == "COPY" and "--from" not in rest:
        *sources, target = rest.split()
        stage.copies[target] = sources[0]
    elif word == "LABEL":
        stage.label += f" {rest}"


def duration_s(text: str) -> float:
    """A duration as Compose writes it, in seconds.

    >>> duration_s("2m0s"), duration_s("30s")
    (120.0, 30.0)
    """
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text)))


@cache
def services() -> dict[str, Any]:
    """All services by name, as Docker Compose understands them."""
    found: dict[str, Any] = config("full")["services"]
    return found


@cache
def written() -> dict[str, Any]:
    """The file as it stands, nothing filled in."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def tool(name: str) -> str:
    """The path of a program that a Python package brought."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def complaint(*command: str, cwd: Path = REPOSITORY) -> str:
    """What a checking program complains about."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
