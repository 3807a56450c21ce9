"""Baselines: what a probe measured before, kept beside the tests, and what has changed since."""
