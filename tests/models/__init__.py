"""Tests of healthy models and sick twins, end to end."""
