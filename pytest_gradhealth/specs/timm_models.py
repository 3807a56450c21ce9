"""timm:NAME, an architecture of timm without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from pytest_gradhealth.formatting import quoted
from pytest_gradhealth.specs.drawn import Batch, Drawn
from pytest_gradhealth.specs.homes import place_of
from pytest_gradhealth.specs.library import call_code, check_named, library, pictures, unknown
from pytest_gradhealth.specs.offer import Code, Guess, Offer, Way
from pytest_gradhealth.specs.spec import Spec


def offer(spec: Spec) -> Offer:
    """The architecture of a name; raises SettingError where timm has none of it."""
    check_named(spec)
    timm: Any = library("timm", spec)
    if not timm.is_model(spec.name):
        raise unknown(spec, "timm", timm.list_models())
    code = Code(
        call_code("timm.create_model", quoted(spec.name), spec.given.code), ("import timm",)
    )
    build = partial(timm.create_model, spec.name, **spec.given.named)
    way = Way(build, code, partial(_guesses, dict(spec.given.named)), light=True)
    return Offer((way,), place_of(timm.model_entrypoint(spec.name.partition(".")[0])))


def _guesses(options: dict[str, Any], model: nn.Module) -> Iterator[Guess]:
    """Pictures of the size that the architecture was made for."""
    import timm

    channels, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    size = options.get("img_size") or (height, width)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    shape = (pictures(height), options.get("in_chans", channels), height, width)
    yield Guess(Batch((Drawn(shape),)), "timm's size", getattr(model, "num_classes", 0))
