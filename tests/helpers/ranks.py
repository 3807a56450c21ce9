"""Runs of two ranks, and the tests that they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import pytest_gradhealth
from tests.helpers.workers import start

fully_sharded = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9),
    reason="fully_shard computes no gradient, or twice of it, on CPUs before torch 2.9",
)

CONFTEST = """
import json, os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from _pytest.runner import runtestprotocol

torch.set_num_threads(1)
RANK = os.environ["RANK"]


@pytest.fixture(scope="session", autouse=True)
def process_group():
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    # As plugins do that run a failed test again.
    if item.name == "test_run_again" or (item.name, RANK) == ("test_run_again_on_rank_0", "0"):
        runtestprotocol(item, log=False, nextitem=nextitem)
        item._initrequest()


def pytest_runtest_logreport(report):
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        told = getattr(report, "gradhealth_message", "").splitlines()[1:]  # behind its headline
        message = "\\n".join([crash.message, *told]) if crash else ""
        line = [report.nodeid.partition("::")[2], report.outcome, message]
        with Path(__file__).with_name(f"rank{RANK}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")
"""

NETS = """
import copy, math, os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel as DDP

from pytest_gradhealth import ProbeError, assert_healthy, assert_no_vanishing, probe




def net(depth=3, activation=nn.ReLU, width=16):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 16, generator=generator), torch.randint(4, (32,), generator=generator)


def close(a, b):
    return (a is None and b is None) or math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-12)


def assert_same_profile(shared, plain, whole=True):
    assert shared.verdict == plain.verdict
    for one, other in zip(shared.profiles, plain.profiles, strict=True):
        assert close(one.loss, other.loss)
        for a, b in zip(one.outputs, other.outputs, strict=True):
            assert (a.name, a.type, a.state, a.numel) == (b.name, b.type, b.state, b.numel)
            assert a.shape == b.shape or not whole
            assert close(a.norm, b.norm) and close(a.activation, b.activation)
        for a, b in zip(one.parameters, other.parameters, strict=True):
            assert (a.name, a.state, a.shape) == (b.name, b.state, b.shape)
            assert close(a.gradient, b.gradient) and close(a.norm, b.norm)
        assert len(one.paths) == len(other.paths) > 0
        for a, b in zip(one.paths, other.paths, strict=True):
            assert [point.name for point in a.points] == [point.name for point in b.points]
            assert close(a.ratio, b.ratio)


def train(model, steps, before=lambda: None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        before()
        inputs, labels = batch(10 * step + dist.get_rank())
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]

"""

DDP = (
    NETS
    + """
# All that follows has to hold after tests that only one rank has, skips or fails.
RANK = int(os.environ["RANK"])


@pytest.fixture(scope="session", autouse=True)
def wrapped(process_group):
    # To wrap a model is to wait for the other rank.
    return DDP(net())


@pytest.mark.parametrize("n", range(3 if RANK == 1 else 0))
def test_one_rank_alone(n):
    pass


if RANK == 1:

    def test_of_rank_1():
        pass


@pytest.mark.skipif(RANK == 1, reason="not here")
def test_skipped_on_one_rank(wrapped):
    assert_healthy(wrapped, *batch(), loss=cross_entropy)


def test_after_them():
    assert_healthy(DDP(net()), *batch(), loss=cross_entropy)


if RANK == 0:

    def test_that_one_rank_lacks(wrapped):
        assert_healthy(wrapped, *batch(), loss=cross_entropy)


def test_after_what_one_rank_lacks():
    assert_healthy(DDP(net()), *batch(), loss=cross_entropy)


@pytest.fixture
def checked(wrapped):
    assert_healthy(wrapped, *batch(), loss=cross_entropy)
    yield
    assert_healthy(wrapped, *batch(), loss=cross_entropy)


def test_checked_around(checked):
    pass


@pytest.mark.skipif(RANK == 0, reason="it goes on to check what the other rank does not")
def test_checked_around_on_one_rank(checked):
    pass


def test_one_rank_checks_in_the_body_what_both_do_afterwards(checked, wrapped):
    if RANK == 0:
        assert_healthy(wrapped, *batch(), loss=cross_entropy)


RUNS = []


def test_run_again(checked, wrapped):
    RUNS.append(1)
    diagnosis = probe(wrapped, *batch(RANK), loss=cross_entropy)
    texts = [None, None]
    dist.all_gather_object(texts, (len(RUNS), repr(diagnosis.profiles[0].loss)))
    assert texts[0] == texts[1]


def test_run_again_on_rank_0(wrapped):
    assert_healthy(wrapped, *batch(), loss=cross_entropy)


