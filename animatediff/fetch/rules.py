"""What may be fetched, and the errors of everything that is fetched.

Every failure is an AssetError. It shows a URL without its query, because that is where
signed URLs carry their secret. It has no cause, because the text of a cause may show
the whole URL.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import AssetError, shorten

NOT_HERE = "is not in the cache, and may not be downloaded"
_PASSING_STATUSES = (408, 429)


@dataclass(frozen=True)
class DownloadRules:
    """What may be fetched, and where it is kept.

    ``max_bytes`` limits one file. ``hosts`` lists the allowed hosts, and None allows
    all; ".example.org" means every host below it. ``offline`` allows only what is in
    the cache. ``private_hosts`` allows addresses that are not public.
    """

    cache_dir: Path
    max_bytes: int
    hosts: tuple[str, ...] | None = None
    offline: bool = False
    private_hosts: bool = False

    def allows(self, host: str) -> bool:
        """Whether ``hosts`` allows a host, given in lower case."""
        if self.hosts is None:
            return True
        return any(_is_within(host, name.lower()) for name in self.hosts)


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


def reason_of(error: BaseException) -> str:
    """Name an error without its text, which may hold queries and local paths."""
    return getattr(error, "strerror", None) or type(error).__name__
