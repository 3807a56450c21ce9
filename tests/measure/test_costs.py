"""What a probe does besides one forward and one backward, counted instead of timed."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.isolation.fingerprint import Fingerprint, fingerprint
from pytest_gradhealth.isolation.write_guard import LARGE
from pytest_gradhealth.measure import activations, parameters
from pytest_gradhealth.probing.cache import ProbeCache
from pytest_gradhealth.probing.case import Case
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.tensors import graph, norms
from pytest_gradhealth.tensors.trees import tensors
from tests.helpers.nets import batch, mlp

#: What makes the host wait for a device, by the names that torch dispatches.
WAITING = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select", "unique"}
#: What reads no number.
VIEWS = {"alias", "detach", "reshape", "select", "slice", "t", "transpose", "view", "_unsafe_view"}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation, with the numbers of elements of the tensors it was given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        sizes = tuple(t.numel() for t in tensors((args, kwargs)))
        self.seen.append((func._schema.name.removeprefix("aten::"), sizes))
        return func(*args, **(kwargs or {}))

    def on(self, numel: int) -> Counter[str]:
        """How often each operation was given a tensor of so many elements."""
        return Counter(name for name, sizes in self.seen if numel in sizes)


def widths(*sizes: int) -> nn.Sequential:
    """Linear layers between ReLUs, no two tensors of which have as many elements."""
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(sizes):
        layers += [nn.Linear(one, other), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()


def beyond_a_step(
    model: nn.Module, x: Tensor, y: Tensor, numel: int, *, copy: bool | None = None
) -> Counter[str]:
    """The operations of a probe on tensors of one size, less those of a plain step."""
    with Operations() as plain:
        step(model, x, y)
    with Operations() as ours:
        assert probe(model, x, y, loss=cross_entropy, copy=copy).verdict == "healthy"
    beyond = ours.on(numel) - plain.on(numel)
    return Counter({name: n for name, n in beyond.items() if name not in VIEWS})


def test_every_output_and_its_gradient_is_read_once() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 19), torch.arange(10) % 7
    model = widths(19, 31, 23, 7)
    # Two layers, Linear and ReLU, return so many; the ReLU's is looked at for dead units as well.
    assert beyond_a_step(model, x, y, 10 * 31) == {"linalg_vector_norm": 4, "amax": 1}


def test_every_weight_and_its_gradient_is_read_once() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 19), torch.arange(10) % 7
    model = widths(19, 31, 23, 7)
    # Read: weight and gradient. Copied: the weight, and put back into itself.
    expected = {"_foreach_norm": 2, "clone": 1, "_foreach_copy_": 1}
    assert beyond_a_step(model, x, y, 19 * 31) == expected


def test_large_outputs_that_differ_are_read_twice_and_nothing_as_large_is_made() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 19), torch.arange(4) % 7
    model, large = widths(19, 31, 20_000), 4 * 20_000
    # The norm of the outputs as such and as the last layer's, that of their gradient, and the mean;
    # the outputs once more without the last bias.
    rows = large // 256 * 256
    assert beyond_a_step(model, x, y, large) == {"mean": 2, "sub": 1}
    assert beyond_a_step(model, x, y, rows) == {"linalg_vector_norm": 4}


def test_weights_are_compared_with_their_gradients_only_where_nothing_is_estimated() -> None:
    torch.manual_seed(0)
    y = torch.arange(8) % 4
    for size, dots in ((6, 1), (66, 0)):
        with Operations() as ours:
            model = nn.Sequential(*convolutions()[:3], nn.AdaptiveAvgPool2d(4), *convolutions()[3:])
            x = torch.randn(8, 3, size, size)
            assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
        assert sum(name == "dot" for name, _ in ours.seen) == dots


def test_small_weights_and_their_gradients_are_each_read_by_one_call() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 19), torch.arange(10) % 7
    model = widths(19, 31, 23, 29, 7)
    with Operations() as ours:
        assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
    sizes = tuple(p.numel() for p in model.parameters())
    assert [given for name, given in ours.seen if name == "_foreach_norm"] == [sizes, sizes]


def test_only_gradients_of_large_weights_wait_for_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 90), torch.arange(10) % 7
    model = widths(90, 92, 31, 7)
    assert 31 * 92 < norms.FEW < 90 * 92
    hooked: list[Tensor] = []
    complete = parameters.ParameterReader._complete

    def counted(reader: parameters.ParameterReader, parameter: Tensor, *given: Any) -> None:
        hooked.append(parameter)
        complete(reader, parameter, *given)

    monkeypatch.setattr(parameters.ParameterReader, "_complete", counted)
    assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
    assert list(map(id, hooked)) == [id(model[0].weight)]


LAZILY, BOTH = {"_lazy_clone": 1}, {"clone": 1, "_foreach_copy_": 1}


@pytest.mark.parametrize(
    ("shared", "copied", "copies", "reads"),
    [
        *((False, None, LAZILY, 2), (False, False, LAZILY, 2), (False, True, BOTH, 2)),
        # What others know the memory of is copied at once, or watched over and compared.
        *((True, None, BOTH, 2), (True, False, {}, 2 + 2), (True, True, BOTH, 2)),
    ],
)
def test_weights_are_copied_at_once_only_where_others_know_their_memory(
    shared: bool,
    copied: bool | None,
    copies: dict[str, int],
    reads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The mode that counts would be taken for one that may hold on to a copy.
    monkeypatch.setattr("pytest_gradhealth.isolation.lazy_copy._is_watched", lambda: False)
    torch.manual_seed(0)
    x, y = torch.randn(10, 300), torch.arange(10) % 7
    model = widths(300, 301, 7)
    assert LARGE < 300 * 301
    aliases = [weight.detach() for weight in model.parameters() if shared]
    # Long tensors are summed in rows of 256, and what is left over by itself.
    rows, rest = divmod(300 * 301, 256)
    beyond = partial(beyond_a_step, model, x, y, copy=copied)
    assert beyond(300 * 301) == copies
    assert beyond(rows * 256) == {"linalg_vector_norm": reads}
    assert beyond(rest) == {"linalg_vector_norm": reads}
    del aliases


def test_the_count_sees_a_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = lambda tensors: (norms.l2_norms(tensors), norms.l2_norms(tensors))[0]  # noqa: E731
    monkeypatch.setattr("pytest_gradhealth.measure.parameters.l2_norms", twice)
    with pytest.raises(AssertionError):
        test_every_weight_and_its_gradient_is_read_once()


class Counting(nn.Sequential):
    """Counts its forwards, and the hooks on all modules inside."""

    forwards = 0
    hooks: ClassVar[Counter[str]] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        type(self).forwards += 1
        type(self).hooks = Counter()
        for module in self.modules():
            for name, value in vars(module).items():
                if name.endswith("_hooks") and value:
                    type(self).hooks[name] += len(value)
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count forwards, backwards and deep copies."""
    counts: Counter[str] = Counter()
    backward, deepcopy = torch.autograd.backward, copy.deepcopy

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    Counting.forwards = 0
    monkeypatch.setattr(torch.autograd, "backward", counting("backward", backward))
    monkeypatch.setattr(copy, "deepcopy", counting("deepcopy", deepcopy))
    yield counts
    counts["forward"] = Counting.forwards


