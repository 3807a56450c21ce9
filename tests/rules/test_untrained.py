"""The declared optimizers have to hold what gets a gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pytest_gradhealth import (
    Diagnosis,
    ProbeError,
    UntrainedParameterError,
    assert_healthy,
    assert_no_vanishing,
    probe,
)
from pytest_gradhealth.training.together import as_one
from tests.helpers.architectures import Wired
from tests.helpers.findings import explained, told
from tests.helpers.nets import batch, mlp
from tests.helpers.state import unchanged

Optimizers = Any
TYPED = "; or leave them out with --gradhealth-ignore='{}'"


def net() -> Wired:
    return Wired(lambda m, x: m.head(F.relu(m.body(x))), body=mlp(), head=nn.Linear(5, 5))


def diagnosed(model: nn.Module, optimizer: Optimizers, **settings: Any) -> Diagnosis:
    x, y = batch()
    with unchanged(model):
        return probe(model, x, y, loss=F.cross_entropy, optimizer=optimizer, **settings)


def replaced() -> tuple[nn.Module, Optimizers]:
    model = net()
    optimizer = Adam(model.parameters())
    model.head = nn.Linear(5, 5)
    return model, optimizer


def normed_later() -> tuple[nn.Module, Optimizers]:
    model = net()
    optimizer = Adam(model.parameters())
    parametrizations.weight_norm(model.head)
    return model, optimizer


def unfrozen_later() -> tuple[nn.Module, Optimizers]:
    model = net()
    model.head.requires_grad_(False)
    optimizer = Adam(p for p in model.parameters() if p.requires_grad)
    model.head.requires_grad_(True)
    return model, optimizer


def weights_alone() -> tuple[nn.Module, Optimizers]:
    model = net()
    return model, SGD([p for p in model.parameters() if p.dim() > 1], lr=0.1)


def of_a_list() -> tuple[nn.Module, Optimizers]:
    model = net()
    return model, [SGD(model.body[2:].parameters(), lr=0.1), Adam(model.head.parameters())]


def compiled() -> tuple[nn.Module, Optimizers]:
    model = net()
    made: Any = torch.compile(model, backend="eager")
    return made, SGD(model.body.parameters(), lr=0.1)


def numbered() -> tuple[nn.Module, Optimizers]:
    model = mlp()
    return model, SGD(model[:4].parameters(), lr=0.1)


def by_a_factory() -> tuple[nn.Module, Optimizers]:
    return net(), lambda parameters: SGD(list(parameters)[:-2], lr=0.1)


def adapted_later() -> tuple[nn.Module, Optimizers]:
    """An optimizer that holds the layers which are frozen when they get an adapter."""
    base, head = mlp(), nn.Linear(5, 5)
    optimizer = Adam([*base.parameters(), *head.parameters()])
    layer = Wired(
        lambda m, x: m.base(x) + m.up(m.down(x)),
        base=base.requires_grad_(False),
        down=nn.Linear(20, 2, bias=False),
        up=nn.Linear(2, 5, bias=False),
    )
    return Wired(lambda m, x: m.head(m.layer(x)), layer=layer, head=head), optimizer


HEAD = "2 parameters (head.weight and head.bias), which get a gradient"
LATER = "a group was left out, or they were added or unfrozen after the optimizer was built"
ADD = 'optimizer.add_param_group({{"params": [{}]}})'
OVER = "build the optimizer over model.parameters() once all layers are in place"
SICK: dict[str, tuple[Callable[[], tuple[nn.Module, Optimizers]], str, str, str]] = {
    "a head replaced after the optimizer was built": (
        replaced,
        f"no optimizer holds {HEAD}",
        "the optimizer holds 2 tensors of these shapes that the model does not have: a layer was"
        " replaced, or parametrised, after it was built",
        OVER + TYPED.format("GH602:head"),
    ),
    "a weight normed after the optimizer was built": (
        normed_later,
        "no optimizer holds 2 parameters (head.parametrizations.weight.original0 and"
        " head.parametrizations.weight.original1), which get a gradient",
        "the optimizer holds 1 tensor of these shapes that the model does not have: a layer was"
        " replaced, or parametrised, after it was built",
        OVER
        + TYPED.format(
            "GH602:head.parametrizations.weight.original0,"
            "GH602:head.parametrizations.weight.original1"
        ),
    ),
    "a head unfrozen after the optimizer was built": (
        unfrozen_later,
        f"no optimizer holds {HEAD}",
        LATER,
        ADD.format("*model.head.parameters()") + TYPED.format("GH602:head"),
    ),
    "biases left out": (
        weights_alone,
        "no optimizer holds 5 parameters (body.0.bias, body.2.bias, body.4.bias and 2 more), which"
        " get a gradient",
        LATER,
        OVER + TYPED.format("GH602"),
    ),
    "what is between those of a list": (
        of_a_list,
        "no optimizer holds 2 parameters (body.0.weight and body.0.bias), which get a gradient",
        LATER,
        ADD.format('*model.get_submodule("body.0").parameters()') + TYPED.format("GH602:body.0"),
    ),
    "a model that is compiled": (
        compiled,
        f"no optimizer holds {HEAD}",
        LATER,
        ADD.format("*model.head.parameters()") + TYPED.format("GH602:head"),
    ),
    "layers with numbers": (
        numbered,
        "no optimizer holds 4 parameters (4.weight, 4.bias, 6.weight and 1 more), which get a"
        " gradient",
        LATER,
        ADD.format('*model.get_submodule("4").parameters(), *model.get_submodule("6").parameters()')
        + TYPED.format("GH602:4,GH602:6"),
    ),
    "an adapter beside layers that the optimizer holds": (
        adapted_later,
        "no optimizer holds 2 parameters (layer.down.weight and layer.up.weight), which get a"
        " gradient",
        LATER,
        ADD.format("*model.layer.down.parameters(), *model.layer.up.parameters()")
        + TYPED.format("GH602:layer"),
    ),
    "a factory that takes some": (
        by_a_factory,
        f"the optimizer's factory leaves out {HEAD}",
        "it makes its optimizer of some of the parameters that it is given",
        "all of them: lambda params: torch.optim.SGD(params, lr=0.1)" + TYPED.format("GH602:head"),
    ),
}


@pytest.mark.parametrize(("made", "message", "because", "advice"), SICK.values(), ids=list(SICK))
def test_what_no_optimizer_holds(
    made: Callable[[], tuple[nn.Module, Optimizers]], message: str, because: str, advice: str
) -> None:
    model, optimizer = made()
    diagnosis = diagnosed(model, optimizer)
    assert explained(diagnosis, "GH602") == (message, because, advice)
    assert diagnosis.verdict == "failure"
    x, y = batch()
    with pytest.raises(UntrainedParameterError, match=r"\[GH602\]"):
        assert_healthy(model, x, y, loss=F.cross_entropy, optimizer=optimizer)


@pytest.mark.parametrize(
    "made",
    [replaced, unfrozen_later, numbered, of_a_list, adapted_later],
    ids=["replaced", "unfrozen", "numbered", "list", "adapted"],
)
def test_it_is_healthy_again_as_the_message_says(
    made: Callable[[], tuple[nn.Module, Optimizers]],
) -> None:
    model, optimizer = made()
    diagnosis = diagnosed(model, optimizer)
    _, _, advice = explained(diagnosis, "GH602")
    typed, _, ignored = advice.partition("; or leave them out with --gradhealth-ignore=")
    if typed.startswith("optimizer.add_param_group"):
        one = optimizer[0] if isinstance(optimizer, list) else optimizer
        exec(typed, {"optimizer": one, "model": model})
    else:
        assert typed == OVER
        optimizer = Adam(model.parameters())
    assert diagnosed(model, optimizer).findings == ()
    again = diagnosed(*made(), ignore=ignored.strip("'").split(","))
    assert again.verdict == "healthy"


def test_the_code_trains_what_was_missing() -> None:
    """The fact that the rule rests on: what no optimizer holds is as it was, however it is fed."""
    (x, y), (model, optimizer) = batch(), unfrozen_later()
    weight = model.get_parameter("head.weight")
    before = weight.detach().clone()
    for added in (False, True):
        if added:
            optimizer.add_param_group({"params": [*model.get_submodule("head").parameters()]})
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x), y))
            optimizer.step()
        assert torch.equal(weight, before) == (not added)


def test_two_groups_that_stand_still_and_what_is_held_twice() -> None:
    model = net()
    groups = [{"params": model.body.parameters()}, {"params": model.head.parameters(), "lr": 0.0}]
    assert told(diagnosed(model, SGD(groups, lr=0.1)), "GH602") == [
        (
            "warning",
            "head",
            "2 parameters (head.weight and head.bias) are held with a learning rate of 0",
        )
    ]
    with pytest.warns(UserWarning, match="duplicate"):
        doubled = SGD([*model.parameters(), model.head.bias], lr=0.1)
    message = "1 parameter (head.bias) is held twice by one optimizer"
    diagnosis = diagnosed(model, doubled)
    assert told(diagnosis, "GH602") == [("warning", "head", message)]
    assert explained(diagnosis, "GH602")[1:] == (
        "a group was built from lists that overlap, as the parts of a model with tied weights",
        "each parameter once: [*dict.fromkeys(params)]",
    )


def test_a_rate_of_zero_is_told_with_what_to_type() -> None:
    diagnosis = diagnosed(model := net(), SGD(model.parameters(), lr=0.0))
    assert explained(diagnosis, "GH602") == (
        "10 parameters (body.0.weight, body.0.bias, body.2.weight and 7 more) are held with a"
        " learning rate of 0",
        "a group of the optimizer has lr=0, and no scheduler has set an initial_lr",
        "give the group its rate, or freeze them; if it is meant to be, leave them out with"
        " --gradhealth-ignore='GH602:body,GH602:head'",
    )


def warmed_up() -> tuple[nn.Module, Optimizers]:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    return model, optimizer


def frozen() -> tuple[nn.Module, Optimizers]:
    model = net()
    model.body.requires_grad_(False)
    return model, Adam(model.head.parameters())


def low_rank() -> tuple[nn.Module, Optimizers]:
    """An adapter beside frozen layers, as wrappers for fine-tuning make them."""
    model = Wired(
        lambda m, x: m.base(x) + m.up(m.down(x)),
        base=mlp().requires_grad_(False),
        down=nn.Linear(20, 2, bias=False),
        up=nn.Linear(2, 5, bias=False),
    )
    nn.init.zeros_(model.up.weight)
    return model, Adam(p for p in model.parameters() if p.requires_grad)


def tied() -> tuple[nn.Module, Optimizers]:
    model = Wired(
        lambda m, x: m.last(F.relu(m.second(F.relu(m.first(x))))),
        first=nn.Linear(20, 20),
        second=nn.Linear(20, 20),
        last=nn.Linear(20, 5),
    )
    model.second.weight = model.first.weight
    return model, Adam(model.parameters())


def beside_a_teacher() -> tuple[nn.Module, Optimizers]:
    model = net()
    model.teacher = mlp()
    return model, Adam(itertools.chain(model.body.parameters(), model.head.parameters()))


def still_and_frozen() -> tuple[nn.Module, Optimizers]:
    """Frozen in two ways, the second of which would do nothing by itself."""
    model = net()
    model.body.requires_grad_(False)
    groups = [{"params": model.body.parameters(), "lr": 0.0}, {"params": model.head.parameters()}]
    return model, SGD(groups, lr=0.1)


def masked_out() -> tuple[nn.Module, Optimizers]:
    """What is multiplied by zeros gets a gradient of zero, and would not move anyhow."""
    model = Wired(lambda m, x: m.body(x) + 0 * m.off(x), body=mlp(), off=nn.Linear(20, 5))
    return model, Adam(model.body.parameters())


def two_players() -> tuple[nn.Module, Optimizers]:
    """A generator, probed in its own step, and the optimizers of both players."""
    critic = nn.Linear(5, 1)
    model = net()
    return model, [Adam(model.parameters()), Adam(critic.parameters())]


def sharing_players() -> tuple[nn.Module, Optimizers]:
    """A third optimizer over parts of both, as for what InfoGAN adds to its loss."""
    model = net()
    parts = model.body.parameters(), model.head.parameters(), model.parameters()
    return model, [Adam(part) for part in parts]


def one_for_each() -> tuple[nn.Module, Optimizers]:
    model = net()
    return model, [SGD([p], lr=0.1) for p in model.parameters()]


def without_a_rate() -> tuple[nn.Module, Optimizers]:
    """An optimizer that finds its rate itself has None for one."""
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = None
    return model, optimizer


HEALTHY = [
    *(warmed_up, frozen, low_rank, tied, beside_a_teacher, still_and_frozen, masked_out),
    *(two_players, sharing_players, one_for_each, without_a_rate),
]


@pytest.mark.parametrize("made", HEALTHY, ids=lambda made: made.__name__)
def test_look_alikes_are_healthy(made: Callable[[], tuple[nn.Module, Optimizers]]) -> None:
    diagnosis = diagnosed(*made())
    assert [f for f in diagnosis.findings if f.complains and f.code == "GH602"] == []
    assert diagnosis.profile.holdings is not None  # so that it was looked at


def test_what_gets_no_gradient_is_not_among_what_is_missing() -> None:
    model, _ = beside_a_teacher()
    (found, *_) = told(diagnosed(model, Adam(model.get_submodule("body").parameters())), "GH602")
    assert found == ("failure", "head", f"no optimizer holds {HEAD}")


def test_an_optimizer_for_more_than_the_model_is_information() -> None:
    model = net()
    diagnosis = diagnosed(model.body, SGD(model.parameters(), lr=0.1))
    text = "the optimizer also holds 2 tensors that the model does not have"
    assert told(diagnosis, "GH602") == [("info", "6", text)]
    assert diagnosis.verdict == "healthy"


def test_a_layer_may_be_left_out_by_its_name() -> None:
    model = net()
    some = Adam(model.body[2:].parameters())
    diagnosis = diagnosed(model, some, ignore=["GH602:head"])
    (finding,) = diagnosis.findings
    assert finding.layer == "body.0"
    assert diagnosed(model, some, ignore=["GH602:head", "GH602:body.0"]).findings == ()


def test_a_group_that_is_added_is_seen_at_once() -> None:
    """Probes that have been made are remembered, and the optimizer is part of what was probed."""
    (x, y), model = batch(), net()
    optimizer = Adam(model.body.parameters())
    with pytest.raises(UntrainedParameterError):
        assert_healthy(model, x, y, loss=F.cross_entropy, optimizer=optimizer)
    optimizer.add_param_group({"params": [*model.head.parameters()]})
    assert_healthy(model, x, y, loss=F.cross_entropy, optimizer=optimizer)


def test_a_probe_is_shared_where_the_same_are_in_a_list() -> None:
    (x, y), model = batch(), net()
    body, head = (Adam(model.get_submodule(name).parameters()) for name in ("body", "head"))
    one, other = (
        assert_healthy(model, x, y, loss=F.cross_entropy, optimizer=[body, head]) for _ in range(2)
    )
    assert one.milliseconds == other.milliseconds
    with pytest.raises(UntrainedParameterError):
        assert_healthy(model, x, y, loss=F.cross_entropy, optimizer=[body, body])


@pytest.mark.parametrize("made", [list, tuple])
def test_those_in_a_list_step_together_on_a_copy(
    made: Callable[[Sequence[Optimizer]], Sequence[Optimizer]],
) -> None:
    """The second look trains with all of them, and none of the originals has made a step."""
    x, y = batch()
    model = Wired(
        lambda m, x: m.head(m.body(x)), body=mlp(nn.Sigmoid, hidden=8), head=nn.Linear(5, 5)
    )
    optimizers = made([SGD(model.body.parameters(), lr=0.1), Adam(model.head.parameters())])
    with unchanged(model):
        diagnosis = probe(model, x, y, loss=F.cross_entropy, optimizer=optimizers)
    assert diagnosis.optimizer == "SGD and Adam"
    assert len(diagnosis.profiles) == 2
    assert not any(optimizer.state for optimizer in optimizers)
    first, second = ({p.name: p.norm for p in look.parameters} for look in diagnosis.profiles)
    assert all(first[name] != second[name] for name in ("body.0.weight", "head.weight"))


def test_together_they_do_what_each_does_alone() -> None:
    (x, y), steps = batch(), 4
    torch.manual_seed(0)
    ours, theirs = net(), net()
    theirs.load_state_dict(ours.state_dict())
    together: Any = as_one(
        [SGD(ours.body.parameters(), lr=0.1, momentum=0.9), Adam(ours.head.parameters(), lr=0.01)]
    )
    apart = [
        SGD(theirs.body.parameters(), lr=0.1, momentum=0.9),
        Adam(theirs.head.parameters(), lr=0.01),
    ]
    for _ in range(steps):
        for model, optimizers in ((ours, [together]), (theirs, apart)):
            for optimizer in optimizers:
                optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x), y))
            for optimizer in optimizers:
                optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize(
    ("given", "held"),
    [([], "is empty"), ([Adam], "has <class 'torch.optim.adam.Adam'> in it")],
    ids=["nothing", "a class"],
)
def test_a_list_of_something_else(given: Any, held: str) -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing(net(), x, y, loss=F.cross_entropy, optimizer=given)
    assert str(caught.value).startswith(
        f"optimizer is a list that {held}; pass optimizers over the model's parameters, for example"
        " [torch.optim.SGD(model.body.parameters(), lr=0.1),"
        " torch.optim.Adam(model.head.parameters())]"
    )
