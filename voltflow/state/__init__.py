"""What survives a restart: parts of the state, their snapshots, and what writing them costs."""
