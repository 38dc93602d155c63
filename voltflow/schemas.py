"""The JSON Schemas of what others read and write; docs/schema is made from them."""

from __future__ import annotations

from typing import Any

import msgspec

from voltflow.lab import cases as flow_cases
from voltflow.telemetry import CONTRACTS


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of every contract, by its name, and of the test cases of flows."""
    schemas = {name: msgspec.json.schema(struct) for name, struct in CONTRACTS.items()}
    return {**schemas, flow_cases.SCHEMA: flow_cases.json_schema()}
