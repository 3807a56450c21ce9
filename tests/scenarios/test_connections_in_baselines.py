"""Connections that are gone or detached, and parts that are silenced, on tiny networks."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.entry import Entry, KeptParameters
from pytest_gradhealth.plugin.baseline_gate import kept_of
from tests.helpers.gate import compared
from tests.models import connected
from tests.models.connected import Net, X, Y


def measured(net: Net) -> Diagnosis:
    return probe(net, X, Y, loss=net.loss)


@cache
def built(name: str, mode: str = "") -> Diagnosis:
    net: type[Net] = getattr(connected, name)
    return measured(net(mode))


def told(name: str, mode: str) -> list[str]:
    """What fails a broken network that is no matter of numbers."""
    check = compared(built(name), built(name, mode))
    return [f"{c.message} [{c.fails}]" for c in check.failing if c.of_layers]


GONE = (
    "any more: is a connection gone, detached, or without a gradient (sample, argmax)? [regression]"
)
ZERO = "is a factor or a mask zero? [regression]"
DIRECT = "directly any more: is a connection gone, or detached? [layers]"
ROUND = "which gradient went round before: is a skip connection gone, or detached? [layers]"
UNCALLED = "not called any more, though others of the list are:"

BROKEN: dict[tuple[str, str], list[str]] = {
    ("Residual", "no skip"): [f"new on the path: blocks.1, {ROUND}"],
    ("Residual", "no skips"): [f"new on the path: blocks, {ROUND}"],
    ("Residual", "skip times 0"): [f"new on the path: blocks.1, {ROUND}"],
    ("Residual", "detached"): [f"new on the path: blocks.1, {ROUND}"],
    ("Residual", "forgotten"): [
        f"{UNCALLED} blocks.3 (160 of the 748 elements that got gradient) [layers]"
    ],
    ("Residual", "zero"): [
        f"no gradient reaches blocks.1 any more: it is exactly zero (160 of the 748 elements that"
        f" got gradient): {ZERO}"
    ],
    ("UNet", "no long skip"): [f"new on the path: down.1 and up.0, {ROUND}"],
    **{("UNet", way): [f"new on the path: down.1 and up.0, {ROUND}"] for way in connected.ZEROED},
    ("Dense", "not all"): [f"no gradient from layers.3 reaches layers.0 {DIRECT}"],
    ("Conditioned", "not told"): [f"no gradient from blocks.2 reaches condition {DIRECT}"],
    ("Conditioned", "zero"): [
        f"no gradient reaches condition any more: it is exactly zero (24 of the 332 elements that"
        f" got gradient): {ZERO}"
    ],
    ("Autoencoder", "sampled"): [f"no gradient from decoder reaches encoder {GONE}"],
    ("Autoencoder", "detached"): [f"no gradient from decoder reaches encoder {GONE}"],
    ("Categorical", "no straight-through"): [f"no gradient from decoder reaches encoder {GONE}"],
    ("Quantised", "no straight-through"): [
        f"no gradient from decoder reaches encoder {GONE}",
        "gradient from decoder reaches book now, and did not before [layers]",
    ],
    ("Contrastive", "wrong branch"): [
        f"no gradient from predictor reaches encoder {GONE}",
        "gone from the path: predictor, which gradient goes round now: is there a new skip"
        " connection or term of the loss? [layers]",
    ],
    ("Contrastive", "one view"): [
        "gradient reaches 1 of the 2 calls of encoder, and reached 2 before: is one of them"
        " detached? [regression]"
    ],
    ("ActorCritic", "detached"): [f"no gradient from value reaches trunk {GONE}"],
    ("ActorCritic", "zero"): [
        f"no gradient reaches value any more: it is exactly zero (81 of the 261 elements that"
        f" got gradient): {ZERO}"
    ],
    ("Branches", "forgotten"): [
        f"{UNCALLED} branches.0 (72 of the 324 elements that got gradient) [layers]"
    ],
    ("Branches", "masked"): [
        f"no gradient reaches branches.1 any more: it is exactly zero (72 of the 324 elements that"
        f" got gradient): {ZERO}"
    ],
    ("Branches", "never taken"): [
        f"no gradient reaches branches.1 any more: it is exactly zero (72 of the 324 elements that"
        f" got gradient): {ZERO}"
    ],
    ("Loop", "mean detached"): [f"no gradient from cell reaches cell {GONE}"],
}


@pytest.mark.parametrize(("name", "mode"), BROKEN)
def test_what_is_broken_is_named_and_fails(name: str, mode: str) -> None:
    if name == "Loop":
        check = compared(measured(connected.Loop("mean")), measured(connected.Loop(mode)))
        assert [f"{c.message} [{c.fails}]" for c in check.failing] == BROKEN[name, mode]
    else:
        assert told(name, mode) == BROKEN[name, mode]


#: Layers that paths alone show to lie where gradient could go round.
BY_PATHS = {
    ("Residual", "no skip"): "blocks.1",
    ("Residual", "no skips"): "blocks",
    ("Residual", "detached"): "blocks.1",
    ("UNet", "no long skip"): "down.1 and up.0",
    ("Categorical", "no straight-through"): "decoder",
    ("ActorCritic", "detached"): "policy",
}


@pytest.mark.parametrize(("name", "mode"), BROKEN)
def test_an_older_file_is_compared_by_what_it_knows(name: str, mode: str) -> None:
    """Nothing is said of connections but what paths tell, nor of what it took for alive."""
    known = {"uncalled": "idle", "zero": "gradient"}

    def of_version_2(entry: Entry) -> Entry:
        parameters = tuple(
            KeptParameters(p.layer, known.get(p.use, p.use), p.elements)  # type: ignore[arg-type]
            for p in entry.parameters or ()
        )
        return dataclasses.replace(entry, parameters=parameters, flow=None)

    broken = built(name, mode)
    changes = compared(of_version_2(kept_of(broken, {})), broken).comparison.changes
    assert [c.message for c in changes] == []
    failing = compared(of_version_2(kept_of(built(name), {})), broken).failing
    messages = [f"{c.message} [{c.fails}]" for c in failing if c.of_layers]
    if mode == "forgotten":
        assert messages == BROKEN[name, mode]
    else:
        layers = BY_PATHS.get((name, mode))
        round_before = f"new on the path: {layers}, which gradient went round before [layers]"
        assert messages == ([round_before] if layers else [])


def test_a_wrapper_in_the_middle_of_names_hides_nothing() -> None:
    net = connected.Residual("no skip")
    for number, block in enumerate(net.blocks):
        net.blocks[number] = torch.compile(block, backend="eager")
    names = [p.layer for p in kept_of(measured(net), {}).parameters or ()]
    assert "blocks.1._orig_mod.0" in names
    (change,) = compared(built("Residual"), measured(net)).failing
    assert change.message.startswith("new on the path: blocks.1, which gradient went round before")


class Gated(connected.Residual):
    """A gate of the model itself, open or not yet."""

    def make(self) -> None:
        super().make()
        self.gate = nn.Parameter(torch.tensor(0.0 if self.mode == "shut" else 0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        out: Tensor = self.head(h + self.gate * self.blocks[0](h))
        return out


def test_what_wakes_in_the_second_look_was_not_silenced() -> None:
    shut = measured(Gated("shut"))
    silent = {p.layer for p in kept_of(shut, {}).parameters or () if p.use == "zero"}
    assert silent == {"blocks.0.0", "blocks.0.1", "blocks.0.3"}
    assert [look.steps > 0 for look in shut.profiles] == [False, True]
    assert compared(measured(Gated()), shut).failing == ()


class Squeezed(Net):
    """A squeeze-and-excitation whose few units may be dead."""

    def make(self) -> None:
        self.stem, self.head = connected.linear(8, 8), connected.linear(8, 4)
        self.down, self.up = nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        out: Tensor = self.head(h * torch.sigmoid(self.up(F.relu(self.down(h)))))
        return out


def test_a_handful_of_units_may_be_dead() -> None:
    dead = Squeezed()
    nn.init.constant_(dead.down.bias, -9.0)
    assert compared(measured(Squeezed()), measured(dead)).failing == ()


def test_a_term_of_the_loss_that_is_dropped_is_named() -> None:
    net = connected.Autoencoder()

    def without_prior(out: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return F.mse_loss(out[0], out[3])

    check = compared(built("Autoencoder"), probe(net, X, Y, loss=without_prior))
    assert [c.message for c in check.failing if c.of_layers] == [
        "new on the path: decoder, which gradient went round before: is a skip connection or term"
        " of the loss gone, or detached?"
    ]


@pytest.mark.parametrize("mode", ["", "mean"])
@pytest.mark.parametrize("steps", [1, 60])
def test_loops_of_other_lengths_are_compared_by_nothing_that_goes_with_it(
    mode: str, steps: int
) -> None:
    def run(steps: int) -> Diagnosis:
        net = connected.Loop(mode)
        net.steps = steps
        return measured(net)

    check = compared(run(3), run(steps))
    assert check.failing == ()
    many = "1 time" if steps == 1 else "60 times"
    assert [c.message for c in check.comparison.changes if c.kind != "verdict"] == [
        f"cell is called {many}, and was 3 times in the baseline: nothing is compared that its"
        " number of steps makes"
    ]


def test_a_value_head_on_a_detached_trunk_is_no_skip_that_is_gone() -> None:
    class PolicyAlone(connected.ActorCritic):
        def make(self) -> None:
            super().make()
            del self.value

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.policy(self.trunk(x)), x.new_zeros(len(x), 1)

    check = compared(measured(PolicyAlone()), measured(connected.ActorCritic("detached")))
    assert [c.message for c in check.failing] == [
        "new on the path: value (81 elements; 180 got gradient before)"
    ]


@pytest.mark.parametrize(
    ("names", "called", "size"),
    [
        (["stem.bias"], "stem.bias", 8),
        (["scale"], "scale", 8),
        (["scale", "shift", "head.weight"], "scale, shift and head.weight", 48),
    ],
)
def test_parameters_that_are_frozen_alone_go_by_their_names(
    names: list[str], called: str, size: int
) -> None:
    net = connected.Scaled()
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    (change,) = compared(built("Scaled"), measured(net)).failing
    assert change.message == (
        f"no gradient reaches {called} any more: frozen ({size} of the 124 elements that got"
        " gradient)"
    )
