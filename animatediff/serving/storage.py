"""Where finished files go: a bucket, the answer itself, or a local folder."""

import base64
import re
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from ..atomic import written_whole
from ..errors import StorageError
from ..progress import Check, no_check
from ..settings import BucketSettings, Settings
from ..video import EncodedVideo
from .s3 import S3Client, connect


class Storage(Protocol):
    """Keeps finished files."""

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Store the file, and return its URL.

        Storing the same file of the same job again changes nothing. ``check`` may end
        the job by raising. Raises StorageError.
        """
        ...


def make_storage(settings: Settings) -> Storage:
    """Return the storage that ``settings`` describe."""
    if settings.bucket:
        return S3Storage(settings.bucket)
    if settings.inline_limit is not None:
        return InlineStorage()
    return LocalStorage(settings.output_dir)


def object_key(template: str, encoded: EncodedVideo, job_id: str) -> str:
    """A bucket key from ``template``; BucketSettings describes its fields."""
    key = template.format(
        job_id=safe_name(job_id),
        date=datetime.now(UTC).date().isoformat(),
        sha256=encoded.sha256,
        suffix=encoded.path.suffix,
    )
    return key.lstrip("/")


def safe_name(job_id: str) -> str:
    """``job_id`` as part of a file name.

    Letters, digits, dot, dash and underscore, at most 100, without a dot at the start.
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", job_id)[:100].lstrip(".") or "job"


class InlineStorage:
    """The answer itself: a data URL.

    For RunPod's workers without a bucket: their disks do not outlive them.
    """

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Return the file as a data URL."""
        del job_id
        check()
        content = base64.b64encode(encoded.path.read_bytes()).decode()
        return f"data:{encoded.mime};base64,{content}"


class LocalStorage:
    """A folder, with file URLs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Copy the file into the folder, and return its URL. Raises StorageError."""
        check()
        suffix = encoded.path.suffix
        target = self.folder / f"{safe_name(job_id)}-{encoded.sha256[:12]}{suffix}"
        try:
            with written_whole(target) as part:
                shutil.copyfile(encoded.path, part)
        except OSError as error:
            reason = error.strerror
            message = f"the output folder cannot be written: {reason}"
            raise StorageError(message) from error
        return target.as_uri()


class S3Storage:
    """A bucket of AWS, or of another server with the S3 protocol.

    A job that is delivered twice has the same key. Its file is not uploaded again if an
    object with the same content is there.
    """

    def __init__(self, bucket: BucketSettings) -> None:
        self.bucket = bucket
        self._client: S3Client | None = None
        self._connecting = threading.Lock()

    def check_reachable(self) -> None:
        """Raise StorageError unless the bucket accepts the credentials."""
        with _errors_as_storage_errors():
            self._ask_for_bucket()

    def _ask_for_bucket(self) -> None:
        """Ask with HEAD; if it is refused, with GET, whose answer has a reason."""
        client, name = self._connected(), self.bucket.name
        try:
            client.head_bucket(Bucket=name)
        except _client_error():
            client.list_objects_v2(Bucket=name, MaxKeys=1)

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Upload the file, and return its URL. Raises StorageError."""
        key = object_key(self.bucket.key_template, encoded, job_id)
        with _errors_as_storage_errors():
            check()
            if not self._contains(key, encoded):
                self._upload(key, encoded, check)
            return self._url(key)

    def _upload(self, key: str, encoded: EncodedVideo, check: Check) -> None:
        def on_bytes(_count: int) -> None:
            check()

        metadata = {"sha256": encoded.sha256}
        self._connected().upload_file(
            str(encoded.path),
            self.bucket.name,
            key,
            ExtraArgs={"ContentType": encoded.mime, "Metadata": metadata},
            Callback=on_bytes,
        )

    def _contains(self, key: str, encoded: EncodedVideo) -> bool:
        """Whether the bucket has this content under ``key``.

        Any refusal counts as no: the upload reports what is wrong.
        """
        try:
            head = self._connected().head_object(Bucket=self.bucket.name, Key=key)
        except _client_error():
            return False
        pairs: dict[str, str] = head.get("Metadata", {})
        metadata = {name.lower(): text for name, text in pairs.items()}
        is_same_size = head["ContentLength"] == encoded.bytes
        return is_same_size and metadata.get("sha256") == encoded.sha256

    def _url(self, key: str) -> str:
        if self.bucket.public_base_url:
            return f"{self.bucket.public_base_url}/{quote(key)}"
        return self._connected().generate_presigned_url(
            "get_object",
            Params={"Bucket": self.bucket.name, "Key": key},
            ExpiresIn=self.bucket.url_ttl_seconds,
        )

    def _connected(self) -> S3Client:
        """The client, made once.

        Jobs may end at the same time, and boto3 cannot make two clients at once.
        """
        with self._connecting:
            if self._client is None:
                self._client = connect(self.bucket)
            return self._client


def _client_error() -> type[Exception]:
    """The class of a refusal by the server. boto3 is imported when it is needed."""
    from botocore import exceptions  # pyright: ignore[reportMissingTypeStubs]

    return exceptions.ClientError


@contextmanager
def _errors_as_storage_errors() -> Generator[None]:
    """Raise boto3's and the network's errors as StorageError."""
    from boto3 import exceptions  # pyright: ignore[reportMissingTypeStubs]
    from botocore import (  # pyright: ignore[reportMissingTypeStubs]
        exceptions as core_exceptions,
    )

    try:
        yield
    except (core_exceptions.ClientError, exceptions.Boto3Error) as error:
        message = "the bucket refused the request"
        raise StorageError(message, reason=_refusal(error)) from error
    except (core_exceptions.BotoCoreError, OSError) as error:
        message = "the bucket cannot be reached"
        raise StorageError(message, reason=type(error).__name__) from error


def _refusal(error: BaseException) -> str:
    """The server's code for a refusal; else the name of the error."""
    cause = error.__cause__ or error.__context__ or error
    for each in (error, cause):
        response: Any = getattr(each, "response", None)
        if response is not None:
            return str(response.get("Error", {}).get("Code", "unknown"))
    return type(cause).__name__
