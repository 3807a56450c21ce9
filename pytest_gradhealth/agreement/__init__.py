"""Whether two ways of computing one model give the same gradients."""
