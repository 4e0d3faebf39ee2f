"""A proxy in front of an S3 server that disturbs the first uploads."""

import http.client
import socket
import threading
import time
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from lab.queue.quiet_http import Quiet, QuietServer

HOP = ("connection", "content-length", "expect", "keep-alive", "transfer-encoding")
"""Headers for one connection, which a proxy does not hand on."""


class Trouble(StrEnum):
    """What happens to a PUT."""

    BUSY = "503"
    """The proxy reads it, and refuses it for now."""
    CUT = "cut"
    """The connection ends in the middle of it."""
    LOST = "lost"
    """The server stores it, and the connection ends before the answer."""
    LATE = "late"
    """The server stores it, and answers after ``TroubledServer.pause`` seconds."""


class TroubledServer:
    """Disturbs the first ``times`` PUTs, and counts all of them in ``puts``.

    Use it in a ``with`` block.
    """

    def __init__(
        self, target: str, kind: Trouble, times: int, pause: float = 0.0
    ) -> None:
        self.kind, self.left, self.pause, self.puts = kind, times, pause, 0
        self.target = urlsplit(target).netloc
        self._counting = threading.Lock()
        self._server = _Server(_Handler)
        self._server.trouble = self
        self.url = self._server.url

    def __enter__(self) -> "TroubledServer":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def next(self) -> Trouble | None:
        """Return what happens to this PUT."""
        with self._counting:
            self.puts += 1
            self.left -= 1
            return self.kind if self.left >= 0 else None


class _Server(QuietServer):
    trouble: TroubledServer


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_PUT(self) -> None:
        trouble, length = (
            self.server.trouble.next(),
            int(self.headers["Content-Length"]),
        )
        if trouble is Trouble.CUT:
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if trouble is Trouble.BUSY:
            self._answer(503, [], b"")
            return None
        answer = self._forward(body)
        if trouble is Trouble.LOST:
            return self._hang_up()
        if trouble is Trouble.LATE:
            time.sleep(self.server.trouble.pause)
        self._answer(*answer)
        return None

    def do_GET(self) -> None:
        self._answer(
            *self._forward(
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
            )
        )

    do_DELETE = do_HEAD = do_POST = do_GET  # noqa: N815 - names of the base class

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the server's answer. The client's Host is signed, so it is kept."""
        connection = http.client.HTTPConnection(self.server.trouble.target, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            return got.status, got.getheaders(), got.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
