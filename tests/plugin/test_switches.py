"""What switches checks off, what lists them, and what the plugin does without."""

from __future__ import annotations

import os
import sys

import pytest

from pytest_gradhealth.config.options import OPTIONS
from tests.helpers.projects import SUITE, run

pytestmark = pytest.mark.usefixtures("_networks")


def test_no_gradhealth_skips_at_the_first_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import assert_healthy
        from networks import Net, healthy, sick, x

        SEEN = []

        def test_fixture(gradhealth):
            SEEN.append("before")
            gradhealth.assert_healthy(sick(), x)
            SEEN.append("after")

        def test_function():
            assert_healthy(sick(), x)

        @pytest.mark.gradhealth(min_ratio=1e-4)
        def test_unused(gradhealth):
            pass

        def test_other():
            assert SEEN == ["before"]
            assert Net.forwards == 0
        """
    )
    result = run(pytester, "--no-gradhealth", "--gradhealth-report", "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "no test probed a model",
            "SKIPPED * gradient checks are switched off (--no-gradhealth)",
        ]
    )


def test_without_the_plugin_the_functions_still_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError, assert_no_vanishing
        from networks import healthy, sick, x

        def test_function():
            assert_no_vanishing(healthy(), x)
            with pytest.raises(VanishingGradientError):
                assert_no_vanishing(sick(), x)

        def test_fixture(gradhealth):
            pass
        """
    )
    result = run(pytester, "-p", "no:gradhealth")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'gradhealth' not found"])


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    text = " ".join(run(pytester, "--help").stdout.str().split())
    for flag in ("--gradhealth-report", "--no-gradhealth", *(option.flag for option in OPTIONS)):
        assert f" {flag} " in text or f" {flag}=" in text
    for key in ("gradhealth_report", *(option.key for option in OPTIONS)):
        assert f" {key} (" in text
    for option in OPTIONS:
        assert " ".join(option.help.split()) in text


def test_markers_lists_the_marker_and_strict_markers_know_it(pytester: pytest.Pytester) -> None:
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.gradhealth(*min_ratio*): *"])
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gradhealth(min_ratio=1e-4)
        def test_a():
            pass
        """
    )
    run(pytester, "--strict-markers", "--strict-config").assert_outcomes(passed=1)


def test_fixtures_lists_the_fixture_with_its_doc(pytester: pytest.Pytester) -> None:
    run(pytester, "--fixtures").stdout.fnmatch_lines(
        ["gradhealth -- *plugin/__init__.py:*", "*Gradient checks with the settings of this test."]
    )


def test_the_plugin_does_without_the_terminal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError
        from networks import healthy, sick, x

        def test_a(gradhealth):
            gradhealth.assert_healthy(healthy(), x)
            with pytest.raises(VanishingGradientError):
                gradhealth.assert_no_vanishing(sick(), x)
        """
    )
    result = run(pytester, "-p", "no:terminal", "--gradhealth-report")
    assert result.ret == pytest.ExitCode.OK


def test_warnings_as_errors_change_nothing_but_what_rules_warn_of(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_suite=SUITE)
    ours = "default::pytest_gradhealth.GradientHealthWarning"
    result = run(pytester, "-W", "error", "-W", ours, "--gradhealth-report", "--tb=no")
    result.assert_outcomes(passed=4, failed=1, xfailed=1, warnings=1)
    result.stdout.fnmatch_lines(["6 probes: 2 failure, 1 warning, 3 healthy *"])


def test_nothing_is_written_to_disk(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_suite=SUITE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    opened: list[str] = []
    recording = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if recording and event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if writes and path != os.devnull:
                opened.append(str(path))

    sys.addaudithook(hook)
    try:
        result = run(pytester, "--gradhealth-report", "-v", "--capture=sys")
        recording = False
        (pytester.path / "proof").write_text("recorded while recording")
    finally:
        recording = False
    result.assert_outcomes(passed=4, failed=1, xfailed=1)
    assert opened == []
    assert sorted(path.name for path in pytester.path.iterdir()) == [
        "networks.py",
        "proof",
        "test_suite.py",
        "tox.ini",
    ]
