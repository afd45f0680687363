"""Hypothesis for the tests of properties, without a deadline: a busy machine is no failure."""

from hypothesis import given, settings, strategies

settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")
__all__ = ["given", "settings", "strategies"]
