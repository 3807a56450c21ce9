"""How many seeds a probe looks at, and which of them decides."""

from __future__ import annotations

from torch import nn

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy


def narrow() -> nn.Module:
    return mlp(nn.ReLU, hidden=12, width=4)


def test_a_built_model_is_judged_under_one_seed() -> None:
    x, y = batch()
    assert len(probe(narrow(), x, y, loss=cross_entropy, confirm_steps=0).seeds) == 1


def test_a_wide_factory_is_decided_by_one_seed() -> None:
    x, y = batch()
    assert probe(lambda: mlp(width=256), x, y, loss=cross_entropy).seeds == (0,)


def test_a_factory_near_a_limit_gets_more_seeds() -> None:
    """Eight default ReLU layers end within 0.3 decades of the limit of 1e-3 at any width."""
    x, y = batch()
    diagnosis = probe(lambda: mlp(hidden=8, width=256), x, y, loss=cross_entropy)
    assert abs(diagnosis.paths[0].vanishing + 3) < 0.3
    assert len(diagnosis.seeds) == 5


def test_a_narrow_factory_gets_more_seeds_and_any_failing_one_fails() -> None:
    x, y = batch()
    lively = probe(lambda: mlp(nn.Tanh, hidden=8, width=4), x, y, loss=cross_entropy)
    assert len(lively.seeds) == 5
    assert lively.verdict != "failure"
    failing = probe(narrow, x, y, loss=cross_entropy, seeds=5)
    assert failing.verdict == "failure"
    assert failing.findings[0].seed == failing.seeds[-1] == failing.decisive_seed


def test_seeds_are_reproducible_and_can_be_named() -> None:
    x, y = batch()

    def ratios(seeds: list[int]) -> list[float]:
        diagnosis = probe(lambda: mlp(width=64), x, y, loss=cross_entropy, seeds=seeds)
        return [profile.paths[0].ratio for profile in diagnosis.profiles]

    assert ratios([7, 8]) == [*ratios([7]), *ratios([8])]
    assert ratios([7]) != ratios([8])
