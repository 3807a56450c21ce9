"""Tests of the reports and the message of a failure."""
