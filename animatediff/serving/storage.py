"""Where finished files go: a bucket, the answer itself, or a local folder."""

import base64
import hashlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import quote, urlsplit

import requests

from ..atomic import written_whole
from ..errors import StorageError
from ..progress import Check, no_check
from ..settings import BucketSettings, Settings
from ..video import EncodedVideo
from .logs import log_event
from .room import check_room
from .s3 import (
    CONNECT_SECONDS,
    PASSING_STATUSES,
    READ_SECONDS,
    Connection,
    S3Client,
    errors_as_storage_errors,
    is_refusal,
    log_short_urls,
)


class Storage(Protocol):
    """Keeps finished files."""

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Store the file, and return its URL.

        Storing the same file of the same job again changes nothing. ``check`` may end
        the job by raising. Raises StorageError.
        """
        ...


@runtime_checkable
class CheckedStorage(Storage, Protocol):
    """A storage that can tell before the work whether it will take a file."""

    def check(self, size: int) -> None:
        """Raise StorageError or DiskFull if ``size`` bytes cannot be stored now."""
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
    return _key(template, job_id, encoded.sha256, encoded.path.suffix)


def _key(template: str, job_id: str, sha256: str, suffix: str) -> str:
    key = template.format(
        job_id=safe_name(job_id),
        date=datetime.now(UTC).date().isoformat(),
        sha256=sha256,
        suffix=suffix,
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

    def check(self, size: int) -> None:
        """Raise DiskFull unless the folder has room for ``size`` bytes."""
        check_room(self.folder, size)

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


CHECK_NAME = "start-check"
"""The job's id in the key of the object that shows whether files can be stored."""
CHECK_CONTENT = b"animatediff can store files here\n"
CHECK_SECONDS = 60.0
"""A bucket that took a file so lately is not asked again before a job's work."""

OPENING_PAUSES = (0.5, 1.0)
"""Seconds between two tries to open the URL of a stored file."""


class S3Storage:
    """A bucket of AWS, or of another server with the S3 protocol.

    A job that is delivered twice has the same key. Its file is not uploaded again if an
    object with the same content is there.

    ``is_jobs_own``: a job brought the bucket. Then nothing but its clip is written into
    it, and its refusals are not this worker's.
    """

    def __init__(self, bucket: BucketSettings, *, is_jobs_own: bool = False) -> None:
        self.bucket = bucket
        self._is_jobs_own = is_jobs_own
        self._connection: Connection | None = None
        self._connecting = threading.Lock()
        self._stored_at = float("-inf")

    def check_reachable(self) -> None:
        """Raise StorageError unless a file can be stored, and its URL opens."""
        with self._errors():
            self._connected().put_object(
                Bucket=self.bucket.name,
                Key=self._check_key(),
                Body=CHECK_CONTENT,
                ContentType="text/plain",
                **self._options(),
            )
            url = self._url(self._check_key())
            log_short_urls(self._connect())
        self._check_opens(url, CHECK_CONTENT)
        self._stored_at = time.monotonic()

    def check(self, size: int) -> None:
        """Raise StorageError unless a file can be stored, see CHECK_SECONDS."""
        del size
        if self._is_jobs_own:
            self._ask_for_bucket()
        elif time.monotonic() - self._stored_at > CHECK_SECONDS:
            self.check_reachable()

    def _ask_for_bucket(self) -> None:
        """Ask for the list of objects: its refusal has a reason, unlike HEAD's.

        A key that may write need not be allowed to list.
        """
        try:
            with self._errors():
                self._connected().list_objects_v2(Bucket=self.bucket.name, MaxKeys=1)
        except StorageError as error:
            if error.details.get("reason") not in ("AccessDenied", "NotImplemented"):
                raise

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            with errors_as_storage_errors(self._connect().region):
                yield
        except StorageError as error:
            error.fatal = error.fatal and not self._is_jobs_own
            raise

    def _check_key(self) -> str:
        sha256 = hashlib.sha256(CHECK_CONTENT).hexdigest()
        return _key(self.bucket.key_template, CHECK_NAME, sha256, ".txt")

    def _check_opens(self, url: str, content: bytes | None) -> None:
        """Check a URL, see ``check_opens``. A job's host may not send us elsewhere."""
        with self._errors():
            check_opens(
                url,
                content,
                is_known_host=self._is_of_endpoint(url),
                may_redirect=not self._is_jobs_own,
            )

    def _is_of_endpoint(self, url: str) -> bool:
        """Whether ``url`` has a host that requests of this worker have reached."""
        host = urlsplit(str(self._connected().meta.endpoint_url)).hostname or ""
        is_public = self.bucket.public_base_url or self.bucket.public_endpoint_url
        is_aws = self._connect().region.endpoint.is_aws
        return not is_public and (is_aws or host in (urlsplit(url).hostname or ""))

    def put(self, encoded: EncodedVideo, job_id: str, check: Check = no_check) -> str:
        """Upload the file, and return its URL. Raises StorageError."""
        key = object_key(self.bucket.key_template, encoded, job_id)
        with self._errors():
            check()
            if not self._contains(key, encoded):
                self._upload(key, encoded, check)
            url = self._url(key)
        if self._is_jobs_own:
            self._check_opens(url, None)
        self._stored_at = time.monotonic()
        return url

    def _upload(self, key: str, encoded: EncodedVideo, check: Check) -> None:
        def on_bytes(_count: int) -> None:
            check()

        options = {
            "ContentType": encoded.mime,
            "Metadata": {"sha256": encoded.sha256},
            **self._options(),
        }
        self._connected().upload_file(
            str(encoded.path),
            self.bucket.name,
            key,
            ExtraArgs=options,
            Callback=on_bytes,
        )

    def _options(self) -> dict[str, str]:
        """Return the settings that every object gets: rights and encryption."""
        bucket = self.bucket
        options = {
            "ACL": bucket.acl,
            "ServerSideEncryption": bucket.sse or (bucket.sse_kms_key_id and "aws:kms"),
            "SSEKMSKeyId": bucket.sse_kms_key_id,
        }
        return {name: value for name, value in options.items() if value}

    def _contains(self, key: str, encoded: EncodedVideo) -> bool:
        """Whether the bucket has this content under ``key``.

        Any refusal counts as no: the upload reports what is wrong.
        """
        try:
            head = self._connected().head_object(Bucket=self.bucket.name, Key=key)
        except Exception as error:
            if is_refusal(error):
                return False
            raise
        pairs: dict[str, str] = head.get("Metadata", {})
        metadata = {name.lower(): text for name, text in pairs.items()}
        is_same_size = head["ContentLength"] == encoded.bytes
        return is_same_size and metadata.get("sha256") == encoded.sha256

    def _url(self, key: str) -> str:
        if self.bucket.public_base_url:
            return f"{self.bucket.public_base_url}/{quote(key)}"
        return self._connect().presigned_url(key)

    def _connect(self) -> Connection:
        """The connection, made once.

        Jobs may end at the same time, and boto3 cannot make two clients at once.
        """
        with self._connecting:
            if self._connection is None:
                self._connection = Connection.of(self.bucket)
            return self._connection

    def _connected(self) -> S3Client:
        return self._connect().client


