"""Whatever is passed for an argument, a call ends in a result or an error of the package's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth import (
    GradientHealthError,
    Option,
    ProbeError,
    Remedy,
    Rule,
    SettingError,
    assert_no_vanishing,
    probe,
    read_report,
    suggest,
)
from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.plugin.options import RUN_OPTIONS, base_settings, run_options, shows_report
from tests.helpers.attacks import (
    TEXTS,
    Attack,
    Subject,
    broken_by,
    junk_arguments,
    junk_objects,
)
from tests.helpers.junk import JUNK

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # torch warns of half of these tensors
]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject()


def share(attacks: Iterator[Attack], step: int) -> list[Attack]:
    """A share of the attacks, in which every parameter and every kind of junk occurs."""
    return list(islice(attacks, 0, None, step))


def test_junk_for_an_argument_is_refused_in_words(subject: Subject) -> None:
    random = torch.get_rng_state()
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    attacks = share(junk_arguments(subject), 29)
    assert len(attacks) > 600
    assert {attack.name for attack in attacks} == set(JUNK)
    assert [fault for fault in map(broken_by, attacks) if fault] == []
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, before[name]) for name, p in subject.model.named_parameters())
    assert all(p.grad is None for p in subject.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())


def test_junk_in_rules_remedies_hooks_and_files_is_refused_in_words(subject: Subject) -> None:
    attacks = share(junk_objects(subject), 5)
    assert len(attacks) > 500
    assert [fault for fault in map(broken_by, attacks) if fault] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": 0}, "rules is a int; pass pytest_gradhealth.Rule objects in a list"),
        (
            {"loss_scale": 10**400},
            "loss_scale is 1000000000000000000..000000000000000000000000000000000000000; pass a"
            " positive number, or the torch.amp.GradScaler",
        ),
        (
            {"inputs": torch.ones(2, 4, device="meta")},
            "an input of shape (2, 4) is on the meta device and holds no numbers; pass a real"
            " batch",
        ),
        (
            {"targets": torch.ones(2, device="meta")},
            "a target of shape (2,) is on the meta device and holds no numbers; pass a real batch",
        ),
        (
            {"inputs": JUNK["freed tensor"]()},
            "an input of shape (8, 4) is freed and holds no numbers; pass a real batch",
        ),
        (
            {"inputs": JUNK["lazy parameter"]()},
            "an input is a lazy parameter without a shape; pass a real batch",
        ),
        (
            {"targets": JUNK["ring"]()},
            "targets cannot be read (RecursionError: maximum recursion depth exceeded in"
            " comparison); pass tensors, or tuples, lists and mappings of tensors that do not hold"
            " themselves",
        ),
        (
            {"model": nn.Linear},
            "the model factory Linear raised TypeError: Linear.__init__() missing 2 required"
            " positional arguments: 'in_features' and 'out_features'; a factory is called without"
            " arguments, for example lambda: Net(width=64)",
        ),
        (
            {"model": JUNK["half a model"]()},
            "the __init__ of Half has not called super().__init__(); call it first, so that it can"
            " hold parameters",
        ),
        (
            {"clip": JUNK["raiser"]()},
            "clip is a Raiser; pass the largest gradient norm, for example 1.0, or a function that"
            " clips the gradients of a list of parameters",
        ),
        ({"select": [1]}, "the call: select = [1] is not rule codes such as GH101,GH2"),
        (
            {"min_ratio": JUNK["raiser"]()},
            "the call: min_ratio = a Raiser is not a positive number",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_words_say_what_was_wrong_and_what_to_pass(
    subject: Subject, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(**{"model": subject.model, **subject.batch, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diagnosis": None}, "diagnosis is None; pass what probe(model, inputs, ...) returns"),
        (
            {"remedies": nn.Linear(2, 2)},
            "remedies is a Linear; pass pytest_gradhealth.Remedy objects in a list",
        ),
        (
            {"remedies": ["relu"]},
            "remedies has a str in it; pass pytest_gradhealth.Remedy objects",
        ),
        (
            {"budget": "soon"},
            "suggest(budget=...): remedy_budget = 'soon' is not a number of seconds, at least 0",
        ),
    ],
)
def test_suggest_says_what_it_takes(
    subject: Subject, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError) as caught:
        suggest(**{"diagnosis": subject.failed, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize("make", [Rule, Remedy])
def test_what_is_made_wrong_is_refused_where_it_is_made(make: Any) -> None:
    good: dict[str, Any] = {"name": "mine", "summary": "s", "reads": "r", "code": "MY1"}
    good = {**good, "check": lambda _: ()} if make is Rule else {"name": "mine"}
    name = "check" if make is Rule else "symptoms"
    more = {} if make is Rule else {"change": lambda _: None}
    with pytest.raises(SettingError, match=rf"^{name} of (rule MY1|remedy mine) is 7; pass a "):
        make(**{**good, **more, name: 7})


def test_the_file_of_a_report_is_a_path() -> None:
    with pytest.raises(ProbeError, match=r"^path is 3; pass the path of a file that --gradhealth"):
        read_report(3)  # type: ignore[arg-type]
    with pytest.raises(ProbeError, match="cannot be read"):
        read_report("a\0b")


@pytest.mark.parametrize("msg", [lambda: "", lambda text, _: text, dict, JUNK["raiser"]()])
def test_a_message_that_cannot_be_made_hides_nothing(subject: Subject, msg: Any) -> None:
    with pytest.raises(GradientHealthError) as caught:
        assert_no_vanishing(
            subject.sick, **subject.batch, msg=msg, confirm_steps=0, remedy_budget=0
        )
    first, _, rest = str(caught.value).partition("\n")
    assert first.startswith("(msg raised ")
    assert first.endswith("; pass a string, or a function of the message)")
    assert rest.startswith("the gradient ")
    assert caught.value.findings


def test_inputs_of_rare_kinds_are_taken_where_the_model_takes_them() -> None:
    class Wide(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.to_dense() if x.layout != torch.strided else x.float())

    torch.manual_seed(0)
    x = torch.eye(8, 4) + torch.ones(8, 4)
    for inputs in (x.to(torch.float8_e4m3fn), x.to_sparse(), x.to_sparse_csr()):
        assert probe(Wide(4, 2), inputs).verdict == "not judged"
    with pytest.raises(ProbeError, match=r"^the inputs hold NaN \(1 of 1 elements"):
        probe(Wide(1, 2), torch.tensor([float("nan")]).to(torch.float8_e4m3fn))


def test_errors_of_the_users_own_are_told_as_before(subject: Subject) -> None:
    class Failing(nn.Linear):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("of mine")

    with pytest.raises(ProbeError, match=r"^Failing\.forward raised ZeroDivisionError: of mine\n"):
        probe(Failing(4, 2), subject.batch["inputs"])


class Given:
    """What pytest lends to its plugins, with one option or one key of the ini file given."""

    inipath = None

    def __init__(self, folder: Path, option: str = "", key: str = "", text: str = "") -> None:
        self.stash = pytest.Stash()
        self.invocation_params = SimpleNamespace(dir=folder)
        self._values = {option: text, f"ini {key}": text}

    def getoption(self, name: str, default: object = None) -> object:
        return self._values.get(name, default)

    def getini(self, name: str) -> object:
        return self._values.get(f"ini {name}")


def test_junk_behind_flags_and_in_ini_files_is_a_usage_error(tmp_path: Path) -> None:
    options = [o.key for o in OPTIONS] + [f"gradhealth_{name}" for name, *_ in RUN_OPTIONS]
    broken = []
    for name in options:
        for text in TEXTS:
            for config in (
                Given(tmp_path, option=name, text=text),
                Given(tmp_path, "", name, text),
            ):

                def read(config: Any = config) -> None:
                    base_settings(config)
                    run_options(config)
                    shows_report(config)

                broken.append(broken_by(Attack(name, repr(text)[:60], read)))
    assert len(broken) > 600
    assert [fault for fault in broken if fault] == []


INSIDE = """
import pytest
from tests.helpers.attacks import Subject, broken_by, junk_arguments
from tests.helpers.junk import JUNK
from pytest_gradhealth.config.options import OPTIONS

