"""A bucket that takes its time: as much of S3 as an upload in one piece needs."""

import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from animatediff.serving.storage import CHECK_NAME
from lab.queue.quiet_http import Quiet, QuietServer


class SlowBucket:
    """Use it in a ``with`` block. An upload takes ``seconds``, which may be changed;
    ``objects`` have arrived whole. The worker's check at its start takes no time.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.begun: list[str] = []
        self.objects: dict[str, bytes] = {}
        self._server = _Server(_Handler)
        self._server.bucket = self

    def __enter__(self) -> "SlowBucket":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BUCKET_NAME": "clips",
            "BUCKET_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "BUCKET_SECRET_ACCESS_KEY": "not-a-secret",
            "BUCKET_ENDPOINT_URL": self._server.url,
            "BUCKET_ADDRESSING_STYLE": "path",
        }


class _Server(QuietServer):
    bucket: SlowBucket


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_PUT(self) -> None:
        key, bucket = self._key(), self.server.bucket
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if CHECK_NAME not in key:
            bucket.begun.append(key)
            time.sleep(bucket.seconds)
        bucket.objects[key] = body
        self._answer(200)

    def do_GET(self) -> None:
        body = self.server.bucket.objects.get(self._key())
        self._answer(404 if body is None else 200, body or b"")

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/clips/")

    def do_HEAD(self) -> None:
        """The bucket is there; whether an object is, is not told."""
        self._answer(200 if urlsplit(self.path).path.strip("/") == "clips" else 404)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
