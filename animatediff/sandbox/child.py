"""The other end of a ``Sandbox``: answers calls on stdin until it is closed."""

import importlib
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from .messages import OUT_OF_MEMORY, Facts, pack, unpack

Content = bytes | bytearray
Function = Callable[[Facts, Content], tuple[Facts, bytes]]


def main(reference: str) -> None:
    """Call the function "module:name" with each message, and send what it returns."""
    module, name = reference.split(":")
    function = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=0) as connection, connection.makefile("rb") as source:
        read = partial(_read, source)
        while True:
            try:
                message = unpack(read)
            except EOFError:
                return
            facts, content = _answer(function, *message)
            connection.sendall(pack(facts, len(content)))
            connection.sendall(content)


def _read(source: BinaryIO, size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _answer(function: Function, facts: Facts, content: Content) -> tuple[Facts, bytes]:
    try:
        return function(facts, content)
    except MemoryError:
        return {OUT_OF_MEMORY: True}, b""


if __name__ == "__main__":
    main(sys.argv[1])
