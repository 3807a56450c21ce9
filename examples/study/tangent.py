"""The tangent kernel of a network by Lanczos: what gradient descent would leave of its residual.

To first order, the outputs of a batch move under gradient descent as r <- (1 - rate K) r, with r
the gradient of the loss at them and K = J J^T. From r on, the Lanczos process makes of K a small
tridiagonal matrix that has the same effect on r.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Products with K, of two backward passes each.
PRODUCTS = 20
#: Steps at the longest rate after which it is asked what is left.
STEPS = (3000, 10_000)


def residual(
    model: nn.Module, inputs: Tensor, targets: Any, loss: Callable[[Any, Any], Tensor]
) -> dict[str, Any]:
    """Shares of the residual, centred over the batch, that are left after so many steps."""
    outputs = model(inputs)
    start = torch.autograd.grad(loss(outputs, targets), outputs, retain_graph=True)[0].double()
    times = _kernel(outputs, list(model.parameters()))
    basis, matrix = _lanczos(times, start)
    values, vectors = torch.linalg.eigh(matrix)
    first, top = vectors[0], values.max()

    def centred(vector: Tensor) -> float:
        shaped = vector.reshape(outputs.shape)
        return float((shaped - shaped.mean(0)).norm())

    left = {}
    for steps in STEPS:
        coefficients = vectors @ ((1 - values / top).clamp(-1, 1) ** steps * first)
        left[str(steps)] = centred(basis.T @ coefficients) / centred(basis[0])
    return {"left": left, "condition": float(top / values.clamp_min(1e-12 * top).min())}


def _kernel(outputs: Tensor, parameters: list[nn.Parameter]) -> Callable[[Tensor], Tensor]:
    """The product of the kernel with a vector, by two backward passes."""
    seed = torch.zeros_like(outputs, requires_grad=True)
    gradients = torch.autograd.grad(outputs, parameters, seed, create_graph=True, allow_unused=True)
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    reached, linear = [p for p, _ in pairs], [g for _, g in pairs]

    def times(vector: Tensor) -> Tensor:
        back = torch.autograd.grad(outputs, reached, vector.to(outputs), retain_graph=True)
        return torch.autograd.grad(linear, seed, back, retain_graph=True)[0].double()

    return times


def _lanczos(times: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """An orthogonal basis of what the products reach, and the operator in it."""
    basis, diagonal, beside = [start / start.norm()], list[float](), list[float]()
    for _ in range(PRODUCTS):
        vector = times(basis[-1])
        diagonal.append(float((vector * basis[-1]).sum()))
        for _ in range(2):
            for known in basis:
                vector = vector - (vector * known).sum() * known
        size = float(vector.norm())
        if not math.isfinite(size) or size <= 1e-7 * max(map(abs, diagonal)):
            break
        beside.append(size)
        basis.append(vector / size)
    n = len(diagonal)
    off = torch.tensor(beside[: n - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix += torch.diag(off, 1) + torch.diag(off, -1)
    return torch.stack([vector.flatten() for vector in basis[:n]]), matrix