def test_after_what_was_run_again(wrapped):
    assert_healthy(wrapped, *batch(), loss=cross_entropy)


@pytest.mark.parametrize("make", [net, lambda: net(12, nn.Sigmoid)])
def test_profile(make):
    inputs, labels = batch()
    model = make()
    plain = probe(model, inputs, labels, loss=cross_entropy)
    shared = probe(DDP(model), inputs, labels, loss=cross_entropy)
    assert plain.verdict == ("healthy" if make is net else "failure")
    assert_same_profile(shared, plain)


@pytest.mark.parametrize("healthy", [True, False])
def test_an_optimizer_whose_state_is_spread(healthy):
    # It holds the group of processes, of which there are no copies.
    model = DDP(net(12, nn.Sigmoid))
    held = list(model.parameters())[: None if healthy else -2]
    optimizer = ZeroRedundancyOptimizer(held, optimizer_class=torch.optim.Adam, lr=1e-3)
    found = probe(model, *batch(), loss=cross_entropy, optimizer=optimizer)
    assert len(found.profiles) == 2
    assert [f.message for f in found.findings if f.code == "GH602"] == [] if healthy else [
        "no optimizer holds 2 parameters (24.weight and 24.bias), which get a gradient"
    ]


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"find_unused_parameters": True}])
def test_steps_after_a_probe(options):
    plain = train(DDP(net(), **options), 3)
    model = DDP(net(), **options)
    probed = train(model, 3, lambda: probe(model, *batch(), loss=cross_entropy, min_ratio=0.99))
    for one, other in zip(plain, probed, strict=True):
        assert torch.equal(one, other)


def test_probe_between_forward_and_backward():
    gradients = []
    for probes in (False, True):
        model = DDP(net())
        inputs, labels = batch(dist.get_rank())
        loss = cross_entropy(model(inputs), labels)
        if probes:
            probe(model, inputs, labels, loss=cross_entropy)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_bad_data_on_one_rank():
    inputs, labels = batch()
    targets = torch.zeros(32, 4)
    if dist.get_rank() == 1:
        targets[3] = math.nan
    assert_healthy(DDP(net()), inputs, targets, loss=nn.functional.mse_loss)


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        if dist.get_rank() == 1:
            raise ValueError("no such example")
        return self.inner(x)


def test_error_on_one_rank():
    inputs, labels = batch()
    assert_healthy(DDP(Picky()), inputs, labels, loss=cross_entropy)


def test_bad_inputs_on_one_rank():
    inputs, labels = batch()
    assert_healthy(DDP(net()), inputs[: 32 * dist.get_rank()], labels, loss=cross_entropy)


def test_failure_before_the_check_on_one_rank():
    model = DDP(net())
    assert dist.get_rank() == 0
    assert_healthy(model, *batch(), loss=cross_entropy)


def test_cured(gradhealth):
    inputs, labels = batch()
    model, found = DDP(net(12, nn.Sigmoid)), []
    for _ in range(2):
        try:
            gradhealth.assert_no_vanishing(
                model, inputs, labels, loss=cross_entropy, remedy_budget=0.3
            )
        except AssertionError as error:
            found.append(error.diagnosis.treatments)
    texts = [None, None]
    dist.all_gather_object(texts, repr(found))
    assert texts[0] == texts[1]
    assert all(len(treatments) > 5 for treatments in found)


def test_baseline(gradhealth):
    gradhealth.assert_matches_baseline(DDP(net()), *batch(), loss=cross_entropy)


def test_plain_model_on_one_rank():
    if dist.get_rank() == 0:
        assert probe(net(), *batch(), loss=cross_entropy).verdict == "healthy"


def test_other_limits_on_one_diagnosis(gradhealth):
    inputs, labels = batch(dist.get_rank())
    diagnosis = gradhealth.probe(DDP(net()), inputs, labels, loss=cross_entropy)
    ratios = [None, None]
    dist.all_gather_object(ratios, diagnosis.ratio)
    assert ratios[0] == ratios[1]


class Contrastive(nn.Module):
    def __init__(self, activation=nn.ReLU, depth=3):
        super().__init__()
        self.a, self.b = net(depth, activation), net(depth, activation)

    def forward(self, x, z):
        from torch.distributed.nn.functional import all_gather

        normalize = nn.functional.normalize
        one, other = (torch.cat(all_gather(normalize(t, dim=1))) for t in (self.a(x), self.b(z)))
        return one @ other.T / 0.07


def pairs():
    return batch(dist.get_rank())[0], batch(10 + dist.get_rank())[0]


