"""Training of the released models from simulated fleets."""
