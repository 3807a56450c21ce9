"""Tests of the remedies."""
