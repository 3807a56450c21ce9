"""What was measured and found: frozen dataclasses of plain builtins."""
