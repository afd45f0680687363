"""Every method against a plain loop written from its definition, with its published settings."""
