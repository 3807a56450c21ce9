"""Settings: the one table of options, and the values of one check."""
