"""Worked examples on real MNIST digits."""
