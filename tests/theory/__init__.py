"""Tests against closed forms."""
