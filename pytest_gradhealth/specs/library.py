"""What the libraries of models have in common: imported late, by name, and without weights."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import meant_by, told
from pytest_gradhealth.specs.spec import Spec

#: Arguments that lead to weights, or code, of somebody's, or to others that do: none of that is
#: loaded.
_LOADED = re.compile(
    r"(weights|cache|auto_map|attn_implementation|quantization|trust_remote|model_args)"
    r"|.*(pretrained|checkpoint|_path$|_file$|_url$|_kwargs$)"
)
#: From this side on, four pictures are enough: they take as long as eight of half of it.
_LARGE = 160


def library(name: str, spec: Spec) -> ModuleType:
    """Import a library; raises SettingError where it is not installed, or cannot be loaded.

    What it warns of while it is imported is its affair.
    """
    package = name.partition(".")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise SettingError(f"{spec.text}: importing {name} raised {told(error)}") from error
            raise SettingError(
                f"{spec.text} needs {package}, which is not installed: pip install {package}"
            ) from error
        except Exception as error:
            raise SettingError(f"{spec.text}: importing {name} raised {told(error)}") from error


def check_named(spec: Spec) -> None:
    """Raise SettingError for arguments by place, and for those that load something."""
    if spec.given.positional:
        raise SettingError(f"{spec.text}: arguments go by name, for example num_classes=10")
    for name in _loaded_in(spec.given.named):
        raise SettingError(f"{spec.text}: no weights and no code are loaded; leave {name} out")


def without_loaded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that load something, also inside of others."""
    return {
        name: without_loaded(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if not _LOADED.match(name)
    }


def _loaded_in(given: Any) -> Iterator[str]:
    """The names of what would load something, also inside of other arguments."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            if _LOADED.match(str(name)):
                yield str(name)
            yield from _loaded_in(value)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _loaded_in(value)


def unknown(spec: Spec, package: str, names: Iterable[str]) -> SettingError:
    """What to say of a name that a library does not know."""
    said = f"{package} has no model {spec.name}"
    meant = meant_by(spec.name, [*names])
    return SettingError(f"{said}; {meant}" if meant else said)


def pictures(side: int) -> int:
    """How many pictures of a size make a batch."""
    return 4 if side > _LARGE else 8


def call_code(function: str, name: str, options: str) -> str:
    """Code of a function without arguments that builds a model by its name."""
    return f"lambda: {function}({', '.join(filter(None, (name, options)))})"
