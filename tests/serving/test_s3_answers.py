"""The bucket storage against answers of AWS and others, put in place of the network."""

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import NoCredentialsError
from pydantic import SecretStr

from animatediff.errors import StorageError
from animatediff.serving import storage as storage_module
from animatediff.serving.s3 import TOKEN_SECONDS
from animatediff.serving.storage import (
    CHECK_CONTENT,
    CHECK_NAME,
    S3Storage,
    check_opens,
)
from animatediff.settings import BucketSettings
from animatediff.video.clip import EncodedVideo
from tests.queue.slow_bucket import SlowBucket
from tests.web_site import Answer, Site, running

pytestmark = pytest.mark.slow

UPLOAD = (
    b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
    b"</InitiateMultipartUploadResult>"
)
DONE = b"<CompleteMultipartUploadResult/>"
WEEK = 7 * 24 * 3600


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that a check opens: there is no network here."""
    urls: list[str] = []

    def note(url: str, _content: object, **_: object) -> None:
        urls.append(url)

    monkeypatch.setattr(storage_module, "check_opens", note)
    monkeypatch.setattr(storage_module, "OPENING_PAUSES", (0.0, 0.0))
    return urls


@pytest.fixture
def clip(tmp_path: Path) -> EncodedVideo:
    content = b"not really a video"
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return EncodedVideo(path, "mp4", "video/mp4", len(content), sha256, 16, 64, 64, 8)


class Body:
    """The body of an answer, as botocore reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._content


def refusal(code: str, more: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>hush</Message>{more}</Error>".encode()


@dataclass
class Server:
    """Answers requests about a bucket in ``region``; ``is_aws`` says how.

    ``refuses`` is the status and the code of every answer, if it is set; ``place`` is
    what a server other than AWS calls its region.
    """

    region: str
    is_aws: bool = True
    place: str | None = None
    refuses: tuple[int, str] | None = None
    requests: list[Any] = field(default_factory=list[Any])

    def __call__(self, request: Any, **_: Any) -> AWSResponse:
        self.requests.append(request)
        place = self.region if self.is_aws else self.place
        headers = {"x-amz-bucket-region": place} if place else {}
        if self.refuses:
            status, code = self.refuses
            return self._answer(request, status, headers, refusal(code))
        if self._signed_for(request) != self.region:
            if self.is_aws:
                return self._answer(request, 301, headers, refusal("PermanentRedirect"))
            region = f"<Region>{self.region}</Region>"
            code = "AuthorizationHeaderMalformed"
            return self._answer(request, 400, headers, refusal(code, region))
        if request.method == "HEAD":
            return self._answer(request, 404, headers, b"")
        body = UPLOAD if request.url.endswith("?uploads") else DONE
        return self._answer(request, 200, {**headers, "ETag": '"0"'}, body)

    def _signed_for(self, request: Any) -> str:
        signature = request.headers["Authorization"]
        text = signature if isinstance(signature, str) else signature.decode()
        match = re.search(r"Credential=[^/]+/\d+/([^/]+)/", text)
        assert match is not None
        return match[1]

    def _answer(
        self, request: Any, status: int, headers: dict[str, str], body: bytes
    ) -> AWSResponse:
        content = b"" if request.method == "HEAD" else body
        return AWSResponse(request.url, status, headers, Body(content))

    def headers(self, method: str) -> list[dict[str, str]]:
        return [
            {name.lower(): str(value) for name, value in request.headers.items()}
            for request in self.requests
            if request.method == method
        ]


def settings(**fields: Any) -> BucketSettings:
    keys = {"access_key_id": SecretStr("AKID"), "secret_access_key": SecretStr("hush")}
    return BucketSettings(**{"name": "clips", **keys, **fields})


def storage_at(server: Server, **fields: Any) -> S3Storage:
    storage = S3Storage(settings(**fields))
    client = storage._connected()
    client.meta.events.register_first("before-send.s3", server)
    return storage


def scope_of(url: str) -> tuple[str, str]:
    """The host of a presigned URL, and the region that it is signed for."""
    parts = urlsplit(url)
    scope = parse_qs(parts.query)["X-Amz-Credential"][0].split("/")
    return parts.hostname or "", scope[2]


@pytest.mark.parametrize(
    ("fields", "is_aws", "host"),
    [
        ({}, True, "clips.s3.eu-central-1.amazonaws.com"),
        ({"region": "us-west-2"}, True, "clips.s3.eu-central-1.amazonaws.com"),
        (
            {"endpoint_url": "https://abc.supabase.co/storage/v1/s3"},
            False,
            "abc.supabase.co",
        ),
        ({"endpoint_url": "https://s3.example.org"}, False, "s3.example.org"),
    ],
    ids=["AWS", "AWS, wrong region", "below a path", "own server"],
)
def test_the_url_is_signed_for_the_region_that_the_server_names(
    fields: dict[str, Any], is_aws: bool, host: str, clip: EncodedVideo
) -> None:
    storage = storage_at(Server("eu-central-1", is_aws), **fields)
    assert scope_of(storage.put(clip, "j")) == (host, "eu-central-1")


def test_a_place_that_is_no_region_is_not_signed_for(clip: EncodedVideo) -> None:
    """R2 names the place of a bucket, and signs for "auto" alone."""
    server = Server("auto", is_aws=False, place="WEUR")
    url = "https://0123456789abcdef.r2.cloudflarestorage.com"
    storage = storage_at(server, endpoint_url=url)
    assert scope_of(storage.put(clip, "j"))[1] == "auto"


def test_clients_may_have_another_endpoint(clip: EncodedVideo) -> None:
    storage = storage_at(
        Server("us-east-1", is_aws=False),
        endpoint_url="http://minio.internal:9000",
        public_endpoint_url="https://files.example.org",
    )
    assert storage.put(clip, "j").startswith("https://files.example.org/clips/")


@pytest.mark.parametrize("size", [100, 20_000_000])
def test_every_part_carries_its_md5_and_no_newer_checksum(
    size: int, clip: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    clip.path.write_bytes(b"x" * size)
    server = Server("us-east-1")
    storage_at(server).put(clip, "j")
    puts = server.headers("PUT")
    assert len(puts) == (1 if size < 1000 else 3)
    assert all("content-md5" in headers for headers in puts)
    newer = ("x-amz-checksum", "x-amz-trailer", "x-amz-sdk-checksum")
    assert not [name for headers in puts for name in headers if name.startswith(newer)]


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"acl": "public-read"}, {"x-amz-acl": "public-read"}),
        ({"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"sse_kms_key_id": "k"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "k",
            },
        ),
        ({"session_token": SecretStr("t")}, {"x-amz-security-token": "t"}),
    ],
    ids=["nothing", "rights", "encryption", "key", "token"],
)
def test_settings_go_along_with_every_object(
    fields: dict[str, Any], headers: dict[str, str], clip: EncodedVideo
) -> None:
    server = Server("us-east-1")
    storage = storage_at(server, **fields)
    storage.check(0)
    storage.put(clip, "j")
    for sent in server.headers("PUT"):
        ours = {
            name: value
            for name, value in sent.items()
            if name.startswith(("x-amz-acl", "x-amz-server", "x-amz-security"))
        }
        assert {name: value.strip("b'") for name, value in ours.items()} == headers


