"""From words to calls."""
