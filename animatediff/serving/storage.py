"""Where finished files go: a bucket; without one into the answer itself, or, on a
machine of one's own, a folder.
"""

import base64
import re
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from ..atomic import written_whole
from ..errors import AnimateDiffError, StorageError
from ..settings import BucketSettings, Settings
from ..video.clip import EncodedVideo

CONNECT_SECONDS, READ_SECONDS = 10, 60
"""How long a bucket may take to be connected to, and to go on with an answer. What
takes longer is tried again.
"""
_AWS = "s3.amazonaws.com"


class Storage(Protocol):
    """Keeps a finished file."""

    def put(
        self,
        encoded: EncodedVideo,
        job_id: str,
        check: Callable[[], None] = lambda: None,
    ) -> str:
        """Store the file and return its URL. ``check`` may end it by raising. Raises
        StorageError.

        The same file of the same job is stored once, however often.
        """
        ...


def make_storage(settings: Settings) -> Storage:
    """The storage that ``settings`` describe."""
    if settings.bucket:
        return S3Storage(settings.bucket)
    return (
        LocalStorage(settings.output_dir)
        if settings.inline_limit is None
        else InlineStorage()
    )


def object_key(template: str, encoded: EncodedVideo, job_id: str) -> str:
    """A bucket key from ``template``; see BucketSettings for its fields."""
    return template.format(
        job_id=safe_name(job_id),
        date=datetime.now(UTC).date().isoformat(),
        sha256=encoded.sha256,
        suffix=encoded.path.suffix,
    ).lstrip("/")


def safe_name(job_id: str) -> str:
    """``job_id`` as part of a file name: letters, digits, dot, dash and underscore, at
    most 100, no leading dot.
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", job_id)[:100].lstrip(".") or "job"


class InlineStorage:
    """The answer itself: a data URL. For workers of the platform without a bucket,
    whose disk goes with them.
    """

    def put(
        self,
        encoded: EncodedVideo,
        job_id: str,
        check: Callable[[], None] = lambda: None,
    ) -> str:
        del job_id
        check()
        return f"data:{encoded.mime};base64,{base64.b64encode(encoded.path.read_bytes()).decode()}"


class LocalStorage:
    """A folder. The URL is a file URL; the file appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def put(
        self,
        encoded: EncodedVideo,
        job_id: str,
        check: Callable[[], None] = lambda: None,
    ) -> str:
        check()
        target = (
            self.folder
            / f"{safe_name(job_id)}-{encoded.sha256[:12]}{encoded.path.suffix}"
        )
        try:
            with written_whole(target) as part:
                shutil.copyfile(encoded.path, part)
        except OSError as error:
            raise StorageError(
                f"the output folder cannot be written: {error.strerror}"
            ) from error
        return target.as_uri()


