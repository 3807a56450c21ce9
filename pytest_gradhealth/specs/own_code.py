"""Code that imports what a spec names, from where a test file stands."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from pytest_gradhealth.formatting import quoted
from pytest_gradhealth.specs.homes import dotted, own_name
from pytest_gradhealth.specs.offer import Code
from pytest_gradhealth.specs.spec import Spec


def code_of(spec: Spec, module: ModuleType, beside: Path) -> Code:
    """What gives a test file in the folder `beside` what a spec names, and builds with it.

    Python finds by itself what is installed; what lies in the project is looked for there.
    """
    first, dot, inner = spec.name.partition(".")
    path = Path(module.__file__).resolve() if module.__file__ else None
    name, root = (module.__name__, None) if path is None else dotted(path)
    if path is not None and spec.is_file and "." not in name and not _is_found(path):
        taken = f"runpy.run_path({_path(path, beside)})[{quoted(first)}]"
        imports: tuple[str, ...] = ("import runpy", "from pathlib import Path")
        before: tuple[str, ...] = (f"{first} = {taken}",)
    else:
        home = name if spec.is_file else spec.home
        imports = (f"from {home} import {first}",)
        before = () if root is None or _is_installed(root) else _looked_for(root, beside)
    whole = f"{first}{dot}{inner}"
    called = f"lambda: {whole}({spec.given.code})" if spec.arguments else whole
    return Code(called, imports, before)


def _is_found(path: Path) -> bool:
    """Whether a script has a name that it can be imported by."""
    return path.stem.isidentifier() and own_name(path) == path.stem


def _is_installed(root: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in root.parts)


def _looked_for(root: Path, beside: Path) -> tuple[str, ...]:
    return () if root == beside.resolve() else (f"sys.path.insert(0, {_path(root, beside)})",)


def _path(path: Path, beside: Path) -> str:
    """Code of a path, from where the test file is."""
    relative = os.path.relpath(path, beside.resolve()).replace(os.sep, "/")
    return f"str(Path(__file__).parent / {quoted(relative)})"
