"""Faults of transformers, one changed operation each, and what training makes of them."""
