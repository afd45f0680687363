"""Images, and which of them to forget."""