def matching(outputs):
    return cross_entropy(outputs, torch.arange(len(outputs)))


def test_a_forward_that_waits_for_others():
    assert probe(DDP(Contrastive()), pairs(), loss=matching).verdict == "healthy"

    def of_one(outputs):
        return (outputs.detach() + 0 * outputs).sum() if dist.get_rank() else matching(outputs)

    # What one rank's loss leaves out comes back from the outputs that the other has gathered.
    assert probe(DDP(Contrastive()), pairs(), loss=of_one).verdict == "healthy"

    def of_none(outputs):
        return (outputs.detach() + 0 * outputs).sum()

    assert probe(DDP(Contrastive()), pairs(), loss=of_none).verdict == "failure"
    with pytest.raises(AssertionError) as failure:
        assert_no_vanishing(DDP(Contrastive(nn.Sigmoid, 12)), pairs(), loss=matching)
    (reason,) = {t.reason for t in failure.value.diagnosis.treatments}
    assert reason == "the forward waits for other processes, which try no remedies"
    dist.barrier()


def test_replicate():
    from torch.distributed._composable.replicate import replicate

    probe(replicate(net()), *batch(), loss=cross_entropy)


def test_factory():
    probe(lambda: DDP(net()), *batch(), loss=cross_entropy)


def test_nested():
    model = nn.Sequential(nn.Linear(16, 16), DDP(nn.Linear(16, 4)))
    probe(model, *batch(), loss=cross_entropy)
