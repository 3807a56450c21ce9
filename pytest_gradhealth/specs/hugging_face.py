"""hf:NAME, an architecture of transformers from its configuration alone, made small."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pytest_gradhealth import files
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import meant_by, shown, told
from pytest_gradhealth.specs.drawn import Batch, Drawn
from pytest_gradhealth.specs.homes import place_of
from pytest_gradhealth.specs.library import check_named, library, unknown, without_loaded
from pytest_gradhealth.specs.offer import Code, Guess, Offer, Way
from pytest_gradhealth.specs.small import SPECIAL, VOCABULARY, ever_larger, without_lists
from pytest_gradhealth.specs.spec import Spec

#: What a type of model is most often trained for, by the tables of transformers.
_HEADS = (
    *("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "MASKED_LM", "CAUSAL_LM"),
    *("IMAGE_CLASSIFICATION", "CTC", "AUDIO_CLASSIFICATION", "SEQUENCE_CLASSIFICATION"),
)
_COUNT, _LENGTH, _SHORT, _SAMPLES = 4, 32, 12, 16_000
#: What of a configuration that was written to a file is no option of it.
_OF_FILES = (
    *("architectures", "auto_map", "model_type", "transformers_version", "torch_dtype"),
    *("attn_implementation", "quantization_config"),
)
#: Bytes of a configuration, and parameters of a model that is not small by what is known of it.
_MOST, _LARGEST = 2**20, 50_000_000


def offer(spec: Spec, folders: Sequence[Path]) -> Offer:
    """The architecture of a type, a class or a configuration in a file.

    Raises SettingError where transformers has none of it.
    """
    check_named(spec)
    library("torch", spec)
    transformers: Any = library("transformers", spec)
    config, kind, known = _found(transformers, spec, folders)
    defaults = _defaults(config)
    sizes = ever_larger(defaults | known, spec.given.named)
    ways = [_way(config, kind, {**known, **options}) for options in sizes]
    return Offer(ways, place_of(kind), _lacking)


def _found(
    transformers: Any, spec: Spec, folders: Sequence[Path]
) -> tuple[type, type[nn.Module], dict[str, Any]]:
    """The classes of a configuration and of its model, and the options that a file has."""
    types = library("transformers.models.auto.configuration_auto", spec)
    if spec.name in types.CONFIG_MAPPING_NAMES:
        kind = _model_of(transformers, spec, spec.name, ())
        config = getattr(transformers, types.CONFIG_MAPPING_NAMES[spec.name])
        # That of a part alone, where the type is of several.
        return getattr(kind, "config_class", None) or config, kind, {}
    if spec.name.isidentifier() and spec.name in dir(transformers):
        return _of_class(transformers, spec, getattr(transformers, spec.name))
    try:
        path = next((p for f in folders if (p := f / Path(spec.name).expanduser()).exists()), None)
    except (OSError, RuntimeError) as error:  # of a name that is too long, or of no user
        raise SettingError(f"{shown(spec.name)} is no path ({told(error)})") from error
    if path is not None:
        return _of_file(transformers, spec, path / "config.json" if path.is_dir() else path)
    if "/" in spec.name:
        raise SettingError(
            f"there is no file {spec.name}, and nothing is downloaded; name a type, as in hf:gpt2,"
            " or a config.json"
        )
    names = types.CONFIG_MAPPING_NAMES if spec.name.islower() else dir(transformers)
    raise unknown(spec, "transformers", names)


def _of_class(
    transformers: Any, spec: Spec, kind: Any
) -> tuple[type, type[nn.Module], dict[str, Any]]:
    config = getattr(kind, "config_class", None)
    if isinstance(kind, type) and issubclass(kind, nn.Module) and isinstance(config, type):
        return config, kind, {}
    name = getattr(kind, "model_type", "")
    if isinstance(kind, type) and name:
        return kind, _model_of(transformers, spec, name, ()), {}
    raise SettingError(f"transformers.{spec.name} is neither a model nor a configuration")


def _of_file(
    transformers: Any, spec: Spec, path: Path
) -> tuple[type, type[nn.Module], dict[str, Any]]:
    try:
        data = json.loads(files.read(path, _MOST))
        name, built = str(data["model_type"]), data.get("architectures") or ()
    except Exception as error:
        raise SettingError(
            f"{spec.text}: {path.name} is no configuration of transformers ({told(error)})"
        ) from error
    types = library("transformers.models.auto.configuration_auto", spec)
    if name not in types.CONFIG_MAPPING_NAMES:
        meant = meant_by(name, [*types.CONFIG_MAPPING_NAMES])
        said = f"{spec.text}: transformers has no model_type {name}"
        raise SettingError("; ".join(filter(None, (said, meant))))
    options = without_loaded({n: v for n, v in data.items() if n not in _OF_FILES and n[:1] != "_"})
    config = getattr(transformers, types.CONFIG_MAPPING_NAMES[name])
    return config, _model_of(transformers, spec, name, built), without_lists(options)


def _model_of(transformers: Any, spec: Spec, name: str, built: Sequence[str]) -> type[nn.Module]:
    """The class of models that a type is most often trained as, or one that a file says."""
    tables = library("transformers.models.auto.modeling_auto", spec)
    found = [table.get(name, ()) for table in _tables(tables)]
    found = [one for some in found for one in ((some,) if isinstance(some, str) else some)]
    names = [one for one in (*built, *found) if isinstance(one, str) and one in dir(transformers)]
    for kind in (getattr(transformers, one) for one in names):
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind
    raise SettingError(f"{spec.text}: transformers has no model of the type {name} alone")


def _tables(tables: Any) -> Iterator[Mapping[str, Any]]:
    yield from (getattr(tables, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in _HEADS)
    yield tables.MODEL_MAPPING_NAMES


def _defaults(config: Callable[[], Any]) -> dict[str, Any]:
    """The options of a configuration with their values."""
    try:
        known: dict[str, Any] = config().to_dict()
    except Exception:  # one that has to be told something
        return {}
    taken = inspect.signature(config).parameters
    return {name: value for name, value in known.items() if name in taken}


def _way(config: type, kind: type[nn.Module], options: dict[str, Any]) -> Way:
    coded = ", ".join(f"{name}={value!r}" for name, value in options.items())
    names = ", ".join(sorted((config.__name__, kind.__name__)))
    code = Code(
        f"lambda: {kind.__name__}({config.__name__}({coded}))",
        (f"from transformers import {names}",),
    )
    said = f"{kind.__name__} with {coded}" if coded else f"{kind.__name__} as it is by default"
    return Way(partial(_built, config, kind, options), code, _guesses, said, most=_LARGEST)


def _built(config: Callable[..., Any], kind: Callable[..., nn.Module], options: Any) -> nn.Module:
    """A model with random weights; what would ask for others is told that there is no network."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        return kind(config(**options))
    finally:
        constants.HF_HUB_OFFLINE = before


