"""The simulated battery management system: packs that publish telemetry as real ones do."""
