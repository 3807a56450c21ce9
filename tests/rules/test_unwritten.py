"""What nothing has ever written is told, and what is written late or piece by piece is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import deterministic

from pytest_gradhealth import (
    Diagnosis,
    UnwrittenParameterError,
    assert_healthy,
    assert_no_exploding,
    probe,
)
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, explained, told
from tests.helpers.nets import batch, mlp
from tests.helpers.notes import Notes
from tests.helpers.switches import deterministic as deterministically

Factory = Callable[[], nn.Module]
LEFT = "torch.empty(...) or to_empty() without an initialiser, or an _init_weights that skips it"


def diagnosed(model: Any, **settings: Any) -> Diagnosis:
    x, y = batch()
    return probe(model, x, y, loss=F.cross_entropy, **settings)


def raw() -> nn.Module:
    """A product with a matrix and a sum with an offset that nobody has initialised."""
    return Wired(
        lambda m, x: F.relu(m.body(x)) @ m.weight + m.bias,
        body=nn.Linear(20, 16),
        weight=nn.Parameter(torch.empty(16, 5)),
        bias=nn.Parameter(torch.Tensor(5)),
    )


def half_written() -> nn.Module:
    model = nn.Linear(20, 5)
    model.weight = nn.Parameter(torch.empty(5, 20))
    nn.init.xavier_uniform_(model.weight[:3])
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), model)


def scaled_only() -> nn.Module:
    model = mlp()
    model.get_submodule("2").weight = nn.Parameter(torch.empty(32, 32).mul_(0.02))
    return model


def to_empty() -> nn.Module:
    with torch.device("meta"):
        model = mlp(hidden=1)
    model.to_empty(device="cpu")
    first: Any = model[0]
    first.reset_parameters()
    return model


class Skipping(nn.Module):
    """Initialises layers by their class, and has one of another."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 8), self.Scale(), nn.Linear(8, 5))
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


def strict() -> nn.Module:
    """One whose forward refuses NaN, and may say so of a copy in filled memory alone."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out: Tensor = F.relu(m.body(x)) @ m.weight
        assert not out.isnan().any()
        return out

    return Wired(forward, body=nn.Linear(20, 16), weight=nn.Parameter(torch.empty(16, 5)))


def read_buffer() -> nn.Module:
    model = Wired(lambda m, x: m.body(x) + m.offset, body=mlp())
    model.register_buffer("offset", torch.empty(5))
    return model


XAVIER, ZEROS, ONES = (f"nn.init.{name}_({{}})" for name in ("xavier_uniform", "zeros", "ones"))
SICK: dict[str, tuple[Factory, str, str, str]] = {
    "parameters without an initialiser": (
        raw,
        "weight",
        "2 parameters (weight and bias)",
        f"{XAVIER.format('model.weight')}; {ZEROS.format('model.bias')}",
    ),
    "a weight that is written in part": (
        half_written,
        "2",
        "1 parameter (2.weight)",
        XAVIER.format('model.get_parameter("2.weight")'),
    ),
    "raw memory made smaller": (
        scaled_only,
        "2",
        "1 parameter (2.weight)",
        XAVIER.format('model.get_parameter("2.weight")'),
    ),
    "a build on the meta device": (
        to_empty,
        "2",
        "2 parameters (2.weight and 2.bias)",
        XAVIER.format('model.get_parameter("2.weight")')
        + "; "
        + ZEROS.format('model.get_parameter("2.bias")'),
    ),
    "a class that _init_weights skips": (
        Skipping,
        "layers.1",
        "1 parameter (layers.1.weight)",
        ONES.format('model.get_parameter("layers.1.weight")'),
    ),
    "a forward that refuses NaN": (
        strict,
        "weight",
        "1 parameter (weight)",
        XAVIER.format("model.weight"),
    ),
    "a buffer that the outputs are made of": (
        read_buffer,
        "offset",
        "1 buffer (offset)",
        ZEROS.format("model.offset"),
    ),
}


@pytest.mark.parametrize(("factory", "layer", "named", "typed"), SICK.values(), ids=list(SICK))
def test_what_nothing_has_written(factory: Factory, layer: str, named: str, typed: str) -> None:
    diagnosis = diagnosed(factory)
    assert told(diagnosis, "GH409") == [("failure", layer, f"nothing has ever written {named}")]
    assert diagnosis.findings[0].code == "GH409"  # before all that comes of it
    assert explained(diagnosis, "GH409")[1:] == (
        LEFT,
        f"write it once the model is built, for example {typed}",
    )


@pytest.mark.parametrize("factory", [raw, to_empty, half_written, scaled_only])
def test_it_is_healthy_once_the_code_has_run(factory: Factory) -> None:
    _, _, advice = explained(diagnosed(factory), "GH409")

    def cured() -> nn.Module:
        model = factory()
        exec(advice.partition("for example ")[2], {"model": model, "nn": nn})
        return model

    assert codes(diagnosed(cured)) == []


def late() -> nn.Module:
    """A scale that the first batch sets."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.body(x)
        if not m.begun:
            m.scale.data.copy_(1 / out.detach().std(0))
            m.begun.fill_(1)
        out *= m.scale
        return out

    model = Wired(forward, body=mlp(), scale=nn.Parameter(torch.empty(5)))
    model.register_buffer("begun", torch.zeros(1))
    return model


