"""What the installed programs give a flow that runs in a lab."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from voltflow.engine.timer import VirtualTimer

__all__ = ["Surroundings", "surroundings", "variables"]


class Surroundings(NamedTuple):
    """What a program gives its flows: variables, and services by their class."""

    env: Mapping[str, str]
    services: Mapping[type, object]


def variables() -> Mapping[str, str]:
    """Those that the installed programs give their flows."""
    return surroundings(VirtualTimer(0.0), Path()).env


def surroundings(timer: VirtualTimer, folder: Path) -> Surroundings:
    """What the installed programs give their flows: for each node package (`edge.nodes`) what `surroundings` in the module
    `lab` beside it (`edge.lab`) says. What nodes write is below `folder`."""
    env: dict[str, str] = {}
    services: dict[type, object] = {}
    for entry in importlib.metadata.entry_points(group="voltflow.nodes"):
        name = f"{entry.value.rpartition('.')[0]}.lab"
        if importlib.util.find_spec(name) is None:
            continue
        try:
            make = getattr(importlib.import_module(name), "surroundings", None)
        except ImportError:
            continue  # a program that is not installed with all it needs; its nodes are left out too
        if make is None:  # this package, beside the general nodes
            continue
        found: Surroundings = make(timer, folder)
        env |= found.env
        services |= found.services
    return Surroundings(env, services)
