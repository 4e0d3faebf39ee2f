"""The bucket that a job brings along: ``s3Config``, in the form of RunPod's clients.

Its secrets appear in no answer and no log.
"""

import socket
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError

from ..errors import AssetError, InvalidRequest
from ..fetch.network import is_public, permitted
from ..fetch.rules import DownloadRules
from ..job.fields import Strict
from ..settings import BucketSettings, Settings
from .storage import S3Storage

FIELD = "s3Config"
_HIDDEN = "(not shown)"
_ALLOWED = (
    "an object with accessId, accessSecret and bucketName, all text, and endpointUrl,"
    " an https URL, which may be left out for AWS"
)


class S3Config(Strict):
    """A bucket, as RunPod's clients name one."""

    access_id: Annotated[SecretStr, Field(alias="accessId", min_length=1)]
    access_secret: Annotated[SecretStr, Field(alias="accessSecret", min_length=1)]
    bucket_name: Annotated[str, Field(alias="bucketName", pattern=r"^[\w.-]{1,63}$")]
    endpoint_url: Annotated[str | None, Field(alias="endpointUrl")] = None


def storage_of(job: Mapping[str, Any], settings: Settings) -> S3Storage | None:
    """Return the storage that ``job`` brings; None if it brings none.

    Raises InvalidRequest if that is not allowed, or not usable.
    """
    raw = job.get(FIELD)
    if raw is None:
        return None
    if not settings.job_buckets:
        allowed = "nothing: this service stores files itself (ANIMATEDIFF_JOB_BUCKETS)"
        raise InvalidRequest(FIELD, _HIDDEN, allowed)
    config = _config(raw)
    _check_endpoint(config.endpoint_url, settings)
    return S3Storage(
        BucketSettings(
            name=config.bucket_name,
            access_key_id=config.access_id,
            secret_access_key=config.access_secret,
            endpoint_url=config.endpoint_url,
        ),
        is_jobs_own=True,
    )


def _config(raw: Any) -> S3Config:
    """Return a job's bucket. Raises InvalidRequest, which shows no value of it."""
    try:
        return S3Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, (FIELD, *first["loc"][:1])))
        got = "nothing" if first["type"] == "missing" else _HIDDEN
        raise InvalidRequest(place, got, _ALLOWED) from None


def _check_endpoint(url: str | None, settings: Settings) -> None:
    """Raise InvalidRequest unless a job may send its clip to ``url``."""
    if url is None:
        return
    rules = DownloadRules(
        cache_dir=settings.cache_dir,
        max_bytes=settings.max_download_bytes,
        hosts=settings.download_hosts,
        private_hosts=settings.private_hosts,
    )
    try:
        permitted(url, rules)
    except AssetError:
        raise _no_endpoint("this is no https URL of an allowed host") from None
    host = urlsplit(url).hostname or ""
    if not settings.private_hosts and not _is_public_host(host):
        raise _no_endpoint(f"{host} is no public host")


def _no_endpoint(reason: str) -> InvalidRequest:
    allowed = f"the https URL of a public S3 server, but {reason}"
    return InvalidRequest(f"{FIELD}.endpointUrl", _HIDDEN, allowed)


def _is_public_host(host: str) -> bool:
    try:
        answers = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(is_public(str(place[0])) for *_, place in answers)
