"""The options of the plugin: settings and those of a whole run, from command line and ini file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.plugin.output import usage_error

if TYPE_CHECKING:
    from pytest_gradhealth.config.settings import Settings

BASE_SETTINGS = pytest.StashKey["Settings"]()
#: What `--gradhealth-fail-on` may name, in the order in which it is listed.
FAILING = ("regression", "layers", "missing", "stale", "warning", "not-judged")
#: Verdicts that fail no test and may fail the run, and what is said of the tests that have them.
DOUBTS = {"warning": "gradients warn in", "not judged": "nothing to judge in"}
#: The reports that are files.
FILES = {
    "json": "a JSON report",
    "html": "an HTML report",
    "markdown": "a Markdown report (appended to the file, as for a CI summary)",
    "sarif": "a SARIF 2.1.0 report",
}
#: The folder of the baselines, beside each test module.
FOLDER = "__gradhealth__"
#: The key of the models that are checked without a test, and the name of their baselines.
MODELS = "gradhealth_models"
#: What is said of those on the command line, and what of it may be given several times.
OF_MODELS = ("model", "input", "loss", "write_test")
_REPEATED = ("model", "input")
_OPTIONS = pytest.StashKey["RunOptions"]()


# Not a dataclass: to make one of those takes longer than all else in this file.
class RunOptions(NamedTuple):
    """What the command line and the ini file say of a run.

    `compare` is the JSON report of another run; `fail_on` says what fails; `files` are the
    reports to write, by kind; `write_test` is the test file to write.
    """

    folder: str
    update: bool
    prune: bool
    compare: Path | None
    fail_on: frozenset[str]
    files: Mapping[str, Path]
    write_test: Path | None

    @property
    def fatal_doubts(self) -> Sequence[str]:
        """The verdicts that fail no test, but the run."""
        return [verdict for verdict in DOUBTS if verdict.replace(" ", "-") in self.fail_on]


#: The options of a whole run: the name, what it does, the name of its value ("" for a switch) and
#: the type of its key in the ini file ("" for none).
RUN_OPTIONS: tuple[tuple[str, str, str, Literal["", "args", "bool", "string"]], ...] = (
    (
        "model",
        "check a model without a test: package.module:Net, file.py:Net(64), timm:NAME,"
        " torchvision:NAME, hf:NAME or lightning:module:Net; may be repeated",
        "SPEC",
        "",
    ),
    (
        "input",
        "inputs of --gradhealth-model: 8x3x32x32, 'input_ids=int64[4,16]<1000', or module:function"
        " that returns inputs, or inputs and targets; one for each input",
        "SHAPE",
        "",
    ),
    ("loss", "loss of --gradhealth-model: cross_entropy, mse or module:function", "LOSS", ""),
    ("write_test", "write a test file that checks the same as --gradhealth-model", "PATH", ""),
    ("report", "show the gradient profile of every model that was probed", "", "bool"),
    (
        "explain",
        "print the pages of some rules, by code or name and separated by commas, and run no test;"
        " all lists the rules",
        "RULE",
        "",
    ),
    ("off", "skip every test that checks gradients, at its first check", "", ""),
    ("update", "write new and changed baselines of the tests that pass", "", ""),
    (
        "prune",
        "remove baselines that no test has any more, after a complete run without failures",
        "",
        "",
    ),
    (
        "compare",
        "compare every probe with that of another run, from its --gradhealth-json",
        "OLD.json",
        "",
    ),
    *((kind, f"write {what} of all probes", "PATH", "") for kind, what in FILES.items()),
    (
        "fail_on",
        f"what fails the run, of {', '.join(FAILING)}, separated by commas, or none"
        " (default: regression and layers, in CI also missing)",
        "WHAT",
        "args",
    ),
    (
        "baseline_dir",
        f"name of the folder of baselines beside each test module (default: {FOLDER})",
        "NAME",
        "string",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Add all options; every default is None, so that the ini file is heard."""
    group = parser.getgroup("gradhealth", "gradient health of PyTorch models")

    def add(flag: str, key: str, text: str, value: str) -> None:
        kind: dict[str, Any] = {"metavar": value} if value else {"action": "store_true"}
        if key.removeprefix("gradhealth_") in _REPEATED:
            kind["action"] = "append"
        group.addoption(flag, default=None, dest=key, help=text, **kind)

    for name, text, value, ini in RUN_OPTIONS:
        key = f"gradhealth_{name}"
        add(flag_of(name), key, text, value)
        if ini:
            default: dict[str, Any] = {"default": None} if ini == "string" else {}
            parser.addini(key, text, ini, **default)
    parser.addini(MODELS, "models to check without a test, each with KEY=VALUE", "linelist")
    numbers = _knows_numbers()
    for option in OPTIONS:
        text = option.described
        add(option.flag, option.key, text, "" if option.is_switch else option.name.upper())
        native: Any = option.ini if numbers or option.ini in ("args", "bool") else "string"
        parser.addini(option.key, text, native, default=None)


def flag_of(name: str) -> str:
    """The option of a run as it is typed."""
    return "--no-gradhealth" if name == "off" else f"--gradhealth-{name.replace('_', '-')}"


def unknown_flags(arguments: Iterable[str]) -> list[str]:
    """Options among the arguments that look like ours and are none."""
    known = {flag_of(name) for name, *_ in RUN_OPTIONS} | {option.flag for option in OPTIONS}
    flags = (argument.partition("=")[0] for argument in arguments)
    return [flag for flag in flags if flag.startswith("--gradhealth-") and flag not in known]


def _knows_numbers() -> bool:
    """Whether this pytest reads numbers from native TOML (8.4 and later)."""
    major, minor = (int(part) for part in pytest.__version__.split(".")[:2])
    return (major, minor) >= (8, 4)


