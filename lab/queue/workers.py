"""Real workers: handler.py in processes of their own, told by their environment to
serve a LocalQueue.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

from lab.queue.local_queue import LocalQueue, environment

ROOT = Path(__file__).resolve().parents[2]
OURS = ("ANIMATEDIFF_", "BUCKET_", "RUNPOD_")


@dataclass(frozen=True)
class Event:
    """A structured line of a worker's log. ``time`` is when it was read here, of
    time.monotonic().
    """

    name: str
    job: str | None
    time: float
    fields: Mapping[str, Any]


class WorkerProcess:
    """A worker from its start on. At the end of a ``with`` block it and all its
    children are killed.

    ``folder`` gets its log and, unless ``env`` names a bucket, its finished files.
    Models are the embedded family's.
    """

    live: ClassVar[dict[str, "WorkerProcess"]] = {}
    """Workers that were not closed yet, for the report of a failed test."""

    def __init__(
        self,
        queue: LocalQueue,
        folder: Path,
        name: str,
        env: Mapping[str, str] | None = None,
        script: Path = ROOT / "handler.py",
    ) -> None:
        self.queue, self.name = queue, name
        self.output = folder / "outputs"
        self.log_file = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(OURS)
        }
        self.unstructured: list[str] = []
        """Lines on stderr that are no events."""
        self._events: list[Event] = []
        self._log = self.log_file.open("a", encoding="utf-8")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(script)],
            cwd=ROOT,
            env={
                **kept,
                **environment(queue, name),
                "ANIMATEDIFF_DEFAULT_MODEL": "shapeworld",
                "ANIMATEDIFF_OFFLINE": "1",
                "ANIMATEDIFF_OUTPUT_DIR": str(self.output),
                "OMP_NUM_THREADS": "1",  # several share the cores of one machine
                "RUNPOD_LOG_LEVEL": "INFO",
                **(env or {}),
            },
            stdout=self._log,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(
            target=self._read, args=(self.process.stderr,), daemon=True
        )
        self._reader.start()
        self.live[name] = self

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join(timeout=5)
        self._log.close()
        self.live.pop(self.name, None)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ready(self, timeout: float = 90) -> "WorkerProcess":
        """Wait until it asks for jobs. Raises TimeoutError."""
        seen: list[Any] = []

        def polls() -> bool:
            seen[:] = self.queue.of("take", "stop", worker=self.name)
            return bool(seen) or not self.alive

        with self._shown():
            self.queue.until(polls, timeout, f"{self.name} to ask for a job")
            assert self.alive, f"{self.name} ended at its start"
        return self

    def kill(self) -> None:
        """SIGKILL to it and to all its children, as when the container is lost."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM to its main process, as when a container is stopped."""
        self.process.terminate()

    def wait(self, timeout: float = 60) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)

    def memory(self) -> int | None:
        """Resident bytes of the main process; None if it is gone."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        return next(
            (
                int(line.split()[1]) * 1024
                for line in text.splitlines()
                if line.startswith("VmRSS:")
            ),
            None,
        )

    def events(
        self, *names: str, job: str | None = None, since: float = 0.0
    ) -> list[Event]:
        """Structured log lines so far, of these names (or all), of a job (or all)."""
        found = list(self._events)
        return [
            e
            for e in found
            if (not names or e.name in names)
            and job in (None, e.job)
            and e.time >= since
        ]

    def until_event(
        self,
        *names: str,
        job: str | None = None,
        since: float = 0.0,
        timeout: float = 60,
    ) -> Event:
        """The first such event, as soon as there is one. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not (found := self.events(*names, job=job, since=since)):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.name} logged no {' or '.join(names)} of job {job} in"
                    f" {timeout:g} s"
                )
            time.sleep(0.01)
        return found[0]

    def log(self, last: int = 4000) -> str:
        """The end of its log, at most ``last`` characters."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")[-last:]

    def _read(self, stderr: TextIO) -> None:
        for line in stderr:
            event = _parse(line)
            if event is None:
                self.unstructured.append(line)
            else:
                self._events.append(event)
            with contextlib.suppress(ValueError):  # closed
                self._log.write(line)
                self._log.flush()

    @contextlib.contextmanager
    def _shown(self) -> Any:
        try:
            yield
        except (AssertionError, TimeoutError) as error:
            raise type(error)(f"{error}\n{self.log()}") from None


def content_of(output: Mapping[str, Any]) -> bytes:
    """The file that an output's URL stands for, whether it is in the answer, in a
    folder or in a bucket.
    """
    with urllib.request.urlopen(output["url"], timeout=30) as answer:
        return answer.read()


def _parse(line: str) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(fields["event"], fields.get("job"), time.monotonic(), fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
