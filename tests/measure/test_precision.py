"""What low-precision formats make of gradients, against what casts to them do."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, GradientProfile, ProbeError, probe
from pytest_gradhealth.results.magnitudes import FORMATS, MagnitudeRecord
from tests.helpers.architectures import Wired
from tests.helpers.nets import batch, mlp, scalar_chain

cross_entropy = F.cross_entropy
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def test_all_calls_of_a_layer_count_together_as_early_steps_of_a_loop_do() -> None:
    """Each step back multiplies the gradient by 2**-12: the first calls get less than float16."""
    cell = nn.Linear(1, 1)
    nn.init.constant_(cell.weight, 2.0**-12)

    def forward(m: Any, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(4):
            state = m.cell(state + x)
        return state

    diagnosis = probe(
        Wired(forward, cell=cell),
        torch.ones(8, 1),
        torch.ones(8, 1),
        loss=_sum,
        precision="float16",
    )
    (record,) = [r for r in diagnosis.profile.magnitudes if r.name == "cell"]
    counted = {record.low + i: n for i, n in enumerate(record.counts) if n}
    assert counted == {-36: 8, -24: 8, -12: 8, 0: 8}
    assert record.flushed("float16", 0) == 1 / 4
    assert [f.severity for f in diagnosis.of(["GH501"])] == ["info"], "the weight gets enough"


def _sum(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).sum()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_are_those_of_torch(kind: str) -> None:
    dtype, known = DTYPES[kind], FORMATS[kind]
    smallest = 2.0**known.lowest
    assert torch.tensor(smallest, dtype=torch.float64).to(dtype).item() == smallest
    assert torch.tensor(smallest / 2, dtype=torch.float64).to(dtype).item() == 0
    assert torch.tensor(smallest * 0.51, dtype=torch.float64).to(dtype).item() == smallest
    assert torch.finfo(dtype).max < 2.0 ** (known.highest + 1)
    assert torch.tensor(2.0**known.highest, dtype=torch.float64).to(dtype).isfinite()


def record_of(values: Tensor) -> MagnitudeRecord:
    """The record of a gradient with these values, measured through the package."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, len(values)))

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight * x).sum()

    diagnosis = probe(Weighted(), values, precision="float16")
    (found,) = [r for r in diagnosis.profile.magnitudes if r.type == "weight"]
    return found


def test_elements_are_counted_by_hand() -> None:
    values = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.9, -4.0, 2.0**-30, -(2.0**-31), 2.0**-126])
    record = record_of(values)
    counted = {record.low + i: n for i, n in enumerate(record.counts) if n}
    assert counted == {0: 2, 1: 2, 2: 1, -30: 1, -31: 1, -126: 1}
    assert record.high == 2
    assert record.flushed("float16", 0) == 3 / 8
    assert record.flushed("float16", 5) == 2 / 8
    assert record.flushed("float16", 6) == 1 / 8
    assert record.flushed("bfloat16", 0) == 0


@given(
    st.lists(st.floats(-126, 14), min_size=1, max_size=30),
    st.integers(-10, 40),
    st.sampled_from(sorted(FORMATS)),
)
def test_what_is_flushed_is_what_a_cast_flushes(logs: list[float], shift: int, kind: str) -> None:
    values = torch.tensor([2.0**log for log in logs], dtype=torch.float64).float()
    exponents = [math.frexp(v)[1] - 1 for v in values.tolist()]
    low, high = min(exponents), max(exponents)
    counts = tuple(exponents.count(e) for e in range(low, high + 1))
    record = MagnitudeRecord("x", "weight", low, counts)
    cast = (values.double() * 2.0**shift).to(DTYPES[kind])
    ties = (values.double() * 2.0**shift == 2.0 ** (FORMATS[kind].lowest - 1)).double().mean()
    flushed = (cast == 0).double().mean() - ties
    assert record.flushed(kind, shift) == pytest.approx(flushed.item())
    needed = record.needs(kind, 0.1)
    assert record.flushed(kind, needed) <= 0.1 < record.flushed(kind, needed - 1)


NETS = {
    "ReLU": lambda: mlp(nn.ReLU, hidden=4, width=64),
    "sigmoid": lambda: mlp(nn.Sigmoid, hidden=6, width=64),
    "tanh": lambda: mlp(nn.Tanh, hidden=4, width=64),
}


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
@pytest.mark.parametrize("name", NETS)
def test_the_forecast_is_what_a_float16_backward_does(name: str, scale: float) -> None:
    torch.manual_seed(0)
    model, (x, y) = NETS[name](), batch(64)
    diagnosis = probe(
        model, x, y, loss=cross_entropy, precision="float16", loss_scale=scale, confirm_steps=0
    )
    forecast = {
        r.name: r.flushed("float16", diagnosis.profile.loss_scale.exponent)
        for r in diagnosis.profile.magnitudes
    }
    half: Any = copy.deepcopy(model).half()
    actual: dict[str, float] = {}

    def zeros(gradient: Tensor | None) -> float:
        assert gradient is not None
        return (gradient == 0).double().mean().item()

    def watch(label: str, layer: nn.Module, found: dict[str, float]) -> None:
        def after(_: nn.Module, __: Any, out: Any) -> None:
            out.register_hook(lambda gradient: found.update({label: zeros(gradient)}))

        layer.register_forward_hook(after)

    full: dict[str, float] = {}
    for net, found, given_ in ((half, actual, x.half()), (copy.deepcopy(model), full, x)):
        for label, layer in net.named_modules():
            if not isinstance(layer, nn.Sequential):
                watch(label, layer, found)
        loss: Any = cross_entropy(net(given_).float(), y) * scale
        loss.backward()
        found |= {n: zeros(p.grad) for n, p in net.named_parameters() if p.dim() > 1}
    assert forecast.keys() == actual.keys() == full.keys()
    worst = max(forecast, key=lambda n: forecast[n])
    for layer_name, share in forecast.items():
        # Of what is not zero in float32; what is lost above a layer is lost below it as well.
        lost = (actual[layer_name] - full[layer_name]) / (1 - full[layer_name])
        assert lost > share - 0.05, layer_name
        if layer_name.endswith("weight") or share < 0.3:
            continue
        assert lost < share + 0.1, layer_name
    if scale == 1.0 and name == "sigmoid":
        assert forecast[worst] > 0.5


