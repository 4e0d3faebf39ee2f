import base64
import hashlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from s3_server import S3Server, rclone, s3_server

from animatediff.errors import JobCancelled, StorageError
from animatediff.serving.storage import (
    InlineStorage,
    LocalStorage,
    S3Storage,
    Storage,
    make_storage,
    object_key,
    region_of,
    safe_name,
)
from animatediff.settings import BucketSettings, Settings
from animatediff.video.clip import EncodedVideo

CONTENT = b"not really a video" * 1000


@pytest.fixture
def clip(tmp_path: Path) -> EncodedVideo:
    path = tmp_path / "clip.mp4"
    path.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return EncodedVideo(path, "mp4", "video/mp4", len(CONTENT), sha256, 16, 64, 64, 8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    try:
        rclone()
    except OSError as error:
        pytest.skip(f"no S3 server to test against: {error}")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "clips").mkdir()
    with s3_server(folder) as running:
        yield running


def bucket(server: S3Server, **changes: object) -> BucketSettings:
    fields = {
        "name": "clips",
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "endpoint_url": server.url,
        "addressing_style": "path",
    }
    return BucketSettings(**{**fields, **changes})  # type: ignore[arg-type]


def fetch(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(url) as answer:
        return answer.read(), answer.headers["Content-Type"]


def local_path(url: str) -> Path:
    assert urlsplit(url).scheme == "file"
    return Path(url2pathname(urlsplit(url).path))


def test_settings_choose_the_storage(tmp_path: Path) -> None:
    assert isinstance(make_storage(Settings(output_dir=tmp_path)), LocalStorage)
    assert isinstance(make_storage(Settings(bucket=BucketSettings("b", "k", "s"))), S3Storage)
    assert isinstance(make_storage(Settings(on_platform=True)), InlineStorage)
    assert isinstance(make_storage(Settings(on_platform=True, bucket=BucketSettings("b", "k", "s"))), S3Storage)


def test_local_file_url_leads_to_the_file(clip: EncodedVideo, tmp_path: Path) -> None:
    storage: Storage = LocalStorage(tmp_path / "new folder" / "ü")
    path = local_path(storage.put(clip, "job-1"))
    assert path.read_bytes() == CONTENT
    assert path.name == f"job-1-{clip.sha256[:12]}.mp4"
    assert list(path.parent.iterdir()) == [path]
    assert local_path(storage.put(clip, "job-1")) == path


@pytest.mark.parametrize(
    ("job_id", "name"),
    [("../../etc/x", "_.._etc_x"), ("a b/ü", "a_b__"), ("", "job"), ("...", "job"), ("x" * 300, "x" * 100)],
)
def test_job_ids_cannot_leave_the_folder(job_id: str, name: str, clip: EncodedVideo, tmp_path: Path) -> None:
    assert safe_name(job_id) == name
    path = local_path(LocalStorage(tmp_path / "out").put(clip, job_id))
    assert path.parent == tmp_path / "out"


def test_folder_that_cannot_be_written(clip: EncodedVideo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        LocalStorage(tmp_path / "file" / "below").put(clip, "job")
    assert str(tmp_path) not in caught.value.message
    assert caught.value.retryable


def test_key_template(clip: EncodedVideo) -> None:
    assert object_key("v/{job_id}/{sha256:.8}{suffix}", clip, "a/b") == f"v/a_b/{clip.sha256[:8]}.mp4"
    assert object_key(BucketSettings.key_template, clip, "j") == f"animatediff/j-{clip.sha256[:12]}.mp4"
    assert object_key("{date}/x", clip, "j").startswith("20")


def test_bucket_gives_a_presigned_url(server: S3Server, clip: EncodedVideo) -> None:
    url = S3Storage(bucket(server, key_template="a/{job_id}{suffix}")).put(clip, "job 1")
    assert fetch(url) == (CONTENT, "video/mp4")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert (server.folder / "clips" / "a" / "job_1.mp4").read_bytes() == CONTENT
    for wrong in (url.split("?")[0], url[:-4] + "0000"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(wrong)
        assert caught.value.code in (400, 403)  # without any signature, and with a wrong one


def test_time_to_live_is_in_the_url(server: S3Server, clip: EncodedVideo) -> None:
    assert "X-Amz-Expires=77" in S3Storage(bucket(server, url_ttl_seconds=77)).put(clip, "j")


def test_region_is_signed_for(server: S3Server, clip: EncodedVideo) -> None:
    assert "%2Feu-central-3%2Fs3%2F" in S3Storage(bucket(server, region="eu-central-3")).put(clip, "j")


def test_public_url_is_base_and_key(server: S3Server, clip: EncodedVideo) -> None:
    storage = S3Storage(
        bucket(server, public_base_url="https://cdn.example.com/v", key_template="x y/{job_id}{suffix}")
    )
    assert storage.put(clip, "j") == "https://cdn.example.com/v/x%20y/j.mp4"


@pytest.mark.parametrize(
    ("style", "start"), [("virtual", "https://clips.s3.example.com/"), ("path", "https://s3.example.com/clips/")]
)
def test_addressing_style(style: str, start: str) -> None:
    storage = S3Storage(
        BucketSettings("clips", "k", "s", endpoint_url="https://s3.example.com", addressing_style=style)
    )
    assert storage._url("a.mp4").startswith(start + "a.mp4?")


@pytest.mark.parametrize("changes", [{"secret_access_key": "wrong"}, {"access_key_id": "wrong"}], ids=["secret", "key"])
def test_wrong_credentials_are_a_storage_error(changes: dict, server: S3Server, clip: EncodedVideo) -> None:
    with pytest.raises(StorageError, match="refused") as caught:
        S3Storage(bucket(server, **changes)).put(clip, "j")
    assert "127.0.0.1" not in str(caught.value.to_dict())
    assert caught.value.details["reason"]


def test_server_that_is_not_there(clip: EncodedVideo) -> None:
    nowhere = BucketSettings("clips", "k", "s", endpoint_url="http://127.0.0.1:9", addressing_style="path")
    with pytest.raises(StorageError) as caught:
        S3Storage(nowhere).put(clip, "j")
    assert "127.0.0.1" not in str(caught.value.to_dict())


def test_the_same_file_of_the_same_job_is_stored_once(server: S3Server, clip: EncodedVideo) -> None:
    storage = S3Storage(bucket(server, key_template="once/{job_id}-{sha256:.12}{suffix}"))
    first = storage.put(clip, "j")
    (stored,) = (server.folder / "clips" / "once").iterdir()
    before = stored.stat().st_mtime_ns
    second = storage.put(clip, "j")
    assert stored.stat().st_mtime_ns == before
    assert fetch(first) == fetch(second)


def test_a_large_file_goes_up_in_parts(server: S3Server, tmp_path: Path) -> None:
    content = bytes(range(256)) * (20 * 4096)
    path = tmp_path / "large.zip"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    large = EncodedVideo(path, "png_zip", "application/zip", len(content), sha256, 16, 64, 64, 8)
    assert fetch(S3Storage(bucket(server)).put(large, "large")) == (content, "application/zip")


def test_a_cancelled_upload_ends_at_once(server: S3Server, clip: EncodedVideo) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 1:  # the first comes before the upload
            raise JobCancelled("the job was cancelled")

    with pytest.raises(JobCancelled):
        S3Storage(bucket(server, key_template="cancelled/{job_id}{suffix}")).put(clip, "j", check)
    assert len(calls) == 2
    left = list((server.folder / "clips").glob("cancelled/*"))
    assert all(path.read_bytes() == CONTENT for path in left)  # one small request may be through, but whole


def test_a_bucket_is_checked_before_any_job(server: S3Server) -> None:
    S3Storage(bucket(server)).check_reachable()
    for wrong in ({"name": "none"}, {"secret_access_key": "wrong"}):
        with pytest.raises(StorageError):
            S3Storage(bucket(server, **wrong)).check_reachable()


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        (None, "us-east-1"),
        ("https://s3.amazonaws.com", "us-east-1"),
        ("https://s3.eu-west-2.amazonaws.com", "eu-west-2"),
        ("https://clips.s3.eu-west-2.amazonaws.com", "eu-west-2"),
        ("https://s3.dualstack.ap-southeast-1.amazonaws.com", "ap-southeast-1"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://0123456789abcdef.r2.cloudflarestorage.com", "auto"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://nyc3.digitaloceanspaces.com", "nyc3"),
        ("https://s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("https://s3api-eu-ro-1.runpod.io", "EU-RO-1"),
        ("http://minio.internal:9000", "us-east-1"),
    ],
)
def test_the_region_is_read_from_well_known_hosts_and_signed_for(endpoint: str | None, region: str) -> None:
    assert region_of(endpoint) == region
    url = S3Storage(BucketSettings("clips", "k", "s", endpoint_url=endpoint))._url("a.mp4")
    assert f"%2F{region}%2Fs3%2Faws4_request" in url
    own = S3Storage(BucketSettings("clips", "k", "s", endpoint_url=endpoint, region="mars-1"))._url("a.mp4")
    assert "%2Fmars-1%2Fs3%2Faws4_request" in own


def test_inline_is_a_data_url(clip: EncodedVideo) -> None:
    head, _, content = InlineStorage().put(clip, "j").partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == CONTENT


class Trouble:
    """A proxy in front of the S3 server that answers the first PUTs with an error, slowly, or not to their end."""

    def __init__(self, target: S3Server, kind: str, times: int) -> None:
        self.left, self.puts = times, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if self.command == "PUT":
                    outer.puts += 1
                    if outer.left > 0:
                        outer.left -= 1
                        if kind == "cut":
                            self.rfile.read(length // 2)
                            self.connection.shutdown(socket.SHUT_RDWR)
                            return None
                        self.rfile.read(length)
                        if kind == "503":
                            self.send_response(503)
                            self.send_header("Content-Length", "0")
                            self.end_headers()
                            return None
                        time.sleep(0.5)
                        return self.answer(503, b"")
                body = self.rfile.read(length)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
                request = urllib.request.Request(
                    target.url + self.path, body if length else None, headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request) as got:
                        self.answer(got.status, got.read(), got.headers)
                except urllib.error.HTTPError as error:
                    self.answer(error.code, error.read(), error.headers)

            def answer(self, status: int, body: bytes, headers: Any = None) -> None:
                self.send_response(status)
                for name in ("Content-Type", "ETag", "x-amz-meta-sha256"):
                    if headers is not None and headers.get(name):
                        self.send_header(name, headers[name])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = handle_one  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.mark.parametrize("kind", ["503", "slow", "cut"])
@pytest.mark.parametrize(("times", "stored"), [(2, True), (9, False)])
def test_trouble_is_retried_and_then_told(
    kind: str, times: int, stored: bool, server: S3Server, clip: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    trouble = Trouble(server, kind, times)
    threading.Thread(target=trouble.server.serve_forever, daemon=True).start()
    folder = f"trouble-{kind}-{times}"
    storage = S3Storage(bucket(server, endpoint_url=trouble.url, key_template=f"{folder}/{{job_id}}{{suffix}}"))
    try:
        if stored:
            storage.put(clip, "j")
            assert (server.folder / "clips" / folder / "j.mp4").read_bytes() == CONTENT
        else:
            with pytest.raises(StorageError) as caught:
                storage.put(clip, "j")
            assert caught.value.retryable
    finally:
        trouble.server.shutdown()
        trouble.server.server_close()
    assert trouble.puts == 3
