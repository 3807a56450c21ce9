"""One look at a model: gradients, activations, outputs and parameters, as plain numbers."""
