"""The networks of other libraries in the study: enough, told apart, and made of what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from examples.study import zoo
from examples.study.network import Network
from examples.study.zoo.libraries import LIBRARIES, library_networks
from examples.study.zoo.libraries.entry import of

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
#: Imported under another name than they are installed under.
NAMED_OTHERWISE = {
    "kan": "pykan",
    "neuralop": "neuraloperator",
    "open_clip": "open_clip_torch",
    "torchcrf": "pytorch_crf",
}

LIBRARY_NETWORKS = library_networks()


def test_the_networks_of_other_libraries_are_many_and_told_apart() -> None:
    assert len(LIBRARY_NETWORKS) >= 110
    assert len({network.name for network in LIBRARY_NETWORKS}) == len(LIBRARY_NETWORKS)
    assert {network.source for network in LIBRARY_NETWORKS} == set(LIBRARIES)
    assert not {"torchvision", "timm", "transformers"} & set(LIBRARIES)
    assert len(LIBRARIES) >= 20


def test_every_library_is_named_in_the_extra() -> None:
    extra = PYPROJECT.read_text(encoding="utf-8").split("\nstudy = [")[1].split("\n]")[0]
    named = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)>=[\d.]+"', extra)}
    installed = {NAMED_OTHERWISE.get(name, name.lower()) for name in LIBRARIES}
    assert installed == named - {"matplotlib"}


def test_batches_of_other_libraries_follow_the_seed() -> None:
    for network in LIBRARY_NETWORKS[::4]:
        batches = []
        for _ in range(2):
            torch.manual_seed(3)
            batches.append([x for x in tree_leaves(network.batch()) if isinstance(x, Tensor)])
        assert batches[0], network.name
        assert all(torch.equal(*pair) for pair in zip(*batches, strict=True)), network.name


@pytest.mark.parametrize("network", LIBRARY_NETWORKS[5::50], ids=lambda network: network.name)
def test_a_network_of_another_library_answers_its_batch(network: Network) -> None:
    pytest.importorskip(network.source)
    inputs, targets = network.batch()
    model = network.build()
    outputs = model(**inputs) if isinstance(inputs, dict) else model(*_tuple(inputs))
    judge: Any = network.loss
    loss = judge(outputs) if targets is None else judge(outputs, targets)
    assert loss.isfinite()


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def test_what_is_made_of_parts_is_made_anew() -> None:
    chain = of("torch.nn.Sequential", of("torch.nn.Linear", 2, out_features=3), of(nn.ReLU))
    first, second = chain(), chain()
    assert str(first[0]) == "Linear(in_features=2, out_features=3, bias=True)"
    assert first[0] is not second[0]
    assert of(dict, parts=[of(list), 7])() == {"parts": [[], 7]}


def test_libraries_that_are_not_installed_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"zuko", "monai"}
    monkeypatch.setattr(zoo, "find_spec", lambda name: None if name in gone else object())
    assert {name: set(missing) for name, missing in zoo.missing_libraries().items()} == {
        "libraries": gone
    }
    assert not [n for n in zoo.healthy_networks() if n.family == "libraries"]
