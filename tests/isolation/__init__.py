"""Tests of what a probe leaves as it was."""
