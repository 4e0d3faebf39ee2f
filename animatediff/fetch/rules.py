"""The rules of fetching, and the errors that all kinds of fetching share.

Every failure is an AssetError. It shows a URL without its query, because that is where
signed URLs carry their secret. It has no cause, because the text of a cause may show
the whole URL.
"""

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import AssetError, shorten

NOT_HERE = "is not in the cache, and may not be downloaded"
_PASSING_STATUSES = (408, 429)


@dataclass(frozen=True)
class DownloadRules:
    """The rules for fetching, and the folder of the files.

    ``max_bytes`` limits one file. ``hosts`` lists the allowed hosts, and None allows
    all; ".example.org" means every host below it. ``offline`` allows only what is in
    the cache. ``private_hosts`` allows addresses that are not public.

    A download may take ``max_seconds``, and must bring ``min_rate`` bytes a second. The
    cache may take ``max_cache_bytes``. ``tokens`` are pairs of a host (with its port,
    if that is not 443) and the token that it alone receives. ``repositories`` are those
    of the hub that jobs may name while this machine has a token for it, None: all.
    """

    cache_dir: Path
    max_bytes: int
    hosts: tuple[str, ...] | None = None
    offline: bool = False
    private_hosts: bool = False
    max_seconds: float = 3600.0
    min_rate: int = 0
    max_cache_bytes: int | None = None
    tokens: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    repositories: tuple[str, ...] | None = None

    def allows(self, host: str) -> bool:
        """Whether ``hosts`` allows a host, given in lower case."""
        if self.hosts is None:
            return True
        return any(_is_within(host, name.lower()) for name in self.hosts)

    def token_of(self, url: str) -> str | None:
        """Return the token for the host of ``url``, if it has one."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        place = host if parts.port in (None, 443) else f"{host}:{parts.port}"
        return dict(self.tokens).get(place)

    def may_name(self, repo: str) -> bool:
        """Whether ``repositories`` allows a repository, or its owner: "owner/*"."""
        if self.repositories is None:
            return True
        owner = repo.partition("/")[0]
        names = {name.lower() for name in self.repositories}
        return not names.isdisjoint((repo.lower(), f"{owner.lower()}/*"))


def _is_within(host: str, name: str) -> bool:
    return host == name or (name.startswith(".") and host.endswith(name))


def shown_url(url: str) -> str:
    """Return ``url`` without its query, port and user, short enough for a message."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return shorten(f"{parts.scheme}://{host}{parts.path}", 200)


def unavailable(
    name: str, text: str, *, retryable: bool = False, **details: Any
) -> AssetError:
    """Return the error that ``name`` is unavailable, for the reason in ``text``."""
    return AssetError(f"{name} {text}", retryable=retryable, asset=name, **details)


def http_failure(name: str, status: int, hint: str = "") -> AssetError:
    """Return the error for an HTTP status; 5xx, 408 and 429 may be retried."""
    return unavailable(
        name,
        f"could not be fetched: HTTP {status}{hint}",
        retryable=status >= 500 or status in _PASSING_STATUSES,
        status=status,
    )


def too_large(name: str, rules: DownloadRules) -> AssetError:
    """Return the error for a file that is larger than the rules allow."""
    return unavailable(
        name,
        f"is larger than the {rules.max_bytes} bytes allowed",
        limit=rules.max_bytes,
    )


def is_about_room(error: OSError) -> bool:
    """Whether the disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def reason_of(error: BaseException) -> str:
    """Name an error without its text, which may hold queries and local paths."""
    return getattr(error, "strerror", None) or type(error).__name__
