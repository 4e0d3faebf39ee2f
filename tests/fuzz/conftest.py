"""The number of fuzz cases, their seed, the service under test, and a summary.

Without a seed the cases are the same every time. ``--cases`` is the total number for
all tests.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.service import TALLY, Service


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases", type=int, default=5000, help="total number of fuzz cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile(
        "fuzz",
        max_examples=config.getoption("--cases"),
        derandomize=config.getoption("--hypothesis-seed") is None,
        database=None,
        deadline=None,
        # The check times the drawing of cases, which waits for files that are created
        # once.
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("fuzz")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = sum(sum(codes.values()) for codes in TALLY.values())
    terminalreporter.section(f"{total} fuzz cases")
    for group, codes in TALLY.items():
        counts = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        terminalreporter.line(f"{group}: {sum(codes.values())} ({counts})")


_look_up, _connect = socket.getaddrinfo, socket.socket.connect


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Make every host lookup and connection an error that no job may report."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the service tried to reach a host")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@contextmanager
def reachable(certificate: Path) -> Iterator[None]:
    """Allow connections to the host with this certificate, which is on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", _look_up)
        patch.setattr(socket.socket, "connect", _connect)
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        yield


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("service")
    service = Service(folder)
    with service.log_checked():
        yield service
