"""What a probe costs, measured against a plain training step and against other tools."""