@pytest.mark.parametrize(
    ("status", "code", "retryable", "fatal"),
    [
        (403, "InvalidAccessKeyId", False, True),
        (403, "SignatureDoesNotMatch", False, True),
        (403, "AccessDenied", False, True),
        (400, "ExpiredToken", False, True),
        (404, "NoSuchBucket", False, True),
        (400, "KMS.DisabledException", False, True),
        (403, "RequestTimeTooSkewed", False, True),
        (400, "RequestTimeout", True, False),
        (429, "TooManyRequests", True, False),
        (503, "SlowDown", True, False),
    ],
)
def test_a_refusal_for_good_is_told_from_one_that_passes(
    status: int,
    code: str,
    retryable: bool,
    fatal: bool,
    clip: EncodedVideo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0
    )
    server = Server("us-east-1", refuses=(status, code))
    actions: tuple[Callable[[S3Storage], object], ...] = (
        lambda storage: storage.check(0),
        lambda storage: storage.put(clip, "j"),
    )
    for act in actions:
        with pytest.raises(StorageError) as caught:
            act(storage_at(server))
        error = caught.value
        assert (error.retryable, error.fatal) == (retryable, fatal)
        assert error.details["reason"] == code
        assert "hush" not in str(error.to_dict())


def test_no_credentials_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise NoCredentialsError

    storage = storage_at(Server("us-east-1"))
    monkeypatch.setattr(storage._connected(), "put_object", nothing)
    with pytest.raises(StorageError, match="cannot be made") as caught:
        storage.check(0)
    assert (caught.value.retryable, caught.value.fatal) == (False, True)
    assert caught.value.details["reason"] == "NoCredentialsError"


