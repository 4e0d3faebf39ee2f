"""Renew the locks of the image's dependencies: python -m scripts.lock (make lock).

A lock has the version and the sha256 of every package, direct or transitive, that pip
chooses on the public index for the image's platform. Nothing is downloaded but the
packages' metadata.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ("Linux", "x86_64", "3.11")
"""The platform of the image: system, machine, Python."""
LOCKS: Mapping[str, tuple[str, ...]] = {
    "requirements.lock": ("requirements.txt",),
    "requirements-cuda12.8.lock": ("requirements.txt", "requirements-cuda12.8.txt"),
}
"""Each lock, and the files with its pins; a later file replaces pins of the first."""
HEADER = """\
# Written by make lock from {sources}; do not edit.
# Versions and hashes of all packages in the image: Linux on x86-64, Python 3.11.
"""


def pins(paths: tuple[str, ...]) -> list[str]:
    """The pins in several requirements files; of one package the last pin counts."""
    rows: dict[str, str] = {}
    for path in paths:
        for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                rows[line.partition("==")[0]] = line
    return list(rows.values())


def resolve(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install into an empty environment, by its installation report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--isolated", "--no-input", "--dry-run", "--ignore-installed"]
        options += ["--quiet", "--only-binary", ":all:", "--report", str(report)]
        if certificates := os.environ.get("PIP_CERT"):
            options += ["--cert", certificates]
        command = [sys.executable, "-m", "pip", "install", *options, *requirements]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise SystemExit("pip could not resolve the requirements, see above")
        return json.loads(report.read_text(encoding="utf-8"))["install"]


def locked(packages: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each package, in the order of the names."""
    for package in sorted(packages, key=name_of):
        version = package["metadata"]["version"]
        sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
        yield f"{name_of(package)}=={version} --hash=sha256:{sha256}"


def name_of(package: Mapping[str, Any]) -> str:
    """The package's name in lower case with dashes."""
    return package["metadata"]["name"].lower().replace("_", "-").replace(".", "-")


def main() -> int:
    """Write all locks. Raises SystemExit on another platform than the image's."""
    here = (platform.system(), platform.machine(), "{}.{}".format(*sys.version_info))
    if here != IMAGE:
        raise SystemExit(f"run this on {' '.join(IMAGE)}, not on {' '.join(here)}")
    for name, paths in LOCKS.items():
        lines = list(locked(resolve(pins(paths))))
        text = HEADER.format(sources=" and ".join(paths)) + "\n".join(lines) + "\n"
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
