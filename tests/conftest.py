"""What all tests share: a clean environment, and an honest count of what could not be tested here."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Timing decides no test: this machine may be busy with something else.
settings.register_profile("modelmill", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("modelmill")

_MISSING = "optional component missing: "


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Let no setting of the developer's own reach a test."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("MODELMILL_")}
    for name in kept:
        del os.environ[name]
    yield
    os.environ.update(kept)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """End a limit on files with the test that set it: the report may go to a file, and would not fit either."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, before))


def pytest_xdist_auto_num_workers() -> int:
    """Run half as many processes again as there are processors: a journey waits for its commands a third of its time."""
    return (os.cpu_count() or 1) * 3 // 2


def missing_components(reporter: pytest.TerminalReporter) -> dict[str, int]:
    """Return the components that tests were skipped for, and how many tests each."""
    found: dict[str, int] = {}
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, marker, component = reason.partition(_MISSING)
        if marker:
            found[component] = found.get(component, 0) + 1
    return found


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say which optional components were missing, before the last line."""
    yield
    for component, tests in missing_components(terminalreporter).items():
        terminalreporter.write_line(f"{_MISSING}{component} ({tests} tests skipped)", yellow=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail when a component that MODELMILL_REQUIRE names was missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    required = {name.strip() for name in _REQUIRED.split(",") if name.strip()}
    lacking = required & missing_components(reporter).keys() if reporter else set()
    if lacking and reporter:
        reporter.write_line(f"required, but missing: {', '.join(sorted(lacking))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_REQUIRED = os.environ.get("MODELMILL_REQUIRE", "")
