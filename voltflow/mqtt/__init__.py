"""The one MQTT client: a link to a broker that loses nothing it was given and acknowledges nothing before it is safe."""