SUBJECT = Subject()
PAIRS = [(option.name, kind) for option in OPTIONS for kind in JUNK][::11]


@pytest.mark.parametrize("n", [
    pytest.param(n, marks=pytest.mark.gradhealth(**{name: JUNK[kind]()}))
    for n, (name, kind) in enumerate(PAIRS)
])
def test_marked(n):
    pass


def test_baseline():
    attacks = [*junk_arguments(SUBJECT, ["assert_matches_baseline"])][::17]
    assert [fault for fault in map(broken_by, attacks) if fault] == []


def test_fixture(gradhealth):
    for name in dir(gradhealth):
        if name.startswith("assert_") or name == "probe":
            for kind, make in [*JUNK.items()][::9]:
                try:
                    getattr(gradhealth, name)(make(), SUBJECT.batch["inputs"], remedy_budget=0)
                except (TypeError, KeyError) as error:
                    assert "dependency" in str(error)
                except Exception as error:
                    assert type(error).__module__ == "pytest_gradhealth", (name, kind, error)
"""


def test_junk_in_markers_and_in_the_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(INSIDE)
    run = pytester.inline_run("-p", "no:terminal", "-W", "ignore")
    failed = run.listoutcomes()[2]
    texts = [report.longreprtext for report in failed]
    assert len(texts) > 80
    assert [t for t in texts if not t.startswith("@pytest.mark.gradhealth on test_marked")] == []


def test_an_option_of_a_rule_is_one() -> None:
    rule = Rule("MY1", "mine", "s", "r", lambda _: (), settings=(Option("mine", "help", 10**400),))
    with pytest.raises(
        SettingError, match=r"^rule MY1 brings a setting 'mine' with the default 10"
    ):
        probe(nn.Linear(2, 2), torch.ones(2, 2), rules=[rule])
