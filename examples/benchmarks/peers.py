"""One gradient check of other tools, as their documentation has it, against one probe.

Some of them change torch or the model for good, so that each is timed in a process of its own, in
turns with the probe: python -m examples.benchmarks.peers TOOL MODEL
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from typing import Any

from torch import nn

from examples.benchmarks.steps import probe_of
from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread, in_turns, ratio
from examples.benchmarks.workloads import WORKLOADS, Workload

#: Makes one check: forward, backward and what the tool reads of them.
Check = Callable[[], object]
#: How long the probe may take, compared with other tools: as long, but on a tiny model, where
#: nothing but Python takes time.
TARGET, TINY_TARGETS = 1.0, {"pytest-torch": 2.0}


@dataclass(frozen=True)
class Peer:
    """A tool: its module, what one check of it reads, and what makes one ready for a model."""

    module: str
    reads: str
    prepare: Callable[[Workload], Check]

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return find_spec(self.module) is not None


def _pytest_torch(load: Workload) -> Check:
    from pytest_torch.training import assert_gradients_finite

    def objective(outputs: Any) -> Any:
        return load.loss(outputs, load.targets)

    return lambda: assert_gradients_finite(load.model, load.inputs, objective)


def _traintools(load: Workload) -> Check:
    from traintools.gradhealth import GradientHealthMonitor

    monitor = GradientHealthMonitor()

    def check() -> None:
        load.step()
        monitor.inspect(load.model)

    return check


def _torchtest2(load: Workload) -> Check:
    import torchtest2

    wanted = {"forward", "loss", "gradient_flow", "gradient_magnitude"}
    rest = set(torchtest2.CHECKS) - wanted
    inputs, targets = load.inputs, load.targets
    return lambda: torchtest2.check_model(load.model, inputs, targets, loss_fn=load.loss, skip=rest)


def _torchmortem(load: Workload) -> Check:
    from torchmortem import Autopsy

    def check() -> None:
        with Autopsy(load.model) as autopsy:
            loss = load.loss(load.model(load.inputs), load.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            autopsy.step(loss=loss.item())
        atexit.unregister(autopsy._atexit_handler)

    return check


def _wandb(load: Workload) -> Check:
    import wandb

    folder = tempfile.mkdtemp()
    os.environ["WANDB_SILENT"] = "true"
    run = wandb.init(mode="offline", dir=folder, project="benchmark")
    run.watch(load.model, log="gradients", log_freq=1)

    def check() -> None:
        load.step()
        run.log({})

    return check


def _torchlens(load: Workload) -> Check:
    import torchlens

    inputs = load.inputs
    capture = torchlens.options.CaptureOptions(save_grads=True, save_budget=None)

    def check() -> None:
        log = torchlens.trace(load.model, inputs, capture=capture)
        log.log_backward(load.loss(log[log.output_layers[0]].out, load.targets))

    return check


def _backpack(load: Workload) -> Check:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model = extend(copy.deepcopy(load.model))
    loss = extend(nn.CrossEntropyLoss())

    def check() -> None:
        model.zero_grad(set_to_none=True)
        with backpack(BatchL2Grad()):
            loss(*load.scores(model(load.inputs), load.targets)).backward()

    return check


def _cockpit(load: Workload) -> Check:
    from backpack import extend
    from cockpit import Cockpit, quantities

    model = extend(copy.deepcopy(load.model))
    loss = extend(nn.CrossEntropyLoss())
    each = nn.CrossEntropyLoss(reduction="none")
    cockpit = Cockpit(
        [p for p in model.parameters() if p.requires_grad],
        quantities=[quantities.GradNorm(track_schedule=lambda _: True)],
    )
    steps = iter(range(10**9))

    def check() -> None:
        model.zero_grad(set_to_none=True)
        scores = load.scores(model(load.inputs), load.targets)
        value, losses = loss(*scores), each(*scores)
        about = {
            "batch_size": len(losses),
            "individual_losses": losses,
            "loss": value,
            "optimizer": None,
        }
        with cockpit(next(steps), info=about):
            value.backward(create_graph=cockpit.create_graph(0))

    return check


#: The tools by the names that their users know.
PEERS: dict[str, Peer] = {
    "pytest-torch": Peer("pytest_torch", "NaN and Inf in each parameter's gradient", _pytest_torch),
    "traintools": Peer("traintools", "norms of each parameter and its gradient", _traintools),
    "torchtest2": Peer("torchtest2", "missing, zero and large gradients", _torchtest2),
    "torchmortem": Peer("torchmortem", "norms of layers' gradients, and more", _torchmortem),
    "wandb.watch": Peer("wandb", "a histogram of each parameter's gradient", _wandb),
    "torchlens": Peer("torchlens", "all outputs and their gradients, copied", _torchlens),
    "BackPACK": Peer("backpack", "gradient norms of each example", _backpack),
    "Cockpit": Peer("cockpit", "norms of each parameter's gradient", _cockpit),
}


def peer_rows(name: str, rounds: int) -> Iterator[Row]:
    """Time of a probe over that of each installed tool's check, on one model."""
    model = WORKLOADS[name]().name
    for tool, peer in PEERS.items():
        if not peer.is_installed:
            continue
        command = [sys.executable, "-m", "examples.benchmarks.peers", tool, name, str(rounds)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        spread, of = None, peer.reads
        if run.returncode:
            lines = run.stderr.strip().splitlines() or ["failed"]
            of = textwrap.shorten(lines[-1], 60)
        else:
            spread = Spread(*json.loads(run.stdout.splitlines()[-1]))
        target = TINY_TARGETS.get(tool) if name == "mlp" else TARGET
        yield Row(f"probe / {tool}", of, spread, target=target, model=model)


def against(tool: str, name: str, rounds: int) -> Spread:
    """Time a probe and a check of one tool in turns."""
    load = WORKLOADS[name]()
    check = PEERS[tool].prepare(load)

    def quietly() -> None:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()

    # What a tool hangs on the model is there for the probe as well; it gets a model of its own.
    ours = WORKLOADS[name]()
    calls = {"check": quietly, "probe": probe_of(ours)}

    def clear() -> None:
        load.clear()
        ours.clear()
        if name != "mlp":
            gc.collect()  # one tool keeps gigabytes in cycles

    times = in_turns(calls, rounds, before=clear)
    return ratio(times["probe"], times["check"])


if __name__ == "__main__":
    tool, name, rounds = sys.argv[1:]
    found = against(tool, name, int(rounds))
    print(json.dumps(astuple(found)))