"""
)


SHARDED = (
    NETS
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


def sharded(model=None, layers=True):
    model = net() if model is None else model
    mesh = init_device_mesh("cpu", (2,))
    for layer in model if layers else ():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def state_of(model):
    return [
        (id(p), p.grad is None, p.to_local().data_ptr(), p.full_tensor().tolist())
        for p in model.parameters()
    ]


@pytest.mark.parametrize(
    ("make", "layers"), [(net, True), (net, False), (lambda: net(8, nn.Sigmoid), True)]
)
def test_profile(make, layers):
    inputs, labels = batch()
    plain = probe(make(), inputs, labels, loss=cross_entropy, clip=1.0)
    model = sharded(make(), layers)
    before = state_of(model)
    shared = probe(model, inputs, labels, loss=cross_entropy, clip=1.0)
    assert state_of(model) == before
    assert_same_profile(shared, plain)
    for one, other in zip(shared.profile.updates, plain.profile.updates, strict=True):
        assert close(one.loss, other.loss) and close(one.change, other.change)


def test_optimizer_instance():
    inputs, labels = batch()
    found = []
    for model in (net(8, nn.Sigmoid), sharded(net(8, nn.Sigmoid))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        found.append(probe(model, inputs, labels, loss=cross_entropy, optimizer=optimizer))
        assert not optimizer.state
    assert len(found[0].profiles) == 2
    assert_same_profile(found[1], found[0])


def test_what_no_optimizer_holds():
    model = net()
    before = torch.optim.Adam(model.parameters())
    model = sharded(model)
    head = torch.optim.Adam(model[-1].parameters())
    with pytest.raises(ProbeError, match="before these were made anew"):
        probe(model, *batch(), loss=cross_entropy, optimizer=before)
    found = probe(model, *batch(), loss=cross_entropy, optimizer=head)
    assert [f.message for f in found.findings if f.code == "GH602"] == [
        "no optimizer holds 6 parameters (0.weight, 0.bias, 2.weight and 3 more), which get a"
        " gradient"
    ]
    whole = torch.optim.Adam(model.parameters())
    assert probe(model, *batch(), loss=cross_entropy, optimizer=whole).verdict == "healthy"


@pytest.mark.parametrize("layers", [True, False])
def test_steps_after_a_probe(layers):
    whole = []
    for before in (False, True):
        model = sharded(layers=layers)
        check = lambda: probe(model, *batch(), loss=cross_entropy, min_ratio=0.99, clip=1.0)
        train(model, 3, check if before else lambda: None)
        whole.append([p.full_tensor() for p in model.parameters()])
    for one, other in zip(*whole, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_the_caller_stay():
    model = sharded()
    inputs, labels = batch()
    cross_entropy(model(inputs), labels).backward()
    gradients = [p.grad for p in model.parameters()]
    values = [g.full_tensor().clone() for g in gradients]
    probe(model, inputs, labels, loss=cross_entropy, min_ratio=0.99)
    for p, gradient, value in zip(model.parameters(), gradients, values, strict=True):
        assert p.grad is gradient
        assert torch.equal(gradient.full_tensor(), value)


def test_bad_data_on_one_rank():
    inputs, labels = batch()
    targets = torch.zeros(32, 4)
    if dist.get_rank() == 1:
        targets[3] = math.nan
    assert_healthy(sharded(), inputs, targets, loss=nn.functional.mse_loss)


def test_doubt_on_one_rank():
    inputs, labels = batch()
    inputs = inputs * (1e-12 if dist.get_rank() == 1 else 1.0)
    found = probe(sharded(), inputs, labels, loss=cross_entropy)
    texts = [None, None]
    dist.all_gather_object(texts, repr(found))
    assert texts[0] == texts[1]


def test_shared_probes(gradhealth):
    model, (inputs, labels) = sharded(net(8, nn.Sigmoid)), batch()
    with pytest.raises(AssertionError) as failure:
        gradhealth.assert_no_vanishing(model, inputs, labels, loss=cross_entropy, remedy_budget=1)
    assert {t.outcome for t in failure.value.diagnosis.treatments} == {"cannot"}
    gradhealth.assert_no_exploding(model, inputs, labels, loss=cross_entropy)


def test_error_in_forward():
    model = sharded()
    with pytest.raises(ProbeError, match="forward raised"):
        probe(model, torch.randn(4, 7), loss=lambda outputs: outputs.sum())
    with pytest.raises(ProbeError, match="loss <lambda> raised"):
        probe(model, batch()[0], loss=lambda outputs: outputs.nothing)
    assert_same_profile(
        probe(model, *batch(), loss=cross_entropy), probe(net(), *batch(), loss=cross_entropy)
    )


def test_probe_between_forward_and_backward():
    gradients = []
    for probes in (False, True):
        model = sharded()
        inputs, labels = batch(dist.get_rank())
        loss = cross_entropy(model(inputs), labels)
        if probes:
            probe(model, inputs, labels, loss=cross_entropy)
        loss.backward()
        gradients.append([p.grad.full_tensor() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_dependency():
    probe(sharded(), *batch(), loss=cross_entropy, dependency=3)


def test_partly_sharded():
    model = net()
    fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))
    probe(model, *batch(), loss=cross_entropy)


def parallel(model):
    linear = [i for i, layer in enumerate(model) if isinstance(layer, nn.Linear)]
    plan = {str(i): (ColwiseParallel, RowwiseParallel)[n % 2]() for n, i in enumerate(linear)}
    return parallelize_module(model, init_device_mesh("cpu", (2,)), plan)


@pytest.mark.parametrize("make", [net, lambda: net(9, nn.Sigmoid)])
def test_tensor_parallel(make):
    inputs, labels = batch()
    plain = probe(make(), inputs, labels, loss=cross_entropy)
    model = parallel(make())
    before = state_of(model)
    shared = probe(model, inputs, labels, loss=cross_entropy)
    assert state_of(model) == before
    assert plain.verdict == ("healthy" if make is net else "failure")
    assert_same_profile(shared, plain, whole=False)
    for mine, theirs in zip(train(model, 3), train(parallel(make()), 3), strict=True):
        assert torch.equal(mine.full_tensor(), theirs.full_tensor())


def test_tensor_parallel_clip():
    inputs, labels = batch()
    plain = probe(net(), inputs, labels, loss=cross_entropy, clip=0.1)
    mesh = init_device_mesh("cpu", (2,))
    part = parallelize_module(net(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    shared = probe(part, inputs, labels, loss=cross_entropy, clip=0.1)
    for one, other in zip(shared.profile.updates, plain.profile.updates, strict=True):
        assert close(one.gradient, other.gradient) and close(one.clipped, other.clipped)
        assert close(one.loss, other.loss)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x).view(-1, 1, self.width).squeeze())

    width = 32


def test_tensor_parallel_branches():
    inputs, labels = batch()
    plain = probe(Gated(), inputs, labels, loss=cross_entropy)
    plan = {"gate": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
    model = parallelize_module(Gated(), init_device_mesh("cpu", (2,)), plan)
    model.width = 16
    shared = probe(model, inputs, labels, loss=cross_entropy)
    assert_same_profile(shared, plain, whole=False)


def test_tensor_parallel_remedies():
    with pytest.raises(AssertionError) as failure:
        assert_no_vanishing(parallel(net(9, nn.Sigmoid)), *batch(), loss=cross_entropy)
    assert {t.outcome for t in failure.value.diagnosis.treatments} == {"cannot"}


def test_gradient_accumulation():
    model = sharded()
    model.set_requires_gradient_sync(False)
    probe(model, *batch(), loss=cross_entropy)


def test_tensor_parallel_local_units():
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].bias[:32] = -100
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    shared = probe(
        parallelize_module(model, init_device_mesh("cpu", (2,)), plan), *batch(), loss=cross_entropy
    )
    assert shared.verdict == "healthy"
    assert shared.profile.activations == ()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_tensor_parallel_units(activation):
    model = nn.Sequential(nn.Linear(16, 4096), activation(), nn.Linear(4096, 4))
    with torch.no_grad():
        model[0].bias[::2] = -1e3
    plain = probe(model, *batch(), loss=cross_entropy)
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    part = parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
    shared = probe(part, *batch(), loss=cross_entropy)
    assert shared.profile.activations == plain.profile.activations
    (seen,) = plain.profile.activations
    assert math.isclose(seen.dead if activation is nn.ReLU else seen.flat, 0.5, rel_tol=0.02)


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x)
        if dist.get_rank() == 1:
            raise ValueError("no such example")
        return self.second(x)


def test_error_on_one_rank():
    inputs, labels = batch()
    model = Picky()
    mesh = init_device_mesh("cpu", (2,))
    for module in (model.first, model.second, model):
        fully_shard(module, mesh=mesh)
    assert_healthy(model, inputs, labels, loss=cross_entropy)


def test_after_it():
    dist.barrier()
"""
)


