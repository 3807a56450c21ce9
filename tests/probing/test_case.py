"""What cannot be probed is refused, which is no failed check, and what ends a run ends it."""

from __future__ import annotations

from typing import Any

import pytest
from torch.optim import SGD

from pytest_gradhealth import ProbeError, SettingError, assert_no_vanishing, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import Returning, check, refusal


def test_an_optimizer_instance_with_a_factory() -> None:
    model = mlp()
    check(
        refusal(lambda: model, optimizer=SGD(model.parameters(), lr=0.1)),
        "optimizer is an instance, but the model is built anew for every seed; pass the optimizer's"
        " class or a factory",
    )


def test_refusals_are_no_failed_checks() -> None:
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing(mlp().requires_grad_(False), batch()[0])
    assert not isinstance(caught.value, AssertionError)
    assert issubclass(SettingError, ProbeError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_run_is_not_wrapped(error: type[BaseException]) -> None:
    def stop(*_: object) -> Any:
        raise error

    cases: list[tuple[Any, dict[str, Any]]] = [
        (stop, {}),
        (Returning(stop), {}),
        (mlp(), {"loss": stop}),
        (mlp(), {"optimizer": stop}),
    ]
    for model, arguments in cases:
        with pytest.raises(error):
            probe(model, batch()[0], **arguments)
