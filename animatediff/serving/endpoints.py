"""S3 endpoints: what a provider's host says about region, bucket and addressing."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ..settings import BucketSettings

_AWS = "s3.amazonaws.com"
_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class Provider:
    """The hosts of a provider: an expression, and the region where none is in it."""

    host: str
    region: str = _DEFAULT_REGION
    upper: bool = False


PROVIDERS = (
    Provider(
        r"s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?"
        r"\.amazonaws\.com(?:\.cn)?"
    ),
    Provider(r"[0-9a-z]+\.(?:(?:eu|fedramp)\.)?r2\.cloudflarestorage\.com", "auto"),
    Provider(r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com"),
    Provider(r"(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com"),
    Provider(r"s3\.(?:(?P<region>[a-z0-9-]+)\.)?wasabisys\.com"),
    Provider(r"s3api-(?P<region>[a-z0-9-]+)\.runpod\.io", upper=True),
    Provider(r"s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud"),
    Provider(r"s3\.(?P<region>[a-z0-9-]+)\.(?:(?:io|perf)\.)?cloud\.ovh\.(?:net|us)"),
    Provider(r"(?P<region>[a-z]{3}\d)\.your-objectstorage\.com"),
    Provider(r"(?P<region>[a-z0-9-]+)\.linodeobjects\.com"),
    Provider(r"(?P<region>[a-z]{3}\d)\.vultrobjects\.com"),
    Provider(r"sos-(?P<region>[a-z0-9-]+)\.exo\.io"),
    Provider(r"s3\.(?P<region>[a-z]{2}-[a-z]+-\d)\.ionoscloud\.com"),
    Provider(
        r"[0-9a-z]+\.compat\.objectstorage\.(?P<region>[a-z0-9-]+)\.oraclecloud\.com"
    ),
    Provider(r"(?:fly\.storage\.tigris|t3\.storage)\.dev", "auto"),
    Provider(r"storage\.yandexcloud\.net", "ru-central1"),
)
"""Providers whose hosts say which region a request is signed for.

Of other servers, the region is asked, see ``s3.RegionOfBucket``.
"""
_HOSTS = tuple(
    (re.compile(rf"(?:(?P<bucket>.+)\.)?{row.host}"), row) for row in PROVIDERS
)


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how they are signed. ``url`` None: AWS's, of the region.

    ``style`` says where the bucket's name goes, see BucketSettings.
    """

    url: str | None
    region: str
    style: str

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is AWS's."""
        return self.url is None or ".amazonaws.com" in self.url


@dataclass(frozen=True)
class _Host:
    """A provider's host. ``region`` is in the host's name, ``usual`` is not."""

    bucket: str | None
    region: str | None
    usual: str


def _read_host(host: str) -> _Host | None:
    for pattern, row in _HOSTS:
        match = pattern.fullmatch(host)
        if match:
            parts = match.groupdict()
            region = parts.get("region")
            if region and row.upper:
                region = region.upper()
            return _Host(parts["bucket"], region, row.region)
    return None


def _known_region(endpoint_url: str | None) -> str | None:
    """The region in an endpoint's host, or its provider's only one; else None."""
    host = _read_host(urlsplit(endpoint_url or "").hostname or "")
    if host is None or host.region:
        return host and host.region
    return None if host.usual == _DEFAULT_REGION else host.usual


def endpoint_of(bucket: BucketSettings, region: str | None = None) -> Endpoint:
    """The endpoint of ``bucket``; ``region`` is the one that its server named.

    The console of a well-known service shows its URL together with the bucket, in the
    host or in the path; boto3 adds the bucket itself. AWS's global host redirects a
    request that is signed for another region. A presigned URL does not survive the
    redirect, and boto3's "auto" would presign for the global host.
    """
    signed_for = (
        region
        or bucket.region
        or _known_region(bucket.endpoint_url)
        or bucket.aws_region
        or _DEFAULT_REGION
    )
    url = urlsplit(bucket.endpoint_url or f"https://{_AWS}")
    host = _read_host(url.hostname or "")
    if host is None:
        return Endpoint(bucket.endpoint_url, signed_for, bucket.addressing_style)
    is_virtual = host.bucket == bucket.name
    url = _without_bucket(url, bucket.name, is_virtual=is_virtual)
    if url.hostname == _AWS:
        return Endpoint(None, signed_for, _style(bucket, is_virtual=True))
    return Endpoint(url.geturl(), signed_for, _style(bucket, is_virtual=is_virtual))


def _without_bucket(url: SplitResult, name: str, *, is_virtual: bool) -> SplitResult:
    if is_virtual:
        url = url._replace(netloc=url.netloc.removeprefix(f"{name}."))
    return url._replace(path="") if url.path.strip("/") == name else url


def _style(bucket: BucketSettings, *, is_virtual: bool) -> str:
    is_open = bucket.addressing_style == "auto"
    return "virtual" if is_open and is_virtual else bucket.addressing_style
