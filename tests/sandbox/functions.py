"""What the sandboxes of the tests call."""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

Answer = tuple[dict, bytes]


def double(facts: dict, content: bytes) -> Answer:
    return {"twice": 2 * facts["x"], "pid": os.getpid()}, bytes(content) * 2


def sleep(_facts: dict, _content: bytes) -> Answer:
    time.sleep(60)
    return {}, b""


def sleep_beside_a_grandchild(facts: dict, content: bytes) -> Answer:
    child = subprocess.Popen(["sleep", "60"])
    Path(facts["path"]).write_text(f"{os.getpid()} {child.pid}")
    return sleep(facts, content)


def compute(_facts: dict, _content: bytes) -> Answer:
    while True:
        pass


def allocate(facts: dict, _content: bytes) -> Answer:
    return {"bytes": len(bytearray(facts["bytes"]))}, b""


def crash(_facts: dict, _content: bytes) -> Answer:
    ctypes.string_at(0)
    return {}, b""


def fail(_facts: dict, _content: bytes) -> Answer:
    raise RuntimeError


def babble(_facts: dict, _content: bytes) -> Answer:
    os.write(0, b"\xff" * 100)
    return {}, b""


def tell(_facts: dict, _content: bytes) -> Answer:
    known = {"modules": list(sys.modules), "variables": dict(os.environ)}
    return {}, json.dumps(known).encode()
