"""Start real workers: processes of handler.py that serve a LocalQueue."""

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
    """A structured line of a worker's log.

    ``time``: seconds of time.monotonic() when it was read here.
    """

    name: str
    job: str | None
    time: float
    fields: Mapping[str, Any]


class WorkerProcess:
    """A worker; the end of a ``with`` block kills it and all its children.

    ``folder`` gets the log and, unless ``env`` names a bucket, the finished files.
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
        self.unstructured: list[str] = []
        """Lines on stderr that are no events."""
        self._events: list[Event] = []
        self._log = self.log_file.open("a", encoding="utf-8")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(script)],
            cwd=ROOT,
            env={**self._environment(), **(env or {})},
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

    def _environment(self) -> dict[str, str]:
        """Return this process's environment without our variables, and the worker's."""
        outer = {key: os.environ[key] for key in os.environ if not key.startswith(OURS)}
        return {
            **outer,
            **environment(self.queue, self.name),
            "ANIMATEDIFF_DEFAULT_MODEL": "shapeworld",
            "ANIMATEDIFF_OFFLINE": "1",
            "ANIMATEDIFF_OUTPUT_DIR": str(self.output),
            "OMP_NUM_THREADS": "1",  # several share the cores of one machine
            "RUNPOD_LOG_LEVEL": "INFO",
        }

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join(timeout=5)
        self._log.close()
        self.live.pop(self.name, None)

    @property
    def alive(self) -> bool:
        """Whether the main process runs."""
        return self.process.poll() is None

    def ready(self, timeout: float = 90) -> "WorkerProcess":
        """Wait until it asks for jobs. Raises TimeoutError."""

        def polls() -> bool:
            calls = self.queue.of("take", "stop", worker=self.name)
            return bool(calls) or not self.alive

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

    def events(
        self, *names: str, job: str | None = None, since: float = 0.0
    ) -> list[Event]:
        """Return log lines so far, of these names (or all) and of a job (or all).

        ``since``: seconds of time.monotonic().
        """
        recent = [event for event in list(self._events) if event.time >= since]
        if job is not None:
            recent = [event for event in recent if event.job == job]
        return [event for event in recent if not names or event.name in names]

    def until_event(
        self,
        *names: str,
        job: str | None = None,
        since: float = 0.0,
        timeout: float = 60,
    ) -> Event:
        """Wait for the first such event, and return it. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not (events := self.events(*names, job=job, since=since)):
            if time.monotonic() > deadline:
                kinds = " or ".join(names)
                raise TimeoutError(
                    f"{self.name} logged no {kinds} of job {job} in {timeout:g} s"
                )
            time.sleep(0.01)
        return events[0]

    def log(self, last: int = 4000) -> str:
        """Return the end of the log, at most ``last`` characters."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return text[-last:]

    def _read(self, stderr: TextIO) -> None:
        with stderr:
            for line in stderr:
                self._sort(line)

    def _sort(self, line: str) -> None:
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
    """Return the file of an output: from the answer, a folder or a bucket."""
    url = output["url"]
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - and file:
        return answer.read()


def _parse(line: str) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(fields["event"], fields.get("job"), time.monotonic(), fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
