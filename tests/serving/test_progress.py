from animatediff.serving.progress import BarProgress, ThrottledProgress


def test_updates_are_throttled_and_none_is_sent_at_the_end() -> None:
    sent: list[dict] = []
    now = [0.0]
    progress = ThrottledProgress(sent.append, clock=lambda: now[0])
    for step in range(1, 26):
        now[0] += 0.3
        progress(step, 25)
    assert [update["step"] for update in sent] == [4, 8, 12, 16, 20, 24]
    assert sent[0] == {"step": 4, "total": 25, "seconds_left": 6.3}


def test_bar_ends_with_the_job(capsys) -> None:
    bar = BarProgress()
    for step in (1, 2, 3):
        bar(step, 3)
    assert "3/3" in capsys.readouterr().err
