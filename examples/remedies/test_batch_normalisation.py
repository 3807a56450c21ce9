"""Batch normalisation: every layer hands on unit variance, whatever its weights.

With PyTorch's default weights, of variance 1 / (3 * fan_in), each ReLU layer shrinks signal and
gradient by sqrt(1/6) = 0.41; twenty of them leave 0.41**19, less than 10**-7. Batch norm computes
(x - mean) / std before each activation, so the signal is rescaled on the way forward, and the
gradient by the same 1 / std on the way back. The gradient then grows a little instead, by up to
sqrt(pi / (pi - 1)) = 1.21 per layer: harmless for twenty layers, but not for fifty.
"""

from __future__ import annotations

from examples.remedies.pair import VANISHING, rejected, show
from examples.remedies.pairs import BATCH_NORMALISATION, WITHOUT_NORM

test_without = rejected(WITHOUT_NORM, VANISHING, "20 layers keep 0.41 of the gradient each")

if __name__ == "__main__":
    show(*BATCH_NORMALISATION)
