"""Tests of what is probed and how it is called."""
