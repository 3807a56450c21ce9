"""Numbers that are kept stay as long as they hold, each by itself."""

from __future__ import annotations

from pytest_gradhealth.baseline.numbers import KeptNorm, KeptNumbers
from pytest_gradhealth.baseline.within import settled


def kept(loss: float, *norms: float) -> KeptNumbers:
    layers = [KeptNorm(name, norm) for name, norm in zip("abc", norms, strict=False)]
    return KeptNumbers(loss, tuple(layers), tuple(layers[:1]))


def test_a_number_that_moves_moves_no_other() -> None:
    before, now = kept(2.0, 1.0, 3.0), kept(2.001, 1.5, 3.001)
    assert settled(before, now, 1e-2) == kept(2.0, 1.5, 3.0)
    assert settled(before, now, 1e-4) == now


def test_a_layer_that_comes_is_kept_beside_those_that_hold() -> None:
    assert settled(kept(2.0, 1.0), kept(2.001, 1.001, 4.0), 1e-2) == kept(2.0, 1.0, 4.0)
    assert settled(None, kept(2.0, 1.0), 1e-2) == kept(2.0, 1.0)
