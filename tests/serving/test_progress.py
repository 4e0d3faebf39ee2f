import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from animatediff.serving.progress import BarProgress, ThrottledProgress


def test_updates_are_throttled_and_none_is_sent_at_the_end() -> None:
    sent: list[dict] = []
    now = [0.0]
    with ThreadPoolExecutor(1) as pool:
        progress = ThrottledProgress(sent.append, pool, clock=lambda: now[0])
        for step in range(1, 26):
            now[0] += 0.3
            progress(step, 25)
            pool.submit(lambda: None).result()  # the update is through
        progress.close()
    assert [update["step"] for update in sent] == [4, 8, 12, 16, 20, 24]
    assert sent[0] == {"step": 4, "total": 25, "seconds_left": 6.3}


def test_close_waits_for_the_update_under_way_and_ends_it_all() -> None:
    events: list[Any] = []
    go_on = threading.Event()
    now = [0.0]

    def send(update: dict[str, Any]) -> None:
        go_on.wait(5)
        events.append(update["step"])

    with ThreadPoolExecutor(1) as pool:
        progress = ThrottledProgress(send, pool, clock=lambda: now[0])
        for step in (1, 2, 3):  # the first is slow, so the next two are left out
            now[0] += 2
            progress(step, 9)
        threading.Timer(0.1, go_on.set).start()
        progress.close()
        events.append("closed")
        now[0] += 2
        progress(4, 9)
    assert events == [1, "closed"]


def test_bar_ends_with_the_job(capsys) -> None:
    bar = BarProgress()
    for step in (1, 2, 3):
        bar(step, 3)
    bar.close()
    assert "3/3" in capsys.readouterr().err
