"""Classifiers of real MNIST digits: ones that learn and ones that the linter rejects."""