def test_a_healthy_model_costs_one_forward_and_one_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = batch()
    with counted(monkeypatch) as counts:
        assert probe(Counting(*mlp()), x, y, loss=cross_entropy).verdict == "healthy"
    assert counts == {"forward": 1, "backward": 1}


def test_a_factory_is_called_once_where_one_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    with counted(monkeypatch) as counts:
        diagnosis = probe(lambda: Counting(*mlp(hidden=3, width=200)), x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy"
    assert counts == {"forward": 1, "backward": 1}


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_failing_model_pays_for_its_steps(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    x, y = batch()
    model = Counting(*mlp(nn.Sigmoid, hidden=12))
    with counted(monkeypatch) as counts:
        assert probe(model, x, y, loss=cross_entropy, confirm_steps=steps).verdict == "failure"
    # Two looks and the steps between them. Outputs that are alike take one more forward in each
    # look, and so does what one answer for all examples would cost.
    assert counts["forward"] == (steps + 5 if steps else 2)
    assert bool(counts["deepcopy"]) == bool(steps)


def test_a_reentrant_checkpoint_costs_one_forward_and_what_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = batch()
    inner = Counting(*mlp(classes=32))

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(20, 20), inner, nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(checkpoint(self.inner, self.stem(x), use_reentrant=True))
            return out

    with counted(monkeypatch) as counts:
        probe(Checkpointed(), x, y, loss=cross_entropy)
    assert counts["forward"] == 2


def test_each_module_has_one_hook_while_it_runs() -> None:
    x, y = batch()
    model = Counting(*mlp())
    probe(model, x, y, loss=cross_entropy)
    assert Counting.hooks == {"_forward_hooks": len(list(model.modules()))}
    model(x)
    assert Counting.hooks == {}


def test_a_healthy_probe_goes_eleven_times_through_the_modules_of_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = batch()
    model, walks = mlp(), Counter[str]()
    named_modules = nn.Module.named_modules

    def counting(module: nn.Module, memo: Any = None, *args: Any, **kwargs: Any) -> Any:
        walks["all"] += module is model and memo is None
        return named_modules(module, memo, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "named_modules", counting)
    assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
    assert walks["all"] <= 11


def test_the_operation_of_a_node_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    asked: list[Node] = []
    op_name = graph.op_name

    def noting(node: Node) -> str:
        asked.append(node)
        return op_name(node)

    monkeypatch.setattr(graph, "op_name", noting)
    assert probe(mlp(), x, y, loss=cross_entropy).verdict == "healthy"
    assert asked
    assert len(asked) == len({*asked})


# What waits for a device. There is none here: only the package thinks so of its tensors.


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Treat all tensors as those of an accelerator; count transfers by `tolist`."""
    for module in (activations, norms, parameters):
        monkeypatch.setattr(module, "on_host", lambda _: False)
    transfers: Counter[str] = Counter()
    tolist = Tensor.tolist

    def counting(tensor: Tensor) -> Any:
        transfers["tolist"] += 1
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", counting)
    return transfers


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(5 * 16, 4))


def convolutions() -> nn.Sequential:
    norm = nn.BatchNorm2d(8)
    layers = [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)]
    return nn.Sequential(*layers)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: widths(19, 31, 23, 4), (8, 19)),
    "large mlp": (lambda: widths(300, 301, 4), (8, 300)),
    "sigmoids": (lambda: nn.Sequential(nn.Linear(9, 9), nn.Sigmoid(), nn.Linear(9, 4)), (8, 9)),
    "convolutions": (convolutions, (8, 3, 6, 6)),
    "attention": (attention, (8, 5, 16)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_host_waits_for_an_accelerator_twice(name: str, elsewhere: Counter[str]) -> None:
    torch.manual_seed(0)
    build, shape = NETS[name]
    model, x, y = build(), torch.randn(shape), torch.arange(8) % 4
    with Operations() as plain:
        step(model, x, y)
    with Operations() as ours:
        diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy"
    waits = Counter(name for name, _ in ours.seen if name in WAITING)
    waits -= Counter(name for name, _ in plain.seen if name in WAITING)
    assert waits == {}
    assert elsewhere["tolist"] == 2


def test_on_the_host_no_transfer_is_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        test_the_host_waits_for_an_accelerator_twice("mlp", Counter())


def test_inputs_with_nan_on_an_accelerator_are_refused_after_the_look(
    elsewhere: Counter[str],
) -> None:
    x, y = batch()
    x[3, 4] = float("nan")
    with pytest.raises(ProbeError, match=r"^the inputs hold NaN \(1 of 320 elements"):
        probe(mlp(), x, y, loss=cross_entropy)
    assert elsewhere["tolist"] == 2


def test_a_fingerprint_is_taken_without_waiting(elsewhere: Counter[str]) -> None:
    x, y = batch()
    model = mlp()
    with Operations() as taken:
        fingerprint([model, x, y])
    assert not [name for name, _ in taken.seen if name in WAITING]
    one = fingerprint([model, x, y])
    assert one == fingerprint([model, x, y])
    next(model.parameters()).data[3, 3] += 1e-3
    assert one != fingerprint([model, x, y])
    assert elsewhere["tolist"] == 0


def test_a_change_in_place_that_keeps_the_norm_is_seen() -> None:
    model = mlp()
    weight = next(model.parameters())
    weight.data[3, 3], weight.data[3, 4] = 1.0, -1.0
    one = fingerprint([model])
    with torch.no_grad():
        weight[3, 3:5].neg_()
    assert one != fingerprint([model])


def test_nothing_is_compared_before_a_second_assertion(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Fingerprint] = []

    def taking(*args: Any) -> Fingerprint:
        taken.append(fingerprint(*args))
        return taken[-1]

    monkeypatch.setattr("pytest_gradhealth.probing.cache.fingerprint", taking)
    x, y = batch()
    cache, case = ProbeCache(), Case(mlp(), x, y, cross_entropy)
    for expected in (1, 2, 3):
        cache.diagnose(case, Settings(), built_in_rules(), 0)
        assert len(taken) == expected
