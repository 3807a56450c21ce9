"""What a forward, a loss, a step or a batch changes is as it was: a share of all the ways."""

from __future__ import annotations

import pytest

from tests.helpers.attacks import Attack, broken_by
from tests.helpers.buffers import ACTS, BUFFERS, buffers
from tests.helpers.bystanders import HOLDERS, WAYS, bystanders

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
EVERY = [*bystanders(), *buffers()]


def share(attack: Attack) -> bool:
    """Whether an attack is tried in each run: all in healthy nets, the shortest in sick ones."""
    return not attack.name.endswith("-sick") or attack.name.endswith(
        ("-closure-sick", "-object-sick", "-in place-sick", "array-sick", "deque-sick")
    )


@pytest.mark.parametrize(
    "attack", [a for a in EVERY if share(a)], ids=lambda a: f"{a.kind}-{a.name}"
)
def test_nothing_of_it_is_left(attack: Attack) -> None:
    assert broken_by(attack) == ""


def test_all_ways_are_tried() -> None:
    assert len(EVERY) > 2 * (len(HOLDERS) * len(WAYS) + 80)
    assert {a.name.split("-")[0] for a in EVERY if "-in place-" in a.name} == set(BUFFERS)
    assert {a.name.split("-")[1] for a in EVERY if a.kind == "buffer"} == set(ACTS)
