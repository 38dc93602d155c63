"""What was delivered, lost and why, doubled, late; by pack and boot."""
