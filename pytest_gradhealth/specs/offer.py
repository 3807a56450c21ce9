"""What a source offers for a spec: ways to build the model, and batches that may go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from pytest_gradhealth.specs.drawn import Batch, Drawn

Built = Callable[[], nn.Module] | nn.Module


@dataclass(frozen=True)
class Code:
    """What builds a model in a file: imports, lines before the tests, and an expression."""

    expression: str
    imports: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guess:
    """A batch that may do, and how one knows.

    `classes` says how many the outputs tell apart, 0 where nobody knows what they are; `targets`
    are drawn behind the inputs.
    """

    batch: Batch
    why: str
    classes: int = 0
    targets: Drawn | None = None


@dataclass(frozen=True)
class Way:
    """A way to build a model, what of it is said, and the batches to try with what it builds.

    `light` says that it can be built, and called, on the meta device, which takes no time; `most`
    is how many parameters it may have to be tried, where there are others to try.
    """

    model: Built
    code: Code
    guesses: Callable[[nn.Module], Iterable[Guess]]
    said: str = ""
    light: bool = False
    most: int | None = None


@dataclass(frozen=True)
class Offer:
    """The ways of a spec, to be tried in turn, and the file and line of what it names.

    `lacking` completes "its batch cannot be guessed", with what somebody has to know of it.
    """

    ways: Sequence[Way]
    place: tuple[str, int]
    lacking: Callable[[nn.Module], str] = lambda _: ""