def _guesses(model: Any) -> Iterator[Guess]:
    """What such a model is called with, with labels of any kind, the first of which do."""
    config = model.config
    inputs = _inputs(str(model.main_input_name), config)
    if inputs is None:
        return
    taken = inspect.signature(model.forward).parameters
    words = getattr(config, "vocab_size", None) or VOCABULARY
    low = SPECIAL if words > SPECIAL else 0
    classes = getattr(config, "num_labels", None) or 2
    if "labels" in taken:
        short = _LENGTH if inputs.name == "input_ids" else _SHORT
        for shape, below, start in (
            ((_COUNT, short), words, low),
            ((_COUNT, short), classes, 0),
            ((_COUNT,), classes, 0),
        ):
            labels = Drawn(shape, "int64", below, "labels", start)
            yield Guess(Batch((inputs, labels)), "what its forward takes")
    elif "start_positions" in taken:
        ends = (Drawn((_COUNT,), "int64", _LENGTH, f"{end}_positions") for end in ("start", "end"))
        yield Guess(Batch((inputs, *ends)), "what its forward takes")
    yield Guess(Batch((inputs,)), "what its forward takes")


def _inputs(name: str, config: Any) -> Drawn | None:
    """The main input of a model, where its configuration says how large that is."""
    if name == "input_ids":
        words = getattr(config, "vocab_size", None) or VOCABULARY
        return Drawn((_COUNT, _LENGTH), "int64", words, name, SPECIAL if words > SPECIAL else 0)
    if name == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return Drawn((_COUNT, getattr(config, "num_channels", 3), height, width), name=name)
    if name == "input_values":
        frames, bins = getattr(config, "max_length", None), getattr(config, "num_mel_bins", None)
        shape = (frames, bins) if frames is not None and bins is not None else (_SAMPLES,)
        return Drawn((_COUNT, *shape), name=name)
    if name == "input_features" and getattr(config, "max_source_positions", None):
        frames = 2 * config.max_source_positions
        return Drawn((_COUNT, config.num_mel_bins, frames), name=name)
    return None


def _lacking(model: Any) -> str:
    taken = [name for name in inspect.signature(model.forward).parameters if name != "kwargs"]
    return f"its forward takes {', '.join(taken[:4])}"
