import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from pydantic import SecretStr

from animatediff.errors import StorageError
from animatediff.serving.endpoints import endpoint_of
from animatediff.serving.storage import (
    InlineStorage,
    LocalStorage,
    S3Storage,
    Storage,
    make_storage,
    object_key,
    safe_name,
)
from animatediff.settings import BucketSettings, Settings
from animatediff.video.clip import EncodedVideo

CONTENT = b"not really a video" * 1000


def bucket(name: str, **fields: Any) -> BucketSettings:
    keys = {"access_key_id": SecretStr("k"), "secret_access_key": SecretStr("s")}
    return BucketSettings(name=name, **keys, **fields)


@pytest.fixture
def clip(tmp_path: Path) -> EncodedVideo:
    path = tmp_path / "clip.mp4"
    path.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return EncodedVideo(path, "mp4", "video/mp4", len(CONTENT), sha256, 16, 64, 64, 8)


def local_path(url: str) -> Path:
    assert urlsplit(url).scheme == "file"
    return Path(url2pathname(urlsplit(url).path))


def test_settings_choose_the_storage(tmp_path: Path) -> None:
    assert isinstance(make_storage(Settings(output_dir=tmp_path)), LocalStorage)
    assert isinstance(make_storage(Settings(bucket=bucket("b"))), S3Storage)
    assert isinstance(make_storage(Settings(on_platform=True)), InlineStorage)
    assert isinstance(
        make_storage(Settings(on_platform=True, bucket=bucket("b"))),
        S3Storage,
    )


def test_local_file_url_leads_to_the_file(clip: EncodedVideo, tmp_path: Path) -> None:
    storage: Storage = LocalStorage(tmp_path / "new folder" / "ü")
    path = local_path(storage.put(clip, "job-1"))
    assert path.read_bytes() == CONTENT
    assert path.name == f"job-1-{clip.sha256[:12]}.mp4"
    assert list(path.parent.iterdir()) == [path]
    assert local_path(storage.put(clip, "job-1")) == path


@pytest.mark.parametrize(
    ("job_id", "name"),
    [
        ("../../etc/x", "_.._etc_x"),
        ("a b/ü", "a_b__"),
        ("", "job"),
        ("...", "job"),
        ("x" * 300, "x" * 100),
    ],
)
def test_job_ids_cannot_leave_the_folder(
    job_id: str, name: str, clip: EncodedVideo, tmp_path: Path
) -> None:
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
    assert (
        object_key("v/{job_id}/{sha256:.8}{suffix}", clip, "a/b")
        == f"v/a_b/{clip.sha256[:8]}.mp4"
    )
    assert (
        object_key(bucket("b").key_template, clip, "j")
        == f"animatediff/j-{clip.sha256[:12]}.mp4"
    )
    assert object_key("{date}/x", clip, "j").startswith("20")


