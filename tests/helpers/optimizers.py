"""Optimizers of people's own, around others of torch or in their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer


class LookAhead(Optimizer):
    """Steps of another optimizer, whose groups and state it shares; every few it goes back half."""

    def __init__(self, inner: Optimizer, every: int = 5) -> None:
        self.inner, self.every, self.made = inner, every, 0
        self.param_groups, self.state = inner.param_groups, inner.state
        self.defaults = inner.defaults
        self.slow = [[p.detach().clone() for p in g["params"]] for g in inner.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.inner.step()
        self.made += 1
        if not self.made % self.every:
            for group, kept in zip(self.param_groups, self.slow, strict=True):
                for fast, slow in zip(group["params"], kept, strict=True):
                    fast.copy_(slow.add_(0.5 * (fast - slow)))


class Sharpness(Optimizer):
    """SAM: the gradient of where the loss is highest nearby, for a step of another optimizer."""

    def __init__(self, parameters: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, {"rho": rho, **options})
        self.inner = base(self.param_groups, **options)
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        twice = torch.enable_grad()(closure)
        twice()
        held: list[Tensor] = [p for g in self.param_groups for p in g["params"]]
        start = [p.clone() for p in held]
        for p in held:
            p.add_(0.05 * F.normalize(p.grad, dim=0) if p.grad is not None else 0.0)
        twice()
        for p, old in zip(held, start, strict=True):
            p.copy_(old)
        self.inner.step()


class Layerwise(Optimizer):
    """LARS: each weight moves by a share of its own size, with momentum."""

    def __init__(self, parameters: Any, lr: float, trust: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                ratio = float(p.norm() / p.grad.norm()) * group["trust"] or 1.0
                speed = self.state[p].setdefault("speed", torch.zeros_like(p))
                speed.mul_(0.9).add_(p.grad, alpha=ratio * group["lr"])
                p.sub_(speed)
