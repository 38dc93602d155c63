"""Voltflow: the core that gateway and cloud share."""

__version__ = "0.1.0"
