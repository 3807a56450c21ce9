"""Tests of the way from a model and a batch to a verdict."""
