"""General nodes: MQTT, debug, dead letter."""
