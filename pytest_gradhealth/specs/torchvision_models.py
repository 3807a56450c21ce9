"""torchvision:NAME, an architecture of torchvision without its weights."""

from __future__ import annotations

import inspect
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

#: Options that architectures have by default, and that load weights or take minutes.
_OPTIONS = {"weights_backbone": None, "init_weights": True}
#: Frames of a film, and how many of those are enough.
_FRAMES, _FILMS = 16, 4


def offer(spec: Spec) -> Offer:
    """The architecture of a name; raises SettingError where torchvision has none of it."""
    check_named(spec)
    models: Any = library("torchvision.models", spec)
    try:
        builder = models.get_model_builder(spec.name)
    except ValueError as error:
        raise unknown(spec, "torchvision", models.list_models()) from error
    taken = inspect.signature(builder).parameters
    own = {name: value for name, value in _OPTIONS.items() if _takes(builder, taken, name)}
    options = own | dict(spec.given.named)
    coded = ", ".join(f"{name}={value!r}" for name, value in options.items())
    code = Code(
        call_code("get_model", quoted(spec.name), coded),
        ("from torchvision.models import get_model",),
    )
    build = partial(models.get_model, spec.name, weights=None, **options)
    guesses = partial(_guesses, models, spec.name, dict(spec.given.named))
    way = Way(build, code, guesses, light=True)
    return Offer((way,), place_of(builder), partial(_lacking, builder))


def _takes(builder: Any, taken: Any, name: str) -> bool:
    """Whether an architecture has an option, which one without weights is built with by itself."""
    if name == "init_weights":
        return builder.__name__ in ("googlenet", "inception_v3")
    return name in taken


def _guesses(models: Any, name: str, options: dict[str, Any], model: nn.Module) -> Iterator[Guess]:
    """Pictures of the size that the first weights were trained with, or films of it."""
    first = next(iter(models.get_model_weights(name)))
    sizes = getattr(first.transforms, "keywords", {})
    size = options.get("image_size") or sizes.get("crop_size")
    size = size or (224 if "resize_size" in sizes else None)  # a segmentation's are of any
    if size is None:
        return
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    film = (3, _FRAMES) if ".video" in getattr(model, "__module__", "") else (3,)
    count = pictures(height) if len(film) == 1 else _FILMS
    shape = (count, *film, height, width)
    classes = options.get("num_classes") or len(first.meta.get("categories", ()))
    del model
    yield Guess(Batch((Drawn(shape),)), "torchvision's size", classes)


def _lacking(builder: Any, model: nn.Module) -> str:
    """What detectors and models of motion take."""
    del model
    if ".detection" in builder.__module__:
        return "it makes its loss from boxes and labels among its inputs"
    if ".optical_flow" in builder.__module__:
        return "it takes two pictures of a film"
    return ""
