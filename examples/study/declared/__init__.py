"""Rules that ask for something declared: a factory, an optimizer, steps to learn in."""
