"""Networks for series, sounds and spikes, of small libraries: cells in loops and their kin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import CLASSES, labelled
from examples.study.zoo.libraries.entry import Made, Row, Table, of

#: Steps of a series, its variables, and what a cell remembers.
STEPS, VARIABLES, UNITS = 24, 4, 32
#: Steps of time in which a spiking network sees one example.
TIMES = 8
MELS = 40


def waves(steps: int = STEPS, count: int = 32) -> Tensor:
    """Return sums of waves of several lengths with noise."""
    time = torch.arange(float(steps))[None, :, None]
    lengths = 4 + 12 * torch.rand(count, 1, VARIABLES)
    begin = 6 * torch.rand(count, 1, VARIABLES)
    waves = (2 * torch.pi * time / lengths + begin).sin()
    return waves + 0.1 * torch.randn(count, steps, VARIABLES)


def next_values() -> Batch:
    """Return series and the same one step further."""
    series = waves(STEPS + 1)
    return series[:, :-1], series[:, 1:]


def last_values() -> Batch:
    """Return series and the mean of what the last steps were."""
    series = waves()
    return series, series[:, -4:].mean(1)


def uneven_values() -> Batch:
    """Return series with the time that passed before each step, and the next values."""
    series, targets = next_values()
    return {"input": series, "timespans": torch.rand(len(series), STEPS) + 0.5}, targets


def futures() -> Batch:
    """Return series and what comes in the eight steps after them."""
    series = waves(STEPS + 8)
    return series[:, :STEPS], series[:, STEPS:]


def described() -> Batch:
    """Return numbers with labels, as a spiking network sees them again and again."""
    return labelled(64, count=32)


def spoken() -> Batch:
    """Return spectra with a frame's label all along, as an acoustic model sees them."""
    frames, labels = labelled(48, MELS, count=4)
    return frames, labels[:, None].expand(-1, 48)


def heard() -> Batch:
    """Return spectra of a length each and transcripts of several lengths."""
    labels = torch.randint(1, CLASSES, (4, 5))
    pattern = torch.randn(CLASSES, MELS, generator=torch.Generator().manual_seed(0))
    spectra = pattern[labels].repeat_interleave(10, 1) + 0.5 * torch.randn(4, 50, MELS)
    return spectra, (labels, torch.randint(3, 6, (4,)))


def transcribed(logits: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of connectionist temporal classification."""
    labels, lengths = targets
    frames = torch.full((len(logits),), logits.shape[1])
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, frames, lengths)


def per_frame(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy over all frames."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Read(nn.Module):
    """A recurrent network of ncps, whose states a linear layer reads: all of them or the last."""

    def __init__(self, cells: nn.Module, width: int = UNITS, last: bool = False):
        super().__init__()
        self.cells, self.last, self.read = cells, last, nn.Linear(width, VARIABLES)

    def forward(self, input: Tensor, timespans: Tensor | None = None) -> Tensor:  # noqa: A002
        states, _ = self.cells(input, timespans=timespans)
        return self.read(states[:, -1] if self.last else states)  # type: ignore[no-any-return]


class Looped(nn.Module):
    """A cell of a library in a loop of the user's, its states stacked or the last one used."""

    def __init__(self, cell: nn.Module, last: bool = False):
        super().__init__()
        self.cell, self.last, self.read = cell, last, nn.Linear(UNITS, VARIABLES)

    def forward(self, series: Tensor) -> Tensor:
        state = series.new_zeros(len(series), UNITS)
        states = []
        for step in series.unbind(1):
            output, state = self.cell(step, state, 1.0)
            states.append(output)
        collected = torch.stack(states, 1)
        return self.read(collected[:, -1] if self.last else collected)  # type: ignore[no-any-return]


class Spiking(nn.Module):
    """Linear layers with the spiking neurons of snntorch between, which count to an answer."""

    def __init__(self, neuron: Callable[[], Any]):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 100), nn.Linear(100, CLASSES)])
        self.neurons: Any = nn.ModuleList([neuron(), neuron()])

    def forward(self, numbers: Tensor) -> Tensor:
        states = [neuron.reset_mem() for neuron in self.neurons]
        potentials = []
        for _ in range(TIMES):
            x = numbers
            for i, (layer, neuron) in enumerate(zip(self.layers, self.neurons, strict=True)):
                state = states[i] if isinstance(states[i], tuple | list) else [states[i]]
                x, *states[i] = neuron(layer(x), *state)
            potentials.append(states[-1][-1])
        return torch.stack(potentials)


