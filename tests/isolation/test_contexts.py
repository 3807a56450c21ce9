"""Probes inside the contexts of others: the same verdict as outside, or words on why not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_gradhealth import Diagnosis, ProbeError, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.state import unchanged
from tests.helpers.switches import deterministic, in_double


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode of the user's that sees every operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Listening(TorchFunctionMode):
    """A mode of the user's that sees every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly": torch.autograd.detect_anomaly,
    "deterministic": deterministic,
    "default dtype": in_double,
    "default device": lambda: torch.device("cpu"),
    "meta": lambda: torch.device("meta"),
    "save_on_cpu": torch.autograd.graph.save_on_cpu,
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.clone(), lambda t: t
    ),
    "no saved tensors": lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
    "dispatch mode": Watching,
    "function mode": Listening,
    "one thread": lambda: torch.autograd.set_multithreading_enabled(False),
    "forward mode": torch.autograd.forward_ad.dual_level,
}


def steps_on_meta() -> bool:
    """Whether Adam can step while new tensors are made on the meta device."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.Adam([weight])
    try:
        with torch.device("meta"):
            optimizer.step()
    except RuntimeError:
        return False
    return True


def norms(diagnosis: Diagnosis) -> list[float]:
    return [point.norm for point in diagnosis.profiles[0].paths[0].points]


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_of_the_caller_does_not_change_what_is_measured(name: str) -> None:
    if name == "meta" and not steps_on_meta():
        pytest.skip("this torch's optimizers do not step where tensors are made on meta")
    x, y = batch()
    for model, verdict in ((mlp(), "healthy"), (mlp(nn.Sigmoid, hidden=8), "failure")):
        outside = probe(model, x, y, loss=cross_entropy)
        with CONTEXTS[name](), unchanged(model):
            inside = probe(model, x, y, loss=cross_entropy)
        assert inside.verdict == outside.verdict == verdict
        assert norms(inside) == norms(outside)
        assert len(inside.profiles) == len(outside.profiles)


def test_autocast_of_the_caller_is_what_is_measured() -> None:
    x, y = batch()
    model = mlp()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = probe(model, x, y, loss=cross_entropy)
        assert torch.is_autocast_enabled("cpu")
    outside = probe(model, x, y, loss=cross_entropy)
    assert inside.verdict == outside.verdict == "healthy"
    assert norms(inside) != norms(outside)
    assert norms(inside) == pytest.approx(norms(outside), rel=0.1)


def test_under_autocast_steps_are_felt() -> None:
    """Its casts of weights are kept until it ends, and those of one step are not the next one's."""
    (x, y), model = batch(), mlp()
    last = model.get_submodule("6")
    nn.init.zeros_(last.get_parameter("weight"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        diagnosis = probe(model, x, y, loss=cross_entropy)
    assert len(diagnosis.profiles) == 2
    assert diagnosis.verdict == "healthy", diagnosis


def test_under_autocast_no_cast_of_a_weight_is_left() -> None:
    """Of the changed weights that a forward or a loss may leave behind for a moment."""

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Any:
            self.layer.weight.data.mul_(2)
            return self.layer(x)

    (x, y), model = batch(), Loud()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = model.layer(x)
        probe(model, x, y, loss=cross_entropy)
        assert torch.equal(model.layer(x), before)


def test_a_thread_and_a_task_are_as_good() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=8)
    expected = norms(probe(model, x, y, loss=cross_entropy))
    found: list[Diagnosis] = []

    def run() -> None:
        found.append(probe(model, x, y, loss=cross_entropy))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    async def task() -> None:
        run()

    asyncio.run(task())
    assert [norms(diagnosis) for diagnosis in found] == [expected, expected]


def test_a_probe_in_a_backward_disturbs_neither() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=8)
    found: list[Diagnosis] = []

    class Probing(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, given: Tensor) -> Tensor:
            return given.clone()

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Tensor:
            found.append(probe(model, x, y, loss=cross_entropy))
            return 3 * gradient

    given = torch.ones(2, requires_grad=True)
    total: Any = Probing.apply(given).sum()
    total.backward()
    assert given.grad is not None
    assert given.grad.tolist() == [3.0, 3.0]
    assert norms(found[0]) == norms(probe(model, x, y, loss=cross_entropy))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_inside_a_transform_a_probe_is_refused(transform: str) -> None:
    x, y = batch()
    model = mlp()

    def inside(given: Tensor) -> Tensor:
        probe(model, given, y, loss=cross_entropy)
        return given.sum()

    calls: dict[str, Callable[[], Any]] = {
        "vmap": lambda: torch.func.vmap(inside)(x[None]),
        "grad": lambda: torch.func.grad(inside)(x),
        "jvp": lambda: torch.func.jvp(inside, (x,), (torch.ones_like(x),)),
    }
    with unchanged(model), pytest.raises(ProbeError) as caught:
        calls[transform]()
    assert str(caught.value) == (
        "a probe cannot run inside torch.func.vmap, grad or jvp, which would transform all that"
        " it does; call it outside, with plain tensors"
    )


# What a forward turns, and who probes at the same time.


def default_device(_: object) -> None:
    torch.set_default_device("cpu")


SWITCHES: dict[str, Callable[[Any], object]] = {
    "default device": default_device,
    "a mode left on": lambda _: Listening().__enter__(),  # type: ignore[no-untyped-call]
    "autocast": lambda _: torch.set_autocast_enabled("cpu", True),
    "the format of autocast": lambda _: torch.set_autocast_dtype("cpu", torch.float16),
    "precision of products": lambda _: torch.set_float32_matmul_precision("medium"),
    "threads": lambda _: torch.set_num_threads(2),
    "cuDNN": lambda _: setattr(torch.backends.cudnn, "benchmark", True),
}


def switches() -> list[object]:
    stack: Any = torch.overrides._get_current_function_mode_stack
    modes = stack()
    return [
        *map(id, modes),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.backends.cudnn.benchmark,
    ]


@pytest.mark.parametrize("turn", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("around", [None, Listening, lambda: torch.device("cpu")])
def test_what_a_forward_turns_is_turned_back(
    turn: Callable[[Any], object], around: Callable[[], AbstractContextManager[Any]] | None
) -> None:
    class Turning(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            turn(self)
            return super().forward(x)  # type: ignore[no-untyped-call]

    x, y = batch()
    with around() if around else contextlib.nullcontext():
        before = switches()
        probe(Turning(mlp()), x, y, loss=cross_entropy)
        assert switches() == before


def test_threads_that_probe_at_once_wait_for_each_other() -> None:
    (x, y), models = batch(), [mlp(), mlp(nn.Sigmoid, hidden=10)]
    models = [nn.Sequential(model, nn.Dropout(0.5)) for model in models]
    alone = [norms(probe(model, x, y, loss=cross_entropy)) for model in models]
    together: dict[int, list[list[float]]] = {0: [], 1: []}
    start = threading.Barrier(2)

    def run(place: int) -> None:
        start.wait()
        for _ in range(3):
            found = probe(models[place], x, y, loss=cross_entropy)
            together[place].append(norms(found))

    with unchanged(*models):
        threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == {place: [alone[place]] * 3 for place in (0, 1)}
