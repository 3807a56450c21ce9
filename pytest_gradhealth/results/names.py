"""Names in a model: the module that a parameter belongs to, and what attention calls its parts."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from itertools import accumulate

INPUT = "(input)"
OUTPUT = "(output)"
OUTPUTS = "(outputs)"
LOSS = "(loss)"


@lru_cache(maxsize=4096)
def module_of(parameter: str) -> str:
    """Name of the module that holds a parameter, or that a parametrised one is made for.

    >>> module_of("head.weight"), module_of("conv.parametrizations.weight.original0")
    ('head', 'conv')
    """
    owner, _, rest = parameter.partition(".parametrizations.")
    return owner if rest else parameter.rpartition(".")[0]


def part_name(parameter: str, part: str) -> str:
    """Name of a part of a parameter, which belongs to the same module.

    >>> part_name("attention.qkv.weight", "key"), module_of("attention.qkv.weight[key]")
    ('attention.qkv.weight[key]', 'attention.qkv')
    """
    return f"{parameter}[{part}]"


def ancestry(module: str) -> list[str]:
    """Return a module's name and those of all that it is a part of, outermost first.

    >>> ancestry("layer1.0.conv")
    ['layer1', 'layer1.0', 'layer1.0.conv']
    """
    return [*accumulate(module.split("."), "{}.{}".format)]


def outermost(module: str, others: Collection[str]) -> str:
    """The outermost module around one, or itself, that is not among some others; "" for none."""
    return next((name for name in ancestry(module) if name and name not in others), "")


#: Name of a projection that makes all three, and the names that three go by.
_JOINT = "qkv"
ATTENTION_ROLES = {"query": "qk", "key": "qk", "value": "v"} | {
    form.format(letter): role
    for form in ("{}_proj", "to_{}", "{}_lin", "{}")
    for letter, role in (("q", "qk"), ("k", "qk"), ("v", "v"))
}


def makes_values(module: str) -> bool:
    """Whether a module of that name makes the values that attention mixes."""
    last = module.rpartition(".")[2]
    return last == _JOINT or ATTENTION_ROLES.get(last) == "v"
