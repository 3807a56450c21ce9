"""Tests of models that several processes share."""
