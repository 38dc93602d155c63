"""Flows without a network, in a time of their own: tests of a flow, recordings, and replays of them."""
