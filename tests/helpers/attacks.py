"""Attacks by argument: every public callable, every parameter, every kind of junk."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pytest_gradhealth as package
from pytest_gradhealth import (
    Cause,
    Diagnosis,
    Evidence,
    Finding,
    Option,
    Quantity,
    Remedy,
    Rule,
    probe,
    suggest,
)
from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.plugin.registered import registered_remedies, registered_rules
from tests.helpers.junk import JUNK

#: What a call may end in: the package's own errors, and pytest's for its options.
OWN = (
    package.ProbeError,
    package.GradientHealthError,
    package.CannotApplyError,
    pytest.UsageError,
)
ASSERTIONS = [name for name in package.__all__ if name.startswith("assert_")]
#: The functions that take anything outside of a test.
CALLS = ["probe", *(name for name in ASSERTIONS if name != "assert_matches_baseline"), "suggest"]
#: What only says no when it is read: a tensor without memory ends the process where it is printed.
UNREADABLE = ("freed tensor", "lazy parameter")


class Attack(NamedTuple):
    """One attack, by kind and name; what it runs has to return, or raise an error of our own."""

    kind: str
    name: str
    run: Callable[[], object]


def broken_by(attack: Attack) -> str:
    """What an attack broke, "" for nothing."""
    try:
        attack.run()
    except OWN:
        return ""
    except Exception as error:
        return f"{attack.kind} {attack.name}: {type(error).__name__}: {error}"
    return ""


class Subject:
    """A tiny model with a batch, and a failing diagnosis of a sick one."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        sick = [layer for _ in range(12) for layer in (nn.Linear(4, 4), nn.Sigmoid())]
        self.sick = nn.Sequential(*sick, nn.Linear(4, 2))
        for parameter in (*self.model.parameters(), *self.sick.parameters()):
            nn.init.normal_(parameter, std=0.5, generator=generator)
        x, y = torch.randn(8, 4, generator=generator), torch.arange(8) % 2
        self.batch: dict[str, Any] = {"inputs": x, "targets": y, "loss": cross_entropy}
        self.failed = probe(self.sick, **self.batch, confirm_steps=0)
        assert self.failed.verdict == "failure"

    def arguments(self, call: str) -> dict[str, Any]:
        """Good ones for a probe or an assertion."""
        good = {"model": self.model, **self.batch}
        if call != "probe":
            good["remedy_budget"] = 0
        if call == "assert_no_vanishing_in_time":
            good["dependency"] = 1
        return good


def junk_arguments(subject: Subject, calls: Iterable[str] = CALLS) -> Iterator[Attack]:
    """Every parameter of some functions, or methods of the fixture, with every kind of junk."""
    for call in calls:
        for name, kind in _pairs(call):
            yield Attack(f"{call}({name}=...)", kind, _calling(subject, call, name, kind))


def _pairs(call: str) -> list[tuple[str, str]]:
    function = getattr(package, call)
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(names) < len(parameters):
        names += [o.name for o in OPTIONS if call != "probe" or o.use != "test"]
    return [(n, k) for n in names for k in JUNK if n != "msg" or k not in UNREADABLE]


def _calling(subject: Subject, call: str, name: str, kind: str) -> Callable[[], object]:
    def run() -> object:
        function: Any = getattr(package, call)
        if call == "suggest":
            good: dict[str, Any] = {"diagnosis": subject.failed, "budget": 1e-6}
            if name == "budget":
                good["diagnosis"] = dataclasses.replace(subject.failed, findings=())
        else:
            good = subject.arguments(call)
        if name == "msg":
            good |= {"model": subject.sick, "min_ratio": 0.9, "confirm_steps": 0}
        return function(**{**good, name: JUNK[kind]()})

    return run


#: Good arguments for what rules and remedies are made of.
GOOD: Mapping[Any, Mapping[str, Any]] = {
    Rule: {"code": "MY1", "name": "mine", "summary": "s", "reads": "r", "check": lambda _: ()},
    Remedy: {"name": "r", "symptoms": ("GH101",), "change": lambda _: None},
    Option: {"name": "mine", "help": "h", "default": 1.0},
    Quantity: {"of": lambda _: 1.0},
    Cause: {"because": "a", "advice": "b"},
}
#: Where in a rule its parts stand.
PLACES = {Option: "settings", Quantity: "quantity", Cause: "cause"}


