"""The messages between this process and a sandbox: facts as JSON, and bytes."""

import json
import struct
from collections.abc import Callable
from typing import Any

Facts = dict[str, Any]
Read = Callable[[int], bytes | bytearray]
"""Returns exactly so many bytes. Raises EOFError at the end."""

_HEAD = struct.Struct(">IQ")  # bytes of the facts, bytes of the content
MAX_FACTS = 1 << 20
OUT_OF_MEMORY = "out_of_memory"
"""The fact that the child had too little memory to answer."""


def pack(facts: Facts, content_bytes: int) -> bytes:
    """Return a message up to its content."""
    text = json.dumps(facts).encode()
    return _HEAD.pack(len(text), content_bytes) + text


def unpack(read: Read, most: int | None = None) -> tuple[Facts, bytes | bytearray]:
    """Read a message. Raises ValueError if its content is larger than ``most``."""
    facts_bytes, content_bytes = _HEAD.unpack(read(_HEAD.size))
    is_large = most is not None and content_bytes > most
    if is_large or facts_bytes > MAX_FACTS:
        raise ValueError("the message is too large")
    facts = json.loads(read(facts_bytes))
    return facts, read(content_bytes)
