"""A flow as it is written: `flows.json`, nodes and their fields, subflows, variables, typed properties."""