def of_models(config: pytest.Config) -> bool:
    """Whether anything is said of models that are checked without a test."""
    given = (config.getoption(f"gradhealth_{name}") for name in OF_MODELS)
    return any(one is not None for one in given) or bool(models_in_ini(config))


def models_in_ini(config: pytest.Config) -> Sequence[object]:
    """The models of the ini file; raises UsageError for what pytest cannot read as a list."""
    try:
        found: Sequence[object] = config.getini(MODELS)
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise usage_error(
            f"{MODELS} in {ini_file(config)} is no list of lines such as"
            f" 'timm:resnet18 input=8x3x64x64' ({error})"
        ) from error
    return found


def run_options(config: pytest.Config) -> RunOptions:
    """Read the options of a run once; raises UsageError that names the source."""
    options = config.stash.get(_OPTIONS, None)
    if options is None:
        files, test = _to_write(config)
        options = config.stash[_OPTIONS] = RunOptions(
            folder=_folder(config),
            update=bool(config.getoption("gradhealth_update")),
            prune=bool(config.getoption("gradhealth_prune")),
            compare=_compared(config),
            fail_on=_fail_on(config),
            files=files,
            write_test=test,
        )
    return options


def from_command_line(config: pytest.Config) -> str:
    """What the command line says of baselines, for a command that is to be typed."""
    import shlex

    folder = config.getoption("gradhealth_baseline_dir")
    told = " --gradhealth-baseline" if config.getoption("gradhealth_baseline") else ""
    return told + (f" --gradhealth-baseline-dir={shlex.quote(folder)}" if folder else "")


def ini_file(config: pytest.Config) -> str:
    """The name of the ini file, in words where there is none."""
    return config.inipath.name if config.inipath else "the ini file"


def in_ci() -> bool:
    """Whether this is a run of continuous integration, as its environment says."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def shows_report(config: pytest.Config) -> bool:
    """Whether the terminal's report is asked for; raises UsageError that names the source."""
    try:
        return bool(config.getoption("gradhealth_report") or config.getini("gradhealth_report"))
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise usage_error(f"gradhealth_report in {ini_file(config)}: {error}") from error


def annotates() -> bool:
    """Whether GitHub reads the output, which shows annotations at the lines of the tests."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def wants_probes(config: pytest.Config) -> bool:
    """Whether anybody wants all probes of the run."""
    return shows_report(config) or annotates() or bool(run_options(config).files)


def _to_write(config: pytest.Config) -> tuple[dict[str, Path], Path | None]:
    """The reports to write by kind, and the test file; raises UsageError for what cannot be."""
    if all(config.getoption(f"gradhealth_{kind}") is None for kind in (*FILES, "write_test")):
        return {}, None
    from pytest_gradhealth.plugin.paths import reports_to_write, test_to_write

    return reports_to_write(config, FILES), test_to_write(config)


def _folder(config: pytest.Config) -> str:
    given, source = _given(config, "baseline_dir")
    if given is None:
        return FOLDER
    folder = str(given)
    if not folder.strip() or Path(folder).name != folder or folder == ".." or "\0" in folder:
        raise usage_error(
            f"{source}: baseline_dir = {folder!r} is not the name of a folder, which is made beside"
            " each test module"
        )
    return folder


def _compared(config: pytest.Config) -> Path | None:
    given = config.getoption("gradhealth_compare")
    if given is None:
        return None
    from pytest_gradhealth.plugin.paths import path_of

    return path_of(config, given)


def _fail_on(config: pytest.Config) -> frozenset[str]:
    given, source = _given(config, "fail_on")
    if given is None:
        return frozenset({"regression", "layers"} | ({"missing"} if in_ci() else set()))
    parts = [given] if isinstance(given, str) else given
    names = [name.strip() for part in parts for name in str(part).split(",") if name.strip()]
    unknown = [name for name in names if name not in (*FAILING, "none")]
    if unknown or ("none" in names and len(names) > 1):
        raise usage_error(
            f"{source}: fail_on = {','.join(names)!r} is not none, or some of {', '.join(FAILING)}"
        )
    return frozenset(names) - {"none"}


def _given(config: pytest.Config, name: str) -> tuple[str | Iterable[str] | None, str]:
    """The value of the command line, else of the ini file, and the name of what it came from."""
    value = config.getoption(f"gradhealth_{name}")
    if value is not None:
        return value, flag_of(name)
    return config.getini(f"gradhealth_{name}") or None, f"gradhealth_{name} in {ini_file(config)}"


def base_settings(config: pytest.Config) -> Settings:
    """Return what command line and ini file say; raises UsageError that names the source."""
    from pytest_gradhealth.config.settings import Settings
    from pytest_gradhealth.errors import SettingError

    settings = config.stash.get(BASE_SETTINGS, None)
    if settings is None:
        try:
            from_ini = Settings().merged(*ini_values(config))
            settings = from_ini.merged(*cli_values(config))
        except SettingError as error:
            raise usage_error(str(error)) from error
        config.stash[BASE_SETTINGS] = settings
    return settings


def cli_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings given on the command line, and the options that they came from."""
    values = {option.name: config.getoption(option.key) for option in OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    return given, {option.name: option.flag for option in OPTIONS}


def ini_values(config: pytest.Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings given in the ini file, and the keys that they came from."""
    file = ini_file(config)
    given, sources = {}, {}
    for option in OPTIONS:
        sources[option.name] = f"{option.key} in {file}"
        try:
            value = config.getini(option.key)
        except (TypeError, ValueError, pytest.UsageError) as error:
            where = sources[option.name]
            raise usage_error(
                f"{where}: {option.name} is not {option.expects} ({error})"
            ) from error
        if value not in (None, "", []):
            given[option.name] = value
    return given, sources
