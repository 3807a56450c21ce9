"""Standardised inputs: the first layer gets mean 0 and deviation 1, whatever the unit.

A first layer whose inputs are all large and alike puts out the sign of the sum of its weights,
times something large: its tanh is at 1 or at -1 for every example, where its slope is 0, and the
same for all. What was typed in as pixels of 10,000 to 10,001 may be metres of a map, years, or
pictures of 16 bits. (x - mean) / std of each feature over the training data takes the unit away.
"""

from __future__ import annotations

from examples.remedies.pair import VANISHING, rejected, show
from examples.remedies.pairs import FAR_OFF, STANDARDISED_INPUTS

test_without = rejected(FAR_OFF, VANISHING, "every unit of the first layer is saturated")

if __name__ == "__main__":
    show(*STANDARDISED_INPUTS)
