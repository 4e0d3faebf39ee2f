"""The hub's HTTP client on the thread of a transfer: bytes counted, sockets shut.

Imported where it is needed: the client's package takes a while.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import httpx2
from huggingface_hub import constants, get_session

from .transfers import Transfer, current


def watch_client() -> None:
    """Let the library's client serve the transfer of the thread that uses it."""
    client = get_session()
    hooks = client.event_hooks
    if _before not in hooks["request"]:
        client.event_hooks = {
            "request": [*hooks["request"], _before],
            "response": [*hooks["response"], _after],
        }


class _Watched(httpx2.SyncByteStream):
    """The body of an answer, whose bytes are counted as they come."""

    def __init__(self, stream: httpx2.SyncByteStream, transfer: Transfer[Any]) -> None:
        self._stream = stream
        self._transfer = transfer

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._transfer.check()
            self._transfer.meter.add(len(chunk))
            yield chunk

    def close(self) -> None:
        self._transfer.meter.end()
        self._stream.close()


def _before(request: httpx2.Request) -> None:
    transfer = current()
    if transfer is None:
        return
    transfer.check()
    transfer.meter.begin()
    # A connection that is kept would go to another transfer, which could not shut it.
    request.headers["Connection"] = "close"
    trace = partial(_trace, transfer)
    request.extensions = {**request.extensions, "trace": trace}


def _after(response: httpx2.Response) -> None:
    transfer = current()
    if transfer is None:
        return
    # Without this header the library downloads the file itself. Xet's own client does
    # it on threads of its own, which nobody can end.
    response.headers.pop(constants.HUGGINGFACE_HEADER_X_XET_HASH, None)
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Watched(response.stream, transfer)


def _trace(transfer: Transfer[Any], event: str, info: Mapping[str, Any]) -> None:
    """Follow a request through the library beneath httpx2."""
    if event == "connection.connect_tcp.complete":
        transfer.watch(info["return_value"].get_extra_info("socket"))
    elif event.endswith(".failed"):
        transfer.meter.end()
