"""Options and fixtures of the examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.mnist.digits import BATCH, SUBSET, load_digits
from examples.mnist.training import one_thread

Digits = tuple[Tensor, Tensor]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mnist-root",
        type=Path,
        default=SUBSET,
        help="folder with MNIST/raw/*-ubyte (default: the subset of 2,000 digits shipped here)",
    )


@pytest.fixture(scope="session")
def mnist_root(request: pytest.FixtureRequest) -> Path:
    root: Path = request.config.getoption("--mnist-root")
    if not (root / "MNIST" / "raw").is_dir():
        raise pytest.UsageError(f"--mnist-root={root} has no MNIST/raw folder with the digits")
    return root


@pytest.fixture(scope="session")
def training_digits(mnist_root: Path) -> Digits:
    return load_digits(mnist_root, train=True)


@pytest.fixture(scope="session")
def test_digits(mnist_root: Path) -> Digits:
    return load_digits(mnist_root, train=False)


@pytest.fixture
def batch(training_digits: Digits) -> Digits:
    """The first hundred digits and their labels."""
    images, labels = training_digits
    return images[:BATCH], labels[:BATCH]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
