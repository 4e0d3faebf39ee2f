"""A bucket's clients: boto3 behind types, regions, credentials and refusals."""

import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from pydantic import SecretStr

from ..errors import StorageError
from ..settings import BucketSettings
from .endpoints import Endpoint, endpoint_of
from .logs import log_event

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
"""Longest time to connect, and between two pieces of an answer, before a retry."""
TOKEN_SECONDS = 36 * 3600
"""The longest life of a session token, by AWS's documentation of GetSessionToken."""
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_WRONG_REGION = (301, 302, 307, 400)
"""Statuses of refusals that name another region."""
PASSING_STATUSES = (408, 429)
_PASSING_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
"""Refusals that pass."""


class S3Client(Protocol):
    """The methods of boto3's client that the storage uses."""

    @property
    def meta(self) -> Any:
        """The client's events and configuration."""
        ...

    def list_objects_v2(
        self,
        *,
        Bucket: str,
        MaxKeys: int,
    ) -> dict[str, Any]:
        """List objects."""
        ...

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Ask for the size and the metadata of an object."""
        ...

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        **options: Any,
    ) -> dict[str, Any]:
        """Write a small object."""
        ...

    def upload_file(
        self,
        Filename: str,
        Bucket: str,
        Key: str,
        *,
        ExtraArgs: dict[str, Any],
        Callback: Callable[[int], None],
    ) -> None:
        """Upload a file, in parts if it is large."""
        ...

    def generate_presigned_url(
        self,
        ClientMethod: str,
        *,
        Params: dict[str, Any],
        ExpiresIn: int,
    ) -> str:
        """Sign a URL."""
        ...


@dataclass
class RegionOfBucket:
    """Learns a bucket's region from the answers of its server.

    A request that is signed for another region is refused, and the refusal names the
    right one. boto3 then repeats the request, so nobody notices; but a presigned URL
    has no second try. AWS names the region in every answer about a bucket.
    """

    endpoint: Endpoint
    learned: str | None = None

    def listen(self, client: S3Client) -> None:
        """Read all answers that ``client`` gets."""
        client.meta.events.register("needs-retry.s3", self._read)

    def _read(self, response: Any = None, **_: Any) -> None:
        if response is None:  # there was no answer
            return
        answer: Mapping[str, Any] = response[1]
        metadata = answer.get("ResponseMetadata", {})
        named = metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        named = named or answer.get("Error", {}).get("Region")
        # in other answers, servers name a place there that they do not sign for
        is_about_it = metadata.get("HTTPStatusCode") in _WRONG_REGION
        if named and (is_about_it or self.endpoint.is_aws) and _REGION.fullmatch(named):
            self.learned = named


@dataclass
class Connection:
    """The clients of a bucket: one for requests, and one that presigns URLs.

    The second one differs only where clients of the service use another host, or the
    bucket is in another region than the settings say.
    """

    bucket: BucketSettings
    region: RegionOfBucket
    client: S3Client
    _credentials: Any
    _signers: dict[str, S3Client] = field(default_factory=dict[str, S3Client])

    @classmethod
    def of(cls, bucket: BucketSettings) -> "Connection":
        """Return the connection to ``bucket``. It connects at the first request."""
        endpoint = endpoint_of(bucket)
        session = _session(bucket)
        client = _client(session, endpoint)
        region = RegionOfBucket(endpoint)
        region.listen(client)
        # "before-call" is emitted with the body that will be sent
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-call.s3.{operation}", _add_md5)
        return cls(bucket, region, client, session.get_credentials())

    def presigned_url(self, key: str) -> str:
        """Return a URL that opens the object at ``key`` for everybody, for a time."""
        return self._signer().generate_presigned_url(
            "get_object",
            Params={"Bucket": self.bucket.name, "Key": key},
            ExpiresIn=self.url_seconds(),
        )

    def url_seconds(self) -> int:
        """Return how long a presigned URL opens: it ends with its credentials."""
        lifetime = self.bucket.url_ttl_seconds
        if self._credentials is None:
            return lifetime
        token = self._credentials.get_frozen_credentials().token  # renews them
        ends: datetime | None = getattr(self._credentials, "_expiry_time", None)
        if ends is not None:
            left = (ends - datetime.now(UTC)).total_seconds()
            return max(1, min(lifetime, int(left)))
        return min(lifetime, TOKEN_SECONDS) if token else lifetime

    def _signer(self) -> S3Client:
        public = self.bucket.public_endpoint_url
        learned = self.region.learned
        is_right = learned in (None, self.region.endpoint.region)
        if is_right and public is None:
            return self.client
        region = learned or self.region.endpoint.region
        if region not in self._signers:
            url = public or self.bucket.endpoint_url
            bucket = self.bucket.model_copy(update={"endpoint_url": url})
            endpoint = endpoint_of(bucket, region)
            self._signers[region] = _client(_session(bucket), endpoint)
        return self._signers[region]


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _session(bucket: BucketSettings) -> Any:
    from boto3 import session  # pyright: ignore[reportMissingTypeStubs]

    return cast(Any, session).Session(
        aws_access_key_id=_text(bucket.access_key_id),
        aws_secret_access_key=_text(bucket.secret_access_key),
        aws_session_token=_text(bucket.session_token),
    )


def _client(session: Any, endpoint: Endpoint) -> S3Client:
    """Return a client. It retries three times, and connects later."""
    from botocore import config  # pyright: ignore[reportMissingTypeStubs]

    options = config.Config(
        # boto3 would presign with version 2 for endpoints other than AWS
        signature_version="s3v4",
        s3={"addressing_style": endpoint.style},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        # servers other than AWS do not know the newer checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        config=options,
    )


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Add Content-MD5, which a bucket with Object Lock demands, and all servers know.

    A machine without MD5 sends none.
    """
    from botocore import utils  # pyright: ignore[reportMissingTypeStubs]

    cast(Any, utils).conditionally_calculate_md5(params)


