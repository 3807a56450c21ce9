"""The user's training step, made on a copy."""
