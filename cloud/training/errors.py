"""What cloud-train tells a person instead of a traceback."""

from __future__ import annotations


class TrainError(Exception):
    """Training cannot go on; the message says what is wrong and what to do."""
