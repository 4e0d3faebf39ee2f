"""What a worker does when its process is asked to end."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from animatediff.serving import shutdown as module
from animatediff.serving.shutdown import Shutdown


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_reaches_the_sdk_and_stops_the_jobs_after_a_while() -> None:
    heard: list[int] = []
    stopped, left = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    shutdown = Shutdown(0.3, stopped, lambda _code: left.set())
    shutdown.install()
    shutdown.install()  # with every job
    began = time.monotonic()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not stopped.is_set()
    assert stopped.wait(5)
    assert time.monotonic() - began >= 0.3
    assert heard == [signal.SIGTERM] * 2
    assert left.wait(5)


def test_another_thread_cannot_install_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    shutdown = Shutdown(0.1, threading.Event(), lambda _code: None)
    thread = threading.Thread(target=shutdown.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    shutdown.install()
    assert signal.getsignal(signal.SIGTERM) is not before
