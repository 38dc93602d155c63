"""What several nodes share: rules of switch, sequences, delays, windows, texts, HTTP, a person's Python."""
