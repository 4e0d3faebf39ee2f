"""Children answer calls, stay within their limits, and never outlive their job."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from animatediff.errors import JobCancelled
from animatediff.progress import Check
from animatediff.sandbox import ChildFailed, Limits, Sandbox, run

pytestmark = pytest.mark.slow

FUNCTIONS = "tests.sandbox.functions"
MOST = 1 << 20


def sandbox(name: str, **limits: float) -> Sandbox:
    return Sandbox(f"{FUNCTIONS}:{name}", Limits(**limits))  # pyright: ignore


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def cancel_after(seconds: float) -> Check:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise JobCancelled("the job was cancelled")

    return check


def test_one_child_answers_all_calls() -> None:
    content = bytes(range(256)) * 40_000  # far more than a socket holds
    with sandbox("double") as box:
        first, twice = box.call({"x": 3}, content, most=2 * len(content))
        second, nothing = box.call({"x": 4}, b"", most=0)
    assert (first["twice"], second["twice"]) == (6, 8)
    assert (twice, nothing) == (content * 2, b"")
    assert first["pid"] == second["pid"]
    assert not is_running(first["pid"])


def test_a_child_has_no_secrets_and_no_heavy_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "hush")
    with sandbox("tell") as box:
        known = json.loads(box.call({}, b"", most=MOST)[1])
    assert "BUCKET_SECRET_ACCESS_KEY" not in known["variables"]
    assert not {"torch", "numpy", "pydantic"} & set(known["modules"])


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("sleep", {"seconds": 0.3}, "took longer than 0.3 s"),
        ("compute", {"cpu_seconds": 1}, "took longer than 1 s of computing"),
        ("allocate", {"memory_bytes": 300_000_000}, "needed more than 300 MB"),
        ("crash", {}, "crashed"),
        ("fail", {}, "crashed"),
        ("babble", {}, "gave a damaged answer"),
    ],
)
def test_a_failed_call_says_why_and_the_next_one_has_another_child(
    name: str, limits: dict, reason: str
) -> None:
    with sandbox(name, **limits) as box:
        for _ in range(2 if name == "crash" else 1):
            with pytest.raises(ChildFailed, match=f"^{reason}$"):
                box.call({"bytes": 1_000_000_000}, b"", most=MOST)


def test_an_answer_has_a_largest_size() -> None:
    with sandbox("double") as box, pytest.raises(ChildFailed, match="damaged answer"):
        box.call({"x": 1}, b"12345", most=9)


def test_a_cancel_ends_the_call_and_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    box = sandbox("sleep_beside_a_grandchild", seconds=60)
    start = time.monotonic()
    with box, pytest.raises(JobCancelled):
        box.call({"path": str(path)}, b"", most=0, check=cancel_after(1))
    assert time.monotonic() - start < 3
    pids = [int(pid) for pid in path.read_text().split()]
    assert len(pids) == 2
    assert wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_dies_with_the_worker(number: int, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    program = f"""
        from animatediff.sandbox import Limits, Sandbox
        with Sandbox("{FUNCTIONS}:sleep_beside_a_grandchild", Limits()) as box:
            box.call({{"path": {str(path)!r}}}, b"", most=0)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    assert wait_until(lambda: path.exists() and path.read_text().count(" ") == 1, 20)
    child = int(path.read_text().split()[0])
    worker.send_signal(number)
    worker.wait()
    assert wait_until(lambda: not is_running(child))
    os.kill(int(path.read_text().split()[1]), signal.SIGKILL)


def test_a_command_gets_its_input_and_gives_its_output(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    done = run(
        ["sh", "-c", "cat; pwd >&2; exit 3"], Limits(), stdin=content, folder=tmp_path
    )
    assert (done.status, done.stdout) == (3, content)
    assert done.stderr.decode().strip() == str(tmp_path)


def test_a_command_may_read_its_input_late() -> None:
    content = bytes(1 << 20)
    done = run(["sh", "-c", "sleep 0.4; cat"], Limits(seconds=30), stdin=content)
    assert done.stdout == content
    assert run(["true"], Limits(), stdin=content).status == 0


def test_a_command_is_killed_at_its_limit() -> None:
    with pytest.raises(ChildFailed, match=r"^took longer than 0\.2 s$"):
        run(["sleep", "60"], Limits(seconds=0.2))


def test_a_command_is_killed_by_a_cancel(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $$ $! > '{tmp_path}/pids'; wait"
    with pytest.raises(JobCancelled):
        run(["sh", "-c", script], Limits(), check=cancel_after(0.5))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], Limits())


def test_a_command_has_limits() -> None:
    done = run(["sh", "-c", "ulimit -v; ulimit -c; ulimit -t"], Limits(None, 7, 10**8))
    assert done.stdout.split() == [b"97656", b"0", b"7"]
