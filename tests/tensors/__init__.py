"""Tests of the autograd graph, norms and devices."""
