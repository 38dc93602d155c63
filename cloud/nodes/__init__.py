"""Nodes of the bridge: Kafka, TimescaleDB, InfluxDB."""
