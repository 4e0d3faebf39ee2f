"""The part of a text with references that may be shown: no secret of a URL.

Signed URLs carry their secret in the query, others in the name before the host or in
the fragment. Outputs, files, logs and errors show references in this form only.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

_USER = re.compile(r"(?<=://)[^\s/?#]*@|^[^\s/?#@]+:[^\s/?#@]+@")
_QUERY = re.compile(r"(://[^\s?#]*)\?\S*")
_BARE_QUERY = re.compile(r"\?[^\s?=]*=\S*")
_FRAGMENT = re.compile(r"(://[^\s#]*)#(?!sha256=)\S*")
_PINNED = re.compile(r"#sha256=[0-9a-fA-F]{64}")


def without_secrets(text: str) -> str:
    """Return ``text`` with the user, query and fragment of each URL left out.

    ``#sha256=`` stays, because it is no secret. A query is recognised without a scheme
    too, as libraries log it: ``/path?key=value``.
    """
    text = _USER.sub("", text)
    text = _QUERY.sub(_without_query, text)
    text = _BARE_QUERY.sub(_without_query, text)
    return _FRAGMENT.sub(r"\1", text)


def _without_query(match: re.Match[str]) -> str:
    start = match[1] if match.re is _QUERY else ""
    pinned = _PINNED.search(match[0])
    return start + (pinned[0] if pinned else "")


def shown_values(value: Any) -> Any:
    """Return a JSON-like ``value`` with all its texts shown, those of its keys too."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        return {shown_values(key): shown_values(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [shown_values(item) for item in cast(list[Any], value)]
    return value
