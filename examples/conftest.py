"""Options and fixtures of the examples."""
