"""Renew the locks of the image's dependencies: python -m scripts.lock (make lock).

A lock has the version and the sha256 of every package, direct or transitive, that pip
chooses on the public index for the image's platform. Nothing is downloaded but the
packages' metadata.
"""

import json
import os
import platform
import re
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
    """Return the pins in requirements files; of one package the last pin counts."""
    rows: dict[str, str] = {}
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        for line in text.splitlines():
            name, mark, _ = line.partition("==")
            if mark and not line.startswith("#"):
                rows[name] = line
    return list(rows.values())


def resolve(requirements: list[str]) -> list[dict[str, Any]]:
    """Return the packages that pip would install into an empty environment.

    They have the form of its installation report. Raises SystemExit if pip fails.
    """
    options = ["--isolated", "--no-input", "--dry-run", "--ignore-installed"]
    options += ["--quiet", "--only-binary", ":all:"]
    if certificates := os.environ.get("PIP_CERT"):
        options += ["--cert", certificates]
    pip = [sys.executable, "-m", "pip", "install"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [*pip, *options, "--report", str(path), *requirements]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise SystemExit("pip could not resolve the requirements, see above")
        report = json.loads(path.read_text(encoding="utf-8"))
    return report["install"]


def locked(packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each package, in the order of the names."""
    for package in sorted(packages, key=name_of):
        version = package["metadata"]["version"]
        archive = package["download_info"]["archive_info"]
        sha256 = archive["hashes"]["sha256"]
        yield f"{name_of(package)}=={version} --hash=sha256:{sha256}"


def name_of(package: Mapping[str, Any]) -> str:
    """Return the package's name in lower case with dashes."""
    name: str = package["metadata"]["name"]
    return re.sub(r"[_.]", "-", name.lower())


def main() -> int:
    """Write all locks. Raises SystemExit on another platform than the image's."""
    here = (platform.system(), platform.machine(), "{}.{}".format(*sys.version_info))
    if here != IMAGE:
        raise SystemExit(f"run this on {' '.join(IMAGE)}, not on {' '.join(here)}")
    for name, paths in LOCKS.items():
        packages = resolve(pins(paths))
        header = HEADER.format(sources=" and ".join(paths))
        lines = "\n".join(locked(packages))
        (ROOT / name).write_text(f"{header}{lines}\n", encoding="utf-8")
        print(f"{name}: {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
