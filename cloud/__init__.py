"""The cloud side: bridge, history and learning."""
