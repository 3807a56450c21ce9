"""Closed forms for the gradients of random networks: what the probe has to find in wide ones.

A layer is z_l = W_l phi(z_{l-1}) + b_l with W ~ N(0, sw2 / fan-in) and b ~ N(0, sb2); q_l is the
variance of z_l, and Z a standard normal number. Nothing here looks at a network or at the probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

Moment = Callable[[float], float]


@cache
def gauss_hermite(nodes: int = 256) -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations over a standard normal number (Golub and Welsch 1969).

    The nodes are the eigenvalues of the Jacobi matrix of the probabilists' Hermite polynomials, the
    weights the squares of the first components of its eigenvectors.
    """
    off_diagonal = torch.arange(1, nodes, dtype=torch.float64).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    values, vectors = torch.linalg.eigh(jacobi)
    return values, vectors[0] ** 2


def expectation(function: Callable[[Tensor], Tensor]) -> float:
    """E[f(Z)] for a smooth function f."""
    nodes, weights = gauss_hermite()
    return float((weights * function(nodes)).sum())


def normal_cdf(x: float) -> float:
    """Probability that Z < x."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


@dataclass(frozen=True)
class Activation:
    """An activation phi with `square(q)` = E[phi(sqrt(q) Z)^2] and `slope(q)` = E[phi'(...)^2]."""

    module: Callable[[], nn.Module]
    square: Moment
    slope: Moment


def smooth(module: Callable[[], nn.Module]) -> Activation:
    """Moments of a smooth activation, by quadrature."""
    phi = module()

    def square(q: float) -> float:
        return expectation(lambda z: phi(math.sqrt(q) * z) ** 2)

    def slope(q: float) -> float:
        return expectation(lambda z: derivative(phi, math.sqrt(q) * z) ** 2)

    return Activation(module, square, slope)


def derivative(phi: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Slope of an elementwise function, by autograd."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(phi(x).sum(), x)
    return slope


def leaky_relu(slope: float) -> Activation:
    """Half of the normal distribution passes, the other half times `slope` (He et al. 2015)."""
    share = (1 + slope**2) / 2
    return Activation(lambda: nn.LeakyReLU(slope), lambda q: share * q, lambda _: share)


class Erf(nn.Module):
    """The error function, whose moments are elementary (Williams 1997)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


def _hardtanh_square(q: float) -> float:
    edge = 1 / math.sqrt(2 * q)
    inside = math.erf(edge) - math.sqrt(2 / (math.pi * q)) * math.exp(-(edge**2))
    return q * inside + math.erfc(edge)


def exponential_linear(module: Callable[[], nn.Module], alpha: float, scale: float) -> Activation:
    """ELU and SELU, with E[exp(t Z); Z < 0] = exp(t^2 / 2) P(Z < -t) (Klambauer et al. 2017)."""

    def tail(t: float) -> float:
        return math.exp(t * t / 2) * normal_cdf(-t)

    def square(q: float) -> float:
        below = tail(2 * math.sqrt(q)) - 2 * tail(math.sqrt(q)) + tail(0)
        return scale**2 * (q / 2 + alpha**2 * below)

    def slope(q: float) -> float:
        return scale**2 * (0.5 + alpha**2 * tail(2 * math.sqrt(q)))

    return Activation(module, square, slope)


#: Piecewise linear activations and those with elementary integrals, then smooth ones.
IDENTITY = Activation(nn.Identity, lambda q: q, lambda _: 1.0)
RELU = Activation(nn.ReLU, lambda q: q / 2, lambda _: 0.5)
LEAKY = leaky_relu(0.2)
HARDTANH = Activation(nn.Hardtanh, _hardtanh_square, lambda q: math.erf(1 / math.sqrt(2 * q)))
ERF = Activation(
    Erf,
    lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
    lambda q: 4 / math.pi / math.sqrt(1 + 4 * q),
)
ELU = exponential_linear(nn.ELU, 1.0, 1.0)
SELU = exponential_linear(nn.SELU, 1.6732632423543772, 1.0507009873554805)
TANH = smooth(nn.Tanh)
SIGMOID = smooth(nn.Sigmoid)
GELU = smooth(nn.GELU)
SILU = smooth(nn.SiLU)


@dataclass(frozen=True)
class Plain:
    """A fully connected network in the limit of infinite width, after an input of variance `q0`.

    Length map q_{l+1} = sw2 E[phi(sqrt(q_l) Z)^2] + sb2 (Poole et al. 2016); the squared L2 norm of
    the gradient changes by chi_l = sw2 E[phi'(sqrt(q_l) Z)^2] from z_{l+1} to z_l (Schoenholz et
    al. 2017). Dropout that keeps a share of the units divides both second moments by that share.
    """

    activation: Activation
    sw2: float
    sb2: float = 0.0
    keep: float = 1.0
    q0: float = 1.0

    def variances(self, depth: int) -> Iterator[float]:
        """The variances q_1 ... q_depth of the pre-activations."""
        q = self.sw2 * self.q0 + self.sb2
        for _ in range(depth):
            yield q
            q = self.sw2 * self.activation.square(q) / self.keep + self.sb2

    def chi(self, q: float) -> float:
        """What the squared gradient norm is multiplied by, from one layer down to the next."""
        return self.sw2 * self.activation.slope(q) / self.keep

    def decades(self, depth: int) -> float:
        """log10 of the L2 norm of the gradient at z_1 over that at z_depth."""
        return 0.5 * sum(math.log10(self.chi(q)) for q in list(self.variances(depth))[:-1])
