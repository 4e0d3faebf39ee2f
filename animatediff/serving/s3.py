"""A client for an S3 bucket: its endpoint, its region, and boto3 behind types."""

import re
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from ..settings import BucketSettings

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
"""Longest time to connect, and between two pieces of an answer, before a retry."""
_AWS = "s3.amazonaws.com"
_RUNPOD = ".runpod.io"
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


class S3Client(Protocol):
    """The methods of boto3's client that the storage uses."""

    def head_bucket(self, *, Bucket: str) -> dict[str, Any]:  # noqa: N803
        """Ask whether the bucket is there."""
        ...

    def list_objects_v2(
        self,
        *,
        Bucket: str,  # noqa: N803
        MaxKeys: int,  # noqa: N803
    ) -> dict[str, Any]:
        """List objects."""
        ...

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        """Ask for the size and the metadata of an object."""
        ...

    def upload_file(
        self,
        Filename: str,  # noqa: N803
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        *,
        ExtraArgs: dict[str, Any],  # noqa: N803
        Callback: Callable[[int], None],  # noqa: N803
    ) -> None:
        """Upload a file, in parts if it is large."""
        ...

    def generate_presigned_url(
        self,
        ClientMethod: str,  # noqa: N803
        *,
        Params: dict[str, Any],  # noqa: N803
        ExpiresIn: int,  # noqa: N803
    ) -> str:
        """Sign a URL."""
        ...


def connect(bucket: BucketSettings) -> S3Client:
    """Return a client for ``bucket``. It retries three times, and connects later."""
    from boto3 import session  # pyright: ignore[reportMissingTypeStubs]
    from botocore import config  # pyright: ignore[reportMissingTypeStubs]

    endpoint_url, style = endpoint_of(bucket)
    options = config.Config(
        # boto3 would presign with version 2 for endpoints other than AWS
        signature_version="s3v4",
        s3={"addressing_style": style},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        # servers other than AWS do not know the newer checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    make_client = cast(Callable[..., S3Client], cast(Any, session.Session()).client)
    return make_client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=bucket.region or region_of(bucket.endpoint_url),
        aws_access_key_id=bucket.access_key_id.get_secret_value(),
        aws_secret_access_key=bucket.secret_access_key.get_secret_value(),
        config=options,
    )


def _parts_of_host(host: str) -> dict[str, str | None] | None:
    """Bucket, region and account in the host of a well-known service."""
    for pattern in _SERVICES:
        match = pattern.fullmatch(host)
        if match:
            return match.groupdict()
    return None


def region_of(endpoint_url: str | None) -> str:
    """The region that requests to an endpoint are signed for.

    It is in the host of well-known services; else it is AWS's first.
    """
    host = urlsplit(endpoint_url or "").hostname or ""
    parts = _parts_of_host(host) or {}
    if parts.get("account"):
        return "auto"
    region = parts.get("region") or "us-east-1"
    return region.upper() if host.endswith(_RUNPOD) else region


def endpoint_of(bucket: BucketSettings) -> tuple[str | None, str]:
    """The endpoint for boto3 (None: AWS's, of the region) and the addressing style.

    The console of a well-known service shows its URL together with the bucket, in the
    host or in the path; boto3 adds the bucket itself. AWS's global host redirects a
    request that is signed for another region. A presigned URL does not survive the
    redirect, and boto3's "auto" would presign for the global host.
    """
    url = urlsplit(bucket.endpoint_url or f"https://{_AWS}")
    parts = _parts_of_host(url.hostname or "")
    if parts is None:
        return bucket.endpoint_url, bucket.addressing_style
    is_virtual = parts["bucket"] == bucket.name
    if is_virtual:
        url = url._replace(netloc=url.netloc.removeprefix(f"{bucket.name}."))
    if url.path.strip("/") == bucket.name:
        url = url._replace(path="")
    if url.hostname == _AWS:
        return None, _style(bucket, is_virtual=True)
    return url.geturl(), _style(bucket, is_virtual=is_virtual)


def _style(bucket: BucketSettings, *, is_virtual: bool) -> str:
    is_open = bucket.addressing_style == "auto"
    return "virtual" if is_open and is_virtual else bucket.addressing_style
