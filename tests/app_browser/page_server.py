"""The page as a process of its own, in its own environment."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-app" / "bin" / "python"
START_SECONDS = 120
_OURS = ("ANIMATEDIFF_", "BUCKET_", "RUNPOD_", "GRADIO_", "OMP_")


class PageServer:
    """``app.py`` with ``options``, whose clips are in ``folder``.

    The end of a ``with`` block ends it.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.outputs = folder / "outputs"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "page.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(PYTHON), "-u", "app.py", "--port", str(self.port), *options],
            cwd=ROOT,
            env={**self._environment(), **(env or {})},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _environment(self) -> dict[str, str]:
        outer = {key: os.environ[key] for key in os.environ if not _is_ours(key)}
        return {
            **outer,
            "ANIMATEDIFF_DEFAULT_MODEL": "shapeworld",
            "ANIMATEDIFF_OFFLINE": "1",
            "ANIMATEDIFF_OUTPUT_DIR": str(self.outputs),
            "ANIMATEDIFF_CACHE_DIR": str(self.folder / "cache"),
            "GRADIO_TEMP_DIR": str(self.folder / "uploads"),
            "OMP_NUM_THREADS": "2",
        }

    def ready(self) -> "PageServer":
        """Wait until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            try:
                requests.get(self.url, timeout=5)
            except requests.ConnectionError:
                time.sleep(0.2)
            else:
                return self

    def log(self) -> str:
        """Return what it has printed."""
        self._log.flush()
        return (self.folder / "page.log").read_text(encoding="utf-8")

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _is_ours(variable: str) -> bool:
    return variable.startswith(_OURS)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
