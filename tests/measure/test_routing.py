"""Members of lists that another batch or seed would wake, and members that nothing would."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.routing import TRIES
from pytest_gradhealth.probing.routes import routed_lists
from tests.models.connected import WIDTH, Net, X, Y, linear


class Members(Net):
    """Layers in a list, of which a forward calls some."""

    def make(self) -> None:
        self.stem, self.head, self.router = linear(8, 8), linear(8, 4), linear(8, 4)
        self.members: Any = nn.ModuleList(linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        out: Tensor = self.head(h + getattr(self, self.mode)(h))
        return out

    def by_example(self, h: Tensor) -> Tensor:
        """A mixture of experts with one of them for each example."""
        weights, chosen = self.router(h).softmax(1).max(1)
        out = torch.zeros_like(h)
        for number, member in enumerate(self.members):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, weights[rows, None] * member(h[rows]))
        return out

    def by_batch(self, h: Tensor) -> Tensor:
        """One member for all, as the batch is."""
        weights = self.router(h).mean(0)
        out: Tensor = self.members[int(weights.argmax())](h) * weights.max()
        return out

    def by_dice(self, h: Tensor) -> Tensor:
        out: Tensor = self.members[int(torch.randint(4, ()))](h) + self.router(h).mean()
        return out

    def by_weight(self, h: Tensor) -> Tensor:
        """All of them are called, and those that count multiplied by more than zero."""
        kept = torch.topk(self.router(h).softmax(1).mean(0), 2)
        weights = torch.zeros(4).scatter(0, kept.indices, kept.values)
        made = [weight * member(h) for weight, member in zip(weights, self.members, strict=True)]
        return torch.stack(made).sum(0)

    def all_but_the_last(self, h: Tensor) -> Tensor:
        for member in self.members[:-1]:
            h = F.gelu(member(h))
        return torch.add(h, self.router(h).mean())

    def all_but_the_first(self, h: Tensor) -> Tensor:
        made = [F.gelu(member(h)) for member in self.members[1:]]
        return torch.stack(made).sum(0).add(self.router(h).mean())

    def none_of_the_second(self, h: Tensor) -> Tensor:
        out = torch.add(h, self.router(h).mean())
        for number, member in enumerate(self.members):
            out = out + member(h) * (number != 1)
        return out


def told(net: Net, *inputs: Any) -> Collection[str] | None:
    """Which of its lists are routed, by the model of a diagnosis."""
    diagnosis = probe(net, inputs, Y[: len(inputs[0])], loss=net.loss)
    return routed_lists(diagnosis, diagnosis.profile)


@pytest.mark.parametrize("mode", ["by_example", "by_batch", "by_dice", "by_weight"])
@pytest.mark.parametrize("rows", [1, 16])
def test_members_that_the_batch_or_the_dice_choose_are_told(mode: str, rows: int) -> None:
    net = Members(mode)
    diagnosis = probe(net, X[:rows], Y[:rows], loss=net.loss)
    silent = {p.name for p in diagnosis.profile.parameters if p.state != "gradient"}
    assert all(name.startswith("members.") for name in silent)
    assert routed_lists(diagnosis, diagnosis.profile) == (("members",) if silent else None)


@pytest.mark.parametrize("mode", ["all_but_the_last", "all_but_the_first", "none_of_the_second"])
def test_members_that_the_forward_forgets_are_told(mode: str) -> None:
    assert told(Members(mode), X) == ()


def test_nobody_asks_but_who_wants_to_know() -> None:
    class Counting(Members):
        forwards = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.forwards += 1
            return super().forward(x)

    net = Counting("all_but_the_last")
    diagnosis = probe(net, X, Y, loss=net.loss)
    probed = Counting.forwards
    assert probed <= 2, "the look, and what is left out of it"
    assert routed_lists(diagnosis, diagnosis.profile) == ()
    assert Counting.forwards == probed + 1 + TRIES


def test_a_diagnosis_whose_model_is_gone_or_fails_by_now_tells_nothing() -> None:
    net = Members("all_but_the_last")
    diagnosis = probe(net, X, Y, loss=net.loss)
    read = Diagnosis.from_dict(diagnosis.to_dict())
    assert routed_lists(read, read.profile) is None
    net.mode = "no such mode"
    assert routed_lists(diagnosis, diagnosis.profile) is None


def test_a_factory_is_asked_as_it_was_built() -> None:
    diagnosis = probe(lambda: Members("by_dice"), X, Y, loss=F.cross_entropy)
    assert routed_lists(diagnosis, diagnosis.profile) == ("members",)


def test_a_batch_that_cannot_be_another_one_tells_nothing() -> None:
    """Where every other batch is refused, the dice alone are left."""

    class Picky(Members):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.equal(x, X):
                raise ValueError("never seen before")
            return super().forward(x)

    for mode, routed in (("by_dice", ("members",)), ("all_but_the_last", ())):
        assert told(Picky(mode), X) == routed


@pytest.mark.parametrize(
    "extra",
    [
        torch.eye(4).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(2, 2, dtype=torch.float8_e4m3fn),
        torch.ones(3, dtype=torch.uint16),
        torch.ones(3, dtype=torch.float64, requires_grad=True),
        torch.tensor([True, False]),
        torch.tensor(2),
        torch.zeros(0, 3),
    ],
    ids=lambda extra: f"{extra.dtype}-{extra.layout}-{extra.dim()}",
)
def test_inputs_of_any_kind_are_changed_or_left_alone(extra: Tensor) -> None:
    class Beside(Members):
        def forward(self, x: Tensor, extra: Tensor) -> Tensor:  # type: ignore[override]
            assert extra.requires_grad == (extra.dtype == torch.float64)
            return super().forward(x)

    for mode, routed in (("by_dice", ("members",)), ("all_but_the_last", ())):
        assert told(Beside(mode), X, extra) == routed
