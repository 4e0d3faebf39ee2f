"""A host on loopback that answers in any way, with pauses anywhere."""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from lab.hostile.certificates import make_certificate

Step = bytes | float
"""Bytes that the host sends, or seconds that it pauses."""
_PIECES = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 302 Found\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 503 Busy\r\n",
    b"Location: /next\r\n",
    b"Content-Length: 10\r\n",
    b"Content-Length: 100000000\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"ETag: x\r\n",
    b"\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"x" * 10_000,
)
_HEADS = st.sampled_from((b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n"))
_STEPS = st.one_of(
    st.sampled_from(_PIECES), st.binary(max_size=40), st.floats(0.0, 0.5)
)
SCRIPTS = st.builds(lambda head, steps: [head, *steps], _HEADS, st.lists(_STEPS))


class SlowHost:
    """Follows ``script`` on every connection, then holds or closes it.

    It speaks https, or http if it ``is_plain``.
    """

    def __init__(self, folder: Path, is_plain: bool = False) -> None:
        self._is_plain = is_plain
        self.certificate = make_certificate(folder)
        self.script: Sequence[Step] = ()
        self.holds = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            steps, holds = list(self.script), self.holds
            threading.Thread(
                target=self._answer, args=(connection, steps, holds), daemon=True
            ).start()

    def _answer(
        self, connection: socket.socket, steps: Sequence[Step], holds: bool
    ) -> None:
        try:
            with self._wrapped(connection) as tls:
                tls.recv(10_000)
                for step in steps:
                    if isinstance(step, bytes):
                        tls.sendall(step)
                    else:
                        time.sleep(step)
                if holds:
                    tls.recv(1)
        except OSError:
            pass  # the client has left

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        if self._is_plain:
            return connection
        return self._context.wrap_socket(connection, server_side=True)
