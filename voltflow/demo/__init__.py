"""`voltflow demo`: broker, database, simulated packs, agent and bridge on this machine, from start to proof."""
