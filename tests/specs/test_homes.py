"""What a spec names is found where it says, and nothing else is run but that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.homes import builder_of, found_in, module_of, place_of
from pytest_gradhealth.specs.spec import parse
from tests.helpers.libraries import library
from tests.helpers.specs import planned
from tests.specs.conftest import Written

NETS = """
from functools import partial
import os
import shutil
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4, *, bias=True):
        super().__init__()
        self.layer = nn.Linear(width, 2, bias=bias)

    class Inner(nn.Linear):
        pass

    @classmethod
    def made(cls, text):
        open(text, "w").close()
        return cls()

    def forward(self, x):
        return self.layer(x)


def build(width=4):
    return Net(width)


def build_wide(width):
    return Net(width)


def nothing():
    pass


def several():
    return [Net(), Net()]


def ending():
    raise SystemExit(3)


def broken():
    raise OSError("no file")


small = partial(Net, 3)
touch = partial(os.mkdir, "pwned")
removed = shutil.rmtree
whole = Net()
number = 5


class Called:
    def __call__(self):
        open("pwned", "w").close()


called = Called()
"""


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("nets:Net", 4),
        ("nets:Net(7)", 7),
        ("nets:Net(7, bias=False)", 7),
        ("nets:Net.Inner(7, 2)", 7),
        ("nets:build", 4),
        ("nets:build(width=9)", 9),
        ("nets:small", 3),
        ("nets:whole", 4),
        ("nets.py:Net(5)", 5),
        ("inner/deep.py:Net", 6),
        ("inner/my-script.py:Net", 6),
        ("package.inner:Net", 6),
        ("package/inner.py:Net", 6),
    ],
)
def test_what_is_named_is_built(written: Written, text: str, width: int) -> None:
    script = (
        "from torch import nn\nfrom beside import WIDTH\n\ndef Net(): return nn.Linear(WIDTH, 2)"
    )
    written(
        **{
            "nets": NETS,
            "inner/deep": script,
            "inner/my-script": script,
            "inner/beside": "WIDTH = 6",
            "package/__init__": "",
            "package/inner": "from . import beside\nfrom .beside import Net",
            "package/beside": "from torch import nn\n\nclass Net(nn.Linear):\n"
            "    def __init__(self):\n        super().__init__(6, 2)",
        }
    )
    plan = planned(text)
    inputs, _ = plan.batch_and_targets()
    assert inputs.shape == (8, width)
    model = plan.model if isinstance(plan.model, nn.Module) else plan.model()
    assert model(inputs).shape == (8, 2)


def test_a_class_without_arguments_is_itself_and_a_model_too(written: Written) -> None:
    folder = written(nets=NETS)
    spec = parse("nets:Net")
    module = module_of(spec, [folder])
    assert builder_of(found_in(module, spec), spec) is module.Net
    assert planned("nets:whole").model is module.whole


def test_the_place_is_that_of_the_class_or_the_function(written: Written) -> None:
    folder = written(nets=NETS)
    lines = NETS.splitlines()
    for text, line in (("Net", "class Net("), ("build", "def build("), ("small", "class Net(")):
        spec = parse(f"nets:{text}")
        file, number = place_of(found_in(module_of(spec, [folder]), spec))
        assert Path(file) == folder / "nets.py"
        assert lines[number].startswith(line)
    assert place_of(found_in(module_of(parse("nets:whole"), [folder]), parse("nets:whole")))[1] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nest:Net", "there is no module nest; did you mean nets?"),
        ("tim:resnet18", "there is no module tim; did you mean timm?"),
        ("package.iner:Net", "there is no module package.iner; did you mean package.inner?"),
        ("nets:Nat", "nets has no Nat; did you mean Net?"),
        ("nets:biuld", "nets has no biuld; did you mean build?"),
        (
            "nets:zzzz",
            "nets has no zzzz; it has Net, build, build_wide, nothing, several and 2 more",
        ),
        ("nest.py:Net", "there is no file nest.py; did you mean nets.py?"),
        ("package/iner.py:Net", "there is no file package/iner.py; did you mean package/inner.py?"),
        ("fails:Net", "importing fails raised ZeroDivisionError: division by zero"),
        ("fails.py:Net", "importing fails.py raised ZeroDivisionError: division by zero"),
        ("lacks:Net", "importing lacks raised ModuleNotFoundError: No module named 'zzz_none'"),
        ("exits.py:Net", "importing exits.py raised SystemExit: 2"),
        ("nets:number", "nets:number is an int; name a class of torch.nn.Module, or a function"),
        ("nets:os", "nets:os is a module; name a class"),
        ("nets:Called", "nets:Called is a class of something else; name a class"),
        ("nets:whole()", "nets:whole() is a model already; leave the parentheses out"),
        ("nets:build_wide", "missing a required argument: 'width'; it takes build_wide(width=...)"),
        (
            "nets:Net(wdth=3)",
            "got an unexpected keyword argument 'wdth'; it takes Net(no argument)",
        ),
        ("nets:nothing", "nets:nothing builds None, not a torch.nn.Module"),
        ("nets:several", "builds a list, not a torch.nn.Module; return one module, for example"),
        ("nets:broken", "nets:broken cannot be built: it raised OSError: no file"),
        ("nets:ending", "nets:ending cannot be built: it raised SystemExit: 3"),
        ("skips.py:Net", "importing skips.py raised Skipped: not here"),
        ("~nobody_of_this_name/x.py:Net", "'~nobody_of_this_name/x.py' is no path (RuntimeError: "),
        (f"{'x' * 300}.py:Net", ".py' is no path (OSError: "),
    ],
)
def test_what_cannot_be_is_one_sentence(written: Written, text: str, said: str) -> None:
    written(
        **{
            "nets": NETS,
            "package/__init__": "",
            "package/inner": "",
            "fails": "1 / 0",
            "lacks": "import zzz_none",
            "exits": "import sys\nsys.exit(2)",
            "skips": "import pytest\npytest.skip('not here', allow_module_level=True)",
        }
    )
    with pytest.raises(SettingError) as caught:
        planned(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "os:mkdir('pwned')",
        "os:system('mkdir pwned')",
        "nets:os.mkdir('pwned')",
        "nets:shutil.copy('nets.py', 'pwned')",
        "nets:touch",
        "nets:removed('nets.py')",
        "nets:called",
        "nets:Net.made('pwned')",
        "builtins:eval(\"__import__('os').mkdir('pwned')\")",
        "builtins:exec(\"__import__('os').mkdir('pwned')\")",
        "runpy:run_path('evil.py')",
        "subprocess:run(['mkdir', 'pwned'])",
        "importlib:import_module('evil')",
        "torch:save([1], 'pwned')",
        "torch.hub:load('evil', 'x', source='local')",
        "shutil:rmtree('.')",
        "pytest:main(['--basetemp=pwned'])",
        "sympy:sympify(\"__import__('os').mkdir('pwned')\")",
        "nets:sympify(\"__import__('os').mkdir('pwned')\")",
    ],
)
def test_nothing_is_run_but_the_import_that_is_named(written: Written, text: str) -> None:
    folder = written(nets=NETS, evil="import os\nos.mkdir('pwned')")
    with pytest.raises(SettingError):
        planned(text)
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        *("evil.py", "nets.py")
    ]
    assert "evil" not in sys.modules


def test_a_script_beside_a_module_of_its_name_is_itself(written: Written) -> None:
    written(
        **{
            "one/train": "from torch import nn\n\ndef Net(): return nn.Linear(3, 2)",
            "two/train": "from torch import nn\n\ndef Net(): return nn.Linear(5, 2)",
            "json": "from torch import nn\n\ndef Net(): return nn.Linear(7, 2)",
        }
    )
    shapes = [
        tuple(planned(text).batch_and_targets()[0].shape)
        for text in ("one/train.py:Net", "two/train.py:Net", "json.py:Net", "one/train.py:Net")
    ]
    assert shapes == [(8, 3), (8, 5), (8, 7), (8, 3)]
    assert Path(str(sys.modules["json"].__file__)).parent.name == "json"


def test_a_module_that_fails_is_not_kept(written: Written) -> None:
    written(fails="1 / 0")
    with pytest.raises(SettingError):
        planned("fails.py:Net")
    assert "fails" not in sys.modules


def test_what_is_installed_is_called_where_it_says_that_it_returns_a_model() -> None:
    library("torchvision")
    spec = parse("torchvision.models:resnet18(num_classes=3)")
    built = builder_of(found_in(module_of(spec, []), spec), spec)
    assert not isinstance(built, nn.Module)
    with torch.device("meta"):
        assert isinstance(built(), nn.Module)
    other = parse("torchvision.models:list_models()")
    with pytest.raises(
        SettingError, match=r"name a class of torch\.nn\.Module, or a function of yours"
    ):
        builder_of(found_in(module_of(other, []), other), other)
