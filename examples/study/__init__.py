"""How often the linter is wrong: a study of its misses and false alarms, against training itself."""
