"""One worked example per remedy: a sick network, the cured one, and how both train."""
