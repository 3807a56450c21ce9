"""Tests of what is measured and found, as records."""
