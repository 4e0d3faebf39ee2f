"""A host on loopback that gives files, or wastes the time of whoever asks."""

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from lab.queue.quiet_http import Quiet, QuietServer

ENDLESS = 15_000_000
"""Bytes that a slow file claims to have: few enough for a picture."""
STEADY_BYTES, STEADY_SECONDS = 10_000, 0.25


class Host(QuietServer):
    """Serves ``files`` by name, in the way that the first part of a path names.

    ``/whole/x`` is the file x; all other ways are in ``WAYS``. With ``certificate``, a
    file with a certificate and its key, it speaks https.
    """

    def __init__(
        self, files: Mapping[str, bytes], certificate: Path | None = None
    ) -> None:
        super().__init__(_Handler)
        self.files = files
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
            self.url = self.url.replace("http:", "https:")

    def __enter__(self) -> "Host":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection. Its own thread shakes hands, at the first read."""
        connection, address = super().get_request()
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: Host  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        way, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        self.close_connection = True
        with suppress(OSError):  # the client has left
            WAYS.get(way, _whole)(self, self.server.files.get(name, b""))

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def begin(self, length: int) -> None:
        """Send the head of an answer."""
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def wait_for_end(self) -> None:
        """Return when the client has left."""
        self.rfile.read(1)

    def send_slowly(self, piece: bytes, seconds: float) -> None:
        """Send ``piece`` again and again, until the client leaves."""
        while True:
            self.wfile.write(piece)
            time.sleep(seconds)


def _whole(request: _Handler, content: bytes) -> None:
    request.begin(len(content))
    if request.command == "GET":
        request.wfile.write(content)


def _byte_a_second(request: _Handler, _: bytes) -> None:
    request.begin(ENDLESS)
    request.send_slowly(b"x", 1)


def _slow_headers(request: _Handler, _: bytes) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    request.send_slowly(b"x", 1)


def _stalled(request: _Handler, _: bytes) -> None:
    request.begin(ENDLESS)
    request.wfile.write(b"x" * 100_000)
    request.wait_for_end()


def _silent(request: _Handler, _: bytes) -> None:
    request.wait_for_end()


def _steady(request: _Handler, _: bytes) -> None:
    request.begin(ENDLESS)
    request.send_slowly(b"x" * STEADY_BYTES, STEADY_SECONDS)


def _short(request: _Handler, _: bytes) -> None:
    request.begin(ENDLESS)
    request.wfile.write(b"x" * 1000)


def _round(request: _Handler, _: bytes) -> None:
    request.send_response(302)
    request.send_header("Location", request.path)
    request.send_header("Content-Length", "0")
    request.end_headers()


WAYS: Mapping[str, Callable[[_Handler, bytes], None]] = {
    "byte-a-second": _byte_a_second,
    "slow-headers": _slow_headers,
    "stalled": _stalled,
    "silent": _silent,
    "steady": _steady,
    "short": _short,
    "round": _round,
}
"""``steady`` is fast enough to go on for ever; ``short`` ends before its length."""