def cached() -> nn.Module:
    """A cache that is written as far as it is read."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.body(x)
        m.cache[: len(x)] = out.detach()
        out += m.cache[: len(x)].mean(0)
        return out

    model = Wired(forward, body=mlp())
    model.register_buffer("cache", torch.empty(100, 5))
    return model


def written_later() -> nn.Module:
    weight = nn.Parameter(torch.empty(5, 20))
    with torch.no_grad():
        weight[:3] = 0.1 * torch.randn(3, 20)
        weight[3:] = 0.1 * torch.randn(2, 20)
    return Wired(lambda m, x: F.linear(x, m.weight), weight=weight)


def loaded() -> nn.Module:
    with torch.device("meta"):
        model = mlp()
    model.to_empty(device="cpu").load_state_dict(mlp().state_dict())
    return model


def whole_numbers() -> nn.Module:
    model = Wired(lambda m, x: m.body(x) + 0 * m.ids.sum(), body=mlp())
    model.register_buffer("ids", torch.empty(3, dtype=torch.int64))
    return model


@pytest.mark.parametrize("factory", [late, cached, written_later, loaded, whole_numbers])
def test_what_is_written_in_time(factory: Factory) -> None:
    assert told(diagnosed(factory), "GH409") == []


def test_what_nothing_uses_warns() -> None:
    def unused() -> nn.Module:
        return Wired(lambda m, x: m.body(x), body=mlp(), token=nn.Parameter(torch.empty(5)))

    diagnosis = diagnosed(unused)
    text = "nothing has ever written 1 parameter (token), which the loss does not depend on"
    assert told(diagnosis, "GH409") == [("warning", "token", text)]
    assert diagnosis.verdict == "warning"


def test_nan_that_was_written_is_told_as_such() -> None:
    def broken() -> nn.Module:
        return Wired(lambda m, x: m.body(x) * m.scale, body=mlp(), scale=nn.Parameter(nan))

    nan = torch.full((5,), torch.nan)
    assert codes(diagnosed(broken)) == ["GH301"]


def test_it_explains_what_comes_of_it() -> None:
    """The cause is told for each of these, and nothing is tried, nor asked to be let pass."""

    def huge() -> nn.Module:
        """One that explodes, whatever is in the memory."""
        model = Wired(
            lambda m, x: m.body(x) + 0 * torch.nan_to_num(m.raw).clamp(-1, 1),
            body=mlp(hidden=8),
            raw=nn.Parameter(torch.empty(5)),
        )
        body: Any = model.body
        for layer in body[2:-1:2]:
            nn.init.normal_(layer.weight, std=10)
        return model

    x, y = batch()
    with pytest.raises(AssertionError) as caught:
        assert_no_exploding(huge, x, y, loss=F.cross_entropy)
    text = str(caught.value)
    assert "[GH201]" in text
    assert text.partition("\nnext:")[0].endswith(
        "\n\ncause:  torch.empty(...) or to_empty() without an initialiser, or an\n"
        "        _init_weights that skips it\n"
        "try:    write it once the model is built, for example\n"
        "        nn.init.zeros_(model.raw)"
    )


def test_the_assertion_fails_with_an_error_of_its_own() -> None:
    x, y = batch()
    with pytest.raises(UnwrittenParameterError, match=r"^nothing has ever written"):
        assert_healthy(to_empty, x, y, loss=F.cross_entropy)


@pytest.mark.parametrize(
    ("value", "norm"), [(1e32, "1.4e+32"), (1e-42, "1.4e-42")], ids=["huge", "denormal"]
)
def test_without_a_factory_what_looks_like_raw_memory_warns(value: float, norm: str) -> None:
    extra = nn.Parameter(torch.full((2,), value))
    model = Wired(lambda m, x: m.body(x) + 0 * m.extra.sum(), body=mlp(), extra=extra)
    assert explained(diagnosed(model), "GH409") == (
        f"1 parameter (extra) looks like raw memory: its L2 norm is {norm}",
        "torch.empty(...) without an initialiser, or a file that is damaged",
        "pass the factory that builds the model in place of the model, which tells for sure",
    )


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e20])
def test_without_a_factory_other_numbers_are_anyones(value: float) -> None:
    model = Wired(lambda m, x: m.body(x), body=mlp(), extra=nn.Parameter(torch.full((2,), value)))
    assert told(diagnosed(model), "GH409") == []


def test_what_is_probed_is_the_same_in_each_run() -> None:
    """Memory that others have left NaN in is no weight that was written as NaN."""
    blocks = [torch.full((16, 5), torch.nan) for _ in range(100)]
    del blocks
    first, second = diagnosed(raw), diagnosed(raw)
    assert first.findings == second.findings
    assert first.findings[0].code == "GH409"
    (weight,) = (p for p in first.profile.parameters if p.name == "weight")
    assert weight.norm == 0


def test_a_factory_is_called_once_and_draws_what_it_draws() -> None:
    """In filled memory, which changes no number that is written; the switches are as before."""
    seen = Notes[Any]()

    def factory() -> nn.Module:
        model = mlp()
        drawn = model.get_parameter("0.weight").sum().item()
        seen.append((torch.are_deterministic_algorithms_enabled(), drawn))
        return model

    diagnosed(factory, seeds=1)
    torch.manual_seed(0)
    assert list(seen) == [(True, mlp().get_parameter("0.weight").sum().item())]
    assert not torch.are_deterministic_algorithms_enabled()
    assert deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.parametrize("fills", [True, False])
def test_switches_of_the_caller_stay(fills: bool) -> None:
    with deterministically():
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        try:
            assert codes(diagnosed(to_empty))[0] == "GH409"
            assert codes(diagnosed(mlp)) == []
            assert torch.are_deterministic_algorithms_enabled()
            assert deterministic.fill_uninitialized_memory == fills  # type: ignore[attr-defined]
        finally:
            deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def test_a_factory_that_fails_leaves_the_switches() -> None:
    def broken() -> nn.Module:
        raise ValueError("no")

    with pytest.raises(Exception, match="ValueError: no"):
        diagnosed(broken)
    assert not torch.are_deterministic_algorithms_enabled()
