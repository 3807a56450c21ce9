"""Tests of the user's training step, made on a copy."""
