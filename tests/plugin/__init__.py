"""Tests of what knows pytest."""
