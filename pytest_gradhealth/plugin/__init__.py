"""The pytest plugin: options, marker, fixture and hooks. It imports neither torch nor tabulate."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.context import entered
from pytest_gradhealth.plugin.context import CONTEXT, TestContext
from pytest_gradhealth.plugin.options import (
    add_options,
    base_settings,
    cli_values,
    ini_values,
    of_models,
    run_options,
    unknown_flags,
    wants_probes,
)
from pytest_gradhealth.plugin.output import fail

if TYPE_CHECKING:
    import warnings

    from pytest_gradhealth.plugin.fixture import GradHealth
    from pytest_gradhealth.remedies import Remedy
    from pytest_gradhealth.rules import Rule

MARKER = (
    f"gradhealth(*, {', '.join(option.name for option in OPTIONS)}): settings for the gradient"
    " checks of a test; those of the nearest marker win, key by key."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings of checks, and the options of a whole run."""
    add_options(parser)


def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """Say what was meant by misspelt options, beside what pytest says of them."""
    if unknown := unknown_flags(args):
        from pytest_gradhealth.plugin.misspelt import meant_options

        parser.extra_info.update(meant_options(unknown))


def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Stop a run whose ini file has a key that looks like ours, of which pytest only warns."""
    if issubclass(warning_message.category, pytest.PytestConfigWarning):
        from pytest_gradhealth.plugin.misspelt import refuse_unknown_key

        refuse_unknown_key(str(warning_message.message))


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hook specifications, whether or not anything is switched on."""
    from pytest_gradhealth.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, so that a bad one stops the run before it starts."""
    config.addinivalue_line("markers", MARKER)
    if cli_values(config)[0] or ini_values(config)[0]:
        base_settings(config)
    if run_options(config).compare is not None:
        from pytest_gradhealth.plugin.baseline_gate import read_compared

        read_compared(config)
    if of_models(config):
        from pytest_gradhealth.plugin.model_list import listed_models

        if listed := listed_models(config):
            from pytest_gradhealth.plugin.models import ModelSession

            config.pluginmanager.register(ModelSession(config, listed), "gradhealth-models")
    if not hasattr(config, "workerinput"):
        from pytest_gradhealth.plugin.baseline_session import Keeper
        from pytest_gradhealth.plugin.doubts import Doubts

        config.pluginmanager.register(Doubts(config), "gradhealth-doubts")
        keeper = Keeper(config)
        if wants_probes(config):
            from pytest_gradhealth.plugin.reports import Collector

            config.pluginmanager.register(Collector(config, keeper), "gradhealth-collector")
        # Last registered is first to hear of a report, and has the outcome when the other asks.
        config.pluginmanager.register(keeper, "gradhealth-keeper")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the pages of the rules that are asked for, instead of running tests."""
    asked = config.getoption("gradhealth_explain")
    if asked is None:
        return None
    from pytest_gradhealth.plugin.explain import explain

    return explain(asked, config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Lend the test's settings to the assertions in it, and let go of its models afterwards."""
    item.stash[CONTEXT] = context = TestContext(item)
    with entered(context):
        try:
            return (yield)
        finally:
            context.end(last=nextitem is None)
            del item.stash[CONTEXT]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Report a bad marker on the test that has it, used or not."""
    context = item.stash.get(CONTEXT, None)
    if context is not None:
        context.start()
    if context is None or item.get_closest_marker("gradhealth") is None:
        return
    from pytest_gradhealth.errors import SettingError

    problem = ""
    try:
        _ = context.settings
    except SettingError as error:
        problem = str(error)
    if problem:
        fail(problem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Compare what a test has probed with its baselines, once it has passed by itself."""
    context = item.stash.get(CONTEXT, None)
    before = 0 if context is None else len(context.recorded)
    try:
        result = yield
    finally:
        for record in () if context is None else context.recorded[before:]:
            record.of_fixture = False
    if context is not None:
        _warn(context)
    if context is not None and len(context.recorded) > before:
        from pytest_gradhealth.errors import ProbeError
        from pytest_gradhealth.plugin.baseline_gate import compare_all

        text = ""
        try:
            text = "\n\n".join(filter(None, compare_all(context)))
        except ProbeError as error:
            text = str(error)
        if text:
            context.failed_for = text
            fail(text)
    return result


def _warn(context: TestContext) -> None:
    """Warn of what was probed and not judged; fail the test where a filter makes errors of that."""
    text = ""
    try:
        context.warn_of_unjudged()
    except Exception as error:
        from pytest_gradhealth.errors import GradientHealthWarning

        if not isinstance(error, GradientHealthWarning):
            raise
        text = f"GradientHealthWarning: {error}"
    if text:
        fail(text)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Keep the checks of a body and those of a teardown apart; either may be run again."""
    context = item.stash.get(CONTEXT, None)
    if context is None:
        return (yield)
    context.move_on()
    try:
        return (yield)
    finally:
        context.move_on()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what failed on a test's reports, and its probes on the last if anyone will read them."""
    report = yield
    context = item.stash.get(CONTEXT, None)
    if call.excinfo is not None and context is not None:
        context.note_failure(report, call.excinfo.value)
    if context is not None and report.when == "call":
        context.note_warnings(report)
    if context is not None and report.when == "teardown":
        if context.recorded and item.config.getoption("xmlpath", None):
            report.user_properties += context.properties()
        context.hand_over(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Note whether tests are left out, by whatever option or plugin, said or unsaid."""
    before = len(items)
    result = yield
    if len(items) < before:
        from pytest_gradhealth.plugin.transport import LEFT_OUT

        config.stash[LEFT_OUT] = True
        if hasattr(config, "workeroutput"):
            config.workeroutput["gradhealth_left_out"] = True
    return result


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the controller know where the modules of this worker's tests are."""
    if hasattr(session.config, "workeroutput"):
        from pytest_gradhealth.plugin.baseline_session import modules_of

        session.config.workeroutput["gradhealth_modules"] = modules_of(session.items)


def pytest_gradhealth_rules() -> Sequence[Rule]:
    """The package's own rules, registered like anyone's."""
    from pytest_gradhealth.rules import built_in_rules

    return built_in_rules()


def pytest_gradhealth_remedies() -> Sequence[Remedy]:
    """The package's own remedies, registered like anyone's."""
    from pytest_gradhealth.remedies import built_in_remedies

    return built_in_remedies()


@pytest.fixture
def gradhealth() -> GradHealth:
    """Gradient checks with the settings of this test.

    gradhealth.assert_no_vanishing(model, images, labels, loss=cross_entropy)
    """
    from pytest_gradhealth.plugin.fixture import GradHealth

    return GradHealth()
