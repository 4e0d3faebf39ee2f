"""Threads that can be left behind."""

import subprocess
import sys
import threading
import time

import pytest

from animatediff.threads import Threads


def test_work_is_done_on_the_threads_and_its_result_or_error_returned() -> None:
    threads = Threads(2, "some")
    names = [threads.submit(lambda: threading.current_thread().name) for _ in range(9)]
    assert {name.result(5) for name in names} == {"some"}
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(5)
    assert threads.submit(lambda: 3).result(5) == 3


def test_no_more_work_at_once_than_threads() -> None:
    threads, running, most = Threads(2, "some"), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    for each in [threads.submit(work) for _ in range(8)]:
        each.result(5)
    assert most == [2]


def test_work_that_did_not_begin_can_be_cancelled() -> None:
    threads, go_on = Threads(1, "one"), threading.Event()
    first = threads.submit(lambda: go_on.wait(5))
    second = threads.submit(lambda: 2)
    assert second.cancel()
    go_on.set()
    assert first.result(5)
    assert threads.submit(lambda: 3).result(5) == 3


def test_abandoned_work_leaves_its_place_to_others() -> None:
    threads, go_on = Threads(1, "one"), threading.Event()
    hanging = [threads.submit(lambda: go_on.wait(20)) for _ in range(3)]
    for work in hanging:
        while not work.running():
            time.sleep(0.001)
        threads.abandon(work)
        threads.abandon(work)
    assert threads.submit(lambda: 1).result(5) == 1
    go_on.set()
    assert all(work.result(5) for work in hanging)
    threads.abandon(hanging[0])
    order: list[int] = []
    for number in range(5):
        threads.submit(lambda number=number: order.append(number))
    threads.submit(lambda: None).result(5)
    assert order == [0, 1, 2, 3, 4]  # still one thread


def test_a_process_does_not_wait_for_them() -> None:
    code = (
        "import time; from animatediff import threads; threads.END_SECONDS = 0.5;"
        "threads.Threads(1, 'x').submit(lambda: time.sleep(60)); time.sleep(0.1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.mark.slow
def test_a_process_lets_native_code_end() -> None:
    code = (
        "import time, torch; from animatediff.threads import Threads; f = torch.rand;"
        "Threads(1, 'x').submit(lambda: [f(900, 900) @ f(900, 9) for _ in range(40)]);"
        "time.sleep(0.1)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0
