"""The stakes, and where they come from."""