def test_an_exact_chain_is_flushed_where_its_gradient_falls_below_the_format() -> None:
    """Ten sigmoids of slope 1/4: 2**-20 arrives, which float16 holds; thirteen leave 2**-26."""
    for links, verdict in ((10, "healthy"), (13, "failure")):
        model = scalar_chain(links, 1.0, -0.5, nn.Sigmoid()).float()
        x = torch.full((1, 1), 0.5)
        diagnosis = probe(model, x, loss=lambda y: y.sum(), precision="float16", select=["GH501"])
        assert diagnosis.verdict == verdict
        (first,) = [r for r in diagnosis.profile.magnitudes if r.name == "0"]
        assert first.low == first.high == -2 * links


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "format": (
        {"precision": "float8"},
        "precision is 'float8'; pass 'float16' or 'bfloat16', or the dtype of that name",
    ),
    "dtype": (
        {"precision": torch.float64},
        "precision is torch.float64; pass 'float16' or 'bfloat16', or the dtype of that name",
    ),
    "scale": (
        {"loss_scale": 0},
        "loss_scale is 0; pass a positive number, or the torch.amp.GradScaler",
    ),
    "text": (
        {"loss_scale": "dynamic"},
        "loss_scale is 'dynamic'; pass a positive number, or the torch.amp.GradScaler",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_precision_is_said(name: str) -> None:
    options, message = REFUSED[name]
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        probe(mlp(), x, y, loss=cross_entropy, **options)
    assert str(caught.value) == message


def test_a_model_in_half_precision_tells_nothing_of_what_was_lost() -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        probe(mlp().bfloat16(), x.bfloat16(), y, loss=cross_entropy, precision="float16")
    assert str(caught.value) == (
        "0.weight is bfloat16 already, so that its gradient has been rounded before it can be"
        " measured; pass the model in float32 to forecast what rounding does"
    )


def gradients(diagnosis: Diagnosis) -> dict[str, float]:
    profile: GradientProfile = diagnosis.profile
    found = {o.name: o.norm for o in profile.outputs if o.norm is not None}
    return found | {p.name: p.gradient for p in profile.parameters if p.gradient is not None}


@pytest.mark.parametrize("scale", [2.0**16, torch.amp.GradScaler("cpu", init_scale=2.0**16)])
def test_a_loss_scale_is_taken_out_of_what_is_reported(scale: Any) -> None:
    x, y = batch()
    model = mlp()
    plain = probe(model, x, y, loss=cross_entropy, clip=1.0)
    scaled = probe(model, x, y, loss=cross_entropy, clip=1.0, loss_scale=scale)
    assert gradients(scaled) == pytest.approx(gradients(plain), rel=1e-5)
    assert scaled.profile.loss == plain.profile.loss
    changes = [u.change for u in plain.profile.updates]
    assert [u.change for u in scaled.profile.updates] == pytest.approx(changes, rel=1e-3)
    assert [u.gradient for u in scaled.profile.updates] == pytest.approx(
        [u.gradient for u in plain.profile.updates], rel=1e-3
    )


class Autocast(nn.Module):
    """A model that runs its body in low precision."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            out: Tensor = self.body(x)
        return out.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_measured_as_it_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = batch(64)
    body = mlp(nn.ReLU, width=64)
    plain = probe(body, x, y, loss=cross_entropy)
    inside = probe(Autocast(body, dtype), x, y, loss=cross_entropy, loss_scale=2.0**12)
    with torch.autocast("cpu", dtype=dtype):
        around = probe(body, x, y, loss=lambda o, t: cross_entropy(o.float(), t))
    assert {d.verdict for d in (plain, inside, around)} == {"healthy"}
    expected = gradients(plain)
    for name, norm in gradients(inside).items():
        if "." in name and name.rpartition(".")[2] == "weight":
            assert norm == pytest.approx(expected[name.removeprefix("body.")], rel=0.05)
    for name, norm in gradients(around).items():
        if name.endswith("weight"):
            assert norm == pytest.approx(expected[name], rel=0.05)


def test_a_scale_saves_what_float16_would_lose_under_autocast() -> None:
    """Unscaled, a deep sigmoid net's first layer gets nothing; scaled, what float32 shows."""
    torch.manual_seed(0)
    x, y = batch(64)
    body = mlp(nn.Sigmoid, hidden=7, width=64)
    model = Autocast(body, torch.float16)
    options: dict[str, Any] = {"loss": cross_entropy, "confirm_steps": 0, "select": ["GH101"]}
    expected = probe(body, x, y, **options).profile.norm_of("0")
    bare = probe(model, x, y, **options).profile.norm_of("body.0")
    saved = probe(model, x, y, **options, loss_scale=2.0**16).profile.norm_of("body.0")
    assert expected is not None
    assert saved == pytest.approx(expected, rel=0.05)
    assert bare is not None
    assert bare < 0.5 * expected
