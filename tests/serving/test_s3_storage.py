"""The bucket storage with a real S3 server, rclone's. tests/ceph uses Ceph."""

import hashlib
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from animatediff.errors import ConfigurationError, JobCancelled, StorageError
from animatediff.serving import job_bucket, s3
from animatediff.serving.fitness import check_bucket
from animatediff.serving.storage import S3Storage
from animatediff.settings import BucketSettings, Settings
from animatediff.video.clip import EncodedVideo
from lab.queue.s3_server import S3Server, rclone, s3_server
from tests.serving.trouble import Trouble, TroubledServer

pytestmark = pytest.mark.slow

CONTENT = b"not really a video" * 1000
LARGE = bytes(range(256)) * (20 * 4096)
"""Three parts of boto3's 8 MiB."""
WRONG = {
    "NoSuchBucket": {"name": "no-such-bucket"},
    "SignatureDoesNotMatch": {"secret_access_key": "hush-hush"},
    "InvalidAccessKeyId": {"access_key_id": "AKIDNOBODY"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    try:
        rclone()
    except OSError as error:
        pytest.skip(f"no S3 server to test against: {error}")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.client().create_bucket(Bucket="clips")
        yield running


def file_of(content: bytes, folder: Path, mime: str = "video/mp4") -> EncodedVideo:
    path = folder / "clip.mp4"
    path.write_bytes(content)
    return EncodedVideo(
        path,
        "mp4",
        mime,
        len(content),
        hashlib.sha256(content).hexdigest(),
        16,
        64,
        64,
        8,
    )


def bucket(server: S3Server, folder: str = "", **changes: Any) -> BucketSettings:
    """Settings for the bucket "clips" of ``server``; keys are ``folder``/job.mp4."""
    fields = {
        "name": "clips",
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "endpoint_url": server.url,
        "addressing_style": "path",
        "key_template": f"{folder or 'any'}/{{job_id}}{{suffix}}",
    }
    return BucketSettings(**{**fields, **changes})


def fetch(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read(), answer.headers["Content-Type"]


def refusal(url: str) -> int:
    """The status of the answer to a GET that is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url)
    caught.value.close()
    return caught.value.code


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 does not wait between two tries."""
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )


class TestBucket:
    """Tests for any S3 server. A module that inherits them has a fixture ``server``."""

    @pytest.fixture
    def clip(self, tmp_path: Path) -> EncodedVideo:
        return file_of(CONTENT, tmp_path)

    @pytest.mark.parametrize("style", ["path", "auto"])
    def test_the_presigned_url_gives_the_file_back(
        self, style: str, server: S3Server, clip: EncodedVideo
    ) -> None:
        url = S3Storage(bucket(server, f"back-{style}", addressing_style=style)).put(
            clip, "job 1"
        )
        assert fetch(url) == (CONTENT, "video/mp4")
        assert url.startswith(
            f"{server.url}/clips/back-{style}/job_1.mp4?X-Amz-Algorithm=AWS4-HMAC-SHA256&"
        )

    def test_an_object_says_what_it_is(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        S3Storage(bucket(server, "head")).put(clip, "j")
        head = server.client().head_object(Bucket="clips", Key="head/j.mp4")
        assert (head["ContentType"], head["ContentLength"]) == (
            "video/mp4",
            len(CONTENT),
        )
        assert {name.lower(): value for name, value in head["Metadata"].items()} == {
            "sha256": clip.sha256
        }

    def test_a_key_may_hold_what_a_url_may_not(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        url = S3Storage(
            bucket(server, key_template="ü 100% & a+b=c/{job_id}?#{suffix}")
        ).put(clip, "j")
        assert unquote(urlsplit(url).path) == "/clips/ü 100% & a+b=c/j?#.mp4"
        assert fetch(url) == (CONTENT, "video/mp4")

    @pytest.mark.parametrize("region", ["eu-central-3", "auto"])
    def test_a_region_is_signed_for(
        self, region: str, server: S3Server, clip: EncodedVideo
    ) -> None:
        url = S3Storage(bucket(server, f"in-{region}", region=region)).put(clip, "j")
        assert f"%2F{region}%2Fs3%2Faws4_request" in url
        assert fetch(url)[0] == CONTENT

    def test_a_url_that_was_changed_is_refused(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        files = S3Storage(bucket(server, "changed", url_ttl_seconds=77))
        url, _ = files.put(clip, "j"), files.put(clip, "other")
        assert fetch(url)[0] == CONTENT
        assert refusal(url.split("?")[0]) == server.refusal
        for changed in (
            url[:-4] + ("0000" if url[-4:] != "0000" else "1111"),
            url.replace("/j.mp4", "/other.mp4"),
            url.replace("X-Amz-Expires=77", "X-Amz-Expires=7777"),
        ):
            assert changed != url
            assert refusal(changed) == 403

    def test_a_url_ends_with_its_time(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        url = S3Storage(bucket(server, "short", url_ttl_seconds=1)).put(clip, "j")
        time.sleep(2.1)
        assert refusal(url) == server.refusal

    @pytest.mark.parametrize("reason", WRONG)
    def test_wrong_settings_are_named_and_no_secret_is(
        self, reason: str, server: S3Server, clip: EncodedVideo
    ) -> None:
        wrong = bucket(server, "wrong", **WRONG[reason])
        assert wrong.secret_access_key is not None
        secret = wrong.secret_access_key.get_secret_value()
        actions: list[Callable[[], Any]] = [
            lambda: S3Storage(wrong).put(clip, "j"),
            S3Storage(wrong).check_reachable,
        ]
        for action in actions:
            with pytest.raises(
                StorageError, match="the bucket refused the request"
            ) as caught:
                action()
            assert caught.value.details["reason"] == reason
            assert "127.0.0.1" not in str(caught.value.to_dict())
            assert secret not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(
            ConfigurationError,
            match=f"the bucket {wrong.name} cannot be used: {reason}",
        ) as unfit:
            check_bucket(Settings(bucket=wrong))
        assert secret not in unfit.value.message
        assert server.keys("wrong/") == []

    def test_right_settings_are_fit(self, server: S3Server) -> None:
        S3Storage(bucket(server)).check_reachable()
        check_bucket(Settings(bucket=bucket(server)))

    def test_the_same_file_of_the_same_job_is_stored_once(
        self, server: S3Server, tmp_path: Path
    ) -> None:
        client, settings = server.client(), bucket(server, "once")
        S3Storage(settings).put(file_of(CONTENT, tmp_path), "j")
        first = client.head_object(Bucket="clips", Key="once/j.mp4")["LastModified"]
        time.sleep(1.1)  # it is told in seconds
        url = S3Storage(settings).put(file_of(CONTENT, tmp_path), "j")
        assert (
            client.head_object(Bucket="clips", Key="once/j.mp4")["LastModified"]
            == first
        )
        assert fetch(url)[0] == CONTENT
        other = CONTENT[::-1]
        assert fetch(S3Storage(settings).put(file_of(other, tmp_path), "j"))[0] == other
        assert (
            client.head_object(Bucket="clips", Key="once/j.mp4")["LastModified"] > first
        )

    def test_jobs_that_end_together(self, server: S3Server, clip: EncodedVideo) -> None:
        files = S3Storage(bucket(server, "together"))
        with ThreadPoolExecutor(8) as pool:
            urls = list(
                pool.map(lambda number: files.put(clip, f"j{number}"), range(8))
            )
        assert [fetch(url)[0] for url in urls] == [CONTENT] * 8
        assert len(server.keys("together/")) == 8

    def test_a_large_file_goes_up_in_parts(
        self, server: S3Server, tmp_path: Path
    ) -> None:
        large = file_of(LARGE, tmp_path, "application/zip")
        with TroubledServer(server.url, Trouble.CUT, times=0) as counting:
            url = S3Storage(bucket(server, "large", endpoint_url=counting.url)).put(
                large, "j"
            )
            assert fetch(url) == (LARGE, "application/zip")
            assert counting.puts == 3
            S3Storage(bucket(server, "large", endpoint_url=counting.url)).put(
                large, "j"
            )
            assert counting.puts == 3
        assert self.unfinished(server) == []

    @pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["one request", "parts"])
    def test_a_cancelled_upload_ends_and_leaves_nothing_in_part(
        self, content: bytes, server: S3Server, tmp_path: Path
    ) -> None:
        calls = []

        def check() -> None:
            calls.append(1)
            if len(calls) > 1:  # the first comes before the upload
                raise JobCancelled("the job was cancelled")

        folder = f"cancelled-{len(content)}"
        with pytest.raises(JobCancelled):
            S3Storage(bucket(server, folder)).put(
                file_of(content, tmp_path), "j", check
            )
        left = [
            server.client().head_object(Bucket="clips", Key=key)
            for key in server.keys(folder)
        ]
        # a small file's one request may be through, but whole
        assert [each["ContentLength"] for each in left] in ([], [len(CONTENT)])
        assert self.unfinished(server) == []

    @pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["one request", "parts"])
    @pytest.mark.parametrize("kind", Trouble)
    @pytest.mark.usefixtures("at_once")
    def test_trouble_is_tried_again(
        self,
        kind: Trouble,
        content: bytes,
        server: S3Server,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(s3, "READ_SECONDS", 1.0)
        folder = f"trouble-{kind}-{len(content)}"
        with TroubledServer(server.url, kind, times=2, pause=1.3) as troubled:
            S3Storage(bucket(server, folder, endpoint_url=troubled.url)).put(
                file_of(content, tmp_path), "j"
            )
        assert troubled.puts == 2 + (1 if content is CONTENT else 3)
        assert (
            fetch(S3Storage(bucket(server, folder))._url(f"{folder}/j.mp4"))[0]
            == content
        )
        assert self.unfinished(server) == []

    def test_a_slow_answer_is_waited_for(
        self, server: S3Server, clip: EncodedVideo
    ) -> None:
        with TroubledServer(server.url, Trouble.LATE, times=1, pause=1.0) as troubled:
            S3Storage(bucket(server, "slow", endpoint_url=troubled.url)).put(clip, "j")
        assert troubled.puts == 1
        assert server.keys("slow/") == ["slow/j.mp4"]

    @pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["one request", "parts"])
    @pytest.mark.parametrize("kind", [Trouble.BUSY, Trouble.CUT])
    @pytest.mark.usefixtures("at_once")
    def test_trouble_without_an_end_is_told(
        self, kind: Trouble, content: bytes, server: S3Server, tmp_path: Path
    ) -> None:
        folder = f"end-{kind}-{len(content)}"
        with (
            TroubledServer(server.url, kind, times=1000) as troubled,
            pytest.raises(StorageError) as caught,
        ):
            S3Storage(bucket(server, folder, endpoint_url=troubled.url)).put(
                file_of(content, tmp_path), "j"
            )
        assert caught.value.retryable
        assert caught.value.details["reason"] in (
            "503",
            "ConnectionClosedError",
            "ConnectionError",
        )
        assert troubled.puts >= 3
        assert server.keys(folder) == []
        assert self.unfinished(server) == []

    def unfinished(self, server: S3Server) -> list[str]:
        """Keys of unfinished uploads: they cost money, and listings omit them."""
        deadline = time.monotonic() + 5
        while True:
            client = server.client()
            try:
                answer = client.list_multipart_uploads(Bucket="clips")
            except client.exceptions.NoSuchUpload:  # rclone's, before the first one
                answer = {}
            uploads = answer.get("Uploads", [])
            if not uploads or time.monotonic() > deadline:
                return [each["Key"] for each in uploads]
            time.sleep(0.2)


def test_a_job_s_own_bucket_gets_its_clip_and_nothing_else(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.client().create_bucket(Bucket="theirs")
    monkeypatch.setattr(job_bucket, "_check_endpoint", lambda *_: None)  # no https here
    config = {
        "accessId": server.access_key,
        "accessSecret": server.secret_key,
        "bucketName": "theirs",
        "endpointUrl": server.url,
    }
    settings = Settings(job_buckets=True)
    storage = job_bucket.storage_of({"s3Config": config}, settings)
    assert storage is not None
    storage.check(1)
    url = storage.put(file_of(CONTENT, tmp_path), "j")
    assert fetch(url)[0] == CONTENT
    listed = server.client().list_objects_v2(Bucket="theirs")["Contents"]
    assert [each["Key"] for each in listed] == [
        f"animatediff/j-{hashlib.sha256(CONTENT).hexdigest()[:12]}.mp4"
    ]
    wrong = job_bucket.storage_of(
        {"s3Config": {**config, "accessSecret": "hush"}}, settings
    )
    assert wrong is not None
    with pytest.raises(StorageError) as caught:
        wrong.check(1)
    assert (caught.value.retryable, caught.value.fatal) == (False, False)


@pytest.mark.usefixtures("at_once")
def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    nowhere = bucket(S3Server("http://127.0.0.1:9"))
    for action in (
        lambda: S3Storage(nowhere).put(file_of(CONTENT, tmp_path), "j"),
        S3Storage(nowhere).check_reachable,
    ):
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            action()
        assert "127.0.0.1" not in str(caught.value.to_dict())


def test_threads_share_one_client() -> None:
    files = S3Storage(bucket(S3Server("http://127.0.0.1:9")))
    barrier, made = threading.Barrier(8), set()

    def connect() -> None:
        barrier.wait()
        made.add(id(files._connect()))

    threads = [threading.Thread(target=connect) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