AWS, R2 = (
    "https://s3.eu-west-2.amazonaws.com",
    "https://0123456789abcdef.r2.cloudflarestorage.com",
)
SIGNED = {
    # endpoint, BUCKET_REGION, style: the URL up to the key, the region signed for
    "AWS": (None, None, "auto", "https://clips.s3.amazonaws.com/", "us-east-1"),
    "AWS with a region": (
        None,
        "eu-west-2",
        "auto",
        "https://clips.s3.eu-west-2.amazonaws.com/",
        "eu-west-2",
    ),
    "AWS in China": (
        None,
        "cn-north-1",
        "auto",
        "https://clips.s3.cn-north-1.amazonaws.com.cn/",
        "cn-north-1",
    ),
    "AWS by path": (None, "eu-west-2", "path", f"{AWS}/clips/", "eu-west-2"),
    "AWS global": (
        "https://s3.amazonaws.com",
        None,
        "auto",
        "https://clips.s3.amazonaws.com/",
        "us-east-1",
    ),
    "AWS global with a region": (
        "https://s3.amazonaws.com",
        "eu-west-2",
        "auto",
        "https://clips.s3.eu-west-2.amazonaws.com/",
        "eu-west-2",
    ),
    "AWS global by path": (
        "https://s3.amazonaws.com",
        "eu-west-2",
        "path",
        f"{AWS}/clips/",
        "eu-west-2",
    ),
    "AWS global with the bucket": (
        "https://clips.s3.amazonaws.com",
        "eu-west-2",
        "auto",
        "https://clips.s3.eu-west-2.amazonaws.com/",
        "eu-west-2",
    ),
    "AWS regional": (AWS, None, "auto", f"{AWS}/clips/", "eu-west-2"),
    "AWS regional, virtual": (
        AWS,
        None,
        "virtual",
        "https://clips.s3.eu-west-2.amazonaws.com/",
        "eu-west-2",
    ),
    "AWS regional with the bucket": (
        "https://clips.s3.eu-west-2.amazonaws.com/",
        None,
        "auto",
        "https://clips.s3.eu-west-2.amazonaws.com/",
        "eu-west-2",
    ),
    "AWS regional with the bucket, by path": (
        "https://clips.s3.eu-west-2.amazonaws.com",
        None,
        "path",
        f"{AWS}/clips/",
        "eu-west-2",
    ),
    "R2": (R2, None, "auto", f"{R2}/clips/", "auto"),
    "R2, virtual": (
        R2,
        None,
        "virtual",
        "https://clips.0123456789abcdef.r2.cloudflarestorage.com/",
        "auto",
    ),
    "R2 with the bucket": (f"{R2}/clips", None, "auto", f"{R2}/clips/", "auto"),
    "R2 in the EU": (
        "https://0123456789abcdef.eu.r2.cloudflarestorage.com",
        None,
        "path",
        "https://0123456789abcdef.eu.r2.cloudflarestorage.com/clips/",
        "auto",
    ),
    "B2": (
        "https://s3.us-west-004.backblazeb2.com",
        None,
        "auto",
        "https://s3.us-west-004.backblazeb2.com/clips/",
        "us-west-004",
    ),
    "B2 with the bucket": (
        "https://clips.s3.us-west-004.backblazeb2.com",
        None,
        "auto",
        "https://clips.s3.us-west-004.backblazeb2.com/",
        "us-west-004",
    ),
    "Spaces with the bucket": (
        "https://clips.nyc3.digitaloceanspaces.com",
        None,
        "auto",
        "https://clips.nyc3.digitaloceanspaces.com/",
        "nyc3",
    ),
    "MinIO": (
        "http://minio.internal:9000",
        None,
        "auto",
        "http://minio.internal:9000/clips/",
        "us-east-1",
    ),
    "MinIO, virtual": (
        "http://minio.internal:9000",
        None,
        "virtual",
        "http://clips.minio.internal:9000/",
        "us-east-1",
    ),
    "MinIO on a host called as the bucket": (
        "http://clips.internal:9000",
        "mars-1",
        "auto",
        "http://clips.internal:9000/clips/",
        "mars-1",
    ),
    "MinIO below a path": (
        "https://example.com/clips",
        None,
        "path",
        "https://example.com/clips/clips/",
        "us-east-1",
    ),
    "RunPod": (
        "https://s3api-eu-ro-1.runpod.io",
        None,
        "auto",
        "https://s3api-eu-ro-1.runpod.io/clips/",
        "EU-RO-1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SIGNED)
def test_the_signed_url_is_the_services_own(case: str) -> None:
    endpoint, region, style, start, signed_for = SIGNED[case]
    settings = bucket(
        "clips", endpoint_url=endpoint, region=region, addressing_style=style
    )
    url = S3Storage(settings)._url("a/b.mp4")
    assert url.startswith(f"{start}a/b.mp4?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert f"%2F{signed_for}%2Fs3%2Faws4_request" in url
    assert "X-Amz-SignedHeaders=host" in url


def test_a_bucket_with_dots_is_in_the_path() -> None:
    """No certificate covers it in the host."""
    url = S3Storage(bucket("clips.example.com", region="eu-west-2"))._url("a.mp4")
    assert url.startswith(f"{AWS}/clips.example.com/a.mp4?")


def test_time_to_live_is_in_the_url() -> None:
    assert "X-Amz-Expires=77&" in S3Storage(bucket("clips", url_ttl_seconds=77))._url(
        "a.mp4"
    )


def test_public_url_is_base_and_key() -> None:
    files = S3Storage(bucket("clips", public_base_url="https://cdn.example.com/v"))
    assert files._url("x y/j.mp4") == "https://cdn.example.com/v/x%20y/j.mp4"


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
        ("https://s3.wasabisys.com", "us-east-1"),
        ("https://s3api-eu-ro-1.runpod.io", "EU-RO-1"),
        ("https://s3.fr-par.scw.cloud", "fr-par"),
        ("https://clips.s3.nl-ams.scw.cloud", "nl-ams"),
        ("https://s3.gra.io.cloud.ovh.net", "gra"),
        ("https://s3.rbx.perf.cloud.ovh.net", "rbx"),
        ("https://fsn1.your-objectstorage.com", "fsn1"),
        ("https://clips.nbg1.your-objectstorage.com", "nbg1"),
        ("https://eu-central-1.linodeobjects.com", "eu-central-1"),
        ("https://ewr1.vultrobjects.com", "ewr1"),
        ("https://sos-ch-gva-2.exo.io", "ch-gva-2"),
        ("https://s3.eu-central-3.ionoscloud.com", "eu-central-3"),
        (
            "https://ns.compat.objectstorage.us-ashburn-1.oraclecloud.com",
            "us-ashburn-1",
        ),
        ("https://fly.storage.tigris.dev", "auto"),
        ("https://t3.storage.dev", "auto"),
        ("https://storage.yandexcloud.net", "ru-central1"),
        ("http://minio.internal:9000", "us-east-1"),
    ],
)
def test_the_region_is_read_from_well_known_hosts(
    endpoint: str | None, region: str
) -> None:
    settings = bucket("clips", endpoint_url=endpoint)
    assert endpoint_of(settings).region == region
    named = bucket("clips", endpoint_url=endpoint, region="mars-1", aws_region="x")
    assert endpoint_of(named).region == "mars-1"


def test_aws_s_variable_counts_where_nothing_else_names_a_region() -> None:
    there = bucket("clips", aws_region="eu-west-2")
    assert endpoint_of(there).region == "eu-west-2"
    r2 = bucket("clips", aws_region="eu-west-2", endpoint_url=R2)
    assert endpoint_of(r2).region == "auto"


def test_inline_is_a_data_url(clip: EncodedVideo) -> None:
    head, _, content = InlineStorage().put(clip, "j").partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == CONTENT
