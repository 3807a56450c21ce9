"""How often the linter is wrong: its misses and false alarms, against training itself."""