class Ended(NamedTuple):
    """How a test ended on one rank."""

    outcome: str
    message: str


class Run(NamedTuple):
    """A run: what both ranks wrote, and how each test ended on them."""

    code: int
    output: str
    tests: dict[str, tuple[Ended, ...]]


OPTIONS = ("-p", "pytest_gradhealth.plugin", "-p", "no:cacheprovider", "test_shared.py")


def environment_in(folder: Path, source: str) -> dict[str, str]:
    """Write the tests of a run into a folder; return what its processes find around them."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_shared.py").write_text(source)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST"))}
    return kept | {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def together(folder: Path, source: str, *arguments: str) -> Run:
    """Start both ranks as torchrun does, which itself would load torch in three processes."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = environment_in(folder, source) | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
    }
    outputs = [folder / f"rank{number}.txt" for number in range(2)]
    ranks = [
        start([*OPTIONS, *arguments], {**environment, "RANK": str(n)}, folder, output)
        for n, output in enumerate(outputs)
    ]
    code = ended_of(ranks)
    return run_in(folder, code, "".join(file.read_text() for file in outputs if file.exists()))


def torchrun(folder: Path, source: str) -> Run:
    """Start both ranks with torchrun itself."""
    environment = environment_in(folder, source)
    package = str(Path(pytest_gradhealth.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package, environment.get("PYTHONPATH")])
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pytest"]
    done = subprocess.run(
        [sys.executable, *command, *OPTIONS],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    return run_in(folder, done.returncode, done.stdout)


def run_in(folder: Path, code: int, output: str) -> Run:
    """What a run has left in its folder."""
    ranks = []
    for number in range(2):
        file = folder / f"rank{number}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        ranks.append({name: Ended(*how) for name, *how in map(json.loads, lines)})
    missing = Ended("not run", "")
    names = {**ranks[0], **ranks[1]}
    assert names, output
    return Run(code, output, {name: tuple(of.get(name, missing) for of in ranks) for name in names})


def ended_of(ranks: Sequence[ForkServerProcess]) -> int:
    """The code of the first rank that fails; the others then have a moment to end too."""
    running, code, seconds = [*ranks], 0, 100
    while running:
        ready = connection.wait([rank.sentinel for rank in running], timeout=seconds)
        if not ready:
            break
        for rank in [rank for rank in running if rank.sentinel in ready]:
            running.remove(rank)
            rank.join()
            if rank.exitcode and not code:
                code, seconds = rank.exitcode, 10
    for rank in running:
        rank.terminate()
        rank.join()
    return code or -bool(running)


def passed(run: Run, test: str) -> None:
    ended = [how for name, how in run.tests.items() if name.partition("[")[0] == test]
    assert ended
    assert ended == [(Ended("passed", ""), Ended("passed", ""))] * len(ended), run.output


def errors(run: Run, test: str) -> tuple[str, ...]:
    """What a test failed with on each rank, without the name of the error."""
    assert [how.outcome for how in run.tests[test]] == ["failed", "failed"], run.output
    return tuple(how.message.partition(": ")[2] for how in run.tests[test])


#: What a model of DDP and SHARDED raises on one rank alone, as the short summary of pytest has it.
PICKY = "Picky.forward raised ValueError: no such example"
