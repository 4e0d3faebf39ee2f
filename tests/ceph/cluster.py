"""A Ceph cluster on loopback: one monitor, one OSD that keeps everything in memory, and
the RADOS gateway, Ceph's S3.

Debian's packages, see install.sh; nothing of Ceph that the machine has itself, neither
configuration nor keys, is read.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.queue.s3_server import S3Server

PROGRAMS = (
    "ceph",
    "ceph-authtool",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
    "setpriv",
)
READY_SECONDS = 60
"""For any one step of the start; all together take about 12."""
CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
log to stderr = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

[mon]
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon initial members = a
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000

[osd]
osd data = {folder}/osd
osd objectstore = memstore
osd class update on start = false
memstore device bytes = 1073741824

[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw thread pool size = 16
rgw run sync thread = false
rgw enable usage log = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw override bucket index max shards = 1
"""
KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
}
"""Who there is, and what of which service each may do."""


class Cluster:
    """The processes and what they share, below ``folder``. ``stop`` ends all that was
    started.
    """

    def __init__(self, folder: Path) -> None:
        missing = [name for name in PROGRAMS if not shutil.which(name)]
        if missing:
            raise OSError(
                f"{', '.join(missing)} not found: tests/ceph/install.sh, or make"
                f" test-ceph, installs Ceph"
            )
        self.folder, self._fsid = folder, str(uuid.uuid4())
        self._mon_port, self._rgw_port = free_ports(2)
        self._config = folder / "ceph.conf"
        self._config.write_text(
            CONFIG.format(
                folder=folder,
                fsid=self._fsid,
                mon_port=self._mon_port,
                rgw_port=self._rgw_port,
            )
        )
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.server = S3Server(f"http://127.0.0.1:{self._rgw_port}")

    def start(self) -> None:
        """All of it, until the gateway answers. Raises OSError with what was said at
        the end.
        """
        self._start_monitor()
        self._start_osd()
        self.add_user("owner", self.server.access_key, self.server.secret_key)
        self._daemon("radosgw", "--name=client.rgw")
        self._until(self._answers, "the gateway")

    def stop(self) -> None:
        """Killed: Ceph takes its time over SIGTERM, and there is nothing to be kept."""
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """A user of the gateway with these keys. Raises OSError."""
        keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        self._ask(
            "radosgw-admin",
            "--name=client.rgw",
            "user",
            "create",
            f"--uid={name}",
            "--display-name=x",
            *keys,
        )

    def _start_monitor(self) -> None:
        keyring, map_file = str(self.folder / "keyring"), str(self.folder / "monmap")
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, may in KEYS.items():
            caps = [
                word
                for service, what in may.items()
                for word in ("--cap", service, what)
            ]
            self._run("ceph-authtool", keyring, "--gen-key", f"--name={name}", *caps)
        address = f"[v2:127.0.0.1:{self._mon_port}/0]"
        self._run(
            "monmaptool",
            "--create",
            f"--fsid={self._fsid}",
            "--addv",
            "a",
            address,
            map_file,
        )
        self._ask(
            "ceph-mon",
            "--mkfs",
            "--id=a",
            f"--monmap={map_file}",
            f"--keyring={keyring}",
        )
        self._daemon("ceph-mon", "--id=a")

    def _start_osd(self) -> None:
        (self.folder / "osd").mkdir()
        name = str(uuid.uuid4())
        self._ask("ceph", "--connect-timeout=30", "osd", "new", name)
        self._ask("ceph-osd", "--mkfs", "--id=0", f"--osd-uuid={name}")
        self._daemon("ceph-osd", "--id=0")
        self._until(self._osd_is_up, "the OSD")

    def _osd_is_up(self) -> bool:
        return (
            json.loads(self._ask("ceph", "osd", "stat", "--format=json"))["num_up_osds"]
            == 1
        )

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._rgw_port)) == 0

    def _daemon(self, program: str, name: str) -> None:
        """Start it, so that it ends with this process, however that ends."""
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            program,
            "--foreground",
            f"--conf={self._config}",
            name,
        ]
        with (self.folder / f"{program}.out").open("wb") as out:
            self._daemons[program] = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment()
            )

    def _ask(self, program: str, *arguments: str) -> str:
        """What a program says about, or does to, this cluster."""
        return self._run(program, f"--conf={self._config}", *arguments)

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=READY_SECONDS,
            check=False,
        )
        if done.returncode:
            raise OSError(
                f"{command[0]} ended with {done.returncode}:"
                f" {done.stderr.strip()[-1000:]}"
            )
        return done.stdout

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            ended = [
                program
                for program, daemon in self._daemons.items()
                if daemon.poll() is not None
            ]
            if ended or time.monotonic() > deadline:
                files = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
                message = {
                    path.name: path.read_text(errors="replace")[-1000:]
                    for path in files
                }
                raise OSError(f"{what} is not ready; ended: {ended}; {message}")
            time.sleep(0.1)


def environment() -> dict[str, str]:
    """This process's, without what would lead Ceph to another cluster or its tools to
    another Python's modules.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CEPH_", "PYTHON"))
    }


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def ceph_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that runs in ``folder`` until the end of the block. Raises OSError."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