class S3Storage:
    """A bucket of AWS or of any server that speaks S3. boto3 retries what is worth it,
    three times.

    An object that is there already, with this content, is not uploaded again: the key
    of a job that is delivered twice is the same.
    """

    def __init__(self, bucket: BucketSettings) -> None:
        self.bucket = bucket
        self._client: Any = None
        self._connecting = (
            threading.Lock()
        )  # jobs end side by side, and boto3 makes one client at a time

    def check_reachable(self) -> None:
        """Raises StorageError unless the bucket answers to these credentials."""
        from botocore.exceptions import ClientError

        def ask() -> None:
            try:
                self._connected().head_bucket(Bucket=self.bucket.name)
            except (
                ClientError
            ):  # the answer to a HEAD has no body: only the one to a GET says why
                self._connected().list_objects_v2(Bucket=self.bucket.name, MaxKeys=1)

        self._translated(ask)

    def put(
        self,
        encoded: EncodedVideo,
        job_id: str,
        check: Callable[[], None] = lambda: None,
    ) -> str:
        key = object_key(self.bucket.key_template, encoded, job_id)

        def upload() -> str:
            check()
            if not self._is_there(key, encoded):
                self._connected().upload_file(
                    str(encoded.path),
                    self.bucket.name,
                    key,
                    ExtraArgs={
                        "ContentType": encoded.mime,
                        "Metadata": {"sha256": encoded.sha256},
                    },
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
        named = {
            name.lower(): value for name, value in found.get("Metadata", {}).items()
        }
        return (found["ContentLength"], named.get("sha256")) == (
            encoded.bytes,
            encoded.sha256,
        )

    def _translated(self, call: Callable[[], Any]) -> Any:
        """``call``, its errors as StorageError."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except AnimateDiffError:
            raise
        except ClientError as error:
            raise StorageError(
                "the bucket refused the request", reason=_reason(error)
            ) from error
        except Boto3Error as error:
            cause = error.__cause__ or error.__context__
            reason = (
                _reason(cause)
                if isinstance(cause, ClientError)
                else type(cause or error).__name__
            )
            raise StorageError(
                "the bucket refused the request", reason=reason
            ) from error
        except (BotoCoreError, OSError) as error:
            raise StorageError(
                "the bucket cannot be reached", reason=type(error).__name__
            ) from error

    def _url(self, key: str) -> str:
        if self.bucket.public_base_url:
            return f"{self.bucket.public_base_url}/{quote(key)}"
        return self._connected().generate_presigned_url(
            "get_object",
            Params={"Bucket": self.bucket.name, "Key": key},
            ExpiresIn=self.bucket.url_ttl_seconds,
        )

    def _connected(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        endpoint_url, style = endpoint_of(self.bucket)
        config = Config(
            # boto3 would presign for other endpoints than AWS with version 2
            signature_version="s3v4",
            s3={"addressing_style": style},
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            # servers other than AWS do not know the new ones
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=self.bucket.region or region_of(self.bucket.endpoint_url),
            aws_access_key_id=self.bucket.access_key_id.get_secret_value(),
            aws_secret_access_key=self.bucket.secret_access_key.get_secret_value(),
            config=config,
        )


_BUCKET_IN_HOST = r"(?:(?P<bucket>.+)\.)?"
_SERVICES = tuple(
    re.compile(_BUCKET_IN_HOST + host)
    for host in (
        r"s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com(?:\.cn)?",
        r"(?P<account>[0-9a-z]+)\.(?:(?:eu|fedramp)\.)?r2\.cloudflarestorage\.com",
        r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com",
        r"(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com",
        r"s3\.(?P<region>[a-z0-9-]+)\.wasabisys\.com",
        r"s3api-(?P<region>[a-z0-9-]+)\.runpod\.io",
    )
)


def _service(host: str) -> dict[str, str | None] | None:
    """What the host of a well-known service says."""
    return next(
        (
            match.groupdict()
            for pattern in _SERVICES
            if (match := pattern.fullmatch(host))
        ),
        None,
    )


def region_of(endpoint_url: str | None) -> str:
    """The region that requests to an S3 endpoint are signed for, where its host names
    it; else AWS's first.
    """
    host = urlsplit(endpoint_url or "").hostname or ""
    said = _service(host) or {}
    if said.get("account"):
        return "auto"
    region = said.get("region") or "us-east-1"
    return region.upper() if host.endswith(".runpod.io") else region


def endpoint_of(bucket: BucketSettings) -> tuple[str | None, str]:
    """The endpoint for boto3, None being AWS's of the region, and the addressing style.

    A well-known service's console shows its URL together with the bucket, in the host
    or in the path; boto3 adds the bucket itself. AWS's global host answers a request
    signed for another region than its own with a redirect, which a presigned URL does
    not survive, and boto3's "auto" would presign for it.
    """
    url, style = (
        urlsplit(bucket.endpoint_url or f"https://{_AWS}"),
        bucket.addressing_style,
    )
    said = _service(url.hostname or "")
    if said is None:
        return bucket.endpoint_url, style
    if said["bucket"] == bucket.name:
        url = url._replace(netloc=url.netloc.removeprefix(f"{bucket.name}."))
        style = "virtual" if style == "auto" else style
    if url.path.strip("/") == bucket.name:
        url = url._replace(path="")
    if url.hostname == _AWS:
        return None, "virtual" if style == "auto" else style
    return url.geturl(), style


def _reason(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
