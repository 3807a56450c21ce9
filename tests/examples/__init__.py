"""Tests of the examples, the study and the benchmarks."""