def rate_loss(potentials: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of the membranes over all steps of time, as snntorch has it."""
    return torch.stack([F.cross_entropy(step, labels) for step in potentials]).mean()


class Reset(nn.Module):
    """A network of spikingjelly over steps of time, forgotten before each batch."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, numbers: Tensor) -> Tensor:
        from spikingjelly.activation_based.functional import reset_net

        reset_net(self)
        return sum(self.layers(numbers) for _ in range(TIMES)) / TIMES  # type: ignore[no-any-return]


def spikingjelly(neuron: str) -> Made:
    """Say how a small network of spikingjelly is made."""
    fire = of(f"spikingjelly.activation_based.neuron.{neuron}")
    linear = "spikingjelly.activation_based.layer.Linear"
    return of(Reset, of(linear, 64, 100), fire, of(linear, 100, CLASSES), fire)


class Acoustic(nn.Module):
    """Frames, the layers of a library, and a head for every frame."""

    def __init__(self, layers: nn.Module, width: int = 64, outputs: int = CLASSES):
        super().__init__()
        self.first, self.layers = nn.Linear(MELS, width), layers
        self.last = nn.Linear(width, outputs)

    def forward(self, frames: Tensor) -> Tensor:
        return self.last(self.layers(self.first(frames)))  # type: ignore[no-any-return]


def ncps(name: str, kind: str, batch: Callable[[], Batch] = next_values, **options: Any) -> Row:
    """Return the row of a recurrent network of ncps; with `last` only the last state is read."""
    last = options.pop("last", False)
    built = of(Read, of(f"ncps.torch.{kind}", VARIABLES, UNITS, **options), last=last)
    return name, built, last_values if last else batch, F.mse_loss


def wired(name: str, kind: str) -> Row:
    """Return the row of a network of ncps whose cells are wired sparsely."""
    cells = of(f"ncps.torch.{kind}", VARIABLES, of("ncps.wirings.AutoNCP", UNITS, VARIABLES))
    return name, of(Read, cells, VARIABLES), next_values, F.mse_loss


def snn(name: str, kind: str, **options: Any) -> Row:
    """Return the row of a spiking network of snntorch."""
    neuron = of(f"snntorch.{kind}", **options)
    return name, of(Spiking, partial(neuron)), described, rate_loss


SEQUENCES: Table = {
    "ncps": (
        ncps("CfC", "CfC"),
        ncps("CfC, last state", "CfC", last=True),
        ncps("CfC, pure", "CfC", mode="pure"),
        ncps("CfC, no gate", "CfC", mode="no_gate"),
        ncps("CfC, mixed memory", "CfC", mixed_memory=True),
        ncps("CfC, uneven times", "CfC", uneven_values),
        ncps("LTC", "LTC"),
        ncps("LTC, last state", "LTC", last=True),
        wired("CfC, wired", "CfC"),
        wired("LTC, wired", "LTC"),
        (
            "CfC cell in a loop",
            of(Looped, of("ncps.torch.CfCCell", VARIABLES, UNITS)),
            next_values,
            F.mse_loss,
        ),
        (
            "CfC cell in a loop, last state",
            of(Looped, of("ncps.torch.CfCCell", VARIABLES, UNITS), last=True),
            last_values,
            F.mse_loss,
        ),
    ),
    "snntorch": (
        snn("leaky neurons", "Leaky", beta=0.9),
        snn("leaky neurons, learned decay", "Leaky", beta=0.9, learn_beta=True),
        snn("synaptic neurons", "Synaptic", alpha=0.8, beta=0.9),
        snn("recurrent neurons", "RLeaky", beta=0.9, all_to_all=False),
    ),
    "spikingjelly": (
        ("LIF neurons", spikingjelly("LIFNode"), described, F.cross_entropy),
        ("IF neurons", spikingjelly("IFNode"), described, F.cross_entropy),
        ("parametric LIF neurons", spikingjelly("ParametricLIFNode"), described, F.cross_entropy),
    ),
    "iTransformer": (
        (
            "iTransformer",
            of(
                "iTransformer.iTransformer",
                num_variates=VARIABLES,
                lookback_len=STEPS,
                depth=3,
                dim=64,
                pred_length=8,
            ),
            futures,
            F.mse_loss,
        ),
    ),
    "conformer": (
        (
            "Conformer",
            of(
                Acoustic,
                of("conformer.Conformer", 64, depth=3, dim_head=16, heads=4, conv_kernel_size=15),
            ),
            spoken,
            per_frame,
        ),
        (
            "Conformer, transcripts",
            of(
                Acoustic,
                of("conformer.Conformer", 64, depth=3, dim_head=16, heads=4, conv_kernel_size=15),
            ),
            heard,
            transcribed,
        ),
    ),
}
