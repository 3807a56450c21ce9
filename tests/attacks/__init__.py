"""The promises under attack: generated cases by kind, of which a test run takes a share.

`python -m tests.attacks` runs them all and prints how many of each kind were tried and held.
"""
