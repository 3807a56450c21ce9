"""Tests of one look at a model."""
