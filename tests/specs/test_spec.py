"""Specs are read as they are typed, and nothing of them is evaluated."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.spec import FORMS, Spec, parse


@pytest.mark.parametrize(
    ("text", "home", "name", "positional", "named"),
    [
        ("package.module:Net", "package.module", "Net", None, None),
        ("nets:Net()", "nets", "Net", (), {}),
        ("nets:Outer.Inner(1)", "nets", "Outer.Inner", (1,), {}),
        ("path/to/file.py:Class(64, depth=3)", "path/to/file.py", "Class", (64,), {"depth": 3}),
        ("C:\\nets\\a b.py:Net", "C:\\nets\\a b.py", "Net", None, None),
        ("nets:Net('a:b.py:c', (1, [2.5]), {'k': None})", "nets", "Net", 3, {}),
        ("nets:Net(-1, 1e-3, True, b'x')", "nets", "Net", (-1, 1e-3, True, b"x"), {}),
        (" timm:resnet18 ", "timm", "resnet18", None, None),
        (
            "timm:vit_tiny.a1_in1k(num_classes=7)",
            "timm",
            "vit_tiny.a1_in1k",
            (),
            {"num_classes": 7},
        ),
        ("hf:xlm-roberta", "hf", "xlm-roberta", None, None),
        ("hf:configs/small.json", "hf", "configs/small.json", None, None),
        ("timm.models.resnet:resnet18", "timm.models.resnet", "resnet18", None, None),
    ],
)
def test_a_spec_is_read(text: str, home: str, name: str, positional: Any, named: Any) -> None:
    spec = parse(text)
    assert (spec.home, spec.name, spec.lightning) == (home, name, False)
    if positional is None:
        assert spec.arguments is None
    elif isinstance(positional, int):
        assert spec.given.positional == ("a:b.py:c", (1, [2.5]), {"k": None})
    else:
        assert (spec.given.positional, spec.given.named) == (positional, named)


def test_a_lightning_module_is_one_of_a_module_or_a_file() -> None:
    assert parse("lightning:nets:Net(1)") == Spec(
        "lightning:nets:Net(1)", "nets", "Net", parse("nets:Net(1)").arguments, lightning=True
    )
    assert parse("lightning:a/b.py:Net").is_file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "train.py",
            "'train.py' names no model; say which of that file: train.py:Net, or train.py",
        ),
        ("package.module.Net", "did you mean package.module:Net?"),
        ("resnet18", FORMS),
        ("", FORMS),
        ("a" * 2000, FORMS),
        (":Net", FORMS),
        ("nets:", "'' in nets: is no name; write nets:Net, or nets:build_net"),
        ("lightning:Net", FORMS),
        ("a b:Net", FORMS),
        ("nets:1net", "'1net' in nets:1net is no name; write nets:Net, or nets:build_net"),
        ("timm:", "is no name of a model; write timm:NAME"),
    ],
)
def test_what_is_no_spec_is_told_what_to_write(text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "nets:Net(__import__('os').system('x'))",
        "nets:Net(open('x', 'w'))",
        "nets:Net(1)(2)",
        "nets:Net(1).run",
        "nets:Net(1).run()",
        "nets:Net(1); import os",
        "nets:Net(1) or evil()",
        "nets:Net((lambda: 1)())",
        "nets:Net(*[1])",
        "nets:Net(**{'a': 1})",
        "nets:Net(a=name)",
        "nets:Net(f'{evil}')",
        "nets:Net(x := 1)",
        "nets:Net([i for i in range(9)])",
        "nets:Net(__class__=1)",
        "nets:Net(9**9**9)",
        "nets:Net('a' * 10**9)",
        "nets:Net(" + "(" * 400 + ")" * 400 + ")",
        "nets:Net(",
        "nets:Net.__init__",
        "nets:__builtins__",
        "nets:__builtins__.eval('1')",
        "__builtins__:eval",
        "nets:Net\n(1)\nimport os",
        "timm:hf-hub:evil/model",
        "timm:resnet18(print(1))",
        "hf:gpt2(_name_or_path='evil/model')",
    ],
)
def test_what_is_no_literal_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        parse(text)


def test_arguments_are_literals_and_the_message_names_what_is_none() -> None:
    with pytest.raises(SettingError) as caught:
        parse("nets:Net(1, act=nn.ReLU)")
    assert str(caught.value) == (
        "'nn.ReLU' in nets:Net(1, act=nn.ReLU) is no literal; arguments are literals: numbers,"
        " strings, True, None, and tuples, lists and dicts"
    )


def test_an_argument_is_given_once() -> None:
    with pytest.raises(SettingError, match=re.escape("n is given twice in nets:Net(n=1, n=2)")):
        parse("nets:Net(n=1, n=2)")
