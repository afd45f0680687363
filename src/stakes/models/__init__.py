"""A network, split into its body and its head."""
