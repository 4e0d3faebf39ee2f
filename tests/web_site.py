"""A web site and a hub on loopback, for the tests of what fetches from them."""

import hashlib
import json
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _detect_agent, _http

from animatediff.errors import AssetError
from animatediff.fetch.rules import DownloadRules

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = "s3cr3tsignature"


@dataclass
class Answer:
    """``length``: None for the true one, -1 for no such header. ``hook`` runs when half
    of the body was sent. ``drips`` "head" or "body" is sent a byte at a time, 50 a
    second, until the client leaves.
    """

    body: bytes = CONTENT
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    hook: Callable[[], object] = lambda: None
    drips: str = ""


class Site(ThreadingHTTPServer):
    """Answers by path; of several answers each is given once, the last for ever.
    Remembers what it was asked.
    """

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = context
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.left = threading.Event()
        """Set when a client leaves a server that drips."""
        self.lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        if (
            self.context
        ):  # shakes hands in the thread of its handler, at the first byte that is read
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""

    def url(self, path: str = "/file.bin", host: str = "127.0.0.1") -> str:
        return (
            f"{'https' if self.context else 'http'}://{host}:{self.server_port}{path}"
        )

    def gives(self, *answers: Answer, path: str = "/file.bin") -> str:
        self.answers[path] = list(answers)
        return self.url(path)

    def next_answer(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        with self.lock:
            self.asked.append((method, path, headers))
            answers = self.answers.get(path.partition("?")[0], [Answer(b"", 404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.next_answer(self.command, self.path, headers)
        if (
            "ETag" in answer.headers
            and headers.get("if-none-match") == answer.headers["ETag"]
        ):
            answer = replace(answer, status=304, body=b"")
        if answer.drips:
            self._drip(answer)
            return
        self.send_response(answer.status)
        for name, value in {"Connection": "close", **answer.headers}.items():
            self.send_header(name, value)
        if answer.length != -1:
            self.send_header(
                "Content-Length",
                str(len(answer.body) if answer.length is None else answer.length),
            )
        self.end_headers()
        if self.command == "GET":
            middle = len(answer.body) // 2
            self.wfile.write(answer.body[:middle])
            answer.hook()
            self.wfile.write(answer.body[middle:])

    def _drip(self, answer: Answer) -> None:
        head = f"HTTP/1.1 {answer.status} OK\r\nX-Long: {'x' * 100_000}\r\n\r\n"
        if answer.drips == "body":
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(answer.length or 500_000))
            self.end_headers()
        try:
            for byte in head.encode() * 10:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            self.server.left.set()
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()


def failure(call: Callable[[], object]) -> AssetError:
    """What ``call`` raises, which shows no secret anywhere, not even in a log that
    prints all of it.
    """
    with pytest.raises(AssetError) as caught:
        call()
    error = caught.value
    assert error.__cause__ is None
    for text in (
        json.dumps(error.to_dict()),
        "".join(traceback.format_exception(error)),
    ):
        assert SECRET not in text
    return error


def files_of(rules: DownloadRules) -> list[str]:
    return sorted(
        path.relative_to(rules.cache_dir).as_posix()
        for path in rules.cache_dir.rglob("*")
        if path.is_file()
    )


def leftovers(rules: DownloadRules) -> list[str]:
    """Whatever is in the cache apart from its folders."""
    folders = [
        rules.cache_dir / name
        for name in ("downloads", "files", "hub", "pages", "urls")
    ]
    return [str(path) for path in rules.cache_dir.rglob("*") if path not in folders]


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILE = {"X-Repo-Commit": COMMIT, "ETag": f'"{SHA256}"'}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub that the library takes for the real one. The library's pauses between
    retries (23 s) are left out.
    """
    with running(Site(None)) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url(""))
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            site.url("/{repo_id}/resolve/{revision}/{filename}"),
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents.json")
        )
        monkeypatch.setattr(_detect_agent, "_registry", None)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None))
        yield site