def is_refusal(error: Exception) -> bool:
    """Whether ``error`` is the server's answer to a request."""
    from botocore import exceptions  # pyright: ignore[reportMissingTypeStubs]

    return isinstance(error, exceptions.ClientError)


@contextmanager
def errors_as_storage_errors(region: RegionOfBucket | None) -> Generator[None]:
    """Raise boto3's and the network's errors as StorageError, without their texts.

    A text may hold URLs, keys and whatever the server wrote.
    """
    from boto3 import exceptions  # pyright: ignore[reportMissingTypeStubs]
    from botocore import (  # pyright: ignore[reportMissingTypeStubs]
        exceptions as core_exceptions,
    )

    try:
        yield
    except (core_exceptions.ClientError, exceptions.Boto3Error) as error:
        raise _refused(error, region) from None
    except (core_exceptions.BotoCoreError, OSError) as error:
        raise _not_reached(error) from None


def _refused(error: Exception, region: RegionOfBucket | None) -> StorageError:
    answer = _answer(error)
    if answer is None:
        return _not_reached(_behind(error))
    code = str(answer.get("Error", {}).get("Code", "unknown"))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    passes = status >= 500 or status in PASSING_STATUSES or code in _PASSING_CODES
    details: dict[str, Any] = {"reason": code}
    if region and region.learned not in (None, region.endpoint.region):
        details["region"] = region.learned
    return StorageError(
        "the bucket refused the request",
        retryable=passes,
        fatal=not passes,
        **details,
    )


def _answer(error: BaseException) -> Mapping[str, Any] | None:
    """The server's answer in a refusal, or in the one behind a failed upload."""
    for each in (error, _behind(error)):
        response: Any = getattr(each, "response", None)
        if response is not None:
            return response
    return None


def _behind(error: BaseException) -> BaseException:
    return error.__cause__ or error.__context__ or error


def _not_reached(error: BaseException) -> StorageError:
    """The error for a request without an answer."""
    from botocore import exceptions  # pyright: ignore[reportMissingTypeStubs]

    never_sent = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ParamValidationError,
        exceptions.ProfileNotFound,
    )
    reason = type(error).__name__
    if isinstance(error, never_sent):
        message = "the request to the bucket cannot be made"
        return StorageError(message, retryable=False, fatal=True, reason=reason)
    return StorageError("the bucket cannot be reached", reason=reason)


def log_short_urls(connection: Connection) -> None:
    """Log a warning if presigned URLs end before the time that the settings say."""
    seconds, lifetime = connection.url_seconds(), connection.bucket.url_ttl_seconds
    if connection.bucket.public_base_url is None and seconds < lifetime:
        log_event("urls_end_early", level=logging.WARNING, seconds=seconds)
