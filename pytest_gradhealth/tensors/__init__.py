"""Graphs, norms, devices, and trees of tensors: no idea of a probe."""