def check_opens(
    url: str,
    content: bytes | None,
    *,
    is_known_host: bool,
    may_redirect: bool = True,
) -> None:
    """Raise StorageError unless ``url`` opens, and shows ``content``.

    With None for the content, only the first byte is fetched. What may pass is tried
    again: several workers may write the object of the check at the same time. A host
    that this worker reached before, and now cannot, is only logged: clients will come
    from another network.
    """
    for pause in (*OPENING_PAUSES, None):
        try:
            trouble = _tried(url, content, may_redirect)
        except requests.RequestException as error:
            reason = type(error).__name__
            if not is_known_host:
                message = "the host of the files' URLs cannot be reached"
                raise StorageError(message, reason=reason) from None
            log_event("url_not_opened", level=logging.WARNING, reason=reason)
            return
        if trouble is None:
            return
        if pause is None or not trouble.may_pass:
            raise trouble.error()
        time.sleep(pause)


@dataclass(frozen=True)
class _Trouble:
    """Why a URL does not open. ``status`` is HTTP's."""

    reason: str
    status: int

    @property
    def is_busy(self) -> bool:
        return self.status >= 500 or self.status in PASSING_STATUSES

    @property
    def may_pass(self) -> bool:
        return self.is_busy or self.status < 300

    def error(self) -> StorageError:
        return StorageError(
            "the URL of a stored file does not open",
            retryable=self.is_busy,
            fatal=not self.is_busy,
            reason=self.reason,
        )


def _tried(url: str, content: bytes | None, may_redirect: bool) -> _Trouble | None:
    """Open ``url`` once. Raises requests' errors."""
    with requests.get(
        url,
        headers={"Range": "bytes=0-0"} if content is None else None,
        timeout=(CONNECT_SECONDS, READ_SECONDS),
        allow_redirects=may_redirect,
        stream=True,
    ) as answer:
        reason = _wrong_about(answer, content)
        return _Trouble(reason, answer.status_code) if reason else None


def _wrong_about(answer: requests.Response, content: bytes | None) -> str:
    if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
        return f"HTTP {answer.status_code}"
    if content is None or _start(answer, len(content) + 1) == content:
        return ""
    return "it shows another content"


def _start(answer: requests.Response, count: int) -> bytes:
    body = b""
    for piece in answer.iter_content(count):
        body += piece
        if len(body) >= count:
            break
    return body
