"""Faults that people have reported on GitHub, rebuilt small: the address of each is its source."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.faults.batches import digits, pictures
from examples.study.faults.losses import reconstruction_error
from examples.study.faults.parts import MEASURED, fault, glorot, tower
from examples.study.faults.report_parts import (
    Autoencoder,
    Detector,
    Experts,
    Field,
    Groups,
    Listed,
    Normalised,
    Padded,
    Slices,
    Spiking,
    Squashed,
    biased_head,
    divided,
    language_head,
    over_norm,
    over_safe_norm,
    over_safe_std,
    over_std,
    pictures_of,
    policy,
    replaced,
)
from examples.study.network import Batch, Fault

SIZE = 64
reported = partial(fault, family="reports")
digit = partial(reported, batch=digits)


def reported_faults() -> tuple[Fault, ...]:
    """Return them, by what is wrong: signals, cut gradients, numbers."""
    return (*_signals(), *_cut(), *_numbers())


def _signals() -> tuple[Fault, ...]:
    widths = (28, 56, 58, 112, 114, 224, 226, 448, 450, 224, 112, 56, 7)
    return (
        reported(
            "12 sigmoid layers, a tanh behind",
            source="torch/torch7 issue 1092",
            symptom="the loss stays where it is",
            remedy="tanh",
            sick=partial(tower, widths, nn.Sigmoid, output=nn.Tanh),
            cured=partial(tower, widths, nn.Tanh, glorot, output=nn.Tanh),
            batch=_table,
        ),
        digit(
            "messages from row to row, He",
            source="XingangPan/SCNN issue 82",
            symptom="every row doubles: exploding gradient",
            remedy="a tenth of the weights",
            sick=partial(Slices, 1.0),
            cured=partial(Slices, 0.1),
        ),
        reported(
            "generator with weights of N(0, .2)",
            source="sophiajw/HistAuGAN issue 7: .2 for .02",
            symptom="exploding gradient",
            remedy="He initialisation",
            sick=partial(pictures_of, 0.2),
            cured=partial(pictures_of, 0.118),
            batch=pictures,
            loss=reconstruction_error,
            out_of_reach="rebuilt, it trains, if slower: a loss of .028 with Adam, against .006",
        ),
        reported(
            "head of a language model of N(0, 1)",
            source="huggingface/transformers pull request 26441",
            symptom="a first loss of 100",
            remedy="N(0, 1 / d)",
            sick=partial(language_head, 1.0),
            cured=partial(language_head, 1 / 16),
            batch=_words,
            out_of_reach=MEASURED.format(".007 with Adam", ".007"),
        ),
        reported(
            "map coordinates of 10^6 before tanh",
            source="tsinghua-fib-lab/DRL-urban-planning issue 14",
            symptom="saturated: all nodes score alike",
            remedy="coordinates from the map's corner",
            sick=policy,
            cured=policy,
            batch=partial(_map, shifted=False),
            cured_batch=partial(_map, shifted=True),
        ),
        digit(
            "biases of a detector's heads swapped",
            source="lwpyr/CSP-pedestrian-detection-in-pytorch issue 4",
            symptom="a large loss at first",
            remedy="swapped back",
            sick=partial(biased_head, [1, 99, 1, 1, 1, 1, 1, 1, 1, 1]),
            cured=partial(biased_head, [1] * 10),
            out_of_reach="the original trains, as its thread says",
        ),
    )


def _cut() -> tuple[Fault, ...]:
    return (
        reported(
            "ReLU on the density of a radiance field",
            source="munshisanowarraihan/nerf-meta issue 3; bmild/nerf issue 29",
            symptom="empty space hands back nothing",
            remedy="softplus",
            sick=partial(Field, F.relu),
            cured=partial(Field, F.softplus),
            batch=_rays,
            loss=F.mse_loss,
        ),
        digit(
            "softmax over the one expert that was picked",
            source="davidmrau/mixture-of-experts issue 27",
            symptom="is always 1: the gate gets no gradient",
            remedy="softmax before topk()",
            sick=partial(Experts, softmax_first=False),
            cured=partial(Experts, softmax_first=True),
        ),
        digit(
            "spikes with a rectangle for a slope",
            source="fangwei123456/spikingjelly issue 190",
            symptom="no neuron comes near its threshold",
            remedy="arctan",
            sick=partial(Spiking, wide=False),
            cured=partial(Spiking, wide=True),
        ),
        digit(
            "hidden layers in a Python list",
            source="pytorch/pytorch issues 715 and 72580",
            symptom="they are no parameters of the model",
            remedy="nn.ModuleList",
            sick=partial(Listed, tuple),
            cured=partial(Listed, nn.ModuleList),
        ),
    )


def _numbers() -> tuple[Fault, ...]:
    return (
        reported(
            "log(1 - tanh(u)^2) of a policy",
            source="pytorch/rl issue 2199; didriknielsen/survae_flows pull request 12",
            symptom="log(0) for |u| > 9",
            remedy="2 (log 2 - u - softplus(-2 u))",
            sick=partial(Squashed, stable=False),
            cured=partial(Squashed, stable=True),
            batch=_states,
            loss=_entropy,
        ),
        reported(
            "log-variances of unscaled tables",
            source="vanderschaarlab/synthcity issue 331",
            symptom="exp overflows",
            remedy="scaled columns",
            sick=Autoencoder,
            cured=Autoencoder,
            batch=partial(_columns, 4.0),
            cured_batch=partial(_columns, 0.0),
            loss=_evidence,  # type: ignore[arg-type]
        ),
        reported(
            "exp before clamp",
            source="megvii-model/YOLOF issue 51",
            symptom="0 times inf on the way back",
            remedy="clamp before exp",
            sick=partial(Detector, clamped_first=False),
            cured=partial(Detector, clamped_first=True),
            batch=partial(digits, 2e3),
        ),
        reported(
            "discriminator with a sigmoid on 16-bit pictures",
            source="soumith/ganhacks issue 67; pytorch/pytorch issue 103316",
            symptom="the sigmoid is 0 or 1, its logarithm clamped",
            remedy="pixels up to 1, logits",
            sick=partial(tower, (784, 64, 1), nn.LeakyReLU, output=nn.Sigmoid),
            cured=partial(tower, (784, 64, 1), nn.LeakyReLU),
            batch=partial(_halves, 65535.0),
            cured_batch=partial(_halves, 1.0),
            loss=F.binary_cross_entropy,
            cured_loss=F.binary_cross_entropy_with_logits,
        ),
        digit(
            "norm plus eps of silent frames",
            source="mpariente/pytorch_stoi issue 7 and pull request 14",
            symptom="the root of 0 has no slope",
            remedy="eps below the root",
            sick=partial(Normalised, over_norm),
            cured=partial(Normalised, over_safe_norm),
        ),
        digit(
            "std plus eps of constant features",
            source="grey-eye/talking-heads issue 32",
            symptom="the root of 0 has no slope",
            remedy="eps below the root",
            sick=partial(Normalised, over_std),
            cured=partial(Normalised, over_safe_std),
            out_of_reach=f"{MEASURED.format('1.53 with Adam', '1.53')}; std() has a slope by now",
        ),
        reported(
            "sequences of nothing but padding",
            source="pytorch/pytorch issues 24816 and 41508; dmlc/dgl issue 2657",
            symptom="a softmax over nothing: NaN",
            remedy="the first token is always seen",
            sick=partial(Padded, keep_first=False),
            cured=partial(Padded, keep_first=True),
            batch=_padded,
            out_of_reach=f"{MEASURED.format('.19 with Adam', '.18')}; that softmax is 0 by now",
        ),
        digit(
            "bias of log(0) for a class without examples",
            source="jbohnslav/deepethogram issue 15",
            symptom="-inf in a bias: NaN",
            remedy="one example more for each",
            sick=partial(biased_head, [0, *[9] * 9]),
            cured=partial(biased_head, [1, *[10] * 9]),
        ),
        digit(
            "0 / 0 replaced by torch.where()",
            source="pytorch/pytorch issues 16317 and 4132",
            symptom="NaN comes back from the branch that is not taken",
            remedy="where() below the fraction",
            sick=partial(Groups, replaced),
            cured=partial(Groups, divided),
        ),
        digit(
            "mean over no triplets",
            source="KevinMusgrave/pytorch-metric-learning issue 107",
            symptom="a mean of nothing: NaN",
            remedy="the sum over at least one",
            sick=partial(tower, (784, 64, 16), nn.ReLU),
            cured=partial(tower, (784, 64, 16), nn.ReLU),
            loss=partial(_triplets, -1.0),
            cured_loss=partial(_triplets, 1.0),
        ),
    )


def _triplets(margin: float, embedded: Tensor, labels: Tensor) -> Tensor:
    """The mean of the triplets that are still too near."""
    unit = F.normalize(embedded)
    away = 1 - unit @ unit.T
    same = labels[:, None] == labels
    near = away[:8].unsqueeze(2) - away[:8].unsqueeze(1) + margin
    hard = near[same[:8].unsqueeze(2) & ~same[:8].unsqueeze(1) & (near > 0)]
    return hard.mean()


def _entropy(log_probabilities: Tensor, _targets: Tensor) -> Tensor:
    return log_probabilities.mean()


def _evidence(outputs: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    told, mean, spread = outputs
    apart = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(-1).mean()
    return (told - rows).square().sum(-1).mean() + apart


def _table() -> Batch:
    return torch.rand(SIZE, 28), torch.randint(7, (SIZE,))


def _words() -> Batch:
    tokens = torch.randint(500, (SIZE, 4))
    return tokens, tokens[:, 0]


def _map(*, shifted: bool) -> Batch:
    places, kinds = 500 * torch.rand(SIZE, 30, 2), torch.rand(SIZE, 30, 2)
    best = places[..., 0].argmax(-1)
    places = places / 500 if shifted else places + torch.tensor([448000.0, 4413000.0])
    return torch.cat([places, kinds], -1), best


def _rays() -> Batch:
    begin, toward = torch.randn(SIZE, 1, 3), F.normalize(torch.randn(SIZE, 1, 3), dim=-1)
    colours = torch.ones(SIZE, 3)
    colours[:16] = torch.rand(16, 3)
    return begin + toward * torch.linspace(0, 2, 24)[None, :, None], colours


def _states() -> Batch:
    return 40 * torch.randn(SIZE, 8), torch.zeros(SIZE)


def _columns(decades: float) -> Batch:
    rows = torch.randn(SIZE, 12) * torch.logspace(0, decades, 12)
    return rows, rows


def _halves(scale: float) -> Batch:
    images = scale * torch.rand(SIZE, 784)
    images[::2, :392] /= 2
    return images, (torch.arange(SIZE) % 2).float().unsqueeze(1)


def _padded() -> Batch:
    tokens = torch.randint(1, 50, (SIZE, 6))
    labels = tokens[:, 0] % 10
    tokens[:4] = 0
    return tokens, labels
