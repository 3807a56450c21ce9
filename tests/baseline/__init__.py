"""Tests of what is kept of a probe and compared with."""
