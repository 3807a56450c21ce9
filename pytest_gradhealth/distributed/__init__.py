"""Processes that share a model: who decides, what each holds, and how they agree."""
