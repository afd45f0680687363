"""One run, or many, on disk."""
