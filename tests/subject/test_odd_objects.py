"""Objects of anyone's, whose `__getattr__` may raise what it likes, are in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, raising, refusal


class Container:
    """What it holds, and an error of its own for anything else."""

    error: type[Exception] = KeyError
    special = False

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not self.special:
            raise AttributeError(name)
        raise self.error(name)

    def __call__(self, *args: Any) -> Any:
        return self.called(*args)


class Broken(Container):
    error = RuntimeError


class Divided(Container):
    error = ZeroDivisionError


class Special(Container):
    """Even for the names that Python asks for."""

    special = True


class Settings(dict[str, Any]):
    """A mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]


class Configured(nn.Module):
    """A sick net that has an object for its configuration."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.body = mlp(nn.Sigmoid, hidden=10)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Lacking(Configured):
    """A model that raises an error of its own for what it lacks."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            raise KeyError(name) from None


ODD = [Container, Broken, Divided, Settings]


@pytest.mark.parametrize(
    "model",
    [
        *(Configured(kind(width=8)) for kind in ODD),
        Configured([Container()]),
        Configured({"a": Container()}),
        Lacking(None),
    ],
    ids=[*(kind.__name__ for kind in ODD), "list", "mapping", "model"],
)
def test_a_model_that_holds_one_gets_its_second_look(model: Any) -> None:
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert [finding.code for finding in diagnosis.findings] == ["GH101"]
    assert [look.steps for look in diagnosis.profiles] == [0, 5]


@pytest.mark.parametrize("kind", [*ODD, Special])
def test_a_batch_may_hold_one(kind: Any) -> None:
    x, y = batch()
    odd = kind()
    model = Configured(None)
    model.body = mlp()
    diagnosis = probe(model, (x, odd), (y, odd), loss=lambda out, y: cross_entropy(out, y[0]))
    assert diagnosis.verdict == "healthy", diagnosis


class Returning(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.kind = mlp(), kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(values=self.layer(x))


@pytest.mark.parametrize("kind", [Container, Broken, Special])
def test_a_model_may_return_one(kind: Any) -> None:
    x, y = torch.randn(16, 20), torch.randn(16, 5)
    model = Returning(kind)
    assert probe(model, x, y, loss=lambda out, y: mse_loss(out.values, y)).verdict == "healthy"
    check(
        refusal(model, x),
        f"the model returns nothing a gradient can flow back from ({kind.__name__}) and no loss was"
        " given; pass loss=... that computes one from what the model returns",
    )


@pytest.mark.parametrize("kind", [Container, Special])
def test_functions_may_be_such_objects(kind: Any) -> None:
    x, y = batch()
    diagnosis = probe(
        kind(called=mlp),
        x,
        y,
        loss=kind(called=cross_entropy),
        clip=kind(called=lambda _: None),
        regularizer=kind(called=lambda m: 1e-6 * m[0].weight.square().sum()),
        optimizer=kind(called=lambda ps: torch.optim.Adam(ps)),
    )
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("kind", [Container, Special])
def test_errors_of_such_functions_are_told_by_the_name_of_their_class(kind: Any) -> None:
    x, y = batch()
    odd = kind(called=raising)
    for model, loss, start in (
        (mlp(), odd, f"loss {kind.__name__} raised KeyError"),
        (odd, cross_entropy, f"the model factory {kind.__name__} raised KeyError"),
    ):
        with pytest.raises(ProbeError) as caught:
            probe(model, x, y, loss=loss)
        assert str(caught.value).startswith(start)
