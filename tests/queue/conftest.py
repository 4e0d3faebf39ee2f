"""A failed test shows the end of the log of every worker that is still open."""

from collections.abc import Generator
from typing import Any

import pytest

from lab.queue.workers import WorkerProcess


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    report = yield
    if report.failed:
        sections: list[tuple[str, Any]] = [
            (f"log of {name}", each.log()) for name, each in WorkerProcess.live.items()
        ]
        report.sections.extend(sections)
    return report
