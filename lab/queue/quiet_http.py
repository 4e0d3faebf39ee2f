"""Base of the tests' servers on loopback.

They do not log, report no broken connections, and do not wait for clients that left.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """A server on a free port, which has a thread from ``start`` to ``stop``."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Serve in a thread."""
        poll_interval = (0.05,)
        threading.Thread(
            target=self.serve_forever, args=poll_interval, daemon=True
        ).start()

    def stop(self) -> None:
        """End the thread and close the port."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a broken connection: workers are killed, and clients give up."""


class Quiet:
    """A mixin for BaseHTTPRequestHandler."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
