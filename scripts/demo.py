"""Run test_input.json through handler.py, as RunPod's SDK does it locally.

``python -m scripts.demo`` prints the job's output as one JSON document and then the
path of the file; the SDK's own log goes to stderr.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the job and print its output. Return the exit code of handler.py."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "output.json"
        start = time.perf_counter()
        code = _run_handler(result)
        seconds = time.perf_counter() - start
        if code or not result.is_file():
            print("The job failed; its error is in the log above.", file=sys.stderr)
            return code or 1
        output = json.loads(result.read_text(encoding="utf-8"))
    print(json.dumps(output, indent=2))
    print(_path_of(output["url"]))
    print(f"process start to end: {seconds:.1f} s", file=sys.stderr)
    return 0


def _run_handler(result: Path) -> int:
    command = [sys.executable, "handler.py", "--rp_log_level", "INFO"]
    env = {**os.environ, "ANIMATEDIFF_RESULT_FILE": str(result)}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=sys.stderr, check=False)
    return done.returncode


def _path_of(url: str) -> str:
    """Return the path of a ``file:`` URL, and any other URL as it is."""
    parts = urlsplit(url)
    return url2pathname(parts.path) if parts.scheme == "file" else url


if __name__ == "__main__":
    sys.exit(main())
