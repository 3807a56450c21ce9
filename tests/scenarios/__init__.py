"""Tests of stories that take several runs."""
