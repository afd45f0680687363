"""Figures drawn from rows and evidence."""
