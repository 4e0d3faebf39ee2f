"""Where finished files go: a bucket; without one into the answer itself, or, on a machine of one's own, a folder."""

import base64
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..errors import AnimateDiffError, StorageError
from ..settings import BucketSettings, Settings
from ..video.clip import EncodedVideo


class Storage(Protocol):
    """Keeps a finished file."""

    def put(self, encoded: EncodedVideo, job_id: str, check: Callable[[], None] = lambda: None) -> str:
        """Store the file and return its URL. ``check`` may end it by raising. Raises StorageError.

        The same file of the same job is stored once, however often.
        """
        ...


def make_storage(settings: Settings) -> Storage:
    """The storage that ``settings`` describe."""
    if settings.bucket:
        return S3Storage(settings.bucket)
    return LocalStorage(settings.output_dir) if settings.inline_limit is None else InlineStorage()


def object_key(template: str, encoded: EncodedVideo, job_id: str) -> str:
    """A bucket key from ``template``; see BucketSettings for its fields."""
    return template.format(
        job_id=safe_name(job_id),
        date=datetime.now(UTC).date().isoformat(),
        sha256=encoded.sha256,
        suffix=encoded.path.suffix,
    ).lstrip("/")


def safe_name(job_id: str) -> str:
    """``job_id`` as part of a file name: letters, digits, dot, dash and underscore, at most 100, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", job_id)[:100].lstrip(".") or "job"


class InlineStorage:
    """The answer itself: a data URL. For workers of the platform without a bucket, whose disk goes with them."""

    def put(self, encoded: EncodedVideo, job_id: str, check: Callable[[], None] = lambda: None) -> str:
        del job_id
        check()
        return f"data:{encoded.mime};base64,{base64.b64encode(encoded.path.read_bytes()).decode()}"


class LocalStorage:
    """A folder. The URL is a file URL; the file appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def put(self, encoded: EncodedVideo, job_id: str, check: Callable[[], None] = lambda: None) -> str:
        check()
        target = self.folder / f"{safe_name(job_id)}-{encoded.sha256[:12]}{encoded.path.suffix}"
        part = target.with_name(f".{target.name}.{time.time_ns()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(encoded.path, part)
            part.replace(target)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StorageError(f"the output folder cannot be written: {error.strerror}") from error
        return target.as_uri()


class S3Storage:
    """A bucket of AWS or of any server that speaks S3. boto3 retries what is worth it, three times.

    An object that is there already, with this content, is not uploaded again: the key of a job that is delivered
    twice is the same.
    """

    def __init__(self, bucket: BucketSettings) -> None:
        self.bucket = bucket
        self._client: Any = None

    def check_reachable(self) -> None:
        """Raises StorageError unless the bucket answers to these credentials."""
        self._translated(lambda: self._connected().head_bucket(Bucket=self.bucket.name))

    def put(self, encoded: EncodedVideo, job_id: str, check: Callable[[], None] = lambda: None) -> str:
        key = object_key(self.bucket.key_template, encoded, job_id)

        def upload() -> str:
            check()
            if not self._is_there(key, encoded):
                self._connected().upload_file(
                    str(encoded.path),
                    self.bucket.name,
                    key,
                    ExtraArgs={"ContentType": encoded.mime, "Metadata": {"sha256": encoded.sha256}},
                    Callback=lambda _count: check(),
                )
            return self._url(key)

        return self._translated(upload)

    def _is_there(self, key: str, encoded: EncodedVideo) -> bool:
        from botocore.exceptions import ClientError

        try:
            found = self._connected().head_object(Bucket=self.bucket.name, Key=key)
        except ClientError:  # mostly 404; where it is anything else, the upload says so
            return False
        named = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
        return (found["ContentLength"], named.get("sha256")) == (encoded.bytes, encoded.sha256)

    def _translated(self, call: Callable[[], Any]) -> Any:
        """``call``, its errors as StorageError."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except AnimateDiffError:
            raise
        except ClientError as error:
            raise StorageError("the bucket refused the request", reason=_reason(error)) from error
        except Boto3Error as error:
            cause = error.__cause__ or error.__context__
            reason = _reason(cause) if isinstance(cause, ClientError) else type(cause or error).__name__
            raise StorageError("the bucket refused the request", reason=reason) from error
        except (BotoCoreError, OSError) as error:
            raise StorageError("the bucket cannot be reached", reason=type(error).__name__) from error

    def _url(self, key: str) -> str:
        if self.bucket.public_base_url:
            from urllib.parse import quote

            return f"{self.bucket.public_base_url}/{quote(key)}"
        return self._connected().generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket.name, "Key": key}, ExpiresIn=self.bucket.url_ttl_seconds
        )

    def _connected(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(
                signature_version="s3v4",  # boto3 would presign for other endpoints than AWS with version 2
                s3={"addressing_style": self.bucket.addressing_style},
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=10,
                read_timeout=60,
                request_checksum_calculation="when_required",  # servers other than AWS do not know the new ones
                response_checksum_validation="when_required",
            )
            self._client = boto3.client(
                "s3",
                endpoint_url=self.bucket.endpoint_url,
                region_name=self.bucket.region or region_of(self.bucket.endpoint_url),
                aws_access_key_id=self.bucket.access_key_id,
                aws_secret_access_key=self.bucket.secret_access_key,
                config=config,
            )
        return self._client


_REGION_IN_HOST = (
    re.compile(r"(?:.+\.)?s3[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"(?:.+\.)?s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com"),
    re.compile(r"(?:.+\.)?(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.wasabisys\.com"),
    re.compile(r"s3api-(?P<region>[a-z0-9-]+)\.runpod\.io"),
)


def region_of(endpoint_url: str | None) -> str:
    """The region that requests to an S3 endpoint are signed for, where its host names it; else AWS's first."""
    host = urlsplit(endpoint_url or "").hostname or ""
    if host.endswith(".r2.cloudflarestorage.com"):
        return "auto"
    for pattern in _REGION_IN_HOST:
        if match := pattern.fullmatch(host):
            region = match["region"]
            return region.upper() if host.endswith(".runpod.io") else region
    return "us-east-1"


def _reason(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
