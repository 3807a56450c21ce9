"""Leaving no trace: what a probe touches is put back, bit for bit."""