def test_a_bucket_is_asked_once_in_a_while(
    clip: EncodedVideo, opened: list[str]
) -> None:
    server = Server("us-east-1")
    storage = storage_at(server)
    for _ in range(3):
        storage.check(0)
    assert len(server.requests) == 1
    (url,) = opened
    assert CHECK_NAME in url
    fresh = Server("us-east-1")
    storage = storage_at(fresh)
    storage.put(clip, "j")
    before = len(fresh.requests)
    storage.check(0)
    assert len(fresh.requests) == before


def lifetime(storage: S3Storage) -> int:
    query = parse_qs(urlsplit(storage._url("a.mp4")).query)
    return int(query["X-Amz-Expires"][0])


def test_a_url_lives_no_longer_than_its_credentials() -> None:
    assert lifetime(S3Storage(settings())) == WEEK
    temporary = S3Storage(settings(session_token=SecretStr("t")))
    assert lifetime(temporary) == TOKEN_SECONDS
    role = S3Storage(settings())
    ends = datetime.now(UTC) + timedelta(hours=1)
    role._connect()._credentials = RefreshableCredentials(
        "AKID", "hush", "t", ends, lambda: None, "assume-role"
    )
    assert 3590 <= lifetime(role) <= 3600


def test_a_url_must_open_and_show_the_file() -> None:
    with SlowBucket() as site:
        url = f"{site.environment['BUCKET_ENDPOINT_URL']}/clips"
        site.objects |= {"ok": CHECK_CONTENT, "other": b"a page about an error"}
        check_opens(f"{url}/ok", CHECK_CONTENT, is_known_host=True)
        check_opens(f"{url}/other", None, is_known_host=True)
        for name, reason in (("other", "another content"), ("no", "HTTP 404")):
            with pytest.raises(StorageError, match="does not open") as caught:
                check_opens(f"{url}/{name}", CHECK_CONTENT, is_known_host=True)
            assert reason in caught.value.details["reason"]
            assert (caught.value.retryable, caught.value.fatal) == (False, True)


def test_a_cdn_may_compress_a_file() -> None:
    packed = gzip.compress(CHECK_CONTENT)
    with running(Site(None)) as site:
        url = site.gives(Answer(packed, headers={"Content-Encoding": "gzip"}))
        check_opens(url, CHECK_CONTENT, is_known_host=True)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    with running(Site(None)) as site:
        url = site.gives(Answer(CHECK_CONTENT[:5], length=len(CHECK_CONTENT)))
        with pytest.raises(StorageError, match="cannot be reached"):
            check_opens(url, CHECK_CONTENT, is_known_host=False)


@pytest.mark.parametrize("status", [429, 503])
def test_a_url_that_does_not_open_for_now(status: int) -> None:
    with running(Site(None)) as site:
        url = site.gives(Answer(b"", status))
        with pytest.raises(StorageError) as caught:
            check_opens(url, CHECK_CONTENT, is_known_host=True)
    assert (caught.value.retryable, caught.value.fatal) == (True, False)


PASSING = (Answer(b"", 500), Answer(b"", 503), Answer(CHECK_CONTENT[:5]))
"""While another worker writes the object of the check, it may be short or locked."""


@pytest.mark.parametrize("first", PASSING)
@pytest.mark.parametrize("second", PASSING)
def test_what_passes_is_no_trouble(first: Answer, second: Answer) -> None:
    with running(Site(None)) as site:
        url = site.gives(first, second, Answer(CHECK_CONTENT))
        check_opens(url, CHECK_CONTENT, is_known_host=True)
        assert len(site.asked) == 3


def test_a_refusal_is_not_asked_again() -> None:
    with running(Site(None)) as site:
        url = site.gives(Answer(b"", 403), Answer(CHECK_CONTENT))
        with pytest.raises(StorageError, match="does not open"):
            check_opens(url, CHECK_CONTENT, is_known_host=True)


def test_a_job_s_host_sends_this_worker_nowhere() -> None:
    with running(Site(None)) as site:
        site.gives(Answer(CHECK_CONTENT), path="/inside")
        url = site.gives(Answer(b"", 302, {"Location": site.url("/inside")}))
        check_opens(url, CHECK_CONTENT, is_known_host=True)
        with pytest.raises(StorageError, match="does not open"):
            check_opens(url, None, is_known_host=True, may_redirect=False)
        assert [path for _, path, _ in site.asked][-1] == "/file.bin"


def test_a_url_of_an_unknown_host_must_be_reached() -> None:
    nowhere = "http://127.0.0.1:9/x"
    check_opens(nowhere, CHECK_CONTENT, is_known_host=True)  # only logged
    with pytest.raises(StorageError, match="URLs cannot be reached"):
        check_opens(nowhere, CHECK_CONTENT, is_known_host=False)
