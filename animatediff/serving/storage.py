"""Where finished files go: a bucket, or, if none is configured, a local folder."""

import re
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..errors import StorageError
from ..settings import BucketSettings, Settings
from ..video.clip import EncodedVideo


class Storage(Protocol):
    """Keeps a finished file."""

    def put(self, encoded: EncodedVideo, job_id: str) -> str:
        """Store the file and return its URL. Raises StorageError."""
        ...


def make_storage(settings: Settings) -> Storage:
    """The storage that ``settings`` describe."""
    return S3Storage(settings.bucket) if settings.bucket else LocalStorage(settings.output_dir)


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


class LocalStorage:
    """A folder. The URL is a file URL; the file appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def put(self, encoded: EncodedVideo, job_id: str) -> str:
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
    """A bucket of AWS or of any server that speaks S3. boto3 retries what is worth it, three times."""

    def __init__(self, bucket: BucketSettings) -> None:
        self.bucket = bucket
        self._client: Any = None

    def put(self, encoded: EncodedVideo, job_id: str) -> str:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        key = object_key(self.bucket.key_template, encoded, job_id)
        try:
            self._connected().upload_file(
                str(encoded.path), self.bucket.name, key, ExtraArgs={"ContentType": encoded.mime}
            )
            return self._url(key)
        except ClientError as error:
            raise StorageError("the bucket refused the file", reason=_reason(error)) from error
        except Boto3Error as error:
            cause = error.__cause__ or error.__context__
            reason = _reason(cause) if isinstance(cause, ClientError) else type(cause or error).__name__
            raise StorageError("the bucket refused the file", reason=reason) from error
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
                region_name=self.bucket.region or "us-east-1",
                aws_access_key_id=self.bucket.access_key_id,
                aws_secret_access_key=self.bucket.secret_access_key,
                config=config,
            )
        return self._client


def _reason(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
