"""Residual connections: the identity path x + f(x) has the Jacobian I + f', which cannot die out.

Without shortcuts the gradient is multiplied by f' in every block, so whatever each block does to it
happens to the power of the depth. Batch norm alone does not prevent that: it makes the gradient
grow in each layer, and through 120 convolutions by more than 10**5. With shortcuts each block adds
its share to a gradient that passes through unchanged, and the same 60 blocks train.
"""

from __future__ import annotations

from examples.remedies.pair import EXPLODING, rejected, show
from examples.remedies.pairs import RESIDUAL_CONNECTIONS, WITHOUT_SHORTCUTS

test_without = rejected(WITHOUT_SHORTCUTS, EXPLODING, "60 blocks add to the gradient, no shortcuts")

if __name__ == "__main__":
    show(*RESIDUAL_CONNECTIONS)
