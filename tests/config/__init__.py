"""Tests of the settings of a check."""
