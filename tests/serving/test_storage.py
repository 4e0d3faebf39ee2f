import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from s3_server import S3Server, rclone, s3_server

from animatediff.errors import StorageError
from animatediff.serving.storage import LocalStorage, S3Storage, Storage, make_storage, object_key, safe_name
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
    assert object_key(BucketSettings.key_template, clip, "j").startswith("animatediff/20")


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