def junk_objects(subject: Subject) -> Iterator[Attack]:
    """Rules and remedies and what they are made of, what functions return, hooks, files."""
    for kind, make in JUNK.items():
        for made, good in GOOD.items():
            for name in inspect.signature(made).parameters:
                run = partial(_use, subject, made, good, name, make)
                yield Attack(f"{made.__name__}({name}=...)", kind, run)
        for place, attack in {**_returned(subject), **_passed(subject)}.items():
            if kind not in UNREADABLE or place not in _returned(subject):
                yield Attack(place, kind, partial(_try, attack, make))


def _try(attack: Callable[[Any], object], make: Callable[[], Any]) -> object:
    return attack(make())


def _use(
    subject: Subject, made: Any, good: Mapping[str, Any], name: str, make: Callable[[], Any]
) -> None:
    """Make something with junk in one place, and do with it whatever it is for."""
    whole = made(**{**good, name: make()})
    if made is Remedy:
        _treat(subject, whole)
        return
    place = PLACES.get(made)
    if place is not None:
        whole = Rule(**{**GOOD[Rule], place: (whole,) if place == "settings" else whole})

    def check(evidence: Evidence) -> Iterator[Finding]:
        yield from whole.check(evidence) or ()
        yield whole.finding(
            "failure",
            "0",
            "bad",
            profile=evidence.first,
            value=2.0,
            limit=evidence.limits["max_ratio"],
        )

    _apply(subject, dataclasses.replace(whole, check=check))


def _apply(subject: Subject, rule: Rule) -> None:
    diagnosis = probe(subject.model, **subject.batch, rules=[rule], confirm_steps=0)
    assert f"{diagnosis}{rule.page}"
    package.assert_healthy(diagnosis, remedy_budget=0)


def _treat(subject: Subject, remedy: Remedy) -> None:
    suggest(subject.failed, remedies=[remedy], budget=1e-6)
    remedy.apply(subject.model, subject.batch["inputs"])


def _returned(subject: Subject) -> dict[str, Callable[[Any], object]]:
    """What the functions of a caller may return."""
    model, batch, x = subject.model, subject.batch, subject.batch["inputs"]

    def rule(found: Any) -> Rule:
        return Rule(**{**GOOD[Rule], "check": lambda _: found})

    return {
        "a check returns": lambda junk: _apply(subject, rule(junk)),
        "a check yields": lambda junk: _apply(subject, rule([junk])),
        "a remedy returns": lambda junk: _treat(subject, Remedy("r", ("GH101",), lambda _: junk)),
        "a model returns": lambda junk: probe(_Giving(lambda: junk), x),
        "a loss returns": lambda junk: probe(model, x, loss=lambda _: junk),
        "a factory returns": lambda junk: probe(lambda: junk, x),
        "an optimizer returns": lambda junk: probe(model, **batch, optimizer=lambda _: junk),
        "a regularizer returns": lambda junk: probe(model, **batch, regularizer=lambda _: junk),
    }


def _passed(subject: Subject) -> dict[str, Callable[[Any], object]]:
    """The arguments of what is neither a probe nor made of fields."""
    remedy, other = package.built_in_remedies()[0], package.built_in_remedies()[2]
    return {
        "Remedy.apply(model)": remedy.apply,
        "Remedy.apply(inputs)": lambda junk: other.apply(subject.model, junk),
        "read_report(path)": package.read_report,
        "Diagnosis.from_dict(data)": Diagnosis.from_dict,
        "pytest_gradhealth_rules": lambda junk: _hooked(registered_rules, "rules", junk),
        "pytest_gradhealth_remedies": lambda junk: _hooked(registered_remedies, "remedies", junk),
    }


def _hooked(read: Any, what: str, junk: Any) -> object:
    hooks = SimpleNamespace(**{f"pytest_gradhealth_{what}": lambda **_: [junk]})
    return read(hooks, None)


class _Giving(nn.Module):
    """A model that returns what a function makes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.make = make

    def forward(self, _: torch.Tensor) -> Any:
        return self.make()


#: What may stand behind a flag, or in an ini file.
TEXTS = ("", " ", "x", "-1", "0", "nan", "inf", "1e400", "1,", ",", "[]", "\ud800", "9" * 5000)
