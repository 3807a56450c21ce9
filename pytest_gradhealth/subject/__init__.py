"""What is probed, and how it is called."""
