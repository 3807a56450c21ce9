"""Tests of pytest-gradhealth."""
