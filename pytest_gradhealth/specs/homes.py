"""Modules and files by name, and what is found in them: classes of models, and what builds some."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import listing, meant_by, shown, told
from pytest_gradhealth.isolation.code import is_installed
from pytest_gradhealth.specs.spec import LIBRARIES, Spec

#: Whose functions are losses.
_LOSSES = "torch.nn"


def module_of(spec: Spec, folders: Sequence[Path]) -> ModuleType:
    """Import the home of a spec; raises SettingError for one that cannot be.

    Both are looked for in some `folders`, modules after where Python looks by itself.
    """
    return _of_file(spec, folders) if spec.is_file else _of_module(spec, folders)


def found_in(module: ModuleType, spec: Spec) -> Any:
    """What a spec names in its home; raises SettingError where there is none.

    Behind the first name there are only classes in classes: nothing else is asked for an attribute.
    """
    first, *rest = spec.name.split(".")
    inside: Any = module
    value = getattr(module, first, None)
    for part in rest if value is not None else ():
        inside, value = value, None
        if isinstance(inside, type):
            found = inspect.getattr_static(inside, part, None)
            value = found if isinstance(found, type) else None
        if value is None:
            first = part
            break
    if value is not None:
        return value
    meant = meant_by(first, _builders(inside)) or _offered(inside)
    raise SettingError("; ".join(filter(None, (f"{spec.home} has no {spec.name}", meant))))


def builder_of(value: Any, spec: Spec) -> Callable[[], nn.Module] | nn.Module:
    """What builds the model that a spec names, or the model itself.

    Raises SettingError for what is none, and for arguments that it does not take.
    """
    if isinstance(value, nn.Module):
        if spec.arguments is not None:
            raise SettingError(f"{spec.text} is a model already; leave the parentheses out")
        return value
    if not _builds(value):
        raise SettingError(
            f"{spec.home}:{spec.name} is {_in_words(value)}; name a class of torch.nn.Module, or a"
            " function of yours that builds one"
        )
    given = spec.given
    try:
        inspect.signature(value).bind(*given.positional, **given.named)
    except TypeError as error:
        example = ", ".join(f"{name}=..." for name in _required(value)) or "no argument"
        raise SettingError(
            f"{spec.text}: {told(error).partition(': ')[2]}; it takes {spec.name}({example})"
        ) from error
    except ValueError:  # nobody can say what it takes
        pass
    return partial(value, *given.positional, **given.named) if spec.arguments else value


def function_of(spec: Spec, folders: Sequence[Path], what: str) -> Callable[..., Any]:
    """The function that a spec names, which makes a batch or a loss; raises SettingError."""
    value = found_in(module_of(spec, folders), spec)
    of_torch = getattr(value, "__module__", "").startswith(_LOSSES)
    if not isinstance(value, (FunctionType, partial)) or not (_builds(value) or of_torch):
        raise SettingError(f"{spec.text} is {_in_words(value)}; name a function that {what}")
    if spec.arguments is not None:
        raise SettingError(f"{spec.text}: name the function alone, without parentheses")
    return value


def place_of(value: Any) -> tuple[str, int]:
    """The file and the line, from 0, where a class or a function is defined; "" for nowhere."""
    while isinstance(value, partial):
        value = value.func
    value = inspect.unwrap(value) if inspect.isroutine(value) else value
    value = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    try:
        return inspect.getsourcefile(value) or "", max(0, inspect.getsourcelines(value)[1] - 1)
    except (OSError, TypeError):
        return "", 0


def _of_module(spec: Spec, folders: Sequence[Path]) -> ModuleType:
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(spec.home)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{spec.home}.".startswith(f"{error.name}."):
            raise _not_imported(spec.home, error) from error
        raise SettingError(_missing(error.name, folders)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what ends a test, or Python
        raise _not_imported(spec.home, error) from error


def _missing(name: str, folders: Sequence[Path]) -> str:
    """What to say of a module that there is not."""
    parent, _, own = name.rpartition(".")
    paths = getattr(sys.modules.get(parent), "__path__", ()) if parent else map(str, folders)
    names = [module.name for module in pkgutil.iter_modules([*paths])]
    known = {one: f"{parent}.{one}" if parent else one for one in names}
    meant = meant_by(own, known if parent else {one: one for one in LIBRARIES} | known)
    said = f"there is no module {name}"
    return (
        f"{said}; {meant}" if meant else f"{said} in {listing([*map(str, folders)])}, or installed"
    )


def _of_file(spec: Spec, folders: Sequence[Path]) -> ModuleType:
    try:
        paths = [(folder / Path(spec.home).expanduser()).resolve() for folder in folders]
        path = next((path for path in paths if path.is_file()), paths[0])
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # of a name that is too long, or of no user
        raise SettingError(f"{shown(spec.home)} is no path ({told(error)})") from error
    if not found:
        beside = {one.name: str(Path(spec.home).with_name(one.name)) for one in _sources(path)}
        meant = meant_by(path.name, beside)
        raise SettingError("; ".join(filter(None, (f"there is no file {spec.home}", meant))))
    name, root = dotted(path)
    if not _is_of(sys.modules.get(name), path):
        if str(root) not in sys.path:  # as Python does for a script that it runs
            sys.path.insert(0, str(root))
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name) if "." in name else _loaded(own_name(path), path)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also what ends a test, or Python
            raise _not_imported(spec.home, error) from error
    return sys.modules[name]


def own_name(path: Path) -> str:
    """The name that a script goes by as a module: its own, unless another has that."""
    taken = path.stem in sys.stdlib_module_names or path.stem in sys.modules
    if not taken or _is_of(sys.modules.get(path.stem), path):
        return path.stem
    return f"{path.stem}_{zlib.crc32(str(path).encode('utf-8', 'surrogatepass')):08x}"


def _loaded(name: str, path: Path) -> ModuleType:
    """A script as a module, which is loaded once."""
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def dotted(path: Path) -> tuple[str, Path]:
    """The name of a file as a module, and the folder that it is imported from."""
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file() and root != root.parent:
        parts.insert(0, root.name)
        root = root.parent
    return ".".join(parts), root


def _is_of(module: ModuleType | None, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).resolve() == path


def _sources(path: Path) -> Iterator[Path]:
    return path.parent.glob("*.py") if path.parent.is_dir() else iter(())


def _not_imported(home: str, error: BaseException) -> SettingError:
    return SettingError(f"importing {home} raised {told(error)}")


def _builds(value: Any) -> bool:
    """Whether something may be called to build a model: a class of models, or a function.

    What is called with literals that anybody may have typed is a function of the project, or an
    installed one that says that it returns a model.
    """
    while isinstance(value, partial):
        value = value.func
    if isinstance(value, type):
        return issubclass(value, nn.Module)
    return isinstance(value, FunctionType) and (_is_own(value) or _returns_model(value))


def _is_own(function: FunctionType) -> bool:
    inner = inspect.unwrap(function)
    return isinstance(inner, FunctionType) and not is_installed(inner.__code__.co_filename)


def _returns_model(function: FunctionType) -> bool:
    """Whether a function is annotated to return a module; nothing that is written is evaluated."""
    said = function.__annotations__.get("return")
    if isinstance(said, str):
        first, *rest = said.strip("'\"").split(".")
        said = function.__globals__.get(first)
        for name in rest:
            said = vars(said).get(name) if isinstance(said, ModuleType) else None
    return isinstance(said, type) and issubclass(said, nn.Module)


def _builders(inside: Any) -> list[str]:
    """The names in a module or a class that a spec may go on with."""
    names = vars(inside) if isinstance(inside, (ModuleType, type)) else {}
    return [name for name, value in names.items() if name[:1] != "_" and _builds(value)]


def _offered(inside: Any) -> str:
    own = getattr(inside, "__name__", "")
    names = [name for name in _builders(inside) if vars(inside)[name].__module__ == own]
    return f"it has {listing(names, 5)}" if names else ""


def _required(value: Any) -> list[str]:
    parameters = inspect.signature(value).parameters.values()
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _in_words(value: Any) -> str:
    if isinstance(value, ModuleType):
        return "a module"
    if isinstance(value, type):
        return "a class of something else"
    if inspect.isroutine(value):
        return "no function that builds a model"
    return f"{'an' if type(value).__name__[:1] in 'aeiouAEIOU' else 'a'} {type(value).__name__}"
