"""Batches as they are typed are drawn alike here and in the code that is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.drawn import SEED, Batch, Drawn, drawn, parse_batch


@pytest.mark.parametrize(
    ("texts", "shown", "code"),
    [
        (["8x3x32x32"], "8x3x32x32", "torch.randn(8, 3, 32, 32)"),
        (["[4]"], "4", "torch.randn(4)"),
        (["[]"], "float32[]", "torch.randn(())"),
        (["int64[4,16]<1000"], "int64[4,16]<1000", "torch.randint(1000, (4, 16))"),
        (["long[4]<9"], "int64[4]<9", "torch.randint(9, (4,))"),
        (["int32[4, 2] < 9"], "int32[4,2]<9", "torch.randint(9, (4, 2)).to(torch.int32)"),
        (["int64[4] > 3 < 9"], "int64[4]>3<9", "torch.randint(4, 9, (4,))"),
        (["bool[4]"], "bool[4]", "torch.randint(2, (4,)).to(torch.bool)"),
        (["float64 2x2"], "float64[2,2]", "torch.randn(2, 2).to(torch.float64)"),
        (["8x2,8x3"], "8x2,8x3", "(torch.randn(8, 2), torch.randn(8, 3))"),
        (["8x2", "8x3"], "8x2,8x3", "(torch.randn(8, 2), torch.randn(8, 3))"),
        (
            ["ids=int64[4,16]<9, mask=bool[4,16]"],
            "ids=int64[4,16]<9,mask=bool[4,16]",
            '{"ids": torch.randint(9, (4, 16)), "mask": torch.randint(2, (4, 16)).to(torch.bool)}',
        ),
    ],
)
def test_a_batch_is_read_and_written(texts: list[str], shown: str, code: str) -> None:
    batch = parse_batch(texts, "--gradhealth-input")
    assert str(batch) == shown
    assert batch.code == code
    assert parse_batch([shown], "") == batch


@pytest.mark.parametrize("text", ["8x3", "int64[4,16]<9", "a=8x3,b=bool[4]", "float64[3]", "2,3"])
def test_what_is_written_draws_the_same(text: str) -> None:
    batch, targets = parse_batch([text], ""), Drawn((4,), "int64", 7)
    inputs, wanted = drawn(batch, targets)
    torch.manual_seed(SEED)
    again: Any = eval(batch.code)
    assert torch.equal(wanted, eval(targets.code))
    values = [[*v.values()] if isinstance(v, dict) else v for v in (inputs, again)]
    assert all(map(torch.equal, *([v] if isinstance(v, torch.Tensor) else v for v in values)))
    assert type(inputs) is type(again)


def test_what_others_draw_is_as_it_was() -> None:
    before = torch.get_rng_state()
    first, second = drawn(Batch((Drawn((3,)),))), drawn(Batch((Drawn((3,)),)))
    assert torch.equal(first[0], second[0])
    assert first[1] is None
    assert torch.equal(before, torch.get_rng_state())


def test_whole_numbers_stay_below_their_limit() -> None:
    values, _ = drawn(Batch((Drawn((1000,), "int64", 3),)))
    assert values.unique().tolist() == [0, 1, 2]
    values, _ = drawn(parse_batch(["int64[1000]>2<6"], ""))
    assert values.unique().tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["8y3"], "here: '8y3' is no tensor; write 8x3x32x32, "),
        ([""], "is no tensor"),
        (["evil()"], "is no tensor"),
        (["8x3<5"], "are no whole numbers, which alone have a limit: int64[4,16]<10"),
        (["int46[4]"], "there is no type int46 of numbers; did you mean int64 or int16?"),
        (["8x0"], "is empty, or larger than can be drawn"),
        (["int64[4]>8<9"], "is empty, or larger than can be drawn"),
        (["int64[4]<0"], "is empty, or larger than can be drawn"),
        (["99999x99999x99999"], "is empty, or larger than can be drawn"),
        (["a=8,8"], "give each tensor a name of its own, or none of them one"),
        (["a=8,a=8"], "give each tensor a name of its own, or none of them one"),
    ],
)
def test_what_is_no_batch_is_told_what_to_write(texts: list[str], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_batch(texts, "here")
    assert said in str(caught.value)
