"""Run test_input.json through handler.py, as RunPod's SDK does it locally: python -m
scripts.demo

Prints the job's output as one JSON document and then the path of the file; the SDK's
own log goes to stderr.
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
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "output.json"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "handler.py", "--rp_log_level", "INFO"],
            cwd=ROOT,
            env={**os.environ, "ANIMATEDIFF_RESULT_FILE": str(result)},
            stdout=sys.stderr,
            check=False,
        )
        seconds = time.perf_counter() - start
        if done.returncode != 0 or not result.is_file():
            print("The job failed; its error is in the log above.", file=sys.stderr)
            return done.returncode or 1
        output = json.loads(result.read_text(encoding="utf-8"))
    print(json.dumps(output, indent=2))
    url = urlsplit(output["url"])
    print(url2pathname(url.path) if url.scheme == "file" else output["url"])
    print(f"process start to end: {seconds:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
