"""A flow as it runs: wires, batches and their acknowledgement, nodes that hold messages, sinks, deploys."""
