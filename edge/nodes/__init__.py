"""Nodes of the gateway: validate, twin, features, onnx, alert."""
